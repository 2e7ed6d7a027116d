//! OpenAI's own vocabularies, with counts remembered by content.

use super::encoding::Encoding;
use super::image::Images;
use super::memo::Memo;
use super::pieces::pieces;
use super::prompt::Rules;
use super::work::{Work, WorkDone};
use super::{TokenCounter, warm_up};
use crate::types::{ChatBody, Content, Message};

/// Exact token counts for OpenAI models through tiktoken-rs.
///
/// # What is exact, what is published, what is estimated
/// - **Text** is exact: `gpt-4-…`, `gpt-3.5-…` and the embedding models count with `cl100k_base`, all others with
///   `o200k_base`. For models of other providers that is an estimate, and mostly too low:
///   [`Counters`](super::Counters) has better.
/// - **Messages** are published: 3 tokens beside role, text and name, 1 for a name, and 3 that prime the reply (OpenAI
///   cookbook, "How to count tokens with tiktoken"). What a tool call costs is not; it counts as a message of its name
///   and arguments.
/// - **Tools** are published for gpt-4o, gpt-4 and gpt-3.5-turbo and flat properties (the same page,
///   `num_tokens_for_tools`); taken for all models, and for nested properties likewise. What the rule does not know, such
///   as `anyOf` or `default`, counts as its JSON text, and so does a response schema: that is more than it is billed.
/// - **Images** are published (OpenAI, "Images and vision"): by tiles of 512 px or patches of 32 px, as the model has
///   it. The size is read from the head of a PNG, JPEG, GIF or WebP in a data URL; an image behind an address, or of
///   another form, is taken for 1024 x 1024.
/// - **Sound** is published at 10 tokens a second; how long it is is guessed from its bytes. **Files** are an estimate:
///   1,500 tokens for each 64 KiB of base64, at most 30,000. No inline data is ever counted as text.
///
/// # Memory and time
/// Counts are remembered by content (65,536 texts, 1 MB), so a message counted again costs a hash and a look-up: 0.1
/// us for 600 bytes. A text not seen before costs 30 to 55 ns a byte in `o200k_base`, by its script, up to 85 in
/// `cl100k_base`, up to 160 where one run goes on for long (`cargo bench --bench tokens`, on one machine), and up to 190
/// where each sign is a token. Of plain English it costs a quarter, 6 to 7, and of code three quarters to all, because a
/// word, a number or a sign in ASCII that is a token of its own is looked up, and only the rest is handed to the tokenizer;
/// where single words stand between stretches that are none, up to half more. The first count builds the vocabulary: 150 to
/// 300 ms and 52 MB for `o200k_base`, of which its words are a quarter of the time and 6 MB; [`warm_up`](Self::warm_up)
/// moves that to where it does not hurt.
///
/// No faster engine can be chosen. Of those that were measured on 2 KB of chat, where tiktoken-rs takes 56 us, bpe-openai
/// is exact too and takes 38, for a binary 35 MB larger; `tiktoken` 3.8 takes 4, but counted one text in 200,000
/// differently and reads random Unicode at 0.3 MB/s. Each message is counted once, and most of an English one by looking
/// its words up, so either would save microseconds.
///
/// # The guard
/// No text makes it panic, and none costs worse than linear time. A text of more than 32 KiB is counted in pieces of at
/// most 32 KiB that end where both vocabularies always end a token, so that the count is exact: before a blank, between a
/// digit and another sign, after a letter of Latin, Chinese, Japanese or Korean. Only a run of more than 32 KiB without
/// any such place (blanks, one letter, emoji) is cut through, numerals after every third as they match, and 4 tokens are
/// added for each cut: of 1,700,000 cuts through such runs, half of them sought out to be bad, none had made a count
/// smaller by more than 3, nor larger by more than 6. The count of such a run is then 1 to 10 tokens for each 32 KiB too
/// high, as far as that was found and not proven, and all around it is exact.
#[derive(Debug)]
pub struct Tiktoken {
    memo: Memo,
    work: WorkDone,
}

/// What a cut is taken to have saved, generously.
const PER_CUT: u64 = 4;

/// Tells tools in the memo from texts.
const OF_TOOLS: u8 = 1 << 7;

impl Tiktoken {
    /// A counter with an empty memory.
    pub fn new() -> Self {
        Self { memo: Memo::new(), work: WorkDone::default() }
    }

    /// Builds the vocabulary of this model now: 150 to 300 ms. Blocks; call it at start-up or from `spawn_blocking`.
    pub fn warm_up(&self, model: &str) {
        warm_up(model);
    }

    /// What was tokenized so far, words that were looked up included. Never more bytes than the texts that were not remembered have.
    pub fn work(&self) -> Work {
        self.work.read()
    }

    fn count(&self, encoding: Encoding, text: &str) -> u64 {
        if text.is_empty() {
            return 0;
        }
        self.memo.get_or(encoding as u8, text.as_bytes(), || self.count_now(encoding, text))
    }

    fn count_now(&self, encoding: Encoding, text: &str) -> u64 {
        let each = pieces(text).map(|piece| {
            self.work.add(piece.text.len(), piece.cut);
            // It never gave up on so short a piece; if it does, no token is shorter than a byte.
            let count = |text: &str| encoding.count(text).unwrap_or(text.len() as u64);
            let tokens = encoding.words().count(piece.text, count);
            tokens + if piece.cut { PER_CUT } else { 0 }
        });
        // Where most bytes are tokens, what is added for cuts would be more than there can be.
        each.sum::<u64>().min(text.len() as u64)
    }
}

/// OpenAI cookbook: every message follows `<|start|>{role/name}\n{content}<|end|>\n`; a function starts with 7 tokens in
/// the newer vocabulary and 10 in the older.
fn rules(encoding: Encoding, images: Images) -> Rules {
    let per_function = if encoding == Encoding::O200k { 7 } else { 10 };
    Rules { per_message: 3, per_name: 1, per_reply: 3, per_function, per_tools: 0, images }
}

impl TokenCounter for Tiktoken {
    fn text(&self, model: &str, text: &str) -> u64 {
        self.count(Encoding::of(model), text)
    }

    fn message(&self, model: &str, message: &Message) -> u64 {
        let encoding = Encoding::of(model);
        // What an image costs is looked up where there may be one.
        let images =
            if matches!(message.content, Some(Content::Parts(_))) { Images::of(model) } else { Images::COMMON };
        rules(encoding, images).message(message, &|text| self.count(encoding, text))
    }

    fn request(&self, body: &ChatBody) -> u64 {
        let messages = body.messages.iter().map(|message| self.message(&body.model, message));
        messages.fold(self.overhead(body), u64::saturating_add)
    }

    fn overhead(&self, body: &ChatBody) -> u64 {
        let encoding = Encoding::of(&body.model);
        let rules = rules(encoding, Images::of(&body.model));
        let tools = if body.tools.is_empty() {
            0
        } else {
            // One look-up for all of them. What cannot be written as JSON cannot be sent either.
            let written = serde_json::to_vec(&body.tools).unwrap_or_default();
            self.memo.get_or(encoding as u8 | OF_TOOLS, &written, || {
                rules.tools(&body.tools, &|text| self.count(encoding, text))
            })
        };
        rules.beside(body, &|text| self.count(encoding, text), tools)
    }

    fn uncounted(&self, model: &str, message: &Message) -> usize {
        let encoding = Encoding::of(model) as u8;
        let calls = message.tool_calls.iter().map(|call| call.function.arguments.as_str());
        let unknown = message.texts().chain(calls).filter(|text| !self.memo.has(encoding, text.as_bytes()));
        unknown.map(str::len).sum()
    }
}

impl Default for Tiktoken {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ChatRequest, Part, Tool};

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
    fn counts_the_cookbook_tools() {
        // The cookbook's example: 101 tokens for gpt-4o, 105 for gpt-4, as billed by the API.
        let request = |model: &str| {
            let parameters = serde_json::json!({
                "type": "object",
                "properties": {
                    "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                    "unit": {
                        "type": "string", "description": "The unit of temperature to return", "enum": ["celsius", "fahrenheit"]
                    }
                },
                "required": ["location"]
            });
            ChatRequest::new(model)
                .system("You are a helpful assistant that can answer to questions about the weather.")
                .user("What's the weather like in San Francisco?")
                .tool(Tool::function("get_current_weather", "Get the current weather in a given location", parameters))
        };
        let counter = Tiktoken::new();
        assert_eq!(counter.request(&request("gpt-4o")), 101);
        assert_eq!(counter.request(&request("gpt-4")), 105);
        let work = counter.work();
        assert_eq!(counter.request(&request("gpt-4o")), 101, "and again from memory");
        assert_eq!(counter.work(), work);
    }

    #[test]
    fn what_a_schema_nests_is_counted() {
        let cost = |schema: serde_json::Value| {
            let body = ChatRequest::new("gpt-5").tool(Tool::function("f", "", schema));
            Tiktoken::new().overhead(&body)
        };
        let long = "a description of a dozen words or so that nobody would want to miss";
        let inner = serde_json::json!({"type": "string", "description": long});
        let plain = cost(serde_json::json!({"type": "object", "properties": {}}));
        for schema in [
            serde_json::json!({"properties": {"a": {"type": "object", "properties": {"b": inner}}}}),
            serde_json::json!({"properties": {"a": {"type": "array", "items": inner}}}),
            serde_json::json!({"properties": {"a": {"anyOf": [inner, {"type": "null"}]}}}),
            serde_json::json!({"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": inner}}),
            serde_json::json!(long),
        ] {
            assert!(cost(schema.clone()) > plain + 12, "{schema}");
        }
        assert_eq!(Tiktoken::new().overhead(&ChatRequest::new("gpt-5")), 3, "the reply alone");
    }

    #[test]
    fn what_was_counted_is_known() {
        let counter = Tiktoken::new();
        let message = Message::user("eleven byte");
        assert_eq!(counter.uncounted("gpt-5", &message), 11);
        counter.message("gpt-5", &message);
        assert_eq!(counter.uncounted("gpt-5", &message), 0);
        assert_eq!(counter.uncounted("gpt-4", &message), 11, "by another vocabulary");
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
