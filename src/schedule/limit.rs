//! Two rates: requests per minute on governor, tokens per minute in a bucket that can lend and take back.
//!
//! Both see the same instant, given to them as nanoseconds since the start: a decision is made for one moment, and a
//! clock that goes backwards is a clock that stands still.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::env::after;

const MINUTE_NANOS: u64 = 60_000_000_000;

/// The rates of one gate, either, both or none of them set.
#[derive(Debug)]
pub(super) struct Rates {
    started: Instant,
    requests: Option<RequestRate>,
    tokens: Option<TokenRate>,
}

/// What a start took from the bucket, needed to put it right later.
#[derive(Debug, Clone, Copy)]
pub(super) struct Debit {
    tokens: u64,
    fill: u64,
}

impl Rates {
    /// Full buckets. `burst` is how much of a minute's worth may be used at once.
    pub(super) fn new(rpm: Option<NonZeroU32>, tpm: Option<NonZeroU32>, burst: Duration, started: Instant) -> Self {
        let requests = rpm.map(|rpm| RequestRate::new(rpm, burst));
        let tokens = tpm.map(|tpm| TokenRate::new(tpm, burst));
        Self { started, requests, tokens }
    }

    /// Whether any rate is set, so that the time matters.
    pub(super) fn is_limited(&self) -> bool {
        self.requests.is_some() || self.tokens.is_some()
    }

    /// The most tokens one job may have.
    pub(super) fn most_tokens(&self) -> Option<u64> {
        self.tokens.as_ref().map(|rate| rate.per_minute)
    }

    /// Takes one request and these tokens, both or neither; or says when to ask again.
    ///
    /// `has_request` is for one who takes over the start of another who gave up at this moment: its request is taken
    /// already.
    pub(super) fn take(&mut self, tokens: u64, has_request: bool, now: Instant) -> Result<Debit, Instant> {
        let at = self.nanos(now);
        // Tokens are only looked at first: governor cannot give a request back.
        if let Some(rate) = &mut self.tokens {
            rate.ready(tokens, at).map_err(|ready| self.instant(ready))?;
        }
        if let Some(rate) = self.requests.as_mut().filter(|_| !has_request) {
            rate.take(at).map_err(|ready| self.instant(ready))?;
        }
        let fill = self.tokens.as_mut().map_or(0, |rate| rate.take(tokens));
        Ok(Debit { tokens, fill })
    }

    /// The earliest moment at which these tokens could start if nobody else did and all that is reserved now were
    /// given back; `None` when that is now.
    pub(super) fn earliest(&mut self, tokens: u64, reserved: u64, now: Instant) -> Option<Instant> {
        let at = self.nanos(now);
        let tokens = self.tokens.as_mut().and_then(|rate| rate.reach(tokens, reserved, at).err()).unwrap_or(0);
        let requests = self.requests.as_ref().map_or(0, |rate| rate.not_before);
        let ready = tokens.max(requests);
        (ready > at).then(|| self.instant(ready))
    }

    /// Puts a debit right when the true tokens are known.
    pub(super) fn settle(&mut self, debit: Debit, tokens: u64, now: Instant) {
        let at = self.nanos(now);
        if let Some(rate) = &mut self.tokens {
            rate.settle(debit, tokens, at);
        }
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
    }

    fn instant(&self, nanos: u64) -> Instant {
        after(self.started, Duration::from_nanos(nanos))
    }
}

/// The instant that governor is asked about.
#[derive(Debug, Default)]
struct At(Cell<u64>);

impl Clock for At {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.get())
    }
}

/// Requests per minute: governor's cell rate (GCRA), so any 60 s hold at most the limit and one burst.
#[derive(Debug)]
struct RequestRate {
    limiter: RateLimiter<NotKeyed, InMemoryState, At, NoOpMiddleware<Duration>>,
    /// No request can start before; what the last refusal said.
    not_before: u64,
}

impl RequestRate {
    fn new(per_minute: NonZeroU32, burst: Duration) -> Self {
        let burst = share(per_minute, burst).clamp(1, u64::from(u32::MAX));
        let burst = u32::try_from(burst).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        // Rounded up: `Quota::per_minute` rounds the interval down, which lets a high limit be exceeded.
        let interval = MINUTE_NANOS.div_ceil(u64::from(per_minute.get()));
        let quota = Quota::with_period(Duration::from_nanos(interval)).unwrap_or(Quota::per_minute(per_minute));
        Self { limiter: RateLimiter::direct_with_clock(quota.allow_burst(burst), At::default()), not_before: 0 }
    }

    fn take(&mut self, at: u64) -> Result<(), u64> {
        self.limiter.clock().0.set(at);
        self.limiter.check().map_err(|refusal| {
            self.not_before = u64::try_from(refusal.earliest_possible().as_nanos()).unwrap_or(u64::MAX);
            self.not_before
        })
    }
}

/// Tokens per minute: a bucket that refills evenly. A job takes its estimate at the start and puts it right at the end.
///
/// A job larger than the bucket starts when the bucket is full and leaves a debt, so the rate holds over time and any
/// 60 s hold at most the limit and the larger of one burst and one such job.
///
/// Levels are in 60-billionths of a token: one nanosecond adds exactly `per_minute` of them, and nothing is rounded.
#[derive(Debug)]
struct TokenRate {
    per_minute: u64,
    capacity: i128,
    level: i128,
    seen: u64,
    /// How often the bucket was seen full. A debit made before the bucket was full again is forgotten: without it, the
    /// bucket would be no fuller now, so it is worth no refund.
    fill: u64,
}

impl TokenRate {
    fn new(per_minute: NonZeroU32, burst: Duration) -> Self {
        let capacity = units(share(per_minute, burst).max(1));
        Self { per_minute: u64::from(per_minute.get()), capacity, level: capacity, seen: 0, fill: 0 }
    }

    fn refill(&mut self, at: u64) {
        let passed = at.saturating_sub(self.seen);
        self.seen = self.seen.max(at);
        self.add(i128::from(passed) * i128::from(self.per_minute));
    }

    fn add(&mut self, amount: i128) {
        self.level = (self.level + amount).min(self.capacity);
        if self.level == self.capacity {
            self.fill += 1;
        }
    }

    /// Whether so many tokens can be taken now, or when.
    fn ready(&mut self, tokens: u64, at: u64) -> Result<(), u64> {
        self.reach(tokens, 0, at)
    }

    /// The same, if so many tokens were given back at once.
    fn reach(&mut self, tokens: u64, refund: u64, at: u64) -> Result<(), u64> {
        self.refill(at);
        let missing = units(tokens).min(self.capacity) - self.level - units(refund);
        if missing <= 0 {
            return Ok(());
        }
        let rate = i128::from(self.per_minute);
        let wait = u64::try_from((missing + rate - 1) / rate).unwrap_or(u64::MAX);
        Err(self.seen.saturating_add(wait))
    }

    /// Takes what [`ready`](Self::ready) has just allowed.
    fn take(&mut self, tokens: u64) -> u64 {
        self.level -= units(tokens);
        self.fill
    }

    fn settle(&mut self, debit: Debit, tokens: u64, at: u64) {
        self.refill(at);
        // A provider that reports nonsense may cost a minute at most.
        let tokens = tokens.min(self.per_minute.max(debit.tokens));
        if tokens > debit.tokens {
            self.level -= units(tokens - debit.tokens);
        } else if debit.fill == self.fill {
            self.add(units(debit.tokens - tokens));
        }
    }
}

fn units(tokens: u64) -> i128 {
    i128::from(tokens) * i128::from(MINUTE_NANOS)
}

/// This much of a minute's worth, rounded down.
fn share(per_minute: NonZeroU32, burst: Duration) -> u64 {
    let share = u128::from(per_minute.get()).saturating_mul(burst.as_nanos()) / u128::from(MINUTE_NANOS);
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[allow(clippy::disallowed_methods, reason = "any instant will do as the start")]
    fn rates(rpm: u32, tpm: u32, burst: Duration) -> (Rates, Instant) {
        let started = Instant::now();
        (Rates::new(NonZeroU32::new(rpm), NonZeroU32::new(tpm), burst, started), started)
    }

    #[test]
    fn a_refund_gives_back_exactly_what_was_taken() {
        let (mut rates, now) = rates(0, 60_000, SECOND);
        let debit = rates.take(1_000, false, now).unwrap();
        assert!(rates.take(1, false, now).is_err());
        rates.settle(debit, 0, now);
        let debit = rates.take(1_000, false, now).unwrap();
        rates.settle(debit, 400, now);
        assert!(rates.take(601, false, now).is_err());
        assert!(rates.take(600, false, now).is_ok());
    }

    #[test]
    fn a_refund_after_the_bucket_was_full_again_is_worth_nothing() {
        let (mut rates, now) = rates(0, 60_000, SECOND);
        let early = rates.take(1_000, false, now).unwrap();
        let later = now + SECOND;
        rates.take(1_000, false, later).unwrap();
        rates.settle(early, 0, later);
        assert!(rates.take(1, false, later).is_err(), "a window would hold more than the limit and a burst");
    }

    #[test]
    fn an_underestimate_is_paid_back_and_nonsense_costs_a_minute_at_most() {
        let (mut rates, now) = rates(0, 60_000, SECOND);
        let debit = rates.take(1_000, false, now).unwrap();
        rates.settle(debit, 3_000, now);
        assert_eq!(rates.take(1_000, false, now).unwrap_err(), now + 3 * SECOND);
        let (mut rates, now) = self::rates(0, 60_000, SECOND);
        let debit = rates.take(1_000, false, now).unwrap();
        rates.settle(debit, u64::MAX, now);
        assert_eq!(rates.take(1_000, false, now).unwrap_err(), now + 60 * SECOND);
    }

    #[test]
    fn a_job_larger_than_the_bucket_starts_when_it_is_full_and_leaves_a_debt() {
        let (mut rates, now) = rates(0, 60_000, SECOND);
        rates.take(1, false, now).unwrap();
        let start = rates.take(5_000, false, now).unwrap_err();
        assert_eq!(start, now + Duration::from_millis(1));
        rates.take(5_000, false, start).unwrap();
        assert_eq!(rates.take(1_000, false, start).unwrap_err(), start + 5 * SECOND);
    }

    #[test]
    fn a_request_is_not_spent_when_tokens_are_missing() {
        let (mut rates, now) = rates(1, 60_000, SECOND);
        let debit = rates.take(1_000, true, now).unwrap();
        assert!(rates.take(1, false, now).is_err());
        rates.settle(debit, 0, now);
        assert!(rates.take(1, false, now).is_ok(), "the one request was still there");
        assert_eq!(rates.take(1, false, now).unwrap_err(), now + 60 * SECOND);
        assert_eq!(rates.earliest(1, 0, now), Some(now + 60 * SECOND));
    }

    #[test]
    fn a_clock_that_goes_backwards_stands_still() {
        let (mut rates, now) = rates(60, 60_000, SECOND);
        let later = now + 10 * SECOND;
        rates.take(1_000, false, later).unwrap();
        assert_eq!(rates.take(1_000, false, now).unwrap_err(), later + SECOND);
        assert!(rates.take(1_000, false, later + SECOND).is_ok());
    }

    proptest! {
        /// Any 60 s hold at most the limit and one burst (tokens: or one job larger than it), and a backlog uses 95 %.
        #[test]
        fn no_minute_holds_more(
            rpm in 1_u32..3_000,
            tpm in 1_000_u32..100_000,
            burst in 1_u64..60_000,
            jobs in prop::collection::vec((0_u64..3_000, 1_u64..1_000), 1..400),
        ) {
            let (mut rates, start) = rates(rpm, tpm, Duration::from_millis(burst));
            let (mut now, mut taken, mut largest) = (start, Vec::new(), 0);
            for (pause, tokens) in jobs {
                now += Duration::from_millis(pause);
                while let Err(ready) = rates.take(tokens, false, now) {
                    prop_assert!(ready > now);
                    now = ready;
                }
                largest = largest.max(tokens);
                taken.push((now, tokens));
            }
            let bursts = |limit: u32| (u64::from(limit) * burst / 60_000).max(1);
            for (i, (from, _)) in taken.iter().enumerate() {
                let window = taken[i..].iter().take_while(|(at, _)| *at <= *from + 60 * SECOND);
                let (count, tokens) = window.fold((0, 0), |(count, sum), (_, tokens)| (count + 1, sum + tokens));
                prop_assert!(count <= u64::from(rpm) + bursts(rpm));
                prop_assert!(tokens <= u64::from(tpm) + bursts(tpm).max(largest));
            }
        }
    }
}
