//! A tier that keeps failing is left alone for a while.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::env::after;

/// Failures in a row after which a tier is passed over.
const FAILURES: u32 = 5;
/// For how long at first; doubled with each attempt that fails, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Lets everybody ask while a tier is well. After five failures in a row nobody asks for a second, then one does; if
/// that fails too, nobody asks for twice as long, up to half a minute.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    closed_until: Option<Instant>,
    pause: Duration,
    probing: bool,
}

/// Leave to ask. Dropped without a verdict, it says nothing about the tier.
#[derive(Debug)]
pub(super) struct Leave<'a> {
    breaker: &'a Breaker,
    probe: bool,
}

impl Breaker {
    /// Leave to ask the tier now, unless it is passed over.
    pub(super) fn leave(&self, now: Instant) -> Option<Leave<'_>> {
        let mut state = self.0.lock();
        if state.failures < FAILURES {
            return Some(Leave { breaker: self, probe: false });
        }
        if state.probing || state.closed_until.is_some_and(|until| now < until) {
            return None;
        }
        state.probing = true;
        Some(Leave { breaker: self, probe: true })
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
            state.pause = (state.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            state.closed_until = Some(after(now, state.pause));
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

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn opens_after_five_failures_and_lets_one_probe() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        for _ in 0..FAILURES {
            breaker.leave(start).unwrap().failed(start);
        }
        assert!(breaker.leave(at(999)).is_none());
        let probe = breaker.leave(at(1_000)).unwrap();
        assert!(breaker.leave(at(1_000)).is_none(), "one at a time");
        drop(probe);
        breaker.leave(at(1_000)).unwrap().failed(at(1_000));
        assert!(breaker.leave(at(2_999)).is_none(), "twice as long");
        breaker.leave(at(3_000)).unwrap().answered();
        assert!(breaker.leave(at(3_000)).is_some());
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
