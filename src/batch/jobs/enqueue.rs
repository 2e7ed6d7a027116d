//! Into the queue.

use std::fmt;
use std::time::Duration;

use fred::bytes::Bytes;
use fred::types::Value;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Desk, JobQueue, millis, payload, scripts, text, unexpected};
use crate::batch::ORIGIN;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

/// So many go out together, in one script, unless their payloads take more than so many bytes: Redis does nothing else
/// meanwhile, which is for about a millisecond.
const ABREAST: usize = 256;
const BYTES: usize = 1 << 20;

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
        let one = self.desk.prepare(job.into()).await?;
        let mut told = self.desk.enqueue(0, vec![one]).await?;
        told.pop().unwrap_or_else(|| Err(unexpected()))
    }

    /// Enqueues many; each has its own result, in their order. They stand in the queue in that order too, those with a
    /// delay among those with the same one, and are taken from it in that order; what others put there meanwhile may stand
    /// between them, and workers with more than one place work on them side by side. Up to 256 go in one step of Redis, or
    /// 1 MiB of payloads.
    ///
    /// # Errors
    /// Of each as of [`enqueue`](Self::enqueue). Once Redis or the way to it has failed, the jobs of the step have that
    /// error, and those after them are not sent and say so: they would come before those that are enqueued again. The jobs
    /// of the step may be in the queue, all after a timeout, the first ones if Redis refused what one of them needs.
    ///
    /// # Cancellation
    /// Dropped, a part of them is in the queue, the first ones.
    pub async fn enqueue_all<J: Into<NewJob<T>>>(&self, jobs: impl IntoIterator<Item = J>) -> Vec<Result<Enqueued>> {
        let mut jobs = jobs.into_iter().map(Into::into);
        let mut next = self.desk.prepare_next(&mut jobs).await;
        let (mut results, mut failed): (Vec<Result<Enqueued>>, Option<Error>) = (Vec::new(), None);
        while next.is_some() {
            let before = results.len();
            let (mut step, mut refused, mut bytes) = (Vec::new(), Vec::new(), 0);
            while step.len() + refused.len() < ABREAST
                && let Some(job) = next.take_if(|job| step.is_empty() || bytes + size(job) <= BYTES)
            {
                next = self.desk.prepare_next(&mut jobs).await;
                bytes += size(&job);
                match job {
                    Ok(job) => step.push(job),
                    Err(error) => refused.push((step.len() + refused.len(), error)),
                }
            }
            let sent = step.len();
            let told = match &failed {
                None if sent == 0 => Ok(Vec::new()),
                None => self.desk.enqueue(before, step).await,
                Some(error) => Err(not_sent(error)),
            };
            match told {
                Ok(told) => results.extend(told),
                Err(error) => {
                    results.extend((0..sent).map(|_| Err(error.clone())));
                    failed.get_or_insert(error);
                }
            }
            for (place, error) in refused {
                results.insert(before + place, Err(error));
            }
        }
        results
    }
}

/// A job whose settings are known to be in their range, as it is sent.
struct Prepared {
    id: JobId,
    payload: String,
    attempts: u32,
    delay: Duration,
    idempotency_key: Option<String>,
}

fn size(job: &Result<Prepared>) -> usize {
    job.as_ref().map_or(0, |job| job.payload.len())
}

fn not_sent(error: &Error) -> Error {
    let text = "not sent: the jobs before it could not be enqueued";
    Error::new(error.kind(), ORIGIN, text).with_retryability(error.retryability()).with_source(error.clone())
}

impl Desk {
    async fn prepare_next<T: Serialize + Send + 'static>(
        &self,
        jobs: &mut impl Iterator<Item = NewJob<T>>,
    ) -> Option<Result<Prepared>> {
        Some(self.prepare(jobs.next()?).await)
    }

    async fn prepare<T: Serialize + Send + 'static>(&self, job: NewJob<T>) -> Result<Prepared> {
        let NewJob { payload, delay, idempotency_key, max_attempts } = job;
        let attempts = max_attempts.unwrap_or(self.settings.max_attempts);
        if !(1..=1_000).contains(&attempts) {
            return Err(Error::invalid(ORIGIN, "max_attempts", attempts, "use 1 to 1000"));
        }
        if delay > Duration::from_secs(366 * 86_400) {
            return Err(Error::invalid(ORIGIN, "delay", format_args!("{delay:?}"), "use at most 1 year"));
        }
        let payload = payload::write(self.env.tasks(), payload).await?;
        Ok(Prepared { id: JobId::new(&self.env), payload, attempts, delay, idempotency_key })
    }

    /// One step: of these, of which so many were given before.
    async fn enqueue(&self, before: usize, jobs: Vec<Prepared>) -> Result<Vec<Result<Enqueued>>> {
        let (names, settings) = (&self.names, &self.settings);
        let number = |number: u64| Value::from(i64::try_from(number).unwrap_or(i64::MAX));
        let mut keys = vec![names.stream(), names.delayed()];
        let mut values = vec![number(settings.max_waiting), number(before as u64)];
        let mut ids = Vec::new();
        for Prepared { id, payload, attempts, delay, idempotency_key } in jobs {
            // A job without a key names one that is not touched.
            let (once, life) = match &idempotency_key {
                Some(key) => (names.idempotency(key), settings.idempotency_ttl),
                None => (names.job(&id), Duration::ZERO),
            };
            keys.extend([names.job(&id), once]);
            let (attempts, delay, life) = (i64::from(attempts).into(), millis(delay), millis(life));
            values.extend([id.as_str().into(), payload.into(), attempts, delay, life]);
            ids.push(id);
        }
        let answer = self.ask(scripts::ENQUEUE, keys, values).await?;
        if answer.len() != 2 * ids.len() {
            return Err(unexpected());
        }
        let told = |words: &[Bytes], id| match &*words[0] {
            b"new" => Ok(Enqueued { id, repeated: false }),
            b"known" => Ok(Enqueued { id: JobId::parse(&text(&words[1]))?, repeated: true }),
            b"full" => Err(Error::new(ErrorKind::Overloaded, ORIGIN, "max_waiting jobs are in the queue")),
            _ => Err(unexpected()),
        };
        Ok(answer.chunks_exact(2).zip(ids).map(|(words, id)| told(words, id)).collect())
    }
}
