//! Many requests as one run: bounded, each with its own result, with progress, and a file from which it goes on.

mod ask;
mod checkpoint;
mod drain;
mod identity;
mod item;
pub mod jsonl;
mod progress;
mod record;
mod run;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use tokio::io::AsyncRead;

pub use checkpoint::CheckpointSync;
pub use drain::Drain;
pub use item::{BulkItem, BulkRequest};
pub use progress::Progress;
pub use run::BulkRun;

use super::ORIGIN;
use crate::client::LlmClient;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::types::Priority;
use ask::{Parts, check};
use checkpoint::Checkpoint;

/// Settings of bulk runs over one client.
///
/// # What it does
/// Each request of the source is one chat through the client, with all of the client's limits, retries and caches; its
/// answer or failure is one [`BulkItem`] of the stream. A failure is its item's alone. An item for which the client's own
/// [`Admission`](crate::schedule::Admission) has no room, or which had to make room there, is no failure: it is asked again
/// after a pause of up to a second, for as long as it takes. The client counts each refusal.
///
/// # Bounds
/// Never more than [`concurrency`](Self::concurrency) calls are under way. An unordered run has taken at most so many
/// items from the source that it has not yielded; an ordered one, four times as many, so that one slow call does not
/// idle the rest. Nothing is taken, and no call goes on, while nobody polls: a slow reader slows the source down.
/// Beside that a run keeps some 30 bytes per item, to find ids that come twice, and some 80 per recorded answer.
///
/// # Checkpoint
/// With [`checkpoint`](Self::checkpoint) every answer is written to a file the moment it comes, with a checksum of its
/// own, before it is yielded. A run with the same file takes from it what was recorded, and asks for the rest: for what
/// failed, for items whose body, tenant or id is another one, for lines that were damaged. A half-written last line is
/// cut off. So a kill costs at most the calls that were under way, and of these only those that are not in the cache
/// either: a [`Cache`](crate::cache::Cache) with a disk tier keeps an answer independently of the run.
///
/// A file belongs to the input it was begun with, told by its first item: that one's id or body, or both in any place
/// of the file. Another input is refused, as is a file that another run has open. Items without an id are named by
/// their place, so inputs without ids are not told apart by this: their answers then share the file, each found by what
/// it was asked.
///
/// Requests and answers of more than 256 KiB are hashed and written as JSON on blocking threads, so such an answer is
/// in the file some milliseconds after it came.
///
/// The file holds answers and ids in clear text (on Unix, its owner alone can read it) and is read to the end when a
/// run starts, on a blocking thread.
///
/// # Cancellation
/// Dropping the run cancels what is under way. [`BulkRun::drain`] ends it well. So does a shutdown of the client, but
/// that calls which wait for admission fail, are not recorded, and are asked by the next run; and it waits for the run, which somebody must poll meanwhile, or drop.
///
/// # Example
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use sluicegate::{OptimizedClient, batch::Bulk, testing::Scripted, types::ChatRequest};
/// let llm = OptimizedClient::builder(Scripted::new()).build()?;
/// let requests = (0..1_000).map(|n| (format!("sum-{n}"), ChatRequest::new("gpt-5-mini").user(format!("{n} + {n}?"))));
/// let mut run = llm.bulk().concurrency(8).run(requests).await?;
/// let progress = run.progress();
/// while let Some(item) = run.next().await {
///     let item = item?;
///     assert_eq!(item.result?.text(), "ok");
/// }
/// assert_eq!(progress.borrow().done, 1_000);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is asked before run()"]
pub struct Bulk {
    client: Arc<dyn LlmClient>,
    env: Env,
    concurrency: usize,
    ordered: bool,
    checkpoint: Option<PathBuf>,
    sync: CheckpointSync,
    total: Option<u64>,
    priority: Priority,
}

/// More waits for nothing but memory.
const MOST: usize = 100_000;

impl Bulk {
    /// Runs over this client. [`OptimizedClient::bulk`](crate::OptimizedClient::bulk) makes one that shares the
    /// client's clock and ends with its shutdown.
    pub fn new(client: impl LlmClient) -> Self {
        Self {
            client: Arc::new(client),
            env: Env::new(),
            concurrency: 32,
            ordered: false,
            checkpoint: None,
            sync: CheckpointSync::default(),
            total: None,
            priority: Priority::Low,
        }
    }

    /// Sets the clock, and whose shutdown drains a run.
    pub fn env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    /// So many calls under way at most, from 1 to 100,000; 32 unless set. A client with a scheduler of its own holds
    /// them back further.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = calls;
        self
    }

    /// Whether results come in the order of the source, or as they come; as they come unless set.
    pub fn ordered(mut self, ordered: bool) -> Self {
        self.ordered = ordered;
        self
    }

    /// Records answers in this file, and takes from it what was recorded before. It is made if it is not there; its
    /// folder is not.
    pub fn checkpoint(mut self, file: impl Into<PathBuf>) -> Self {
        self.checkpoint = Some(file.into());
        self
    }

    /// When recorded answers are forced onto the disk; [`CheckpointSync::Every`] second unless set.
    pub fn sync(mut self, sync: CheckpointSync) -> Self {
        self.sync = sync;
        self
    }

    /// How many items the source has, for [`Progress::eta`]; what the source says of itself unless set.
    /// [`jsonl::count`] counts those of a file.
    pub fn total(mut self, items: u64) -> Self {
        self.total = Some(items);
        self
    }

    /// The priority of requests that state none; [`Priority::Low`] unless set, for nobody waits for a single one of
    /// them.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    fn check(&self) -> Result<()> {
        Error::unless_within(ORIGIN, "concurrency", self.concurrency, 1..=MOST)?;
        if let CheckpointSync::Every(interval) = self.sync
            && !(Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&interval)
        {
            return Err(Error::config(ORIGIN, "sync", format!("{interval:?}"), "sync every 1 ms to 1 h"));
        }
        Ok(())
    }

    /// Starts a run over these requests. Nothing is asked before it is polled.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a setting out of its range and a file that is no checkpoint
    /// or is open in another run; [`ErrorKind::Other`](crate::ErrorKind::Other) for one that cannot be read or written.
    pub async fn run<I>(&self, requests: I) -> Result<BulkRun>
    where
        I: IntoIterator,
        I::Item: Into<BulkRequest>,
        I::IntoIter: Send + 'static,
    {
        // Made outside of the future: the iterable itself need not be `Send`.
        let requests = requests.into_iter();
        self.run_stream(stream::iter(requests)).await
    }

    /// Starts a run over a stream of requests; it is polled only while there is room for its next item.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_stream<S>(&self, requests: S) -> Result<BulkRun>
    where
        S: Stream + Send + 'static,
        S::Item: Into<BulkRequest>,
    {
        self.check()?;
        let checkpoint = match &self.checkpoint {
            Some(path) => Some(Checkpoint::open(path.clone(), self.sync, &self.env).await?),
            None => None,
        };
        let (least, most) = requests.size_hint();
        let total = self.total.or_else(|| most.filter(|most| *most == least).map(|total| total as u64));
        // A shutdown of the client drains its runs.
        let (client, env, drain) = (Arc::clone(&self.client), self.env.clone(), self.env.closing().child_token());
        let parts = Parts { client, checkpoint, priority: self.priority, env, drain };
        let window = self.ordered.then(|| self.concurrency.saturating_mul(4));
        let (tasks, compared) = (self.env.tasks().clone(), parts.checkpoint.is_some());
        let source = Box::pin(requests.then(move |request| check(tasks.clone(), request.into(), compared)));
        Ok(BulkRun::new(source, parts, (self.concurrency, window), total))
    }

    /// Starts a run over lines of JSON; [`jsonl::requests`] says of what shape.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_lines(&self, reader: impl AsyncRead + Send + Unpin + 'static) -> Result<BulkRun> {
        self.run_stream(jsonl::requests_on(reader, self.env.tasks().clone())).await
    }
}
