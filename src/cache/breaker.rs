//! A tier that keeps failing is left alone for a while.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::env::after;

/// Failures in a row after which a tier is passed over.
const FAILURES: u32 = 5;
/// A failure that took no longer is cheap: asking again soon costs the one caller who does it next to nothing.
const CHEAP: Duration = Duration::from_millis(5);
/// The pause after a cheap failure: a tier that knows that it is cut off, and says so at once, is found well again soon.
const CHEAP_PAUSE: Duration = Duration::from_millis(250);
/// The first pause after a failure that took its time; doubled with each attempt that fails like that, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Lets everybody ask while a tier is well. After five failures in a row nobody asks for a while, then one does, as long
/// as that fails. How long the while is depends on what the failure cost its caller: a quarter of a second if the tier
/// failed at once, otherwise a second, and twice as long each time, up to half a minute.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    closed_until: Option<Instant>,
    /// The last pause, if what led to it was not cheap.
    pause: Duration,
    probing: bool,
}

/// Leave to ask. Dropped without a verdict, it says nothing about the tier.
#[derive(Debug)]
pub(super) struct Leave<'a> {
    breaker: &'a Breaker,
    since: Instant,
    probe: bool,
}

impl Breaker {
    /// Leave to ask the tier now, unless it is passed over.
    pub(super) fn leave(&self, now: Instant) -> Option<Leave<'_>> {
        let mut state = self.0.lock();
        if state.failures < FAILURES {
            return Some(Leave { breaker: self, since: now, probe: false });
        }
        if state.probing || state.closed_until.is_some_and(|until| now < until) {
            return None;
        }
        state.probing = true;
        Some(Leave { breaker: self, since: now, probe: true })
    }
}

impl Leave<'_> {
    /// The tier answered, be it with nothing.
    pub(super) fn answered(self) {
        let mut state = self.breaker.0.lock();
        state.failures = 0;
        state.closed_until = None;
        state.pause = Duration::ZERO;
    }

    /// The tier failed or did not answer in time.
    pub(super) fn failed(self, now: Instant) {
        let mut state = self.breaker.0.lock();
        state.failures = state.failures.saturating_add(1);
        // Those that were under way when it was given up do not lengthen the pause.
        if state.failures == FAILURES || self.probe {
            let cheap = now.saturating_duration_since(self.since) <= CHEAP;
            state.pause = if cheap { Duration::ZERO } else { (state.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE) };
            state.closed_until = Some(after(now, state.pause.max(CHEAP_PAUSE)));
        }
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.0.lock().probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_millis(100);

    /// Fails five times, each time after so long; when it was given up.
    #[allow(clippy::disallowed_methods)]
    fn given_up(breaker: &Breaker, cost: Duration) -> Instant {
        let start = Instant::now();
        for _ in 0..FAILURES {
            breaker.leave(start).unwrap().failed(start + cost);
        }
        start + cost
    }

    #[test]
    fn opens_after_five_failures_and_lets_one_probe() {
        let breaker = Breaker::default();
        let open = given_up(&breaker, SLOW);
        let at = |ms: u64| open + Duration::from_millis(ms);
        assert!(breaker.leave(at(999)).is_none());
        let probe = breaker.leave(at(1_000)).unwrap();
        assert!(breaker.leave(at(1_000)).is_none(), "one at a time");
        drop(probe);
        breaker.leave(at(1_000)).unwrap().failed(at(1_100));
        assert!(breaker.leave(at(3_099)).is_none(), "twice as long");
        breaker.leave(at(3_100)).unwrap().answered();
        assert!(breaker.leave(at(3_100)).is_some());
    }

    #[test]
    fn a_tier_that_fails_at_once_is_asked_again_soon_however_long_it_is_away() {
        let breaker = Breaker::default();
        let mut now = given_up(&breaker, Duration::ZERO);
        for _ in 0..1_000 {
            assert!(breaker.leave(now + CHEAP_PAUSE - SLOW).is_none());
            now += CHEAP_PAUSE;
            breaker.leave(now).unwrap().failed(now + CHEAP);
            now += CHEAP;
        }
        // One that is slow from now on starts at a second; one that ends its slowness is cheap again.
        now += CHEAP_PAUSE;
        breaker.leave(now).unwrap().failed(now + SLOW);
        now += SLOW + FIRST_PAUSE;
        breaker.leave(now).unwrap().failed(now);
        assert!(breaker.leave(now + CHEAP_PAUSE).is_some());
    }

    #[test]
    fn a_slow_one_costs_one_caller_in_half_a_minute() {
        let breaker = Breaker::default();
        let mut now = given_up(&breaker, SLOW);
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            now += Duration::from_secs(pause);
            assert!(breaker.leave(now - SLOW).is_none(), "{pause}");
            breaker.leave(now).unwrap().failed(now + SLOW);
            now += SLOW;
        }
    }

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn an_answer_in_between_forgives() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..20 {
            for _ in 1..FAILURES {
                breaker.leave(now).unwrap().failed(now);
            }
            breaker.leave(now).unwrap().answered();
        }
        assert!(breaker.leave(now).is_some());
    }
}
