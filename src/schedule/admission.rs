//! The settings of the scheduler that comes with the crate.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use super::limit::Rates;
use super::{AdmissionGate, ORIGIN};
use crate::env::Env;
use crate::error::{Error, Result};

/// How many calls and tokens may go upstream. Nothing is limited until it is set.
///
/// Higher [`Priority`](crate::types::Priority) goes first, equal ones in order of arrival. The classes are strict: as
/// long as higher calls keep coming, lower ones wait (they do not age yet).
///
/// Settings are checked when the client is built. Every client built from it has limits of its own; for limits that
/// several share, [`start`](Self::start) it once and give each a clone of the [`AdmissionGate`].
///
/// A request of the limit per minute is spent when a call is admitted, and not given back: the provider counts it too.
#[derive(Debug, Clone)]
pub struct Admission {
    concurrency: Option<usize>,
    rpm: Option<u32>,
    tpm: Option<u32>,
    queue: usize,
    burst: Duration,
    reply_tokens: u32,
}

impl Admission {
    /// Limits nothing; a queue of 10,000, a burst of one second, 512 tokens per answer.
    pub fn new() -> Self {
        Self {
            concurrency: None,
            rpm: None,
            tpm: None,
            queue: 10_000,
            burst: Duration::from_secs(1),
            reply_tokens: 512,
        }
    }

    /// Calls in flight at most, streams until their end; at least 1. Unlimited unless set.
    #[must_use]
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = Some(calls);
        self
    }

    /// Requests per minute at most, retries and hedges included; at least 1. Unlimited unless set.
    #[must_use]
    pub fn rpm(mut self, requests: u32) -> Self {
        self.rpm = Some(requests);
        self
    }

    /// Tokens per minute at most, input and output together; at least 1. Unlimited unless set.
    ///
    /// A call reserves an estimate when it starts, and the reservation is put right when the provider has counted
    /// ([`Outcome::charged_tokens`](super::Outcome::charged_tokens)). A call whose prompt and output limit are above this
    /// one is refused; an answer without a limit is guessed to fit.
    #[must_use]
    pub fn tpm(mut self, tokens: u32) -> Self {
        self.tpm = Some(tokens);
        self
    }

    /// Calls that wait at most; at least 1. Default 10,000: some megabytes of requests, and minutes of waiting under
    /// most limits, beyond which a quick refusal is kinder.
    #[must_use]
    pub fn queue(mut self, waiters: usize) -> Self {
        self.queue = waiters;
        self
    }

    /// How much of the limits per minute may be used at once after a pause; above zero, at most a minute. Default one
    /// second's worth, and never less than one request.
    ///
    /// Any 60 s hold at most the limit and one burst, so a longer burst starts faster and is likelier to meet the
    /// provider's own limit, which many enforce over spans shorter than a minute. A call of more tokens than the burst
    /// starts when the bucket is full and leaves a debt, so the limit holds over time.
    #[must_use]
    pub fn burst(mut self, worth: Duration) -> Self {
        self.burst = worth;
        self
    }

    /// The first guess of an answer's tokens when a request sets no limit; at least 1. Default 512, a longish
    /// paragraph. It is a start only: the average of the answers takes over.
    #[must_use]
    pub fn reply_tokens(mut self, tokens: u32) -> Self {
        self.reply_tokens = tokens;
        self
    }

    /// Starts it by itself, for limits that several clients share or to look at their load.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a limit, queue, burst or guess of zero, and for a burst
    /// above a minute.
    pub fn start(&self, env: &Env) -> Result<AdmissionGate> {
        let refuse = |setting, value: &dyn fmt::Display, remedy| Error::config(ORIGIN, setting, value, remedy);
        let per_minute = |setting, limit: Option<u32>| match limit.map(NonZeroU32::new) {
            Some(None) => Err(refuse(setting, &0, "allow at least 1 per minute, or leave it out for no limit")),
            limit => Ok(limit.flatten()),
        };
        if self.concurrency == Some(0) {
            return Err(refuse("concurrency", &0, "allow at least 1 call in flight, or leave it out for no limit"));
        }
        let (rpm, tpm) = (per_minute("rpm", self.rpm)?, per_minute("tpm", self.tpm)?);
        if self.queue == 0 {
            return Err(refuse("queue", &0, "let at least 1 call wait, or leave it out for 10000"));
        }
        if self.burst.is_zero() || self.burst > Duration::from_secs(60) {
            let value = format!("{:?}", self.burst);
            return Err(refuse("burst", &value, "use more than zero and at most a minute, or leave it out for 1 s"));
        }
        if self.reply_tokens == 0 {
            return Err(refuse("reply_tokens", &0, "guess at least 1 token per answer, or leave it out for 512"));
        }
        let started = env.now();
        let rates = Rates::new(rpm, tpm, self.burst, started);
        Ok(AdmissionGate::new(env, self.concurrency, self.queue, rates, started))
    }

    pub(super) fn first_reply_tokens(&self) -> u32 {
        self.reply_tokens
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = [
            self.concurrency.map(|calls| format!("concurrency {calls}")),
            self.rpm.map(|requests| format!("{requests} rpm")),
            self.tpm.map(|tokens| format!("{tokens} tpm")),
        ];
        let limits: Vec<_> = limits.into_iter().flatten().collect();
        if limits.is_empty() {
            return f.write_str("unlimited");
        }
        write!(f, "{}, queue {}", limits.join(", "), self.queue)
    }
}
