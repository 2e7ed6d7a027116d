//! A limit up to a minute: a bucket that refills evenly, lends and takes back.

use std::collections::VecDeque;

use super::correct::Report;
use super::limit::Limit;
use super::meter::Mark;

/// Levels that are remembered at most, to tell what a refund is worth.
const PEAKS: usize = 64;

/// A job takes its estimate at the start and puts it right at the end.
///
/// A job larger than the bucket starts when the bucket is full and leaves a debt, so the rate holds over time and any
/// stretch of the period holds at most the limit and the larger of one burst and one such job.
///
/// Levels are in fractions of a unit: one nanosecond adds exactly `limit` of them and a unit has as many as the period
/// has nanoseconds, so nothing is rounded.
///
/// There are two levels. `own` is the account by what we did ourselves. `level`, which decides, is lower as long as the
/// provider says that less is left than we know of: somebody else uses the same key, or it reserves more for a call. What
/// the provider says next replaces what it said before, and both meet again when the bucket is full, or when the
/// provider's own is.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    limit: u64,
    configured: u64,
    period: u64,
    burst: u64,
    capacity: i128,
    level: i128,
    own: i128,
    seen: u64,
    /// How many takes there were; from `first` on they are this bucket's own.
    takes: u64,
    first: u64,
    /// The highest levels of `own` since, by the number of takes before: each lower than the one before it.
    peaks: VecDeque<(u64, i128)>,
    /// All that was taken less what was given back, to tell what happened between two moments.
    taken: i64,
    /// The estimates of the calls in flight.
    out: u64,
    /// When the latest report was heard.
    heard: u64,
    /// Until when `level` may be lower.
    doubted: u64,
}

impl Bucket {
    /// A full one. `burst` is how many nanoseconds' worth may be used at once.
    pub(super) fn new(limit: &Limit, burst: u64) -> Self {
        let (amount, period) = (limit.amount, limit.period_nanos());
        let capacity = capacity(amount, period, burst);
        Self {
            limit: amount,
            configured: amount,
            period,
            burst,
            capacity,
            level: capacity,
            own: capacity,
            seen: 0,
            takes: 0,
            first: 0,
            peaks: VecDeque::new(),
            taken: 0,
            out: 0,
            heard: 0,
            doubted: 0,
        }
    }

    /// The same bucket for somebody else, which knows nothing of the debits of the first.
    pub(super) fn copy(&self, first: u64) -> Self {
        Self { takes: first, first, peaks: VecDeque::new(), out: 0, ..self.clone() }
    }

    /// The limit that holds now.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether forgetting it changes nothing.
    pub(super) fn is_idle(&mut self, at: u64) -> bool {
        self.refill(at);
        self.out == 0 && self.level == self.capacity && self.limit == self.configured
    }

    fn units(&self, amount: u64) -> i128 {
        i128::from(amount) * i128::from(self.period)
    }

    fn refill(&mut self, at: u64) {
        let passed = at.saturating_sub(self.seen);
        self.seen = self.seen.max(at);
        if self.seen >= self.doubted {
            self.level = self.own;
        }
        self.add(i128::from(passed) * i128::from(self.limit));
    }

    fn add(&mut self, amount: i128) {
        self.own = (self.own + amount).min(self.capacity);
        self.level = (self.level + amount).min(self.own);
    }

    fn remove(&mut self, amount: i128) {
        self.note(self.own);
        self.own -= amount;
        self.level -= amount;
    }

    /// Remembers a level before it falls.
    fn note(&mut self, level: i128) {
        while self.peaks.back().is_some_and(|(_, peak)| *peak <= level) {
            self.peaks.pop_back();
        }
        self.peaks.push_back((self.takes, level));
        if self.peaks.len() > PEAKS {
            // Those before the next one are told the higher of both, which may cost them a refund.
            let oldest = self.peaks.pop_front();
            if let (Some((_, higher)), Some(next)) = (oldest, self.peaks.front_mut()) {
                next.1 = higher;
            }
        }
    }

    /// Gives back what was taken too much: as much as the bucket would hold more by now if it had never been taken. Had it
    /// run over in between, that much would have been lost, and given back now it would exceed limit and burst.
    fn give_back(&mut self, since: u64, amount: i128) {
        let from = self.peaks.partition_point(|(takes, _)| *takes < since);
        let peak = self.peaks.get(from).map_or(self.own, |(_, peak)| self.own.max(*peak));
        let amount = amount.min(self.capacity - peak);
        if since < self.first || amount <= 0 {
            return;
        }
        self.peaks.iter_mut().skip(from).for_each(|(_, peak)| *peak += amount);
        if let Some((_, raised)) = self.peaks.get(from).copied() {
            // What is not higher than a later one tells nothing.
            let keep = self.peaks.iter().take(from).take_while(|(_, peak)| *peak > raised).count();
            self.peaks.drain(keep..from);
        }
        self.add(amount);
    }

    /// Whether so much can be taken now, or when; `given_back`: if all that is out were given back at once.
    pub(super) fn reach(&mut self, amount: u64, given_back: bool, at: u64) -> Result<(), u64> {
        self.refill(at);
        let refund = if given_back { self.units(self.out) } else { 0 };
        let wanted = self.units(amount).min(self.capacity) - refund;
        let when = |level: i128| {
            let missing = (wanted - level).max(0);
            let rate = i128::from(self.limit);
            self.seen.saturating_add(u64::try_from((missing + rate - 1) / rate).unwrap_or(u64::MAX))
        };
        if self.level >= wanted { Ok(()) } else { Err(when(self.level).min(when(self.own).max(self.doubted))) }
    }

    /// Takes what [`reach`](Self::reach) has just allowed.
    pub(super) fn take(&mut self, amount: u64) -> Mark {
        self.remove(self.units(amount));
        self.takes += 1;
        self.out = self.out.saturating_add(amount);
        self.taken = self.taken.wrapping_add_unsigned(amount);
        Mark { place: self.takes, taken: self.taken }
    }

    /// Puts right what was taken.
    pub(super) fn settle(&mut self, mark: Mark, taken: u64, used: u64, at: u64) {
        self.refill(at);
        self.out = self.out.saturating_sub(taken);
        // A provider that reports nonsense may cost a period at most.
        let used = used.min(self.limit.max(taken));
        self.taken = self.taken.wrapping_sub_unsigned(taken).wrapping_add_unsigned(used);
        if used > taken {
            self.remove(self.units(used - taken));
        } else if used < taken {
            self.give_back(mark.place, self.units(taken - used));
        }
    }

    /// Follows what the provider says: its limit, and what is left of it.
    pub(super) fn correct(&mut self, report: &Report, mark: Mark, at: u64) {
        self.refill(at);
        if report.heard < self.heard {
            // Something newer is known.
            return;
        }
        self.heard = report.heard;
        if let Some(limit) = report.followed(self.limit) {
            self.follow(limit);
        }
        if let Some(left) = report.left(self.limit, self.taken.wrapping_sub(mark.taken), at) {
            self.level = self.own.min(i128::from(left) * i128::from(self.period));
            self.doubted = report.full_at();
        }
    }

    /// Goes back to the configured limit.
    pub(super) fn restore(&mut self) {
        self.follow(self.configured);
        self.level = self.own;
    }

    fn follow(&mut self, limit: u64) {
        self.limit = limit;
        self.capacity = capacity(limit, self.period, self.burst);
        self.own = self.own.min(self.capacity);
        self.level = self.level.min(self.capacity);
    }
}

/// So many nanoseconds' worth, rounded down to whole units; at least one.
pub(super) fn capacity(limit: u64, period: u64, burst: u64) -> i128 {
    let share = u128::from(limit) * u128::from(burst) / u128::from(period);
    i128::try_from(share.max(1)).unwrap_or(i128::MAX) * i128::from(period)
}
