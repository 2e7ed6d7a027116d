//! OpenAI's own vocabularies, with counts remembered by content.

use std::collections::HashSet;
use std::fmt;

use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use tiktoken_rs::CoreBPE;

use super::TokenCounter;
use crate::fingerprint::{ByFingerprint, fingerprint};
use crate::types::{ChatBody, ImageDetail, Message, Part, ResponseFormat};

/// Exact token counts for OpenAI models through tiktoken-rs.
///
/// - `gpt-4-…`, `gpt-3.5-…` and the older embedding models count with `cl100k_base`, all others with `o200k_base`. For
///   models of other providers that is an estimate: within about 15 % on English prose for those that publish theirs.
/// - A message costs 3 tokens beside its role, text and name, and the reply is primed with 3
///   (OpenAI cookbook, "How to count tokens with tiktoken"). OpenAI does not publish how it renders tools and schemas:
///   they count as their JSON text.
/// - An image counts 85 tokens at low detail and 765 otherwise (a 1024 x 1024 image in four 512 px tiles, OpenAI vision
///   guide), sound 10 tokens per second of 16-bit mono at 16 kHz. Inline base64 data is never counted as text.
///
/// Counts are remembered by content (up to 65,536 texts, about 4 MB), so a message counted again costs a hash and a
/// lookup. The first count builds the vocabulary: about 100 ms and 46 MB for `o200k_base`; [`warm_up`](Self::warm_up)
/// moves that to where it does not hurt. No text makes it panic: where the tokenizer's regular expression gives up (a
/// megabyte of blanks does that), the text is counted in pieces, which can only overstate it, by a token per piece.
pub struct Tiktoken {
    memo: Cache<u128, u32, UnitWeighter, ByFingerprint, DefaultLifecycle<u128, u32>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Cl100k,
    O200k,
}

impl Encoding {
    fn of(model: &str) -> Self {
        // `openai/gpt-4`, `ft:gpt-3.5-turbo:org::id` and Azure's `gpt-35-turbo` are what they say.
        let model = model.rsplit('/').next().unwrap_or(model);
        let model = model.strip_prefix("ft:").unwrap_or(model);
        let newer = ["gpt-4o", "gpt-4.1", "gpt-4.5"];
        let older = ["gpt-4", "gpt-3.5", "gpt-35", "text-embedding-"];
        let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| model.starts_with(prefix));
        if starts(&older) && !starts(&newer) { Self::Cl100k } else { Self::O200k }
    }

    fn vocabulary(self) -> &'static CoreBPE {
        match self {
            Self::Cl100k => tiktoken_rs::cl100k_base_singleton(),
            Self::O200k => tiktoken_rs::o200k_base_singleton(),
        }
    }
}

/// OpenAI cookbook: every message follows `<|start|>{role/name}\n{content}<|end|>\n`.
const PER_MESSAGE: u64 = 3;
const PER_REPLY: u64 = 3;
const IMAGE_LOW: u64 = 85;
const IMAGE_HIGH: u64 = 765;
/// Pieces a text is counted in after the tokenizer gave up on the whole; far below where it gives up.
const PIECE: usize = 64 * 1024;

impl Tiktoken {
    /// A counter with an empty memory.
    pub fn new() -> Self {
        let memo = Cache::with(1 << 16, 1 << 16, UnitWeighter, ByFingerprint::default(), DefaultLifecycle::default());
        Self { memo }
    }

    /// Builds the vocabulary of this model now: about 100 ms. Blocks; call it at start-up or from `spawn_blocking`.
    pub fn warm_up(&self, model: &str) {
        Encoding::of(model).vocabulary();
    }

    fn count(&self, encoding: Encoding, text: &str) -> u64 {
        if text.is_empty() {
            return 0;
        }
        let key = fingerprint(text.as_bytes()) ^ encoding as u128;
        if let Some(count) = self.memo.get(&key) {
            return u64::from(count);
        }
        let count = count_now(encoding.vocabulary(), text);
        self.memo.insert(key, u32::try_from(count).unwrap_or(u32::MAX));
        count
    }

    fn part(&self, encoding: Encoding, part: &Part) -> u64 {
        match part {
            Part::Text { text, .. } => self.count(encoding, text),
            Part::ImageUrl { image_url, .. } if image_url.detail == Some(ImageDetail::Low) => IMAGE_LOW,
            Part::ImageUrl { .. } => IMAGE_HIGH,
            Part::InputAudio { input_audio, .. } => {
                let seconds = input_audio.data.len() as u64 * 3 / 4 / 32_000;
                10 * (seconds + 1)
            }
            // Unknown parts are mostly files in base64: a quarter token a byte, but never an absurd sum.
            Part::Other(value) => (value.to_string().len() as u64 / 4).min(IMAGE_HIGH),
        }
    }

    fn json(&self, encoding: Encoding, value: &impl serde::Serialize) -> u64 {
        serde_json::to_string(value).map_or(0, |text| self.count(encoding, &text))
    }
}

fn count_now(vocabulary: &CoreBPE, text: &str) -> u64 {
    // The fallible call: the infallible ones unwrap the regular expression's stack overflow.
    if let Ok((tokens, _)) = vocabulary.encode(text, &HashSet::new()) {
        return tokens.len() as u64;
    }
    if text.len() <= PIECE {
        // Never seen; a token has at least one byte, so the bytes are an upper bound.
        return text.len() as u64;
    }
    let mut rest = text;
    let mut count = 0;
    while !rest.is_empty() {
        let mut end = PIECE.min(rest.len());
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, tail) = rest.split_at(end);
        count += count_now(vocabulary, piece);
        rest = tail;
    }
    count
}

impl TokenCounter for Tiktoken {
    fn text(&self, model: &str, text: &str) -> u64 {
        self.count(Encoding::of(model), text)
    }

    fn message(&self, model: &str, message: &Message) -> u64 {
        use crate::types::Content;
        let encoding = Encoding::of(model);
        let content = match &message.content {
            None => 0,
            Some(Content::Text(text)) => self.count(encoding, text),
            Some(Content::Parts(parts)) => parts.iter().map(|part| self.part(encoding, part)).sum(),
        };
        let name = message.name.as_ref().map_or(0, |name| 1 + self.count(encoding, name));
        let calls = message.tool_calls.iter().map(|call| {
            PER_MESSAGE + self.count(encoding, &call.function.name) + self.count(encoding, &call.function.arguments)
        });
        let refusal = message.refusal.as_ref().map_or(0, |text| self.count(encoding, text));
        PER_MESSAGE + self.count(encoding, message.role.as_str()) + content + name + calls.sum::<u64>() + refusal
    }

    fn request(&self, body: &ChatBody) -> u64 {
        let encoding = Encoding::of(&body.model);
        let messages: u64 = body.messages.iter().map(|message| self.message(&body.model, message)).sum();
        let tools: u64 = body.tools.iter().map(|tool| self.json(encoding, tool)).sum();
        let format = match &body.response_format {
            Some(ResponseFormat::JsonSchema { json_schema }) => self.json(encoding, json_schema),
            Some(ResponseFormat::Other(format)) => self.json(encoding, format),
            _ => 0,
        };
        messages + tools + format + PER_REPLY
    }
}

impl Default for Tiktoken {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tiktoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiktoken").field("remembered", &self.memo.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ChatRequest;

    #[test]
    fn counts_the_cookbook_conversation() {
        // The cookbook's example prompt: 124 tokens for gpt-4o, 129 for gpt-4, as billed by the API.
        let system = |name: &str, text: &str| Message { name: Some(name.into()), ..Message::system(text) };
        let request = |model: &str| {
            ChatRequest::new(model)
                .system("You are a helpful, pattern-following assistant that translates corporate jargon into plain English.")
                .message(system("example_user", "New synergies will help drive top-line growth."))
                .message(system("example_assistant", "Things working well together will increase revenue."))
                .message(system("example_user", "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage."))
                .message(system("example_assistant", "Let's talk later when we're less busy about how to do better."))
                .user("This late pivot means we don't have time to boil the ocean for the client deliverable.")
        };
        let counter = Tiktoken::new();
        assert_eq!(counter.request(&request("gpt-4o")), 124);
        assert_eq!(counter.request(&request("gpt-4")), 129);
        assert_eq!(counter.request(&request("gpt-4o")), 124, "and again from memory");
    }

    #[test]
    fn survives_what_overflows_the_regular_expression() {
        let counter = Tiktoken::new();
        let blanks = counter.text("gpt-5", &" ".repeat(1_000_000));
        assert!((1..=1_000_000).contains(&blanks), "{blanks}");
    }

    #[test]
    fn a_schema_counts_whatever_it_is_wrapped_in() {
        let request = |format: serde_json::Value| {
            let mut request = ChatRequest::new("gpt-4o").user("hi");
            request.response_format = serde_json::from_value(format).ok();
            Tiktoken::new().request(&request)
        };
        let schema =
            serde_json::json!({"properties": {"a": {"type": "string", "description": "one of several words"}}});
        let plain = request(serde_json::json!({"type": "json_object"}));
        let wrapped = serde_json::json!({"type": "json_object", "schema": schema});
        assert!(request(wrapped) > plain + 10);
    }

    #[test]
    fn inline_images_are_not_text() {
        let url = format!("data:image/png;base64,{}", "A".repeat(1_000_000));
        let message =
            Message { content: Some(crate::types::Content::Parts(vec![Part::image(url)])), ..Message::user("") };
        assert!(Tiktoken::new().message("gpt-4o", &message) < 1_000);
    }
}
