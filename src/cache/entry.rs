//! One stored answer.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{CacheKey, Probe};
use crate::types::{
    ChatChunk, ChatCompletion, ChatResponse, ChatStream, Choice, Content, Cost, Extra, Finish, Message, Part, Source,
    Trace, Usage,
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

    /// When it was made.
    pub fn created(&self) -> Instant {
        self.created
    }

    /// When it ceases to be served.
    pub fn expires(&self) -> Instant {
        self.expires
    }

    /// Whether it was stored for exactly this request, alive or not.
    #[cfg(feature = "_envelope")]
    pub(crate) fn is_of(&self, probe: &Probe) -> bool {
        *self.canonical == *probe.bytes()
    }

    /// The chunks it came in; none if it was not streamed.
    #[cfg(feature = "_envelope")]
    pub(crate) fn streamed(&self) -> &[Arc<ChatChunk>] {
        &self.chunks
    }

    /// What it was billed when it was made, if known.
    pub fn cost(&self) -> Option<Cost> {
        self.cost
    }

    /// About how many bytes of memory it takes: its request, its texts, log probabilities and unknown fields twice if it
    /// was streamed, and fixed parts.
    pub fn weight(&self) -> u64 {
        const CHUNK: usize = size_of::<ChatChunk>() + 256;
        let choice_bytes = |choice: &Choice| {
            let logprobs = choice.logprobs.as_ref().map_or(0, value_bytes);
            text_bytes(&choice.message) + logprobs + extra_bytes(&choice.extra)
        };
        let choices: usize = self.completion.choices.iter().map(choice_bytes).sum();
        let texts = choices + extra_bytes(&self.completion.extra);
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
        Some(Content::Parts(parts)) => parts.iter().map(part_bytes).sum(),
    };
    let calls = message.tool_calls.iter().map(|call| 256 + call.function.name.len() + call.function.arguments.len());
    content + calls.sum::<usize>() + extra_bytes(&message.extra)
}

fn part_bytes(part: &Part) -> usize {
    256 + match part {
        Part::Text { text, .. } => text.len(),
        Part::ImageUrl { image_url, .. } => image_url.url.len(),
        Part::InputAudio { input_audio, .. } => input_audio.data.len(),
        Part::Other(value) => value_bytes(value),
    }
}

fn extra_bytes(extra: &Extra) -> usize {
    extra.iter().map(|(name, value)| 64 + name.len() + value_bytes(value)).sum()
}

fn value_bytes(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(value_bytes).sum(),
            Value::Object(map) => extra_bytes(map),
        }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("weight", &self.weight())
            .field("chunks", &self.chunks.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientInfo;
    use crate::types::ChatRequest;
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
