//! What summaries have cost.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::env::Env;
use crate::error::Error;
use crate::types::{Cost, Usage};

/// What a [`Summarize`](super::Summarize) has asked for and spent so far. None of it is in the traces of the calls it was
/// done for.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SummaryStats {
    /// Requests made to the client that writes summaries. A long stretch takes several for one summary.
    pub requests: u64,
    /// Summaries that were written.
    pub summaries: u64,
    /// Attempts at a summary that came to nothing. The messages were then not summarised, and are in the next attempt.
    pub failures: u64,
    /// Input tokens, as far as the answers said so.
    pub input_tokens: u64,
    /// Output tokens, as far as the answers said so.
    pub output_tokens: u64,
    /// What they cost, as the answers' [`Trace::cost`](crate::types::Trace::cost) tells it (a hit in the writer's own cache
    /// nothing), else as far as the model's price is known.
    pub cost: Cost,
    /// Why the last attempt that failed did.
    pub last_error: Option<Error>,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    requests: AtomicU64,
    summaries: AtomicU64,
    failures: AtomicU64,
    input_tokens: AtomicU64,
    output_tokens: AtomicU64,
    picos: AtomicU64,
    last_error: Mutex<Option<Error>>,
}

impl Tally {
    pub(super) fn asked(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(super) fn used(&self, model: &str, usage: Option<&Usage>, billed: Option<Cost>, env: &Env) {
        if let Some(usage) = usage {
            self.input_tokens.fetch_add(usage.prompt_tokens, Relaxed);
            self.output_tokens.fetch_add(usage.completion_tokens, Relaxed);
        }
        let cost = billed.or_else(|| env.prices().cost(model, usage?)).unwrap_or_default();
        self.picos.fetch_add(cost.picos(), Relaxed);
    }

    pub(super) fn written(&self) {
        self.summaries.fetch_add(1, Relaxed);
    }

    pub(super) fn failed(&self, error: Error) {
        self.failures.fetch_add(1, Relaxed);
        *self.last_error.lock() = Some(error);
    }

    pub(super) fn stats(&self) -> SummaryStats {
        SummaryStats {
            requests: self.requests.load(Relaxed),
            summaries: self.summaries.load(Relaxed),
            failures: self.failures.load(Relaxed),
            input_tokens: self.input_tokens.load(Relaxed),
            output_tokens: self.output_tokens.load(Relaxed),
            cost: Cost::from_picos(self.picos.load(Relaxed)),
            last_error: self.last_error.lock().clone(),
        }
    }
}
