//! The settings of the rates.

use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::Admission;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::schedule::ORIGIN;
use crate::schedule::estimate::{Estimator, OutputCount};
#[cfg(feature = "redis")]
use crate::schedule::fleet::FleetLimits;
use crate::schedule::rate::{Limit, MOST_LIMITS, Rates};

/// The part of a minute's requests that may be used at once, unless set.
const BURST: Duration = Duration::from_secs(1);
/// A limit whose calls reserve more than they use has room for one part in so many of it.
const ROOM: u32 = 12;

/// What may go upstream within a time.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    rpm: Option<u32>,
    tpm: Option<u32>,
    others: Vec<Limit>,
    burst: Option<Duration>,
    pub(super) reply_tokens: u32,
    output: OutputCount,
    trust_headers: bool,
    #[cfg(feature = "redis")]
    fleet: Option<FleetLimits>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rpm: None,
            tpm: None,
            others: Vec::new(),
            burst: None,
            reply_tokens: 512,
            output: OutputCount::Predicted,
            trust_headers: true,
            #[cfg(feature = "redis")]
            fleet: None,
        }
    }
}

impl Admission {
    /// Requests per minute at most, retries and hedges included; at least 1. Unlimited unless set.
    #[must_use]
    pub fn rpm(mut self, requests: u32) -> Self {
        self.limits.rpm = Some(requests);
        self
    }

    /// Tokens per minute at most, input and output together; at least 1. Unlimited unless set.
    ///
    /// A call reserves an estimate when it starts, and the reservation is put right when the provider has counted
    /// ([`Outcome::charged_tokens`](crate::schedule::Outcome::charged_tokens)). A call whose prompt and output limit are above this
    /// one is refused; an answer whose length is predicted is guessed to fit.
    #[must_use]
    pub fn tpm(mut self, tokens: u32) -> Self {
        self.limits.tpm = Some(tokens);
        self
    }

    /// One limit more, of requests, input tokens, output tokens, tokens or dollars; all hold at once, and a call starts
    /// when all let it. At most 6, [`tpm`](Self::tpm) included.
    ///
    /// ```
    /// use sluicegate::schedule::{Admission, Limit};
    ///
    /// let admission = Admission::new()
    ///     .rpm(500)
    ///     .limit(Limit::requests(20).per_second())
    ///     .limit(Limit::dollars(10.0).per_day());
    /// assert_eq!(admission.to_string(), "500 rpm, 20 requests per second, $10.00 per day, queue 10000");
    /// ```
    #[must_use]
    pub fn limit(mut self, limit: Limit) -> Self {
        self.limits.others.push(limit);
        self
    }

    /// How much of the limits per minute may be used at once after a pause; above zero, at most a minute. Default one
    /// second's worth of requests, never less than one, and five seconds' worth of tokens and dollars. Limits per another
    /// time up to a minute use the same share of theirs, unless they have a [`burst`](Limit::burst) of their own.
    ///
    /// Any 60 s hold at most the limit and one burst, so a longer burst starts faster and is likelier to meet the
    /// provider's own limit, which some enforce over spans shorter than a minute. A call of more tokens than the burst
    /// starts when the bucket is full and leaves a debt, so the limit holds over time.
    ///
    /// What a call gives back has room in the bucket only as far as it was not full since. With
    /// [`OutputCount::Predicted`] five seconds are enough for that; with [`OutputCount::Limit`], where calls reserve much
    /// more than they use, a part of the limit stays unused (half of it, with answers of 450 tokens under `max_tokens` of
    /// 2,000 and 90,000 tokens per minute): set a burst of a few times the largest reservation, below the provider's own.
    /// Half a minute suits a provider whose bucket holds a minute's worth.
    ///
    /// A provider that itself reserves `max_tokens` until the answer is there may refuse calls that were predicted to be
    /// short, when many with large limits are slow: use [`OutputCount::Limit`] there, or set smaller limits.
    #[must_use]
    pub fn burst(mut self, worth: Duration) -> Self {
        self.limits.burst = Some(worth);
        self
    }

    /// The first guess of an answer's tokens, until calls of this model and kind have been answered; at least 1. Default
    /// 512, a longish paragraph. It is a start only: what was answered takes over.
    #[must_use]
    pub fn reply_tokens(mut self, tokens: u32) -> Self {
        self.limits.reply_tokens = tokens;
        self
    }

    /// What a call reserves for its answer. Default [`OutputCount::Predicted`]; a provider that reserves `max_tokens` when
    /// it admits a call wants [`OutputCount::Limit`].
    #[must_use]
    pub fn count_output(mut self, output: OutputCount) -> Self {
        self.limits.output = output;
        self
    }

    /// Whether the provider's `x-ratelimit-*` headers correct the limits per minute. Default true.
    ///
    /// Its limit replaces the one set here, a lower as well as a higher one (a higher one only with a reset time beside
    /// it, which tells a limit per minute from one per day), and what it has left is believed when that is less than is
    /// known here: somebody else uses the same key. They correct the limit by model or of the model's group; otherwise the
    /// plain one, as long as all models state the same. Limits by tenant, of input, output or dollars, and per another
    /// time are never corrected.
    ///
    /// Switch it off where a limit is lower than the provider's on purpose: as a share of several, or to save. A 429 closes
    /// the gate for its model or group all the same, also where no rate is set at all.
    #[must_use]
    pub fn trust_headers(mut self, trust: bool) -> Self {
        self.limits.trust_headers = trust;
        self
    }

    /// Shares the limits up to a minute with all processes that name the same limits on the same Redis: together they use
    /// them once. Of a longer limit each has its part, by
    /// [`expected_processes`](crate::schedule::FleetLimits::expected_processes).
    ///
    /// A process takes leases of what it is about to use, so a busy one makes some tens of trips to Redis a second,
    /// however many calls it makes, and an idle one makes one; the first call after a pause waits for one. Any stretch of a
    /// limit's time sees at most the limit and one burst used by all together. Without Redis each process keeps to its
    /// part. The settings should be the same everywhere: where they differ, the lowest of each limit holds, and
    /// [`FleetStatus::differing`](crate::schedule::FleetStatus::differing) says so.
    ///
    /// What the provider tells one process, all know within half a second, or a second if they are idle: one 429 closes
    /// the gate for all until its time, and [its headers](Self::trust_headers) correct a limit for all, remembered for an
    /// hour. A stated limit that is lower than the one in force holds at once, a higher one only when no process was told
    /// the lower one for 50 seconds; so where processes call models with limits of their own under one plain limit, the
    /// lowest holds (limit by model there). A process that does not trust the headers holds its limit against a higher
    /// one. Without Redis each process hears for itself, and what it has left is not corrected.
    #[cfg(feature = "redis")]
    #[must_use]
    pub fn shared(mut self, fleet: impl Into<FleetLimits>) -> Self {
        self.limits.fleet = Some(fleet.into());
        self
    }

    /// What guesses the tokens of a request.
    pub(in crate::schedule) fn estimator(&self) -> Estimator {
        Estimator::new(self.limits.reply_tokens, self.limits.output)
    }
}

impl Limits {
    /// The rates, full, from this moment on.
    pub(super) fn start(&self, env: &Env, started: Instant) -> Result<Rates> {
        let refuse = |setting, value: &dyn fmt::Display, remedy| Error::config(ORIGIN, setting, value, remedy);
        let per_minute = |setting, limit: Option<u32>| match limit.map(NonZeroU32::new) {
            Some(None) => Err(refuse(setting, &0, "allow at least 1 per minute, or leave it out for no limit")),
            limit => Ok(limit.flatten()),
        };
        let (rpm, tpm) = (per_minute("rpm", self.rpm)?, per_minute("tpm", self.tpm)?);
        if let Some(burst) = self.burst
            && (burst.is_zero() || burst > Duration::from_secs(60))
        {
            let remedy =
                "use more than zero and at most a minute, or leave it out for 1 s of requests and 5 s of tokens";
            return Err(refuse("burst", &format!("{burst:?}"), remedy));
        }
        if self.reply_tokens == 0 {
            return Err(refuse("reply_tokens", &0, "guess at least 1 token per answer, or leave it out for 512"));
        }
        let tpm = tpm.map(|tpm| Limit::tokens(u64::from(tpm.get())).named("Admission::tpm"));
        #[cfg(feature = "redis")]
        let (rpm, plain) = if self.fleet.is_some() { (None, rpm) } else { (rpm, None) };
        #[cfg(not(feature = "redis"))]
        let plain = None;
        // Shared, the plain limit of requests is one like the others.
        let plain = plain.map(|rpm: NonZeroU32| Limit::requests(u64::from(rpm.get())).named("Admission::rpm"));
        let mut limits: Vec<_> = tpm.into_iter().chain(plain).chain(self.others.iter().cloned()).collect();
        if limits.len() > MOST_LIMITS {
            return Err(refuse("limits", &limits.len(), "set at most 6 limits, tpm included"));
        }
        limits.iter().try_for_each(Limit::check)?;
        if self.burst.is_none() {
            limits.iter_mut().for_each(|limit| limit.make_room(ROOM));
        }
        let burst = self.burst.unwrap_or(BURST);
        #[cfg(feature = "redis")]
        if let Some(fleet) = &self.fleet {
            let rates = Rates::new(rpm, limits.clone(), burst, self.trust_headers, env, started);
            return rates.share(fleet, &limits, burst);
        }
        Ok(Rates::new(rpm, limits, burst, self.trust_headers, env, started))
    }

    /// What is limited, in words.
    pub(super) fn told(&self) -> impl Iterator<Item = String> {
        let requests = self.rpm.map(|requests| format!("{requests} rpm"));
        let tokens = self.tpm.map(|tokens| format!("{tokens} tpm"));
        let told = requests.into_iter().chain(tokens).chain(self.others.iter().map(ToString::to_string));
        #[cfg(feature = "redis")]
        let told = told.chain(self.fleet.iter().map(ToString::to_string));
        told
    }
}
