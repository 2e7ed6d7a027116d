//! One stored answer.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{CacheKey, Probe};
use crate::types::{
    ChatChunk, ChatCompletion, ChatResponse, ChatStream, Content, Cost, Finish, Message, Source, Trace, Usage,
};

/// One answer, with the chunks it came in if it was streamed. It serves calls and streams alike.
pub struct Entry {
    canonical: Box<[u8]>,
    completion: Arc<ChatCompletion>,
    chunks: Arc<[Arc<ChatChunk>]>,
    created: Instant,
    expires: Instant,
    cost: Option<Cost>,
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
        let expires = crate::env::after(created, ttl);
        Self { canonical: probe.bytes().into(), completion, chunks, created, expires, cost }
    }

    /// Whether it was stored for exactly this request and is still alive.
    pub fn serves(&self, probe: &Probe) -> bool {
        probe.now() < self.expires && *self.canonical == *probe.bytes()
    }

    /// The name of its request outside the process; hashes the request anew each time.
    pub fn key(&self) -> CacheKey {
        CacheKey::of(&self.canonical)
    }

    /// The answer.
    pub fn completion(&self) -> &Arc<ChatCompletion> {
        &self.completion
    }

    /// When it ceases to be served.
    pub fn expires(&self) -> Instant {
        self.expires
    }

    /// What it was billed when it was made, if known.
    pub fn cost(&self) -> Option<Cost> {
        self.cost
    }

    /// About how many bytes of memory it takes: its request, its texts twice if it was streamed, and fixed parts.
    pub fn weight(&self) -> u64 {
        const CHUNK: usize = size_of::<ChatChunk>() + 256;
        let texts: usize = self.completion.choices.iter().map(|choice| text_bytes(&choice.message)).sum();
        let fixed = 512 + 512 * self.completion.choices.len();
        (self.canonical.len() + texts * (1 + usize::from(!self.chunks.is_empty())) + fixed + CHUNK * self.chunks.len())
            as u64
    }

    /// The answer as a call gives it.
    pub(super) fn respond(&self, trace: Trace) -> ChatResponse {
        let mut response = ChatResponse::new(Arc::clone(&self.completion));
        *response.trace_mut() = trace;
        response
    }

    /// The answer as a stream gives it: chunk by chunk as it once came, or as a single chunk.
    pub(super) fn replay(&self, trace: Trace) -> ChatStream {
        let finish = Finish { usage: self.completion.usage.clone(), trace };
        ChatStream::replay(self.chunks(), finish)
    }

    /// The answer as chunks: as they came, or one chunk when it was not streamed.
    pub fn chunks(&self) -> Arc<[Arc<ChatChunk>]> {
        if self.chunks.is_empty() {
            Arc::from([Arc::new(ChatChunk::from_completion(&self.completion))])
        } else {
            Arc::clone(&self.chunks)
        }
    }

    /// What a caller is told who gets this answer without an upstream call: nothing billed, this much saved.
    pub(super) fn saved(&self, source: Source, now: Instant) -> Trace {
        let tokens = |usage: &Usage| usage.prompt_tokens.saturating_add(usage.completion_tokens);
        Trace {
            source,
            age: matches!(source, Source::Cache(_)).then(|| now.saturating_duration_since(self.created)),
            cost: Some(Cost::ZERO),
            saved: self.cost,
            saved_tokens: self.completion.usage.as_ref().map_or(0, tokens),
            ..Trace::default()
        }
    }

    /// Whether it may be kept: every choice came to a proper end, says something, and refuses nothing.
    pub(super) fn is_storable(&self) -> bool {
        let says = |message: &Message| !message.tool_calls.is_empty() || message.texts().any(|text| !text.is_empty());
        self.completion.is_complete()
            && self.completion.choices.iter().all(|c| says(&c.message) && c.message.refusal.is_none())
    }
}

fn text_bytes(message: &Message) -> usize {
    let content = match &message.content {
        None => 0,
        Some(Content::Text(text)) => text.len(),
        Some(Content::Parts(parts)) => parts.len() * 256,
    };
    let calls = message.tool_calls.iter().map(|call| 256 + call.function.name.len() + call.function.arguments.len());
    let extra = message.extra.values().map(|value| value.as_str().map_or(256, str::len));
    content + calls.sum::<usize>() + extra.sum::<usize>()
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("weight", &self.weight())
            .field("chunks", &self.chunks.len())
            .finish_non_exhaustive()
    }
}
