//! Many calls as one: bulk runs over any source of requests, and single items merged into batches.
//!
//! [`Bulk`] asks thousands or millions of requests with a bound on what is under way, and goes on where it was killed.
//! [`MicroBatcher`] merges items of many callers into calls that take several; [`BatchLayer`] does so for embeddings.
//! [`DeferLayer`] leaves calls that can wait for hours to a provider's batches, at half the price.
//! With the feature `redis`, `JobQueue` keeps jobs in Redis until a worker on any machine has done them.

mod bulk;
mod defer;
mod embed;
#[cfg(feature = "redis")]
mod jobs;
mod micro;
mod room;

pub use crate::deferred::{BatchProvider, Deferred, SentBatch};
pub use bulk::{Bulk, BulkItem, BulkRequest, BulkRun, CheckpointSync, Drain, Progress, jsonl};
pub use defer::DeferLayer;
pub use embed::BatchLayer;
#[cfg(feature = "redis")]
pub use jobs::{
    ChatJob, DeadLetter, Enqueued, Job, JobFailure, JobId, JobQueue, JobQueueBuilder, JobRefusals, JobRetry, JobState,
    JobStats, NewJob, Worker, WorkerReport,
};
pub use micro::{BatchResults, MicroBatcher, MicroBuilder};

/// Where errors of this module come from.
const ORIGIN: &str = "batch";
