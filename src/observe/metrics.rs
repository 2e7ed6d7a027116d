//! Numbers for a metrics exporter, through the `metrics` facade (feature `metrics`).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use metrics::{Counter, Histogram, Unit};
use parking_lot::{Mutex, RwLock};

use crate::env::{Event, Observer, Operation, Outcome, Record};
use crate::error::ErrorKind;
use crate::sharded::Sharded;
use crate::types::{Cost, Source, Usage};

/// Tells every call, attempt and answer of a batch to the installed `metrics` recorder.
///
/// Names and units follow OpenTelemetry's GenAI conventions where they have one
/// (`gen_ai.client.operation.duration`, `gen_ai.client.token.usage`); the rest begin with `sluicegate.`. Labels are the
/// operation, the model and closed sets of words: never a tenant, a key or a prompt. Handles are registered once per
/// operation and model, so a call costs increments, not label building. At most 256 models get a label of their own;
/// further ones share `other`, so that model names made up by callers cannot fill an exporter's memory.
///
/// Install the recorder before the first call: handles bind to the recorder that is there when they are registered.
///
/// ```
/// use std::sync::Arc;
/// use sluicegate::{OptimizedClient, observe::Metrics, testing::Scripted};
/// let client = OptimizedClient::builder(Scripted::new()).observer(Arc::new(Metrics::new())).build()?;
/// # let _ = client;
/// # Ok::<(), sluicegate::Error>(())
/// ```
#[derive(Default)]
pub struct Metrics {
    // A map per thread, so that looking up is not where threads meet; equal handles lead to the same metric.
    handles: Sharded<RwLock<HashMap<String, ByOperation>>>,
    models: Mutex<HashSet<String>>,
}

/// Chat, streamed chat, embeddings.
type ByOperation = [Option<Arc<Handles>>; 3];

const MODELS: usize = 256;
const OTHER: &str = "other";

struct Handles {
    duration: Histogram,
    first_chunk: Histogram,
    upstream: Counter,
    hit: Counter,
    coalesced: Counter,
    failed: Counter,
    abandoned: Counter,
    attempt_duration: Histogram,
    attempts: Counter,
    attempts_failed: Counter,
    attempts_abandoned: Counter,
    rate_limited: Counter,
    batched: Counter,
    queued: Histogram,
    input_tokens: Histogram,
    output_tokens: Histogram,
    cached_tokens: Counter,
    saved_tokens: Counter,
    cost: Counter,
    saved: Counter,
    unpriced: Counter,
}

impl Handles {
    fn register(operation: Operation, model: &str) -> Self {
        let operation = operation.label();
        let labels = |more: &[(&'static str, &'static str)]| {
            let base = [
                metrics::Label::new("gen_ai.operation.name", operation),
                metrics::Label::new("gen_ai.request.model", model.to_owned()),
            ];
            let more = more.iter().map(|(key, value)| metrics::Label::new(*key, *value));
            base.into_iter().chain(more).collect::<Vec<_>>()
        };
        let calls = |outcome| metrics::counter!("sluicegate.calls", labels(&[("outcome", outcome)]));
        let attempts = |outcome| metrics::counter!("sluicegate.attempts", labels(&[("outcome", outcome)]));
        let tokens = |kind| metrics::histogram!("gen_ai.client.token.usage", labels(&[("gen_ai.token.type", kind)]));
        Self {
            duration: metrics::histogram!("sluicegate.call.duration", labels(&[])),
            first_chunk: metrics::histogram!("sluicegate.call.time_to_first_chunk", labels(&[])),
            upstream: calls("upstream"),
            hit: calls("hit"),
            coalesced: calls("coalesced"),
            failed: calls("failed"),
            abandoned: calls("abandoned"),
            attempt_duration: metrics::histogram!("gen_ai.client.operation.duration", labels(&[])),
            attempts: attempts("answered"),
            attempts_failed: attempts("failed"),
            attempts_abandoned: attempts("abandoned"),
            rate_limited: attempts("rate_limited"),
            batched: metrics::counter!("sluicegate.batched", labels(&[])),
            queued: metrics::histogram!("sluicegate.queue.duration", labels(&[])),
            input_tokens: tokens("input"),
            output_tokens: tokens("output"),
            cached_tokens: metrics::counter!("sluicegate.tokens.cached_input", labels(&[])),
            saved_tokens: metrics::counter!("sluicegate.tokens.saved", labels(&[])),
            cost: metrics::counter!("sluicegate.cost.nanodollars", labels(&[])),
            saved: metrics::counter!("sluicegate.saved.nanodollars", labels(&[])),
            unpriced: metrics::counter!("sluicegate.attempts.unpriced", labels(&[])),
        }
    }
}

impl Metrics {
    /// Describes the metrics to the installed recorder.
    pub fn new() -> Self {
        metrics::describe_histogram!(
            "sluicegate.call.duration",
            Unit::Seconds,
            "From call to end of answer, hits included"
        );
        metrics::describe_histogram!(
            "sluicegate.call.time_to_first_chunk",
            Unit::Seconds,
            "From call to first content of a stream"
        );
        metrics::describe_histogram!("gen_ai.client.operation.duration", Unit::Seconds, "One attempt upstream");
        metrics::describe_histogram!("sluicegate.queue.duration", Unit::Seconds, "Waiting for admission");
        metrics::describe_histogram!("gen_ai.client.token.usage", Unit::Count, "Tokens billed per attempt");
        metrics::describe_counter!("sluicegate.calls", Unit::Count, "Calls by outcome");
        metrics::describe_counter!("sluicegate.attempts", Unit::Count, "Attempts upstream by outcome");
        metrics::describe_counter!("sluicegate.batched", Unit::Count, "Calls answered by a provider's batch");
        metrics::describe_counter!("sluicegate.attempts.unpriced", Unit::Count, "Attempts whose cost is unknown");
        metrics::describe_counter!(
            "sluicegate.tokens.cached_input",
            Unit::Count,
            "Input tokens from the provider's prompt cache"
        );
        metrics::describe_counter!("sluicegate.tokens.saved", Unit::Count, "Tokens saved by hits and shared flights");
        metrics::describe_counter!(
            "sluicegate.cost.nanodollars",
            Unit::Count,
            "Billionths of a dollar spent, where known"
        );
        metrics::describe_counter!(
            "sluicegate.saved.nanodollars",
            Unit::Count,
            "Billionths of a dollar saved, where known"
        );
        Self::default()
    }

    fn handles(&self, operation: Operation, model: &str) -> Arc<Handles> {
        let mine = self.handles.local();
        if let Some(Some(handles)) = mine.read().get(model).map(|by| &by[operation as usize]) {
            return Arc::clone(handles);
        }
        let model = self.label(model);
        if let Some(Some(handles)) = mine.read().get(model).map(|by| &by[operation as usize]) {
            return Arc::clone(handles);
        }
        let mut mine = mine.write();
        let place = &mut mine.entry(model.to_owned()).or_default()[operation as usize];
        Arc::clone(place.get_or_insert_with(|| Arc::new(Handles::register(operation, model))))
    }

    /// The model's own label, or the shared one when there are too many.
    fn label<'a>(&self, model: &'a str) -> &'a str {
        let mut models = self.models.lock();
        if models.contains(model) {
            return model;
        }
        if models.len() >= MODELS {
            return OTHER;
        }
        models.insert(model.to_owned());
        model
    }

    fn call(&self, record: &Record<'_>) {
        let handles = self.handles(record.operation, record.model);
        handles.duration.record(record.duration);
        if let Some(first_chunk) = record.first_chunk {
            handles.first_chunk.record(first_chunk);
        }
        match record.outcome {
            Outcome::Answered { trace, .. } => {
                match trace.source {
                    Source::Upstream => {
                        handles.upstream.increment(1);
                        handles.queued.record(trace.queued);
                    }
                    Source::Cache(_) => handles.hit.increment(1),
                    Source::Coalesced => handles.coalesced.increment(1),
                }
                handles.saved_tokens.increment(trace.saved_tokens);
                handles.saved.increment(trace.saved.unwrap_or_default().picos() / 1000);
            }
            Outcome::Failed(_) => handles.failed.increment(1),
            Outcome::Abandoned => handles.abandoned.increment(1),
        }
    }

    fn batched(&self, record: &Record<'_>) {
        let handles = self.handles(record.operation, record.model);
        match record.outcome {
            Outcome::Answered { usage, trace } => {
                handles.batched.increment(1);
                handles.billed(usage, trace.cost);
            }
            Outcome::Failed(error) => handles.unpriced.increment(u64::from(error.usage().is_some())),
            Outcome::Abandoned => handles.unpriced.increment(1),
        }
    }

    fn attempt(&self, record: &Record<'_>) {
        let handles = self.handles(record.operation, record.model);
        handles.attempt_duration.record(record.duration);
        match record.outcome {
            Outcome::Answered { usage, trace } => {
                handles.attempts.increment(1);
                handles.billed(usage, trace.cost);
            }
            Outcome::Failed(error) if error.kind() == ErrorKind::RateLimited || error.status() == Some(429) => {
                handles.rate_limited.increment(1);
            }
            Outcome::Failed(error) => {
                handles.attempts_failed.increment(1);
                handles.unpriced.increment(u64::from(error.usage().is_some() || record.first_chunk.is_some()));
            }
            Outcome::Abandoned => {
                handles.attempts_abandoned.increment(1);
                handles.unpriced.increment(1);
            }
        }
    }
}

impl Handles {
    fn billed(&self, usage: Option<&Usage>, cost: Option<Cost>) {
        if let Some(usage) = usage {
            self.input_tokens.record(usage.prompt_tokens as f64);
            self.output_tokens.record(usage.completion_tokens as f64);
            self.cached_tokens.increment(usage.cached_tokens());
        }
        match cost {
            Some(cost) => self.cost.increment(cost.picos() / 1000),
            None => self.unpriced.increment(1),
        }
    }
}

impl Observer for Metrics {
    fn observe(&self, event: &Event<'_>) {
        match event {
            Event::Call(record) => self.call(record),
            Event::Attempt(record) => self.attempt(record),
            Event::Batched(record) => self.batched(record),
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("models", &self.models.lock().len()).finish()
    }
}
