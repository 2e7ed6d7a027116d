//! One stored answer, vector or value.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::adaptive::Life;
use super::payload::Payload;
use super::predict::Pace;
use super::selector::Labels;
use super::{CacheKey, Probe, canonical};
use crate::types::{ChatChunk, ChatCompletion, ChatResponse, ChatStream, Cost, Finish, Source, Trace, Usage};

/// What is stored under the canonical bytes of a request: its payload, its life, its labels and what it once cost.
pub struct Entry {
    canonical: Box<[u8]>,
    key: OnceLock<CacheKey>,
    payload: Payload,
    labels: Labels,
    // When it was made is as long before as it lives: so its age and its rest come from one reading.
    ttl: Duration,
    fresh: Instant,
    expires: Instant,
    took: Duration,
    cost: Option<Cost>,
    life: OnceLock<Arc<Life>>,
    pace: OnceLock<Arc<Pace>>,
}

impl Entry {
    /// An answer to this request. `chunks` is empty when it was not streamed. `cost` is what it was billed, if known.
    pub fn new(
        probe: &Probe,
        completion: Arc<ChatCompletion>,
        chunks: Arc<[Arc<ChatChunk>]>,
        created: Instant,
        ttl: Duration,
        cost: Option<Cost>,
    ) -> Self {
        Self { cost, ..Self::of(probe, Payload::Chat { completion, chunks }, created, ttl) }
    }

    /// Whatever was asked for, served for so long.
    pub fn of(probe: &Probe, payload: Payload, created: Instant, ttl: Duration) -> Self {
        let fresh = crate::env::after(created, ttl);
        let key = probe.known_key().map_or_else(OnceLock::new, OnceLock::from);
        Self {
            canonical: probe.bytes().into(),
            key,
            payload,
            labels: Labels::default(),
            ttl: fresh.saturating_duration_since(created),
            fresh,
            expires: fresh,
            took: Duration::ZERO,
            cost: None,
            life: OnceLock::new(),
            pace: OnceLock::new(),
        }
    }

    /// What it can be selected by, beside its key and its namespace.
    #[must_use]
    pub fn with_labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// For how long after its time to live it is kept, stale, for those who take it so.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.expires = crate::env::after(self.fresh, grace);
        self
    }

    /// How long it took to make.
    #[must_use]
    pub fn with_took(mut self, took: Duration) -> Self {
        self.took = took;
        self
    }

    /// What it was billed when it was made.
    #[must_use]
    pub fn with_cost(mut self, cost: Option<Cost>) -> Self {
        self.cost = cost;
        self
    }

    /// The life of its key that this entry is, once known.
    pub(super) fn life(&self) -> &OnceLock<Arc<Life>> {
        &self.life
    }

    /// The rhythm of its key, once known.
    pub(super) fn pace(&self) -> &OnceLock<Arc<Pace>> {
        &self.pace
    }

    /// Whether it was stored for exactly this request and has not expired; it may be stale.
    pub fn serves(&self, probe: &Probe) -> bool {
        probe.now() < self.expires && self.is_of(probe)
    }

    /// Whether it was stored for exactly this request, alive or not.
    pub(crate) fn is_of(&self, probe: &Probe) -> bool {
        *self.canonical == *probe.bytes()
    }

    /// The name of its request outside the process. The first use may hash the request.
    pub fn key(&self) -> CacheKey {
        *self.key.get_or_init(|| CacheKey::of(&self.canonical))
    }

    /// The canonical bytes of its request.
    pub(super) fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// The key, if it has been computed.
    pub(super) fn known_key(&self) -> Option<CacheKey> {
        self.key.get().copied()
    }

    /// The namespace it was stored in.
    pub fn namespace(&self) -> &str {
        canonical::namespace(&self.canonical)
    }

    /// What it can be selected by.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// What is stored.
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// The answer, if it is one.
    pub fn completion(&self) -> Option<&Arc<ChatCompletion>> {
        match &self.payload {
            Payload::Chat { completion, .. } => Some(completion),
            _ => None,
        }
    }

    /// The answer as chunks: as they came, or one chunk when it was not streamed. None if it is no answer.
    pub fn chunks(&self) -> Arc<[Arc<ChatChunk>]> {
        match &self.payload {
            Payload::Chat { completion, chunks } if chunks.is_empty() => {
                Arc::from([Arc::new(ChatChunk::from_completion(completion))])
            }
            Payload::Chat { chunks, .. } => Arc::clone(chunks),
            _ => Arc::from([]),
        }
    }

    /// How old it is.
    pub fn age(&self, now: Instant) -> Duration {
        self.age_and_rest(now).0
    }

    /// When it was made.
    pub fn created(&self) -> Instant {
        // It was that instant once, so there is one.
        self.fresh.checked_sub(self.ttl).unwrap_or(self.fresh)
    }

    /// How old it is, and how long it is still fresh.
    fn age_and_rest(&self, now: Instant) -> (Duration, Duration) {
        let rest = self.fresh.saturating_duration_since(now);
        if rest.is_zero() {
            return (self.ttl.saturating_add(now.saturating_duration_since(self.fresh)), rest);
        }
        (self.ttl.saturating_sub(rest), rest)
    }

    /// Until when it is fresh; from then until it expires it is stale.
    pub fn fresh_until(&self) -> Instant {
        self.fresh
    }

    /// When it ceases to be served at all.
    pub fn expires(&self) -> Instant {
        self.expires
    }

    /// How long it took to make.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// What it was billed when it was made, if known.
    pub fn cost(&self) -> Option<Cost> {
        self.cost
    }

    /// About how many bytes of memory it takes: its request, its payload, its labels and fixed parts.
    pub fn weight(&self) -> u64 {
        (self.canonical.len() + size_of::<Self>() + self.payload.weight() + self.labels.weight()) as u64
    }

    /// The answer as a call gives it.
    pub(super) fn respond(&self, trace: Trace) -> ChatResponse {
        let completion = self.completion().map_or_else(Arc::default, Arc::clone);
        let mut response = ChatResponse::new(completion);
        *response.trace_mut() = trace;
        response
    }

    /// The answer as a stream gives it: chunk by chunk as it once came, or as a single chunk.
    pub(super) fn replay(&self, trace: Trace) -> ChatStream {
        let finish = Finish { usage: self.usage().cloned(), trace };
        ChatStream::replay(self.chunks(), finish)
    }

    /// What the answer once used.
    pub(super) fn usage(&self) -> Option<&Usage> {
        self.completion()?.usage.as_ref()
    }

    /// Tokens it once took.
    pub(super) fn tokens(&self) -> u64 {
        let tokens = |usage: &Usage| usage.prompt_tokens.saturating_add(usage.completion_tokens);
        match &self.payload {
            Payload::Vector(vector) => vector.tokens,
            _ => self.usage().map_or(0, tokens),
        }
    }

    /// What a caller is told who gets this answer without an upstream call: nothing billed, this much saved.
    pub(super) fn saved(&self, source: Source, now: Instant) -> Trace {
        let times = matches!(source, Source::Cache(_)).then(|| self.age_and_rest(now));
        Trace {
            source,
            age: times.map(|(age, _)| age),
            ttl_left: times.map(|(_, rest)| rest),
            stale: times.is_some_and(|(_, rest)| rest.is_zero()),
            cost: Some(Cost::ZERO),
            saved: self.cost,
            saved_tokens: self.tokens(),
            ..Trace::default()
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("payload", &self.payload).field("weight", &self.weight()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientInfo;
    use crate::types::{ChatRequest, Choice, Content, Message, Part};
    use serde_json::json;

    #[test]
    fn everything_an_answer_carries_has_a_weight() {
        let now = crate::Env::new().now();
        let probe = Probe::chat(&ClientInfo::new("p"), &ChatRequest::new("m").user("hi"), now);
        let weight = |completion: ChatCompletion| {
            Entry::new(&probe, Arc::new(completion), Arc::from([]), now, Duration::from_secs(1), None).weight()
        };
        let long = "x".repeat(10_000);
        for path in ["/choices/0/logprobs", "/choices/0/more", "/choices/0/message/audio", "/citations"] {
            let mut wire = json!({"choices": [{"message": {"role": "assistant", "content": "hi"}}]});
            let (place, name) = path.rsplit_once('/').unwrap();
            wire.pointer_mut(place).unwrap()[name] = json!({"content": [{"token": long}]});
            let completion = serde_json::from_value(wire).unwrap();
            assert!(weight(completion) > 10_000, "{path}");
        }
        let parts = Message { content: Some(Content::Parts(vec![Part::text(long)])), ..Message::assistant("") };
        let choices = vec![Choice { message: parts, ..Choice::text("") }];
        assert!(weight(ChatCompletion { choices, ..ChatCompletion::default() }) > 10_000);
    }
}
