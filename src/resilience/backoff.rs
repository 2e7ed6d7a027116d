//! How long to wait before the next attempt.

use std::time::Duration;

use crate::error::ErrorKind;

/// Exponential back-off with full jitter: before the n-th retry a wait between nothing and `base * 2^(n-1)`, at most
/// `cap`, evenly distributed. Full jitter spreads callers that failed together best, for the least waiting in sum (AWS
/// Architecture Blog, "Exponential Backoff And Jitter").
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    pub(super) base: Duration,
    pub(super) throttle_base: Duration,
    pub(super) cap: Duration,
}

impl Backoff {
    /// The wait before retry number `retry`, counted from 1; `unit` is the jitter, from 0 to 1.
    ///
    /// A provider's hint is a promise that nothing sooner will do: the wait is the hint and at most one base more, so
    /// that callers who were all told "in 20 seconds" do not come back in the same instant.
    pub(super) fn wait(&self, failure: ErrorKind, hint: Option<Duration>, retry: u32, unit: f64) -> Duration {
        let base = match failure {
            ErrorKind::RateLimited | ErrorKind::Overloaded => self.throttle_base,
            _ => self.base,
        };
        match hint {
            Some(hint) => hint.saturating_add(scale(base, unit)),
            None => {
                let doublings = retry.saturating_sub(1).min(31);
                scale(base.saturating_mul(1 << doublings).min(self.cap), unit)
            }
        }
    }
}

/// A part of a duration. Unlike `mul_f64` it cannot panic.
fn scale(whole: Duration, unit: f64) -> Duration {
    Duration::try_from_secs_f64(whole.as_secs_f64() * unit).map_or(whole, |part| part.min(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        base: Duration::from_millis(500),
        throttle_base: Duration::from_secs(1),
        cap: Duration::from_secs(8),
    };

    #[test]
    fn doubles_up_to_the_cap_from_the_base_of_its_class() {
        let waits = |kind| [1, 2, 3, 4, 5, 6].map(|retry| BACKOFF.wait(kind, None, retry, 1.0).as_millis());
        assert_eq!(waits(ErrorKind::Server), [500, 1_000, 2_000, 4_000, 8_000, 8_000]);
        assert_eq!(waits(ErrorKind::RateLimited), [1_000, 2_000, 4_000, 8_000, 8_000, 8_000]);
        assert_eq!(BACKOFF.wait(ErrorKind::Server, None, u32::MAX, 1.0), BACKOFF.cap);
        assert_eq!(BACKOFF.wait(ErrorKind::Server, None, 3, 0.0), Duration::ZERO, "full jitter starts at nothing");
        assert_eq!(BACKOFF.wait(ErrorKind::Server, None, 3, 0.25), Duration::from_millis(500));
    }

    #[test]
    fn never_comes_before_the_hint_and_at_most_a_base_after() {
        let hint = Some(Duration::from_secs(20));
        assert_eq!(BACKOFF.wait(ErrorKind::RateLimited, hint, 2, 0.0), Duration::from_secs(20));
        assert_eq!(BACKOFF.wait(ErrorKind::RateLimited, hint, 2, 0.5), Duration::from_millis(20_500));
        assert_eq!(BACKOFF.wait(ErrorKind::Server, hint, 2, 0.5), Duration::from_millis(20_250));
        assert_eq!(BACKOFF.wait(ErrorKind::Server, Some(Duration::ZERO), 9, 0.5), Duration::from_millis(250));
        assert_eq!(BACKOFF.wait(ErrorKind::Server, Some(Duration::MAX), 1, 0.5), Duration::MAX);
    }

    #[test]
    fn absurd_durations_do_not_panic() {
        let absurd = Backoff { base: Duration::MAX, throttle_base: Duration::MAX, cap: Duration::MAX };
        for unit in [0.0, 0.5, 1.0 - f64::EPSILON, 1.0] {
            assert!(absurd.wait(ErrorKind::Server, None, 10, unit) <= Duration::MAX);
        }
    }
}
