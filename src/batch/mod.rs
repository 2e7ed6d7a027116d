//! Many calls as one: bulk runs over any source of requests, and single items merged into batches.
//!
//! [`Bulk`] asks thousands or millions of requests with a bound on what is under way, and goes on where it was killed.

mod bulk;

pub use bulk::{Bulk, BulkItem, BulkRequest, BulkRun, CheckpointSync, Drain, Progress, jsonl};

/// Where errors of this module come from.
const ORIGIN: &str = "batch";
