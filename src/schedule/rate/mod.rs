//! Two rates: requests per minute on governor, tokens per minute in a bucket that can lend and take back.
//!
//! Both see the same instant, given to them as nanoseconds since the start: a decision is made for one moment, and a
//! clock that goes backwards is a clock that stands still.
//!
//! A job is resolved once, when it enters, into what it asks for ([`Ask`]); then the rates give all of it or nothing
//! ([`Rates::take`]), and are told how the call ended ([`Rates::settle`]) or that it never began ([`Rates::undo`]).

use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::{Job, ORIGIN, Outcome};
use crate::env::after;
use crate::error::{Error, Result};

const MINUTE_NANOS: u64 = 60_000_000_000;

/// The rates of one gate, either, both or none of them set.
#[derive(Debug)]
pub(super) struct Rates {
    started: Instant,
    requests: Option<RequestRate>,
    tokens: Option<TokenRate>,
    /// Tokens of the calls in flight.
    reserved: u64,
}

/// What a job takes from the rates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    input: u64,
    tokens: u64,
}

#[cfg(test)]
impl Ask {
    pub(super) fn of(tokens: u64) -> Self {
        Self { input: tokens, tokens }
    }

    pub(super) fn tokens(self) -> u64 {
        self.tokens
    }
}

/// What a start took, needed to put it right later.
#[derive(Debug, Clone, Copy)]
pub(super) struct Debit {
    ask: Ask,
    fill: u64,
}

/// Why a job cannot start now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// When to ask again.
    pub(super) until: Instant,
    /// Whether everybody is held back, and not only those who share a key with it.
    pub(super) all: bool,
}

impl Rates {
    /// Full buckets. `burst` is how much of a minute's worth may be used at once.
    pub(super) fn new(rpm: Option<NonZeroU32>, tpm: Option<NonZeroU32>, burst: Duration, started: Instant) -> Self {
        let requests = rpm.map(|rpm| RequestRate::new(rpm, burst));
        let tokens = tpm.map(|tpm| TokenRate::new(tpm, burst));
        Self { started, requests, tokens, reserved: 0 }
    }

    /// Whether any rate is set, so that the time matters.
    pub(super) fn is_limited(&self) -> bool {
        self.requests.is_some() || self.tokens.is_some()
    }

    /// Tokens of the calls in flight.
    pub(super) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// What this job takes.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) for one above a limit, which could never start.
    pub(super) fn ask(&self, job: &Job<'_>) -> Result<Ask> {
        // Sums of reservations must not overflow, whatever a job claims.
        let (input, mut tokens) = (job.input_tokens, job.total_tokens().min(1 << 40));
        let most = self.tokens.as_ref().map_or(u64::MAX, |rate| rate.per_minute);
        if job.output_is_guess {
            // Whoever asks for no more than the limit must not be kept out for ever by what others were answered.
            tokens = tokens.min(most.max(input.min(tokens)));
        }
        if tokens > most {
            let remedy = format!(
                "above the limit of {most} tokens per minute, so it can never start; shorten the prompt, set a lower \
                 output limit, or raise Admission::tpm"
            );
            return Err(Error::invalid(ORIGIN, "tokens", tokens, &remedy));
        }
        Ok(Ask { input, tokens })
    }

    /// Takes all that is asked, or nothing and says when to ask again.
    pub(super) fn take(&mut self, ask: Ask, now: Instant) -> std::result::Result<Debit, Held> {
        let at = self.nanos(now);
        // Tokens are only looked at first: governor cannot give a request back.
        let tokens = self.tokens.as_mut().map_or(Ok(()), |rate| rate.ready(ask.tokens, at));
        let taken = tokens.and_then(|()| self.requests.as_mut().map_or(Ok(()), |rate| rate.take(at)));
        taken.map_err(|ready| Held { until: self.instant(ready), all: true })?;
        let fill = self.tokens.as_mut().map_or(0, |rate| rate.take(ask.tokens));
        self.reserved += ask.tokens;
        Ok(Debit { ask, fill })
    }

    /// The earliest moment at which this could start if nobody else did and all that is reserved now were given back;
    /// `None` when that is now.
    pub(super) fn earliest(&mut self, ask: Ask, now: Instant) -> Option<Instant> {
        let (at, reserved) = (self.nanos(now), self.reserved);
        let tokens = self.tokens.as_mut().and_then(|rate| rate.reach(ask.tokens, reserved, at).err()).unwrap_or(0);
        let requests = self.requests.as_ref().map_or(0, |rate| rate.not_before);
        let ready = tokens.max(requests);
        (ready > at).then(|| self.instant(ready))
    }

    /// Puts a debit right when the call has ended; `None`: it was abandoned.
    pub(super) fn settle(&mut self, debit: Debit, outcome: Option<&Outcome<'_>>, now: Instant) {
        let charged = outcome.map_or(0, |outcome| outcome.charge(debit.ask.input, debit.ask.tokens));
        self.put_right(debit, charged, now);
    }

    fn put_right(&mut self, debit: Debit, charged: u64, now: Instant) {
        let at = self.nanos(now);
        self.reserved -= debit.ask.tokens;
        if let Some(rate) = &mut self.tokens {
            rate.settle(debit, charged, at);
        }
    }

    /// Gives back all that was taken for a call that never began, the request too. The request is worth something at
    /// this moment only: whoever starts now may have it, but kept for later a minute could hold more than the limit.
    pub(super) fn undo(&mut self, debit: Debit, now: Instant) {
        self.settle(debit, None, now);
        let at = self.nanos(now);
        if let Some(rate) = &mut self.requests {
            rate.spare(at);
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
    /// How many requests were taken and not made, and when they were given back.
    spare: (u64, u64),
}

impl RequestRate {
    fn new(per_minute: NonZeroU32, burst: Duration) -> Self {
        let burst = share(per_minute, burst).clamp(1, u64::from(u32::MAX));
        let burst = u32::try_from(burst).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        // Rounded up: `Quota::per_minute` rounds the interval down, which lets a high limit be exceeded.
        let interval = MINUTE_NANOS.div_ceil(u64::from(per_minute.get()));
        let quota = Quota::with_period(Duration::from_nanos(interval)).unwrap_or(Quota::per_minute(per_minute));
        Self {
            limiter: RateLimiter::direct_with_clock(quota.allow_burst(burst), At::default()),
            not_before: 0,
            spare: (0, 0),
        }
    }

    fn take(&mut self, at: u64) -> std::result::Result<(), u64> {
        if let (spare @ 1.., when) = self.spare
            && when == at
        {
            self.spare.0 = spare - 1;
            return Ok(());
        }
        self.limiter.clock().0.set(at);
        self.limiter.check().map_err(|refusal| {
            self.not_before = u64::try_from(refusal.earliest_possible().as_nanos()).unwrap_or(u64::MAX);
            self.not_before
        })
    }

    fn spare(&mut self, at: u64) {
        let (spare, when) = self.spare;
        self.spare = (if when == at { spare + 1 } else { 1 }, at);
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
    fn ready(&mut self, tokens: u64, at: u64) -> std::result::Result<(), u64> {
        self.reach(tokens, 0, at)
    }

    /// The same, if so many tokens were given back at once.
    fn reach(&mut self, tokens: u64, refund: u64, at: u64) -> std::result::Result<(), u64> {
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
        let tokens = tokens.min(self.per_minute.max(debit.ask.tokens));
        if tokens > debit.ask.tokens {
            self.level -= units(tokens - debit.ask.tokens);
        } else if debit.fill == self.fill {
            self.add(units(debit.ask.tokens - tokens));
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
        let debit = rates.take(Ask::of(1_000), now).unwrap();
        assert!(rates.take(Ask::of(1), now).is_err());
        rates.put_right(debit, 0, now);
        let debit = rates.take(Ask::of(1_000), now).unwrap();
        rates.put_right(debit, 400, now);
        assert!(rates.take(Ask::of(601), now).is_err());
        assert!(rates.take(Ask::of(600), now).is_ok());
    }

    #[test]
    fn a_refund_after_the_bucket_was_full_again_is_worth_nothing() {
        let (mut rates, now) = rates(0, 60_000, SECOND);
        let early = rates.take(Ask::of(1_000), now).unwrap();
        let later = now + SECOND;
        rates.take(Ask::of(1_000), later).unwrap();
        rates.put_right(early, 0, later);
        assert!(rates.take(Ask::of(1), later).is_err(), "a window would hold more than the limit and a burst");
    }

    #[test]
    fn an_underestimate_is_paid_back_and_nonsense_costs_a_minute_at_most() {
        let (mut rates, now) = rates(0, 60_000, SECOND);
        let debit = rates.take(Ask::of(1_000), now).unwrap();
        rates.put_right(debit, 3_000, now);
        assert_eq!(rates.take(Ask::of(1_000), now).unwrap_err().until, now + 3 * SECOND);
        let (mut rates, now) = self::rates(0, 60_000, SECOND);
        let debit = rates.take(Ask::of(1_000), now).unwrap();
        rates.put_right(debit, u64::MAX, now);
        assert_eq!(rates.take(Ask::of(1_000), now).unwrap_err().until, now + 60 * SECOND);
    }

    #[test]
    fn a_job_larger_than_the_bucket_starts_when_it_is_full_and_leaves_a_debt() {
        let (mut rates, now) = rates(0, 60_000, SECOND);
        rates.take(Ask::of(1), now).unwrap();
        let start = rates.take(Ask::of(5_000), now).unwrap_err().until;
        assert_eq!(start, now + Duration::from_millis(1));
        rates.take(Ask::of(5_000), start).unwrap();
        assert_eq!(rates.take(Ask::of(1_000), start).unwrap_err().until, start + 5 * SECOND);
    }

    #[test]
    fn a_request_is_not_spent_when_tokens_are_missing() {
        let (mut rates, now) = rates(1, 60_000, SECOND);
        let debit = rates.take(Ask::of(1_000), now).unwrap();
        assert!(rates.take(Ask::of(1), now).is_err());
        rates.undo(debit, now);
        assert!(rates.take(Ask::of(1), now).is_ok(), "the one request was still there");
        assert_eq!(rates.take(Ask::of(1), now).unwrap_err().until, now + 60 * SECOND);
        assert_eq!(rates.earliest(Ask::of(1), now), Some(now + 60 * SECOND));
    }

    #[test]
    fn a_clock_that_goes_backwards_stands_still() {
        let (mut rates, now) = rates(60, 60_000, SECOND);
        let later = now + 10 * SECOND;
        rates.take(Ask::of(1_000), later).unwrap();
        assert_eq!(rates.take(Ask::of(1_000), now).unwrap_err().until, later + SECOND);
        assert!(rates.take(Ask::of(1_000), later + SECOND).is_ok());
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
                while let Err(Held { until: ready, .. }) = rates.take(Ask::of(tokens), now) {
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
