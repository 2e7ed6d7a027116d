//! Settings of a queue, checked once at `build()`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::JobQueue;
use crate::batch::ORIGIN;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::redis::{Connection, Pace, RedisServer};

/// Settings of a [`JobQueue`]. Nothing is checked before [`build`](Self::build). All processes of a queue should have the
/// same.
#[derive(Clone)]
#[must_use]
pub struct JobQueueBuilder {
    server: RedisServer,
    pub(super) prefix: String,
    pub(super) name: String,
    pub(super) timeout: Duration,
    pub(super) max_attempts: u32,
    pub(super) result_ttl: Duration,
    pub(super) idempotency_ttl: Duration,
    pub(super) max_waiting: u64,
    pub(super) max_dead: u64,
    pub(super) env: Env,
}

const DAY: Duration = Duration::from_secs(86_400);

impl JobQueueBuilder {
    pub(super) fn new(server: RedisServer) -> Self {
        Self {
            server,
            prefix: "sluicegate:".to_owned(),
            name: "default".to_owned(),
            timeout: Duration::from_secs(2),
            max_attempts: 5,
            result_ttl: DAY,
            idempotency_ttl: DAY,
            max_waiting: 1_000_000,
            max_dead: 10_000,
            env: Env::new(),
        }
    }

    /// What every key starts with: 1 to 128 visible ASCII characters without braces, `sluicegate:` unless set.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The queue's name: 1 to 64 letters, digits, `-`, `_` and `.`; `default` unless set. It is the label of its gauges.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Longest wait for one step in Redis, 10 ms to 60 s; 2 s unless set.
    pub fn timeout(mut self, wait: Duration) -> Self {
        self.timeout = wait;
        self
    }

    /// How often a job that states nothing else is begun at most, 1 to 1,000; 5 unless set. Attempts that their worker did
    /// not live to see the end of count too.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// How long a result, or why there is none, can be asked for, 1 s to 1 year; 24 h unless set.
    pub fn result_ttl(mut self, life: Duration) -> Self {
        self.result_ttl = life;
        self
    }

    /// How long an idempotency key is remembered, 1 s to 1 year; 24 h unless set.
    pub fn idempotency_ttl(mut self, life: Duration) -> Self {
        self.idempotency_ttl = life;
        self
    }

    /// How many jobs may wait or be worked on, 1 to 100,000,000; 1,000,000 unless set. What comes on top is refused with
    /// [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    pub fn max_waiting(mut self, jobs: u64) -> Self {
        self.max_waiting = jobs;
        self
    }

    /// How many dead letters are kept, 1 to 10,000,000; 10,000 unless set. Beyond that the oldest go.
    pub fn max_dead(mut self, jobs: u64) -> Self {
        self.max_dead = jobs;
        self
    }

    /// Sets clock and randomness, and whose shutdown drains the workers.
    pub fn env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    /// The queue. It does not wait for Redis: inside a Tokio runtime it starts to connect now, outside of one at its first
    /// use, and it connects again whenever the connection is lost.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a setting out of its range, of this or of the server.
    pub fn build<T, O>(self) -> Result<JobQueue<T, O>>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        O: Serialize + DeserializeOwned + Send + 'static,
    {
        let second = Duration::from_secs(1);
        Error::unless_within(ORIGIN, "timeout", self.timeout, Duration::from_millis(10)..=second * 60)?;
        Error::unless_within(ORIGIN, "max_attempts", self.max_attempts, 1..=1_000)?;
        Error::unless_within(ORIGIN, "result_ttl", self.result_ttl, second..=DAY * 366)?;
        Error::unless_within(ORIGIN, "idempotency_ttl", self.idempotency_ttl, second..=DAY * 366)?;
        Error::unless_within(ORIGIN, "max_waiting", self.max_waiting, 1..=100_000_000)?;
        Error::unless_within(ORIGIN, "max_dead", self.max_dead, 1..=10_000_000)?;
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}');
        if !(1..=128).contains(&self.prefix.len()) || !self.prefix.bytes().all(plain) {
            let advice = "use 1 to 128 visible ASCII characters, no braces";
            return Err(Error::config(ORIGIN, "prefix", format_args!("{} bytes", self.prefix.len()), advice));
        }
        let simple = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !(1..=64).contains(&self.name.len()) || !self.name.bytes().all(simple) {
            let advice = "use 1 to 64 letters, digits, '-', '_' and '.'";
            return Err(Error::config(ORIGIN, "name", format_args!("{} bytes", self.name.len()), advice));
        }
        let pace = Pace { clock: Arc::clone(self.env.clock()), grace: self.timeout / 10, slowest: self.timeout };
        let connection = Connection::new(&self.server, pace)?;
        Ok(JobQueue::new(self, connection))
    }
}

impl fmt::Debug for JobQueueBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobQueueBuilder")
            .field("server", &self.server)
            .field("name", &self.name)
            .field("timeout", &self.timeout)
            .field("max_attempts", &self.max_attempts)
            .field("result_ttl", &self.result_ttl)
            .field("idempotency_ttl", &self.idempotency_ttl)
            .field("max_waiting", &self.max_waiting)
            .field("max_dead", &self.max_dead)
            .finish_non_exhaustive()
    }
}
