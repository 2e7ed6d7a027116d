//! The decision: one lock, direct hand-over, nobody who runs in the background.
//!
//! Whoever changes something (a call that ends, a waiter that comes or leaves, a gate that resumes) lets in those who can
//! start before it goes on. Time is nobody's doing, so when a rate holds those who wait back, one of them sleeps until
//! the earliest instant at which that may change.
//!
//! What must hold whenever the lock is free, so that no wake-up is lost. If somebody waits, nobody whose turn it is can
//! start now, because
//!
//! 1. the gate is paused: then its resuming calls [`Core::let_in`]; or
//! 2. concurrency is used up: then a grant is out, and its release, or the leaving of the waiter it was meant for,
//!    calls it; or
//! 3. a rate holds all back until some instant, or every lane that may not be served is parked until an instant of its
//!    own: then `told` names a waiter and an instant no later than the earliest of these, which means that this waiter
//!    sleeps until then at most, or was woken and will look, and set its timer, when it is polled. It need not be the
//!    next one. When it leaves or is let in, somebody else is told.
//!
//! What comes back to the rates (a settled call, one that never began) can only help a parked lane to an earlier start
//! than it was told. [`Queue::reconsider`] asks some of them again, the next ones the next time, so that ending a call costs
//! the same however many are parked; the rest have their instants. A claim ([`Rates::claim`]) ends when whoever made it
//! starts, leaves or is held back by something else, and frees the lanes that were parked until its time.
//!
//! Every waiter is in exactly one of three states: waiting, decided (its verdict stands in its seat, what it was granted is
//! taken, it has been woken), or gone. A future that is dropped leaves whichever it is in; if it was granted, its turn is
//! handed on, with its request of the rate. A timer of one who is not told any more is dropped when it is next polled;
//! until then it costs one wake-up.
//!
//! Wakers are woken and dropped, and events sent, outside the lock: each may run foreign code that comes back here. What
//! is to be done then is put into [`Effects`].

mod turns;

use std::task::Waker;
use std::time::Instant;

use slab::Slab;

use super::concurrency::Limiter;
use super::event::AdmissionEvent;
use super::pace::Pace;
use super::queue::{CLASSES, Queue, Seat, Waiter, Who};
use super::rate::{Ask, Debit, Held, Rates};
use super::status::{ClassStatus, Status, Totals};
use super::{Load, Outcome};

/// So many places of calls in flight are kept for the next ones when none is.
const ROOM: usize = 1_024;

/// What the lock guards.
#[derive(Debug)]
pub(super) struct Core {
    limiter: Limiter,
    /// What the calls in flight hold.
    out: Slab<Debit>,
    pub(super) rates: Rates,
    pub(super) queue: Queue,
    pub(super) pace: Pace,
    pub(super) paused: bool,
    pub(super) draining: bool,
    pub(super) totals: Totals,
    /// Who has been told to look when, for all who wait.
    told: Option<(Seat, Instant)>,
    /// Whether anybody listens to the events.
    pub(super) heard: bool,
    pub(super) effects: Effects,
}

/// What is to be done once the lock is free.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) wake: Vec<Waker>,
    pub(super) events: Vec<AdmissionEvent>,
}

impl Effects {
    pub(super) fn is_empty(&self) -> bool {
        self.wake.is_empty() && self.events.is_empty()
    }
}

/// What a call holds: where the core keeps it, for it would be moved from hand to hand.
#[derive(Debug)]
pub(super) struct Grant(pub(super) usize);

/// What became of one who waited.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Let in.
    Granted(Grant),
    /// Sent away to make room.
    Shed,
    /// Sent away with all others.
    Cleared,
}

impl Core {
    pub(super) fn new(limiter: Limiter, rates: Rates, queue: Queue) -> Self {
        Self {
            limiter,
            out: Slab::new(),
            rates,
            queue,
            pace: Pace::default(),
            paused: false,
            draining: false,
            totals: Totals::default(),
            told: None,
            heard: false,
            effects: Effects::default(),
        }
    }

    pub(super) fn load(&self) -> Load {
        let load = Load::new(self.out.len(), self.queue.len(), self.rates.reserved());
        Load { concurrency: self.limiter.limit(), ..load }
    }

    pub(super) fn status(&self, now: Instant) -> Status {
        let load = self.load();
        let by_class = self.queue.by_class();
        let classes = [0, 1, 2].map(|class: usize| {
            let (queued, since) = by_class[class];
            let oldest = since.map_or_else(Default::default, |since| now.saturating_duration_since(since));
            ClassStatus { priority: CLASSES[class], queued, oldest }
        });
        Status {
            in_flight: load.in_flight,
            concurrency: load.concurrency,
            queued: load.queued,
            classes,
            tenants: self.queue.tenants(),
            reserved_tokens: load.reserved_tokens,
            paused: self.paused,
            draining: self.draining,
            totals: self.totals,
        }
    }

    /// Whether nothing is under way and nobody waits.
    pub(super) fn is_idle(&self) -> bool {
        self.out.is_empty() && self.queue.len() == 0
    }

    /// Notes an event, if anybody listens.
    pub(super) fn tell(&mut self, event: impl FnOnce() -> AdmissionEvent) {
        if self.heard {
            self.effects.events.push(event());
        }
    }

    /// Whether anything depends on the time, whatever the settings are.
    pub(super) fn is_timed(&self) -> bool {
        self.queue.len() > 0 || self.rates.is_closed()
    }

    /// Whether it matters when this call ended, which says no more than its outcome does.
    pub(super) fn is_timed_end(&self, grant: &Grant, outcome: Option<&Outcome<'_>>) -> bool {
        self.is_timed() || self.out.get(grant.0).is_some_and(|debit| self.rates.is_timed_end(debit, outcome))
    }

    fn is_full(&self) -> bool {
        self.limiter.limit().is_some_and(|limit| self.out.len() >= limit)
    }

    /// Lets one in at once, if nobody waits and it can start.
    pub(super) fn take_at_once(&mut self, who: Who<'_>, ask: &Ask, now: Instant) -> Option<Grant> {
        if self.paused || self.queue.len() > 0 || self.is_full() {
            return None;
        }
        let grant = self.take(ask, now).ok()?;
        self.tell(|| AdmissionEvent::Admitted { priority: who.priority, queued: Default::default() });
        Some(grant)
    }

    /// Enters the queue. The real waker comes with the first poll, which must follow at once.
    pub(super) fn enter(&mut self, who: Who<'_>, ask: Ask, now: Instant) -> Seat {
        if self.queue.len() == 0 {
            self.pace.begin(now);
        }
        let seat = self.queue.enter(who, ask, now);
        let waiting = self.queue.len();
        self.adjust(|limiter| limiter.entered(waiting));
        self.let_in(Some(seat), now);
        if self.queue.waiter(seat).is_some() {
            self.tell(|| AdmissionEvent::Queued { priority: who.priority, waiting });
        }
        seat
    }

    /// Takes a place and what is asked of the rates, all or nothing.
    fn take(&mut self, ask: &Ask, now: Instant) -> Result<Grant, Held> {
        let debit = self.rates.begin(ask, now)?;
        self.totals.admitted += 1;
        let place = self.out.vacant_entry();
        let grant = Grant(place.key());
        self.rates.charge(place.insert(debit));
        Ok(grant)
    }

    fn give_back(&mut self, grant: Grant) -> Option<Debit> {
        let debit = self.out.try_remove(grant.0);
        if self.out.is_empty() && self.out.capacity() > ROOM {
            self.out = Slab::new();
        }
        debit
    }

    /// Frees what a call held; `None`: it was abandoned.
    pub(super) fn release(&mut self, grant: Grant, outcome: Option<&Outcome<'_>>, now: Instant) {
        let (in_flight, waiting) = (self.out.len(), self.queue.len());
        self.adjust(|limiter| limiter.ended(outcome, in_flight, waiting, now));
        if let Some(debit) = self.give_back(grant) {
            self.rates.settle(debit, outcome, now);
        }
        if waiting > 0 {
            self.queue.reconsider();
            self.let_in(None, now);
        }
    }

    /// The rates may allow more than they did.
    #[cfg(feature = "redis")]
    pub(super) fn ask_again(&mut self, now: Instant) {
        self.rates.hear_closed(now);
        self.rates.claims_are_due();
        self.queue.reconsider();
        self.let_in(None, now);
    }

    fn adjust(&mut self, change: impl FnOnce(&mut Limiter)) {
        let before = self.limiter.limit();
        change(&mut self.limiter);
        if let (Some(from), Some(to)) = (before, self.limiter.limit())
            && from != to
        {
            self.tell(|| AdmissionEvent::LimitChanged { from, to });
        }
    }

    /// Looks, as the waiter in this seat: whether it must set a timer.
    pub(super) fn look(&mut self, seat: Seat, now: Instant) -> Option<Instant> {
        self.rates.see(now);
        if self.told.is_some_and(|(who, _)| who == seat) {
            self.let_in(Some(seat), now);
        }
        self.told.filter(|(who, _)| *who == seat).map(|(_, at)| at)
    }

    /// One who waited is gone: before its turn, or before it saw it. What was granted to it goes back as if it had never
    /// been. Returns what is to be dropped outside the lock.
    pub(super) fn leave(&mut self, seat: Seat, now: Instant) -> Option<Waiter> {
        let (waiter, verdict) = self.queue.leave(seat);
        if let Some(waiter) = &waiter {
            let (priority, queued) = waiter.seen(now);
            self.totals.left += 1;
            self.tell(|| AdmissionEvent::Left { priority, queued });
            self.unclaim(seat, &waiter.ask);
        }
        self.forget(seat);
        if let Some(Verdict::Granted(grant)) = verdict {
            // Its turn goes on as if it had been the next one's: the request with it, or one of the rate is lost.
            self.totals.admitted -= 1;
            self.totals.left += 1;
            if let Some(debit) = self.give_back(grant) {
                self.rates.undo(debit, now);
            }
            self.queue.reconsider();
        }
        self.let_in(None, now);
        waiter
    }

    /// Nobody waits in this seat any more.
    fn forget(&mut self, seat: Seat) {
        self.told = self.told.filter(|(who, _)| *who != seat);
        if self.queue.len() == 0 {
            self.pace.rest();
        }
    }

    /// It does not wait any more: whoever its claims held back may go on.
    fn unclaim(&mut self, seat: Seat, ask: &Ask) {
        if let Some(until) = self.rates.unclaim(seat, ask) {
            self.queue.unpark_at(until);
        }
    }

    /// Sends one who waits away.
    pub(super) fn send_away(&mut self, seat: Seat, verdict: Verdict, now: Instant) {
        let shed = matches!(verdict, Verdict::Shed);
        let Some(waiter) = self.queue.decide(seat, verdict) else { return };
        self.unclaim(seat, &waiter.ask);
        self.forget(seat);
        let (priority, queued) = waiter.seen(now);
        if shed {
            self.totals.shed += 1;
            self.tell(|| AdmissionEvent::Shed { priority, queued });
        } else {
            self.totals.cleared += 1;
        }
        self.effects.wake.push(waiter.waker);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::super::queue::Order;
    use super::*;
    use crate::env::Env;
    use crate::schedule::Job;

    #[test]
    fn places_of_a_burst_of_calls_are_given_back_when_the_last_one_ends() {
        let (env, second) = (Env::new(), Duration::from_secs(1));
        let now = env.now();
        let order = Order { ageing: Duration::MAX, weights: HashMap::new() };
        let rates = Rates::new(None, Vec::new(), second, true, &env, now);
        let mut core = Core::new(Limiter::Unlimited, rates, Queue::new(order, None));
        let ask = core.rates.ask(&Job::new("m").tokens(3, 4)).unwrap();
        for calls in [ROOM, 3 * ROOM] {
            let mut grants: Vec<_> = (0..calls).map(|_| core.take(&ask, now).unwrap()).collect();
            let (last, number) = (grants.swap_remove(calls / 2), calls as u64);
            assert_eq!((core.load().in_flight, core.load().reserved_tokens), (calls, 7 * number));
            grants.into_iter().for_each(|grant| core.release(grant, None, now));
            assert_eq!((core.load().in_flight, core.load().reserved_tokens), (1, 7));
            assert!(core.out.capacity() >= calls, "one that is out has its place");
            core.release(last, None, now);
            assert_eq!((core.load().in_flight, core.load().reserved_tokens), (0, 0));
            assert!(core.out.capacity() <= ROOM);
        }
    }
}
