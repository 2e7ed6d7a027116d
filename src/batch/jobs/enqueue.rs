//! Into the queue.

use std::fmt;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{JobQueue, millis, payload, scripts, text, unexpected, verdict};
use crate::batch::ORIGIN;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

/// So many go out together, each a script of its own.
const ABREAST: usize = 256;

/// A job's name: 32 hexadecimal digits, chosen at random. As text it can be kept elsewhere, and read back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JobId(String);

impl JobId {
    fn new(env: &Env) -> Self {
        Self(format!("{:016x}{:016x}", env.bits(), env.bits()))
    }

    /// The id that was written as this text.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`], when it is none.
    pub fn parse(text: &str) -> Result<Self> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == 32 && text.bytes().all(hex) {
            return Ok(Self(text.to_owned()));
        }
        let advice = "use what JobId was displayed as";
        Err(Error::invalid(ORIGIN, "job id", format_args!("{} bytes", text.len()), advice))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A job to be enqueued. A plain payload is one with all defaults.
#[derive(Debug, Clone)]
#[must_use = "nothing is enqueued before enqueue()"]
pub struct NewJob<T> {
    payload: T,
    delay: Duration,
    idempotency_key: Option<String>,
    max_attempts: Option<u32>,
}

impl<T> NewJob<T> {
    /// A job with this payload.
    pub fn new(payload: T) -> Self {
        Self { payload, delay: Duration::ZERO, idempotency_key: None, max_attempts: None }
    }

    /// Not to be begun before so long has passed, by Redis' clock; at most 1 year. At once unless set. A worker with
    /// nothing to do finds it within a second.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Enqueues at most one job under this key within [`idempotency_ttl`](super::JobQueueBuilder::idempotency_ttl): later
    /// ones are told the first one's id, whatever became of it, and their payload is dropped. Only a hash of it is kept.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// How often it is begun at most, 1 to 1,000; the queue's own number unless set.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }
}

impl<T> From<T> for NewJob<T> {
    fn from(payload: T) -> Self {
        Self::new(payload)
    }
}

/// A job that is in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Enqueued {
    /// Its name.
    pub id: JobId,
    /// Whether an earlier one with the same idempotency key is meant: this one was not enqueued.
    pub repeated: bool,
}

impl<T, O> JobQueue<T, O>
where
    T: Serialize + DeserializeOwned + Send + 'static,
    O: Serialize + DeserializeOwned + Send + 'static,
{
    /// Enqueues a job. Once this has returned, Redis has it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] for a payload that cannot be written as JSON or is over 16 MiB, and for settings out
    /// of their range; [`ErrorKind::Overloaded`] when [`max_waiting`](super::JobQueueBuilder::max_waiting) jobs wait; what
    /// Redis or the way to it failed with. After a timeout the job may be in the queue.
    ///
    /// # Cancellation
    /// Dropped, the job may be in the queue.
    pub async fn enqueue(&self, job: impl Into<NewJob<T>>) -> Result<Enqueued> {
        let NewJob { payload, delay, idempotency_key, max_attempts } = job.into();
        let (desk, settings) = (&*self.desk, &self.desk.settings);
        let attempts = max_attempts.unwrap_or(settings.max_attempts);
        if !(1..=1_000).contains(&attempts) {
            return Err(Error::invalid(ORIGIN, "max_attempts", attempts, "use 1 to 1000"));
        }
        if delay > Duration::from_secs(366 * 86_400) {
            return Err(Error::invalid(ORIGIN, "delay", format_args!("{delay:?}"), "use at most 1 year"));
        }
        let payload = payload::write(&payload)?;
        let id = JobId::new(&desk.env);
        let names = &desk.names;
        // A script without a key names one it does not touch.
        let (once, life) = match &idempotency_key {
            Some(key) => (names.idempotency(key), settings.idempotency_ttl),
            None => (names.job(&id), Duration::ZERO),
        };
        let keys = vec![names.stream(), names.delayed(), names.job(&id), once];
        let most = i64::try_from(settings.max_waiting).unwrap_or(i64::MAX);
        let values = vec![
            id.as_str().into(),
            payload.into(),
            i64::from(attempts).into(),
            millis(delay),
            millis(life),
            most.into(),
        ];
        let answer = desk.ask(scripts::ENQUEUE, keys, values).await?;
        match verdict(&answer) {
            b"new" => Ok(Enqueued { id, repeated: false }),
            b"known" => {
                let known = answer.get(1).ok_or_else(unexpected)?;
                Ok(Enqueued { id: JobId::parse(&text(known))?, repeated: true })
            }
            b"full" => Err(Error::new(ErrorKind::Overloaded, ORIGIN, "max_waiting jobs are in the queue")),
            _ => Err(unexpected()),
        }
    }

    /// Enqueues many, 256 at a time on their way together; each has its own result, in their order. They are not one step:
    /// each is enqueued or not.
    pub async fn enqueue_all<J: Into<NewJob<T>>>(&self, jobs: impl IntoIterator<Item = J>) -> Vec<Result<Enqueued>> {
        let (mut jobs, mut results) = (jobs.into_iter(), Vec::new());
        loop {
            let some: Vec<_> = jobs.by_ref().take(ABREAST).map(|job| self.enqueue(job)).collect();
            if some.is_empty() {
                return results;
            }
            results.extend(join_all(some).await);
        }
    }
}
