//! One answer of vectors that came from several places.

use std::sync::Arc;
use std::time::Instant;

use crate::cache::payload::StoredVector;
use crate::cache::{Entry, Payload};
use crate::types::{Cost, EmbedResponse, Embedding, Source, Trace, Usage};

/// Where a vector came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A tier had it.
    Tier(&'static str),
    /// It was asked for and billed now.
    Paid,
    /// Another call was fetching it.
    Coalesced,
}

/// The vector of one input.
pub(super) struct Piece {
    pub(super) entry: Arc<Entry>,
    pub(super) origin: Origin,
}

impl Piece {
    /// Where it came from and what it saved; `again` in another place of the batch that paid for it.
    pub(super) fn trace(&self, again: bool) -> Trace {
        let source = match self.origin {
            Origin::Paid if again => Source::Coalesced,
            Origin::Tier(tier) => Source::Cache(tier),
            Origin::Paid => Source::Upstream,
            Origin::Coalesced => Source::Coalesced,
        };
        Trace { source, saved: self.entry.cost(), saved_tokens: self.entry.tokens(), ..Trace::default() }
    }
}

fn stored(piece: &Piece) -> Option<&StoredVector> {
    match piece.entry.payload() {
        Payload::Vector(stored) => Some(stored),
        _ => None,
    }
}

/// The answer: a vector for each position, `stands` says which; model and unknown fields as the upstream calls told
/// them, else as they were stored; usage and cost of what was paid now.
pub(super) fn merge(
    stands: &[usize],
    pieces: Vec<Option<Piece>>,
    paid: Vec<EmbedResponse>,
    now: Instant,
) -> EmbedResponse {
    let pieces: Vec<Piece> = pieces.into_iter().flatten().collect();
    let trace = trace(stands, &pieces, &paid, now);
    let mut told = paid.into_iter();
    let mut answer = told.next().unwrap_or_else(|| {
        let first = pieces.first().and_then(stored);
        let (model, extra) = first.map(|first| (first.model.clone(), first.extra.clone())).unwrap_or_default();
        let (object, usage) = ("list".to_owned(), Some(Usage::default()));
        EmbedResponse { object, model, usage, extra, ..EmbedResponse::default() }
    });
    for more in told {
        answer.usage = match (answer.usage, more.usage) {
            (Some(one), Some(other)) => Some(sum(one, &other)),
            (one, other) => one.or(other),
        };
    }
    answer.data = Vec::with_capacity(stands.len());
    for (index, which) in stands.iter().enumerate() {
        if let Some(stored) = pieces.get(*which).and_then(stored) {
            answer.data.push(Embedding { index, ..stored.embedding.clone() });
        }
    }
    answer.trace = trace;
    answer
}

fn sum(mut one: Usage, other: &Usage) -> Usage {
    one.prompt_tokens = one.prompt_tokens.saturating_add(other.prompt_tokens);
    one.completion_tokens = one.completion_tokens.saturating_add(other.completion_tokens);
    one.total_tokens = one.total_tokens.saturating_add(other.total_tokens);
    one
}

fn trace(stands: &[usize], pieces: &[Piece], paid: &[EmbedResponse], now: Instant) -> Trace {
    let mut trace = Trace { cost: Some(Cost::ZERO), ..Trace::default() };
    for Trace { attempts, queued, cost, .. } in paid.iter().map(|answer| answer.trace) {
        trace.attempts = trace.attempts.saturating_add(attempts);
        trace.queued = trace.queued.max(queued);
        trace.cost = trace.cost.zip(cost).map(|(one, other)| one + other);
    }
    // A text that stands in the batch twice was asked for once: its second vector is a saved one.
    let mut asked: Vec<bool> = pieces.iter().map(|piece| piece.origin == Origin::Paid).collect();
    for which in stands {
        if !std::mem::take(&mut asked[*which]) {
            let entry = &pieces[*which].entry;
            trace.saved_tokens = trace.saved_tokens.saturating_add(entry.tokens());
            trace.saved = entry.cost().map(|cost| cost + trace.saved.unwrap_or_default()).or(trace.saved);
        }
    }
    trace.source = source(pieces);
    if matches!(trace.source, Source::Cache(_)) {
        let entries = || pieces.iter().map(|piece| &piece.entry);
        trace.age = entries().map(|entry| entry.age(now)).max();
        trace.ttl_left = entries().map(|entry| entry.fresh_until().saturating_duration_since(now)).min();
    }
    trace
}

/// Upstream if anything was asked there, else coalesced if anything was waited for, else the tier; of several the one
/// outside memory.
fn source(pieces: &[Piece]) -> Source {
    let mut source = None;
    for piece in pieces {
        match piece.origin {
            Origin::Paid => return Source::Upstream,
            Origin::Coalesced => source = Some(Source::Coalesced),
            Origin::Tier(tier) => match source {
                None | Some(Source::Cache("memory")) => source = Some(Source::Cache(tier)),
                Some(_) => {}
            },
        }
    }
    source.unwrap_or_default()
}
