//! One shared limit, as this process has it.

use super::share::Share;
use super::trip::{Grant, Line};
use super::word::{Word, Words};
use super::{FleetMode, Terms};

/// Distance of the trips of a process that uses anything, in nanoseconds. What was not used for so long is given back.
pub(super) const REPORT: u64 = 250_000_000;
/// How long a lease holds after the trip that brought or renewed it. It bounds for how long the lease of a dead process is
/// withheld from the others; the limit is kept whatever it is.
pub(super) const TERM: u64 = 1_000_000_000;
/// Somebody who waits for a lease looks again after this time, if nobody tells him before.
const LOOK: u64 = 20_000_000;
/// Nobody who was given nothing asks again before this time: the one whose turn it is may be on his way, or dead.
const PAUSE: u64 = 2_000_000;
/// A state that was reached so recently must still be there.
const REMEMBERED: u64 = 50_000_000_000;
/// As much as it may have.
const ANY: u64 = 1 << 52;

/// What all had taken is not known.
const UNKNOWN: i64 = i64::MIN;

#[derive(Debug)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) terms: Terms,
    /// The lowest of the fleet.
    in_force: Terms,
    mode: FleetMode,
    lease: Lease,
    /// What Redis is to be told.
    news: Spent,
    /// What it is being told on the trip that is under way.
    told: Spent,
    /// Since when there is news: when a trip was last known to have been made.
    since: u64,
    /// What somebody waits for, and when Redis can have it.
    need: u64,
    not_before: u64,
    /// The most that was asked for at once since the last trip.
    largest: u64,
    /// Whether the courier knows that it is wanted.
    rung: bool,
    /// Used in the last stretch of [`REPORT`], and in this one, which began then.
    recent: u64,
    stretch: (u64, u64),
    /// When it was last asked for anything.
    asked: u64,
    /// Estimates of the calls in flight.
    out: u64,
    share: Share,
    /// How often Redis was lost.
    losses: u64,
    /// What all had taken after the last trip.
    taken: i64,
    /// What the provider says.
    words: Words,
}

/// What may be used without asking.
#[derive(Debug, Default)]
struct Lease {
    held: u64,
    until: u64,
    /// What was held after the last trip.
    of: u64,
    /// What Redis believes to be held.
    known: u64,
    /// How often the bucket had been full then.
    full: u64,
    /// When Redis was last asked about this limit.
    reached: Option<u64>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Spent {
    /// Of a lease.
    used: u64,
    /// Without a lease, or above an estimate, less what is given back.
    charge: i64,
}

impl Spent {
    fn is_nothing(self) -> bool {
        self.used == 0 && self.charge == 0
    }

    fn sum(self) -> i64 {
        self.charge.saturating_add_unsigned(self.used)
    }
}

impl Account {
    pub(super) fn new(name: String, terms: Terms, mode: FleetMode, processes: usize, at: u64) -> Self {
        Self {
            name,
            terms,
            in_force: terms,
            mode,
            lease: Lease::default(),
            news: Spent::default(),
            told: Spent::default(),
            since: at,
            need: 0,
            not_before: 0,
            largest: 0,
            rung: false,
            recent: 0,
            stretch: (0, at),
            asked: at,
            out: 0,
            share: Share::new(terms, processes, at),
            losses: 0,
            taken: 0,
            words: Words::default(),
        }
    }

    pub(super) fn limit(&self) -> u64 {
        self.in_force.limit
    }

    fn is_shared(&self) -> bool {
        matches!(self.mode, FleetMode::Starting | FleetMode::Shared)
    }

    /// Whether so much can be taken now, or when to ask again.
    pub(super) fn reach(&mut self, amount: u64, given_back: bool, at: u64) -> Result<(), u64> {
        if !self.is_shared() {
            return self.share.reach(amount, if given_back { self.out } else { 0 }, at);
        }
        if given_back {
            // Nobody here knows what the others will leave.
            return Ok(());
        }
        self.asked = at;
        self.largest = self.largest.max(amount);
        if at >= self.lease.until {
            self.lease.held = 0;
        }
        if self.lease.held >= amount {
            return Ok(());
        }
        self.need = self.need.max(amount - self.lease.held);
        Err(self.not_before.max(at.saturating_add(LOOK)))
    }

    /// Takes what [`reach`](Self::reach) has just allowed. What it returns is asked for when it is put right.
    pub(super) fn take(&mut self, amount: u64) -> u64 {
        self.out = self.out.saturating_add(amount);
        if self.is_shared() {
            self.lease.held = self.lease.held.saturating_sub(amount);
            self.news.used = self.news.used.saturating_add(amount);
            self.stretch.0 = self.stretch.0.saturating_add(amount);
        } else {
            self.share.take(amount);
            self.news.charge = self.news.charge.saturating_add_unsigned(amount);
        }
        self.place()
    }

    /// What must still be the same for a refund to be worth anything: no bucket was full, and no other one was used.
    fn place(&self) -> u64 {
        if self.is_shared() { self.lease.full } else { (self.losses << 32) + self.share.fills }
    }

    /// What all have taken, as far as it is known here.
    pub(super) fn taken(&self) -> i64 {
        let own = self.told.sum().saturating_add(self.news.sum());
        if self.is_shared() { self.taken.saturating_add(own) } else { UNKNOWN }
    }

    /// Hears the provider's word, made of what is known here: `left` is asked what is left at this limit, when so much
    /// was taken since the call was admitted.
    pub(super) fn correct(
        &mut self,
        stated: impl FnOnce(u64) -> Option<u64>,
        left: impl FnOnce(u64, i64) -> Option<i64>,
        (heard, full_at): (u64, u64),
        mark: i64,
        at: u64,
    ) {
        if !self.words.heeds(heard) {
            return;
        }
        let limit = stated(self.in_force.limit);
        let taken = self.taken();
        let known = mark != UNKNOWN && taken != UNKNOWN;
        let left = known.then(|| left(limit.unwrap_or(self.in_force.limit), taken.saturating_sub(mark))).flatten();
        self.words.hear(Word { limit, left, taken, heard, at, full_at });
        if let Some(limit) = limit.filter(|limit| !self.is_shared() && *limit != self.in_force.limit) {
            self.in_force = self.terms.at(limit);
            self.share.follow(self.in_force);
        }
    }

    /// Goes back to the configured limit. The others are told that this is what the provider states: they go back when
    /// none of them is told a lower one.
    pub(super) fn restore(&mut self) {
        self.words.withdraw();
        if !self.is_shared() {
            self.in_force = self.terms;
            self.share.follow(self.terms);
        }
    }

    /// Puts right what was taken.
    pub(super) fn settle(&mut self, place: u64, taken: u64, used: u64, at: u64) {
        self.out = self.out.saturating_sub(taken);
        // A provider that reports nonsense may cost a period at most.
        let used = used.min(self.in_force.limit.max(taken));
        if used > taken {
            self.news.charge = self.news.charge.saturating_add_unsigned(used - taken);
            if !self.is_shared() {
                self.share.take(used - taken);
            }
        } else if place == self.place() {
            self.give_back(taken - used, at);
        }
    }

    fn give_back(&mut self, amount: u64, at: u64) {
        let mut rest = amount;
        if !self.is_shared() {
            self.share.give_back(amount);
        } else if at < self.lease.until {
            // What Redis has not heard to be used is leased still.
            let leased = amount.min(self.news.used);
            self.news.used -= leased;
            self.lease.held += leased;
            rest -= leased;
        }
        self.news.charge = self.news.charge.saturating_sub_unsigned(rest);
    }

    /// Whether forgetting it changes nothing.
    pub(super) fn is_idle(&self) -> bool {
        let told = self.news.is_nothing() && self.told.is_nothing() && self.lease.known == 0 && self.words.is_told();
        self.is_shared() && told && self.out == 0 && self.need == 0
    }

    /// What is left will not last long.
    fn is_low(&self) -> bool {
        self.is_shared() && self.lease.held < self.lease.of.min(self.recent) / 2
    }

    /// Whether the courier is wanted, and does not know it.
    pub(super) fn rings(&mut self) -> bool {
        let wanted = self.is_shared() && (self.need > 0 || self.is_low());
        let rings = wanted && !self.rung;
        self.rung |= wanted;
        rings
    }

    /// When the next trip is due, after one at this time; `None`: not for this.
    pub(super) fn due(&self, last: u64) -> Option<u64> {
        let report = last.saturating_add(REPORT);
        if self.is_shared() && self.need > 0 {
            return Some(self.not_before.min(report));
        }
        if self.is_low() {
            return Some(last);
        }
        (self.lease.known > 0 || !self.news.is_nothing() || !self.words.is_told()).then_some(report)
    }

    /// What to say on a trip; `None`: nothing.
    pub(super) fn tell(&mut self, processes: usize, at: u64) -> Option<Line> {
        let (spent, since) = self.stretch;
        if at.saturating_sub(since) >= REPORT {
            (self.recent, self.stretch) = (spent, (0, at));
        }
        if !self.is_shared() || at >= self.lease.until || at.saturating_sub(self.asked) >= REPORT && self.need == 0 {
            self.lease.held = 0;
        }
        let largest = std::mem::take(&mut self.largest);
        if self.need == 0 {
            // What came for a large call that has left, or before the limit was lowered, is not for one process to keep.
            self.lease.held = self.lease.held.min((self.in_force.burst / 2).max(largest).max(1));
        }
        if self.lease.known == 0 && self.news.is_nothing() && self.need == 0 && self.words.is_told() {
            self.rung = false;
            return None;
        }
        let most = match self.mode {
            // Without us Redis has refilled, up to its burst: our part of that is what we have used.
            FleetMode::Alone => self.in_force.burst.div_ceil(u64::try_from(processes).unwrap_or(u64::MAX).max(1)),
            _ => ANY,
        };
        self.told = std::mem::take(&mut self.news);
        let want = if self.need > 0 { ANY } else { self.recent.saturating_sub(self.lease.held) };
        let known = self.lease.reached.is_some_and(|reached| at.saturating_sub(reached) < REMEMBERED);
        let (need, want) = if self.is_shared() { (self.need, want) } else { (0, 0) };
        Some(Line {
            said: self.words.tell(self.terms.limit, &self.in_force, at),
            terms: self.terms,
            known,
            used: self.told.used,
            charge: self.told.charge,
            full: self.lease.full,
            holding: self.lease.held,
            need,
            want,
            batch: self.recent / 8,
            since: self.since,
            most,
        })
    }

    /// What a trip brought that set out then; whether somebody may start now who could not before.
    pub(super) fn hear(&mut self, line: &Line, grant: &Grant, set_out: u64, at: u64) -> bool {
        (self.told, self.rung, self.since) = (Spent::default(), false, at);
        self.words.told();
        self.taken = grant.taken;
        self.in_force = Terms { limit: grant.limit, burst: grant.burst, ..self.terms };
        self.lease.held += grant.amount;
        // One that brought nothing is not repeated before somebody has to wait.
        self.lease.of = if grant.amount > 0 { self.lease.held } else { 0 };
        self.lease.known = line.holding + grant.amount;
        self.lease.full = grant.full;
        self.lease.until = set_out.saturating_add(TERM);
        self.lease.reached = Some(at);
        let pause = if grant.amount == 0 { grant.wait.max(PAUSE) } else { grant.wait };
        self.not_before = at.saturating_add(pause);
        // Whoever still waits asks again.
        std::mem::take(&mut self.need) > 0
    }

    /// The trip failed, done or not: what it told is told again, what it gave back is not.
    pub(super) fn fail(&mut self) {
        let told = std::mem::take(&mut self.told);
        self.news.used = self.news.used.saturating_add(told.used);
        self.news.charge = self.news.charge.saturating_add(told.charge.max(0));
        self.words.fail();
        self.rung = false;
    }

    /// From now on it is like this.
    pub(super) fn enter(&mut self, mode: FleetMode, processes: usize, at: u64) {
        if mode == FleetMode::Alone && self.is_shared() {
            self.losses += 1;
            self.share = Share::new(self.in_force, processes, at);
            self.lease.held = 0;
            // Redis has it down as leased, and will hear of it as of what is used from now on.
            let used = std::mem::take(&mut self.news.used);
            self.news.charge = self.news.charge.saturating_add_unsigned(used);
        }
        (self.mode, self.need, self.rung) = (mode, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(amount: u64) -> (Account, Line) {
        let terms = Terms { limit: 60, period: 60_000_000, burst: 10, worth: 10_000_000, follows: true };
        let mut account = Account::new("a".to_owned(), terms, FleetMode::Shared, 1, 0);
        assert!(account.reach(amount, false, 0).is_err());
        let line = account.tell(1, 0).unwrap();
        (account, line)
    }

    fn granted(amount: u64) -> Grant {
        Grant { amount, wait: 0, full: 0, limit: 60, burst: 10, taken: 0 }
    }

    #[test]
    fn whoever_got_nothing_does_not_ask_again_at_once() {
        let (mut account, line) = asks(5);
        assert!(account.hear(&line, &granted(0), 0, 0));
        assert!(account.reach(5, false, 0).is_err());
        assert_eq!(account.due(0), Some(PAUSE));
    }

    #[test]
    fn what_is_more_than_half_a_burst_is_not_kept_for_long() {
        let (mut account, line) = asks(25);
        account.hear(&line, &granted(25), 0, 0);
        assert_eq!(account.reach(25, false, 1), Ok(()), "it came for a large call");
        let line = account.tell(1, 1).unwrap();
        assert_eq!(line.holding, 25, "which may wait for something else");
        account.hear(&line, &granted(0), 1, 1);
        assert_eq!(account.tell(1, 2).unwrap().holding, 5, "and has left");
    }

    #[test]
    fn what_a_trip_that_was_cut_short_told_is_told_when_it_leaves() {
        let (mut account, line) = asks(5);
        account.hear(&line, &granted(10), 0, 0);
        account.take(5);
        assert_eq!(account.tell(1, 1).unwrap().used, 5);
        account.fail();
        account.enter(FleetMode::Returning, 1, 2);
        let line = account.tell(1, 2).unwrap();
        assert_eq!((line.used, line.holding), (5, 0));
    }
}
