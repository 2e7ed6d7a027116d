//! The settings of the rates.

use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::Admission;
use crate::error::{Error, Result};
use crate::schedule::ORIGIN;
use crate::schedule::rate::Rates;

/// What may go upstream per minute.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    rpm: Option<u32>,
    tpm: Option<u32>,
    burst: Duration,
    pub(super) reply_tokens: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rpm: None, tpm: None, burst: Duration::from_secs(1), reply_tokens: 512 }
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
    /// one is refused; an answer without a limit is guessed to fit.
    #[must_use]
    pub fn tpm(mut self, tokens: u32) -> Self {
        self.limits.tpm = Some(tokens);
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
        self.limits.burst = worth;
        self
    }

    /// The first guess of an answer's tokens when a request sets no limit; at least 1. Default 512, a longish
    /// paragraph. It is a start only: the average of the answers takes over.
    #[must_use]
    pub fn reply_tokens(mut self, tokens: u32) -> Self {
        self.limits.reply_tokens = tokens;
        self
    }
}

impl Limits {
    /// The rates, full, from this moment on.
    pub(super) fn start(&self, started: Instant) -> Result<Rates> {
        let refuse = |setting, value: &dyn fmt::Display, remedy| Error::config(ORIGIN, setting, value, remedy);
        let per_minute = |setting, limit: Option<u32>| match limit.map(NonZeroU32::new) {
            Some(None) => Err(refuse(setting, &0, "allow at least 1 per minute, or leave it out for no limit")),
            limit => Ok(limit.flatten()),
        };
        let (rpm, tpm) = (per_minute("rpm", self.rpm)?, per_minute("tpm", self.tpm)?);
        if self.burst.is_zero() || self.burst > Duration::from_secs(60) {
            let value = format!("{:?}", self.burst);
            return Err(refuse("burst", &value, "use more than zero and at most a minute, or leave it out for 1 s"));
        }
        if self.reply_tokens == 0 {
            return Err(refuse("reply_tokens", &0, "guess at least 1 token per answer, or leave it out for 512"));
        }
        Ok(Rates::new(rpm, tpm, self.burst, started))
    }

    /// What is limited, in words.
    pub(super) fn told(&self) -> impl Iterator<Item = String> {
        let requests = self.rpm.map(|requests| format!("{requests} rpm"));
        requests.into_iter().chain(self.tpm.map(|tokens| format!("{tokens} tpm")))
    }
}
