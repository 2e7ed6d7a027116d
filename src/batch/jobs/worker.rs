//! Who works on a queue.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::attempt::{Bench, End};
use super::beat::beat;
use super::held::Hand;
use super::pull::Puller;
use super::refused::Routine;
use super::{Desk, Job, JobQueue, JobRetry, millis, scripts};
use crate::batch::{Drain, ORIGIN};
use crate::env::Env;
use crate::error::{Error, Result, Retryability};

/// Works on a queue, with one more connection, in the task that awaits [`run`](Self::run); nothing is spawned.
///
/// # A worker that dies
/// It keeps hold of its jobs by heartbeats, three in each [`hold`](Self::hold). What was not heard of for a hold is taken
/// over by any other worker, within half a hold more if that one has a place free. So a job that blocks its thread for
/// longer than a hold is worked on twice; the first result stands.
///
/// # What Redis refuses
/// Without a right, without room, or on a server that takes no writes, an attempt can have an end and its verdict none. It
/// is said again for one hold; then the place goes to another job, [`JobQueue::refusals`] and the report tell it, and the
/// job is found again after one more hold: it is worked on once more, and that attempt counts. A worker that is refused
/// new jobs, or the heartbeats of those it has, goes on asking, and tells it once a hold.
///
/// # Cancellation
/// Dropping the run cancels the jobs in hand; others take them over after a hold. [`drain`](Self::drain) ends it well.
#[must_use = "it does nothing before run()"]
pub struct Worker<T, O> {
    queue: JobQueue<T, O>,
    concurrency: usize,
    hold: Duration,
    retry: JobRetry,
    drain: CancellationToken,
}

/// What a worker has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerReport {
    /// Jobs done, whose result is kept.
    pub done: u64,
    /// Attempts that failed and are to be made again.
    pub retried: u64,
    /// Jobs that ended among the dead letters.
    pub dead: u64,
    /// Jobs given back at the end, untouched or unfinished; the attempt does not count.
    pub released: u64,
    /// Jobs that another worker had taken over.
    pub lost: u64,
    /// Steps that Redis refused, see [`JobQueue::refusals`]: their jobs are in the queue still.
    pub refused: u64,
}

impl<T, O> Worker<T, O>
where
    T: Serialize + DeserializeOwned + Send + 'static,
    O: Serialize + DeserializeOwned + Send + 'static,
{
    pub(super) fn new(queue: JobQueue<T, O>) -> Self {
        let drain = queue.desk.closing.child_token();
        Self { queue, concurrency: 8, hold: Duration::from_secs(30), retry: JobRetry::standard(), drain }
    }

    /// So many jobs in hand at most, 1 to 10,000; 8 unless set.
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.concurrency = jobs;
        self
    }

    /// How long a worker that gives no sign of life keeps its jobs, 100 ms to 1 h; 30 s unless set: far longer than a
    /// pause of the machine, far shorter than anybody would wait for a job to be worked on again. All workers of a queue
    /// should have the same.
    pub fn hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// When a job that failed is tried again; [`JobRetry::standard`] unless set.
    pub fn retry(mut self, retry: JobRetry) -> Self {
        self.retry = retry;
        self
    }

    /// A handle that ends it well: it takes no more jobs, those in hand come to their end, and what it has taken but not
    /// begun goes back into the queue. A shutdown of the queue, or of the [`env`](super::JobQueueBuilder::env) it was
    /// built with, does the same.
    pub fn drain(&self) -> Drain {
        Drain(self.drain.clone())
    }

    pub(super) fn env(&self) -> Env {
        self.queue.desk.env.clone()
    }

    /// Works until it is drained. Redis may come and go meanwhile.
    ///
    /// An error of a job is retried or not as its [`Retryability`](crate::Retryability) says, see [`JobRetry`]; one of kind
    /// [`Shutdown`](crate::ErrorKind::Shutdown) gives the job back and drains this worker.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a setting out of its range. What Redis refuses a worker with at
    /// the start, because it is older than 6.2 or the user may not run a command; a server that is away is waited for.
    pub async fn run<F, Fut>(self, work: F) -> Result<WorkerReport>
    where
        F: Fn(Job<T>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<O>> + Send,
    {
        Error::unless_within(ORIGIN, "concurrency", self.concurrency, 1..=10_000)?;
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(3600));
        Error::unless_within(ORIGIN, "hold", self.hold, least..=most)?;
        self.retry.check()?;
        let desk = &*self.queue.desk;
        let _counted = (desk.workers.token(), desk.env.tasks().token());
        let consumer = format!("{:016x}{:016x}", desk.env.bits(), desk.env.bits());
        desk.admits(&consumer).await?;
        let (out, mut taken) = mpsc::unbounded_channel();
        let hand = Hand::default();
        let refused = Arc::new(AtomicU64::new(0));
        let routine = || Routine::new(&self.queue.desk, self.hold, &refused);
        let puller = Puller {
            desk: Arc::clone(&self.queue.desk),
            consumer: consumer.clone(),
            hold: self.hold,
            places: Arc::new(Semaphore::new(self.concurrency)),
            hand: hand.clone(),
            out,
            dead: Mutex::new((None, "0-0".to_owned())),
            routine: routine(),
        };
        // On the heap: the future of a run is moved about before it is awaited.
        let mut pulling = Box::pin(desk.connection.session(puller, self.drain.clone()));
        let mut beating = Box::pin(beat(desk, &hand, &consumer, self.hold, routine()));
        let mut telling = Box::pin(desk.tell());
        let bench = Bench { desk, consumer: &consumer, retry: self.retry, hold: self.hold, draining: &self.drain };
        let mut attempts = FuturesUnordered::new();
        let (mut report, mut pulls) = (WorkerReport::default(), true);
        while pulls || !attempts.is_empty() || !taken.is_empty() {
            tokio::select! {
                () = &mut pulling, if pulls => pulls = false,
                Some(held) = taken.recv() => attempts.push(bench.attempt(held, &work)),
                Some(end) = attempts.next(), if !attempts.is_empty() => report.count(end),
                () = &mut beating => {}
                () = &mut telling => {}
            }
        }
        report.refused += refused.load(Relaxed);
        // Given back now, not after a hold. If nobody hears it, it comes to the same.
        let values = vec![consumer.as_str().into()];
        if let Ok(left) = desk.ask(scripts::LEAVE, vec![desk.names.stream()], values).await {
            report.released += left.first().and_then(|left| super::text(left).parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(report)
    }
}

impl Desk {
    /// Whether Redis does what a worker needs. One that is refused each time would be idle for ever, and nobody would know.
    async fn admits(&self, consumer: &str) -> Result<()> {
        // As the puller asks, for what was not held in a thousand years.
        let ages = Duration::from_secs(1_000 * 366 * 86_400);
        let values = vec![consumer.into(), millis(ages), 1_i64.into(), "0-0".into()];
        match self.ask(scripts::TEND, vec![self.names.stream(), self.names.delayed()], values).await {
            Err(error) if matches!(error.code(), Some("ERR" | "NOPERM" | "NOAUTH" | "WRONGPASS")) => {
                let text = "Redis refuses what a worker needs: it must be 6.2 or newer, and allow EVAL and the commands of streams";
                Err(Error::new(error.kind(), ORIGIN, text).with_retryability(Retryability::Never).with_source(error))
            }
            _ => Ok(()),
        }
    }
}

impl WorkerReport {
    fn count(&mut self, end: End) {
        match end {
            End::Done => self.done += 1,
            End::Again => self.retried += 1,
            End::Dead => self.dead += 1,
            End::Released => self.released += 1,
            End::Lost => self.lost += 1,
            End::Refused => self.refused += 1,
        }
    }
}

impl<T, O> fmt::Debug for Worker<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("queue", &self.queue)
            .field("concurrency", &self.concurrency)
            .field("hold", &self.hold)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}
