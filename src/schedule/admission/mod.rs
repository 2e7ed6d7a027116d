//! The settings of the scheduler that comes with the crate.

mod limits;

use std::fmt;

use limits::Limits;

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
    queue: usize,
    limits: Limits,
}

impl Admission {
    /// Limits nothing; a queue of 10,000, a burst of one second, 512 tokens per answer.
    pub fn new() -> Self {
        Self { concurrency: None, queue: 10_000, limits: Limits::default() }
    }

    /// Calls in flight at most, streams until their end; at least 1. Unlimited unless set.
    #[must_use]
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = Some(calls);
        self
    }

    /// Calls that wait at most; at least 1. Default 10,000: some megabytes of requests, and minutes of waiting under
    /// most limits, beyond which a quick refusal is kinder.
    #[must_use]
    pub fn queue(mut self, waiters: usize) -> Self {
        self.queue = waiters;
        self
    }

    /// Starts it by itself, for limits that several clients share or to look at their load.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a limit, queue, burst or guess of zero, and for a burst
    /// above a minute.
    pub fn start(&self, env: &Env) -> Result<AdmissionGate> {
        let refuse = |setting, remedy| Err(Error::config(ORIGIN, setting, 0, remedy));
        if self.concurrency == Some(0) {
            return refuse("concurrency", "allow at least 1 call in flight, or leave it out for no limit");
        }
        if self.queue == 0 {
            return refuse("queue", "let at least 1 call wait, or leave it out for 10000");
        }
        let started = env.now();
        let rates = self.limits.start(env, started)?;
        Ok(AdmissionGate::new(env, self.concurrency, self.queue, rates, started))
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let concurrency = self.concurrency.map(|calls| format!("concurrency {calls}"));
        let limits = concurrency.into_iter().chain(self.limits.told());
        let limits: Vec<_> = limits.collect();
        if limits.is_empty() {
            return f.write_str("unlimited");
        }
        write!(f, "{}, queue {}", limits.join(", "), self.queue)
    }
}
