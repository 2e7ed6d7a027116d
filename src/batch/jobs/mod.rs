//! Durable jobs: a work queue on Redis Streams that many processes fill and many work on.

mod attempt;
mod beat;
mod builder;
mod chat;
mod dead;
mod enqueue;
#[cfg(feature = "metrics")]
mod gauges;
mod held;
mod names;
mod payload;
mod pull;
mod refused;
mod result;
mod retry;
mod scripts;
mod stats;
mod worker;

#[cfg(not(feature = "metrics"))]
mod gauges {
    //! Nobody is told.

    pub(super) const EVERY: Option<std::time::Duration> = None;

    pub(super) fn tell(_queue: &str, _stats: &super::JobStats) {}

    pub(super) fn refused(_queue: &str) {}
}

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use fred::bytes::Bytes;
use fred::types::Value;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use attempt::Job;
pub use builder::JobQueueBuilder;
pub use chat::ChatJob;
pub use dead::DeadLetter;
pub use enqueue::{Enqueued, JobId, NewJob};
pub use payload::JobFailure;
pub use refused::JobRefusals;
pub use result::JobState;
pub use retry::JobRetry;
pub use stats::JobStats;
pub use worker::{Worker, WorkerReport};

use super::ORIGIN;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::redis::{Connection, RedisServer};
use names::Names;
use refused::Refusals;

/// A queue of jobs of type `T` with results of type `O`, kept in Redis: any process enqueues, workers on any number of
/// machines work on them.
///
/// # What it does
/// A job waits in a stream of Redis, or in a sorted set until it is due. A [`Worker`] takes it, keeps hold of it by
/// heartbeats, keeps its result and only then lets go of it. What a dead worker held is taken over by another one. What
/// fails in passing is tried again after a back-off; what fails for good, what cannot be read, and what kills its workers
/// ends among the dead letters. Each of these steps is one script in Redis: there is no state in between.
///
/// # What is promised
/// A job that [`enqueue`](Self::enqueue) has confirmed is worked on at least once, for as long as Redis keeps its data:
/// run it with `appendonly yes`, and `maxmemory-policy noeviction`. It can be worked on twice, when a worker is cut off
/// or dies between an answer and its confirmation. The first result stands. With a response cache that the workers share
/// ([`Cache::fleet`](crate::cache::Cache::fleet)) the second time asks nobody.
///
/// # When Redis fails
/// Enqueueing and asking fail with a typed error within [`timeout`](JobQueueBuilder::timeout) and a tenth of it: nothing
/// is kept here for later. After [`ErrorKind::Timeout`] a job may be enqueued all the same: enqueue it again under an
/// idempotency key. Workers wait, connect again by themselves, and keep the results they have in hand until then. What
/// Redis refuses them, as without a right or without room, is told by [`refusals`](Self::refusals).
///
/// # What bounds memory in Redis
/// Jobs that wait, by [`max_waiting`](JobQueueBuilder::max_waiting); dead letters, by
/// [`max_dead`](JobQueueBuilder::max_dead); results and idempotency keys, by their life. Work that is done is deleted.
///
/// # Needs
/// Redis 6.2 or newer. All keys start with the prefix and `!jobs:{name}:`, so that a queue lies in one slot of a cluster.
/// Payloads and results are in clear text there.
///
/// # Example
/// ```no_run
/// # async fn f(llm: sluicegate::OptimizedClient) -> sluicegate::Result<()> {
/// use std::time::Duration;
/// use sluicegate::batch::{ChatJob, JobQueue, JobState, NewJob};
/// use sluicegate::{redis::RedisServer, types::{ChatCompletion, ChatRequest}};
/// let queue: JobQueue<ChatJob, ChatCompletion> =
///     JobQueue::at(RedisServer::at("redis://jobs.internal:6379")).name("reviews").build()?;
/// let review = ChatJob::new(ChatRequest::new("gpt-5-mini").user("Is this review kind?"))?;
/// let enqueued = queue.enqueue(NewJob::new(review).idempotency_key("review-17")).await?;
///
/// // In the processes that work:
/// let worker = queue.worker().concurrency(32);
/// let drain = worker.drain(); // for a signal handler
/// worker.run_chat(llm).await?;
///
/// if let JobState::Done(answer) = queue.wait(&enqueued.id, Duration::from_secs(60)).await? {
///     println!("{}", answer.choices[0].message.text());
/// }
/// # drain.drain(); Ok(()) }
/// ```
pub struct JobQueue<T, O> {
    desk: Arc<Desk>,
    types: PhantomData<fn(T) -> O>,
}

/// What all handles of a queue in this process share.
struct Desk {
    connection: Connection,
    names: Names,
    settings: JobQueueBuilder,
    env: Env,
    /// Workers drain.
    closing: CancellationToken,
    workers: TaskTracker,
    refusals: Refusals,
}

impl JobQueue<(), ()> {
    /// A queue on this server.
    pub fn at(server: RedisServer) -> JobQueueBuilder {
        JobQueueBuilder::new(server)
    }
}

impl<T, O> JobQueue<T, O>
where
    T: Serialize + DeserializeOwned + Send + 'static,
    O: Serialize + DeserializeOwned + Send + 'static,
{
    fn new(settings: JobQueueBuilder, connection: Connection) -> Self {
        let env = settings.env.clone();
        let desk = Desk {
            connection,
            names: Names::new(&settings.prefix, &settings.name),
            closing: env.closing().child_token(),
            workers: TaskTracker::new(),
            refusals: Refusals::default(),
            settings,
            env,
        };
        Self { desk: Arc::new(desk), types: PhantomData }
    }

    /// A worker on this queue; it does nothing before it runs.
    pub fn worker(&self) -> Worker<T, O> {
        Worker::new(self.clone())
    }

    /// Whether any connection stands now and answers.
    pub fn is_connected(&self) -> bool {
        self.desk.connection.lanes().1 > 0
    }

    /// Drains this handle's workers, which somebody must await meanwhile, then closes all connections. Every call of all
    /// clones fails from now on.
    pub async fn shutdown(&self) {
        self.desk.closing.cancel();
        self.desk.workers.close();
        self.desk.workers.wait().await;
        self.desk.connection.shutdown().await;
    }
}

impl<T, O> Clone for JobQueue<T, O> {
    fn clone(&self) -> Self {
        Self { desk: Arc::clone(&self.desk), types: PhantomData }
    }
}

impl<T, O> fmt::Debug for JobQueue<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (connections, connected) = self.desk.connection.lanes();
        f.debug_struct("JobQueue")
            .field("name", &self.desk.settings.name)
            .field("connections", &connections)
            .field("connected", &connected)
            .finish_non_exhaustive()
    }
}

impl Desk {
    /// One script, once; its answer is a list.
    async fn ask(&self, script: &'static str, names: Vec<String>, values: Vec<Value>) -> Result<Vec<Bytes>> {
        self.connection.script(script, names, values, self.settings.timeout).await
    }

    /// A script until it is answered, for as long as `on` says of what it failed with; whether it was asked more than once.
    /// Only for those that may be done twice.
    async fn insist(
        &self,
        script: &'static str,
        names: Vec<String>,
        values: Vec<Value>,
        mut on: impl FnMut(&Error) -> bool,
    ) -> Result<(Vec<Bytes>, bool)> {
        const LONGEST: Duration = Duration::from_secs(1);
        let (mut wait, mut again) = (Duration::from_millis(50), false);
        loop {
            match self.ask(script, names.clone(), values.clone()).await {
                Ok(answer) => return Ok((answer, again)),
                Err(error) if error.kind() == ErrorKind::Shutdown || !on(&error) => return Err(error),
                Err(_) => {}
            }
            again = true;
            self.env.sleep(wait / 2 + wait.mul_f64(self.env.unit() / 2.0)).await;
            wait = (wait * 2).min(LONGEST);
        }
    }
}

/// The word a script answers with.
fn verdict(answer: &[Bytes]) -> &[u8] {
    answer.first().map_or(b"", |word| word)
}

fn unexpected() -> Error {
    Error::new(ErrorKind::Decode, ORIGIN, "an answer of an unexpected form from Redis")
}

fn millis(time: Duration) -> Value {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX).into()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
