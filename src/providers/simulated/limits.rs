//! Requests and tokens per minute as token buckets, in exact integers.

use std::time::{Duration, Instant};

use crate::types::RateLimits;

/// A minute in nanoseconds: levels are kept in 1/MINUTE of a unit, so that a nanosecond's refill is a whole number.
const MINUTE: u128 = 60_000_000_000;

/// The token bucket holds at least this much (or a minute's limit, if that is less), so that ordinary requests pass
/// under a small limit.
const LEAST_TOKEN_BURST: u64 = 4_096;

/// The buckets of an account.
#[derive(Debug)]
pub(super) struct Limits {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

/// Which limit refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    Requests,
    Tokens,
    /// More tokens than the bucket ever holds.
    TooLarge,
}

impl Limits {
    /// Full buckets that hold `burst` seconds' worth of their limits, but at least one request, and
    /// [`LEAST_TOKEN_BURST`].
    pub(super) fn new(now: Instant, rpm: Option<u32>, tpm: Option<u32>, burst: f64) -> Self {
        let worth = |limit: u32| (f64::from(limit) * burst / 60.0) as u64;
        let requests = rpm.map(|limit| Bucket::full(now, limit, worth(limit).max(1)));
        let tokens =
            tpm.map(|limit| Bucket::full(now, limit, worth(limit).max(LEAST_TOKEN_BURST.min(u64::from(limit)))));
        Self { requests, tokens }
    }

    /// Takes one request and so many tokens, or nothing at all. A refusal costs nothing.
    pub(super) fn admit(&mut self, now: Instant, tokens: u64) -> Result<(), Limit> {
        if let Some((limit, _)) = self.wait(now, tokens) {
            return Err(limit);
        }
        for (bucket, cost) in [(&mut self.requests, 1), (&mut self.tokens, tokens)] {
            if let Some(bucket) = bucket {
                bucket.take(cost);
            }
        }
        Ok(())
    }

    /// Which limit would refuse this request now, and for how long if nobody else takes anything.
    pub(super) fn wait(&mut self, now: Instant, tokens: u64) -> Option<(Limit, Duration)> {
        if self.tokens.as_ref().is_some_and(|bucket| units(tokens) > bucket.capacity) {
            return Some((Limit::TooLarge, Duration::MAX));
        }
        let wait = |bucket: &mut Option<Bucket>, cost| bucket.as_mut().map_or(Duration::ZERO, |b| b.wait(now, cost));
        let (requests, tokens) = (wait(&mut self.requests, 1), wait(&mut self.tokens, tokens));
        if requests.is_zero() && tokens.is_zero() {
            None
        } else if requests >= tokens {
            Some((Limit::Requests, requests))
        } else {
            Some((Limit::Tokens, tokens))
        }
    }

    /// Gives tokens back that were reserved and not used.
    pub(super) fn refund(&mut self, now: Instant, tokens: u64) {
        if let Some(bucket) = &mut self.tokens {
            bucket.refill(now);
            bucket.level = (bucket.level + units(tokens)).min(bucket.capacity);
        }
    }

    /// What the `x-ratelimit-*` headers say.
    pub(super) fn report(&mut self, now: Instant) -> RateLimits {
        let mut limits = RateLimits::default();
        if let Some(bucket) = &mut self.requests {
            let (limit, remaining, reset) = bucket.report(now);
            limits.limit_requests = Some(limit);
            limits.remaining_requests = Some(remaining);
            limits.reset_requests = Some(reset);
        }
        if let Some(bucket) = &mut self.tokens {
            let (limit, remaining, reset) = bucket.report(now);
            limits.limit_tokens = Some(limit);
            limits.remaining_tokens = Some(remaining);
            limits.reset_tokens = Some(reset);
        }
        limits
    }
}

fn units(count: u64) -> u128 {
    u128::from(count) * MINUTE
}

#[derive(Debug)]
struct Bucket {
    per_minute: u32,
    capacity: u128,
    level: u128,
    refilled: Instant,
}

impl Bucket {
    fn full(now: Instant, per_minute: u32, capacity: u64) -> Self {
        Self { per_minute, capacity: units(capacity), level: units(capacity), refilled: now }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled);
        self.refilled = self.refilled.max(now);
        // A minute's worth in MINUTE nanoseconds: `per_minute` units every nanosecond.
        let gained = passed.as_nanos().saturating_mul(u128::from(self.per_minute));
        self.level = self.level.saturating_add(gained).min(self.capacity);
    }

    fn take(&mut self, cost: u64) {
        self.level = self.level.saturating_sub(units(cost));
    }

    fn until(&self, level: u128) -> Duration {
        let nanos = level.saturating_sub(self.level).div_ceil(u128::from(self.per_minute.max(1)));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn wait(&mut self, now: Instant, cost: u64) -> Duration {
        self.refill(now);
        self.until(units(cost))
    }

    fn report(&mut self, now: Instant) -> (u64, u64, Duration) {
        self.refill(now);
        let remaining = u64::try_from(self.level / MINUTE).unwrap_or(u64::MAX);
        (u64::from(self.per_minute), remaining, self.until(self.capacity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        crate::Env::new().now()
    }

    #[test]
    fn never_admits_more_than_limit_times_time_plus_burst() {
        // Requests of changing size, as many as fit, for ten minutes in odd steps.
        let start = start();
        let (rpm, tpm, burst) = (77, 60_000, 6.0);
        let mut limits = Limits::new(start, Some(rpm), Some(tpm), burst);
        let (mut requests, mut tokens, mut refused) = (0_u64, 0_u64, 0_u64);
        for step in 0..60_000_u64 {
            let now = start + Duration::from_millis(step * 10 + step % 7);
            let size = 100 + step * 37 % 1_500;
            match limits.admit(now, size) {
                Ok(()) => (requests, tokens) = (requests + 1, tokens + size),
                Err(_) => refused += 1,
            }
            let minutes = now.duration_since(start).as_secs_f64() / 60.0;
            assert!(requests as f64 <= f64::from(rpm) * (minutes + burst / 60.0) + 1e-6);
            assert!(tokens as f64 <= f64::from(tpm) * (minutes + burst / 60.0) + 1e-6);
        }
        assert!(refused > 0 && requests >= 10 * 70, "{refused} refused, {requests} admitted");
    }

    #[test]
    fn the_wait_is_exact() {
        let start = start();
        for (rpm, tpm, size) in [(Some(7), None, 10), (None, Some(9_001), 4_000), (Some(13), Some(5_000), 4_096)] {
            let mut limits = Limits::new(start, rpm, tpm, 0.1);
            let mut now = start;
            while limits.admit(now, size).is_ok() {}
            for _ in 0..50 {
                let (_, wait) = limits.wait(now, size).unwrap();
                assert!(limits.admit(now + wait - Duration::from_nanos(1), size).is_err());
                now += wait;
                assert_eq!(limits.admit(now, size), Ok(()));
            }
        }
    }

    #[test]
    fn a_refund_never_overfills_and_too_large_is_for_ever() {
        let start = start();
        let mut limits = Limits::new(start, None, Some(60_000), 6.0);
        assert_eq!(limits.admit(start, 6_001), Err(Limit::TooLarge));
        assert_eq!(limits.admit(start, 6_000), Ok(()));
        limits.refund(start, 5_000);
        assert_eq!(limits.report(start).remaining_tokens, Some(5_000));
        assert_eq!(limits.report(start).reset_tokens, Some(Duration::from_secs(1)));
        limits.refund(start, 5_000);
        assert_eq!(limits.report(start).remaining_tokens, Some(6_000));
    }

    #[test]
    fn a_small_limit_still_takes_an_ordinary_request() {
        let start = start();
        let mut limits = Limits::new(start, Some(1), Some(10_000), 6.0);
        assert_eq!(limits.admit(start, LEAST_TOKEN_BURST), Ok(()));
        assert_eq!(limits.wait(start, 1), Some((Limit::Requests, Duration::from_secs(60))));
        assert_eq!(Limits::new(start, None, Some(500), 6.0).admit(start, 501), Err(Limit::TooLarge));
    }
}
