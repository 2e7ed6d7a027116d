//! The numbers as a person reads them.

use std::collections::BTreeMap;
use std::fmt;

use super::Percentiles;
use crate::types::Cost;

/// What a client did so far. `Display` prints it as a small table.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Report {
    /// Calls that ended, streams and embeddings included.
    pub calls: u64,
    /// Calls that got a whole answer.
    pub answered: u64,
    /// Calls that their callers dropped.
    pub abandoned: u64,
    /// Calls answered from a cache.
    pub hits: u64,
    /// Calls answered by another caller's flight.
    pub coalesced: u64,
    /// Failed calls by kind of error.
    pub errors: BTreeMap<&'static str, u64>,
    /// From call to end of answer, over all calls.
    pub latency: Percentiles,
    /// From call to the first chunk with content, over all streams.
    pub first_chunk: Percentiles,
    /// Waiting for admission, over the calls that went upstream.
    pub queued: Percentiles,
    /// Attempts upstream that ended.
    pub attempts: u64,
    /// Attempts that were dropped before their end; what they cost is unknown.
    pub attempts_abandoned: u64,
    /// Attempts refused with status 429.
    pub rate_limited: u64,
    /// The provider alone, over all attempts.
    pub upstream_latency: Percentiles,
    /// Calls that a provider's batch answered. They are no attempts; their tokens and dollars count below.
    pub batched: u64,
    /// Input tokens billed, those from the provider's prompt cache included.
    pub input_tokens: u64,
    /// Input tokens from the provider's prompt cache.
    pub cached_input_tokens: u64,
    /// Output tokens billed.
    pub output_tokens: u64,
    /// Prompt tokens that history trimming kept off the wire.
    pub trimmed_tokens: u64,
    /// Prompt tokens that summaries stood for.
    pub summarized_tokens: u64,
    /// Prompt tokens that normalisation saved.
    pub normalized_tokens: u64,
    /// Input tokens that a policy expected from the provider's prompt cache, over the calls that went upstream: to be
    /// held against `cached_input_tokens`.
    pub expected_cached_tokens: u64,
    /// Dollars spent on attempts and batches whose price is known.
    pub cost: Cost,
    /// Attempts whose cost is unknown: no price for the model, no usage, abandoned, or broken off after their first
    /// chunk; and calls whose batch was cancelled. Not part of `cost`.
    pub unpriced_attempts: u64,
    /// Tokens that hits and shared flights saved.
    pub saved_tokens: u64,
    /// Dollars that hits and shared flights saved, where the price is known.
    pub saved: Cost,
}

impl Report {
    /// Failed calls of every kind.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Calls answered without an upstream call, from 0 to 1.
    pub fn hit_ratio(&self) -> f64 {
        if self.answered == 0 { 0.0 } else { (self.hits + self.coalesced) as f64 / self.answered as f64 }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = |p: &Percentiles| format!("p50 {:.1?}, p95 {:.1?}, p99 {:.1?}", p.p50, p.p95, p.p99);
        writeln!(
            f,
            "calls          {} ({} answered, {} failed, {} abandoned)",
            self.calls,
            self.answered,
            self.failed(),
            self.abandoned
        )?;
        for (kind, count) in &self.errors {
            writeln!(f, "  {kind:<12} {count}")?;
        }
        writeln!(
            f,
            "saved calls    {} hits, {} coalesced ({:.0} %)",
            self.hits,
            self.coalesced,
            self.hit_ratio() * 100.0
        )?;
        writeln!(f, "upstream       {} attempts, {} refused with 429", self.attempts, self.rate_limited)?;
        if self.batched > 0 {
            writeln!(f, "batches        {} calls answered", self.batched)?;
        }
        writeln!(f, "latency        {}", times(&self.latency))?;
        if self.first_chunk.count > 0 {
            writeln!(f, "first chunk    {}", times(&self.first_chunk))?;
        }
        writeln!(f, "queued         {}", times(&self.queued))?;
        writeln!(
            f,
            "tokens         {} in ({} cached), {} out, {} trimmed, {} saved",
            self.input_tokens, self.cached_input_tokens, self.output_tokens, self.trimmed_tokens, self.saved_tokens
        )?;
        if self.summarized_tokens + self.normalized_tokens + self.expected_cached_tokens > 0 {
            writeln!(
                f,
                "history        {} summarised, {} saved by normalising, {} expected from the prompt cache",
                self.summarized_tokens, self.normalized_tokens, self.expected_cached_tokens
            )?;
        }
        write!(f, "cost           {} spent, {} saved", self.cost, self.saved)?;
        if self.unpriced_attempts > 0 {
            write!(f, "; {} attempts of unknown cost", self.unpriced_attempts)?;
        }
        Ok(())
    }
}
