//! The numbers, sharded per thread.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::histogram::{Histogram, Percentiles};
use super::report::Report;
use crate::env::{Event, Observer, Outcome, Record};
use crate::error::{Error, ErrorKind};
use crate::sharded::Sharded;
use crate::types::{Cost, HistoryTrace, Source, Trace, Usage};

/// The numbers of one client. Writing costs a few nanoseconds and never waits; [`report`](Self::report) adds them up.
/// Takes about 350 KB, for sixteen threads that do not meet.
#[derive(Debug, Default)]
pub struct Stats(Sharded<Shard>);

#[derive(Debug, Default)]
struct Shard {
    upstream: AtomicU64,
    abandoned: AtomicU64,
    hits: AtomicU64,
    coalesced: AtomicU64,
    saved_tokens: AtomicU64,
    saved_picos: AtomicU64,
    trimmed_tokens: AtomicU64,
    summarized_tokens: AtomicU64,
    normalized_tokens: AtomicU64,
    expected_cached_tokens: AtomicU64,
    latency: Histogram,
    first_chunk: Histogram,
    attempts: AtomicU64,
    attempts_abandoned: AtomicU64,
    rate_limited: AtomicU64,
    input_tokens: AtomicU64,
    cached_input_tokens: AtomicU64,
    output_tokens: AtomicU64,
    cost_picos: AtomicU64,
    unpriced: AtomicU64,
    upstream_latency: Histogram,
    batched: AtomicU64,
    queued: Histogram,
    // Failures are rare, and their cost is that of the failed call.
    errors: parking_lot::Mutex<BTreeMap<&'static str, u64>>,
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Stats {
    /// All zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// A caller's call ended.
    pub(super) fn call(&self, record: &Record<'_>) {
        let shard = self.0.local();
        shard.latency.record(record.duration);
        if let Some(first_chunk) = record.first_chunk {
            shard.first_chunk.record(first_chunk);
        }
        match record.outcome {
            Outcome::Answered { trace, .. } => {
                match trace.source {
                    Source::Upstream => {
                        add(&shard.upstream, 1);
                        shard.queued.record(trace.queued);
                    }
                    Source::Cache(_) => add(&shard.hits, 1),
                    Source::Coalesced => add(&shard.coalesced, 1),
                }
                if trace.saved_tokens > 0 {
                    add(&shard.saved_tokens, trace.saved_tokens);
                    add(&shard.saved_picos, trace.saved.unwrap_or_default().picos());
                }
                shard.history(trace);
            }
            Outcome::Failed(error) => shard.failed(error),
            Outcome::Abandoned => add(&shard.abandoned, 1),
        }
    }

    /// An attempt upstream ended.
    pub(super) fn attempt(&self, record: &Record<'_>) {
        let shard = self.0.local();
        add(&shard.attempts, 1);
        shard.upstream_latency.record(record.duration);
        let (usage, cost) = match record.outcome {
            Outcome::Answered { usage, trace } => (usage, trace.cost),
            Outcome::Failed(error) => {
                if error.kind() == ErrorKind::RateLimited || error.status() == Some(429) {
                    add(&shard.rate_limited, 1);
                }
                // A failed attempt is not billed, unless it says what it used. One that broke off in the middle of its
                // answer is, but nobody says how much.
                let unbilled = error.usage().is_none() && record.first_chunk.is_none();
                (error.usage(), unbilled.then_some(Cost::ZERO))
            }
            Outcome::Abandoned => {
                // What the provider bills for an answer nobody waited for is not known.
                add(&shard.attempts_abandoned, 1);
                (None, None)
            }
        };
        shard.billed(usage, cost);
    }

    /// A call's part in a batch ended.
    fn batched(&self, record: &Record<'_>) {
        let shard = self.0.local();
        let (usage, cost) = match record.outcome {
            Outcome::Answered { usage, trace } => {
                add(&shard.batched, 1);
                (usage, trace.cost)
            }
            // One that failed in an answered batch is not billed.
            Outcome::Failed(error) => (error.usage(), error.usage().is_none().then_some(Cost::ZERO)),
            Outcome::Abandoned => (None, None),
        };
        shard.billed(usage, cost);
    }

    /// The numbers as they stand. Calls that end while it adds up may be counted in part.
    pub fn report(&self) -> Report {
        let sum = |pick: fn(&Shard) -> &AtomicU64| {
            self.0.iter().fold(0_u64, |sum, shard| sum.saturating_add(pick(shard).load(Ordering::Relaxed)))
        };
        let percentiles = |pick: fn(&Shard) -> &Histogram| Percentiles::of(self.0.iter().map(pick));
        let mut errors: BTreeMap<&'static str, u64> = BTreeMap::new();
        for shard in self.0.iter() {
            for (kind, count) in &*shard.errors.lock() {
                *errors.entry(*kind).or_default() += count;
            }
        }
        let (upstream, hits, coalesced) = (sum(|s| &s.upstream), sum(|s| &s.hits), sum(|s| &s.coalesced));
        let (answered, abandoned) = (upstream + hits + coalesced, sum(|s| &s.abandoned));
        Report {
            calls: answered + abandoned + errors.values().sum::<u64>(),
            answered,
            abandoned,
            hits,
            coalesced,
            errors,
            latency: percentiles(|s| &s.latency),
            first_chunk: percentiles(|s| &s.first_chunk),
            queued: percentiles(|s| &s.queued),
            attempts: sum(|s| &s.attempts),
            attempts_abandoned: sum(|s| &s.attempts_abandoned),
            rate_limited: sum(|s| &s.rate_limited),
            upstream_latency: percentiles(|s| &s.upstream_latency),
            batched: sum(|s| &s.batched),
            input_tokens: sum(|s| &s.input_tokens),
            cached_input_tokens: sum(|s| &s.cached_input_tokens),
            output_tokens: sum(|s| &s.output_tokens),
            trimmed_tokens: sum(|s| &s.trimmed_tokens),
            summarized_tokens: sum(|s| &s.summarized_tokens),
            normalized_tokens: sum(|s| &s.normalized_tokens),
            expected_cached_tokens: sum(|s| &s.expected_cached_tokens),
            cost: Cost::from_picos(sum(|s| &s.cost_picos)),
            unpriced_attempts: sum(|s| &s.unpriced),
            saved_tokens: sum(|s| &s.saved_tokens),
            saved: Cost::from_picos(sum(|s| &s.saved_picos)),
        }
    }
}

/// Calls and attempts are counted by those who watch them.
impl Observer for Stats {
    fn observe(&self, event: &Event<'_>) {
        if let Event::Batched(record) = event {
            self.batched(record);
        }
    }
}

impl Shard {
    fn billed(&self, usage: Option<&Usage>, cost: Option<Cost>) {
        if let Some(usage) = usage {
            add(&self.input_tokens, usage.prompt_tokens);
            add(&self.cached_input_tokens, usage.cached_tokens());
            add(&self.output_tokens, usage.completion_tokens);
        }
        match cost {
            Some(cost) => add(&self.cost_picos, cost.picos()),
            None => add(&self.unpriced, 1),
        }
    }

    fn history(&self, trace: &Trace) {
        let history = &trace.history;
        // Most prompts are sent as they came.
        if *history == HistoryTrace::default() {
            return;
        }
        // A hit asked the provider for nothing.
        let expected = if trace.source == Source::Upstream { history.expected_cached_tokens } else { 0 };
        for (counter, tokens) in [
            (&self.trimmed_tokens, history.trimmed_tokens),
            (&self.summarized_tokens, history.summarized_tokens),
            (&self.normalized_tokens, history.normalized_tokens),
            (&self.expected_cached_tokens, expected),
        ] {
            if tokens > 0 {
                add(counter, u64::from(tokens));
            }
        }
    }

    fn failed(&self, error: &Error) {
        *self.errors.lock().entry(error.kind().label()).or_default() += 1;
    }
}
