//! A cheap guess of a request's tokens, better with every answer.
//!
//! Input is the bytes of the text times what this model's tokenizer makes of a byte. Output is what calls of this model
//! and kind were answered with: the mean and one mean deviation above it, so about four in five answers stay within. The
//! longer ones are underestimated: what they took too much is taken from the limit when they end and delays whoever comes
//! then; the longest of them are as many tokens that the provider may see early as there are such calls in flight.

mod learned;

use std::io;

use serde::Serialize;

use crate::types::{ChatBody, Content, EmbedInput, Message, Part, ResponseFormat, Usage};
use learned::{Kind, Learned};

/// What a message costs beside its text: about four tokens.
const MESSAGE_BYTES: u64 = 12;
/// What an image or a sound costs, whatever its bytes: about a thousand tokens.
const MEDIA_BYTES: u64 = 3_000;

/// What a call reserves for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OutputCount {
    /// What this model and kind of call (with tools, with a response format, streamed, and how large its output limit is,
    /// to a power of two) answered before: the mean and one mean deviation, at most the request's own limit. Uses the
    /// limits best, because few answers reach the limit their request sets.
    #[default]
    Predicted,
    /// The request's own limit, and the prediction only where it sets none. For providers that count `max_tokens` when
    /// they admit a call, as OpenAI does: less would be answered with 429 when the limit is nearly used up.
    Limit,
}

/// The learned numbers, without a lock: a lost race loses one sample.
#[derive(Debug)]
pub(super) struct Estimator {
    learned: Learned,
    output: OutputCount,
}

/// The guess for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Estimate {
    pub(super) input: u64,
    pub(super) output: u64,
    pub(super) output_is_guess: bool,
    bytes: u64,
    choices: u64,
    /// What it teaches.
    model: Kind,
    kind: Kind,
}

impl Estimator {
    pub(super) fn new(reply_tokens: u32, output: OutputCount) -> Self {
        Self { learned: Learned::new(reply_tokens), output }
    }

    pub(super) fn chat(&self, body: &ChatBody, streamed: bool) -> Estimate {
        let messages: u64 = body.messages.iter().map(|message| message_bytes(message)).sum();
        let bytes = messages
            + body.tools.iter().map(json_bytes).sum::<u64>()
            + body.response_format.as_ref().map_or(0, json_bytes);
        let choices = u64::from(body.n.unwrap_or(1).max(1));
        let limit = body.output_limit();
        let model = self.learned.model(&body.model);
        let kind = self.learned.kind(&body.model, shape(body, streamed));
        let counts_limit = self.output == OutputCount::Limit;
        let answer = match limit {
            Some(limit) if counts_limit => u64::from(limit),
            Some(limit) => self.learned.answer(kind).min(u64::from(limit)),
            None => self.learned.answer(kind),
        };
        let (input, output) = (self.input(model, bytes), answer.saturating_mul(choices));
        let output_is_guess = !(counts_limit && limit.is_some());
        Estimate { input, output, output_is_guess, bytes, choices, model, kind }
    }

    pub(super) fn embed(&self, model: &str, input: &EmbedInput) -> Estimate {
        let (bytes, tokens) = match input {
            EmbedInput::Text(text) => (text.len(), 0),
            EmbedInput::Texts(texts) => (texts.iter().map(String::len).sum(), 0),
            EmbedInput::Tokens(tokens) => (0, tokens.len()),
            EmbedInput::TokenLists(lists) => (0, lists.iter().map(Vec::len).sum()),
        };
        let (bytes, model) = (bytes as u64, self.learned.model(model));
        let input = self.input(model, bytes) + tokens as u64;
        Estimate { input, output: 0, output_is_guess: false, bytes, choices: 0, model, kind: model }
    }

    fn input(&self, model: Kind, bytes: u64) -> u64 {
        (bytes as f64 * self.learned.tokens_per_byte(model)).ceil() as u64
    }

    /// What a call has used of which so many chunks came, with so many bytes of text: a chunk is a token or more.
    pub(super) fn begun(&self, estimate: &Estimate, chunks: u64, bytes: u64) -> Usage {
        Usage::new(estimate.input, self.input(estimate.model, bytes).max(chunks))
    }

    /// Learns from what the provider counted.
    pub(super) fn learn(&self, estimate: &Estimate, usage: &Usage) {
        if estimate.bytes > 0 && usage.prompt_tokens > 0 {
            self.learned.learn_ratio(estimate.model, usage.prompt_tokens as f64 / estimate.bytes as f64);
        }
        if estimate.choices > 0 && usage.completion_tokens > 0 {
            self.learned.learn_answer(estimate.kind, usage.completion_tokens as f64 / estimate.choices as f64);
        }
    }
}

/// What tells kinds of calls of one model apart.
fn shape(body: &ChatBody, streamed: bool) -> u64 {
    let format = match &body.response_format {
        None | Some(ResponseFormat::Text) => 0,
        Some(_) => 1,
    };
    let size = body.output_limit().map_or(0, |limit| 1 + u64::from(limit.max(1).ilog2()));
    u64::from(!body.tools.is_empty()) | format << 1 | u64::from(streamed) << 2 | size << 3
}

fn message_bytes(message: &Message) -> u64 {
    let content = match &message.content {
        None => 0,
        Some(Content::Text(text)) => text.len() as u64,
        Some(Content::Parts(parts)) => parts.iter().map(part_bytes).sum(),
    };
    let calls = message.tool_calls.iter().map(|call| call.function.name.len() + call.function.arguments.len());
    content + calls.sum::<usize>() as u64 + MESSAGE_BYTES
}

fn part_bytes(part: &Part) -> u64 {
    match part {
        Part::Text { text, .. } => text.len() as u64,
        // Inline media would count as millions of tokens.
        _ => MEDIA_BYTES,
    }
}

/// How long it is on the wire, without writing it.
fn json_bytes(value: &impl Serialize) -> u64 {
    struct Count(u64);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // What cannot be written is not sent either; the client below reports it.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ChatRequest;

    #[test]
    fn starts_at_the_usual_ratio_and_the_given_answer() {
        let estimator = Estimator::new(512, OutputCount::Limit);
        let request = ChatRequest::new("m").user("x".repeat(988));
        let estimate = estimator.chat(&request, false);
        assert_eq!((estimate.input, estimate.output), (300, 512));
        let mut limited = request.max_tokens(100);
        limited.n = Some(3);
        assert_eq!(estimator.chat(&limited, false).output, 300);
    }

    #[test]
    fn learns_and_stays_within_reason() {
        let estimator = Estimator::new(512, OutputCount::Limit);
        let request = ChatRequest::new("m").user("x".repeat(988));
        for _ in 0..200 {
            estimator.learn(&estimator.chat(&request, false), &Usage::new(500, 40));
        }
        let estimate = estimator.chat(&request, false);
        assert!((499..=501).contains(&estimate.input) && (40..=41).contains(&estimate.output), "{estimate:?}");
        for _ in 0..200 {
            estimator.learn(&estimator.chat(&request, false), &Usage::new(u64::MAX, 40));
        }
        assert!(estimator.chat(&request, false).input <= 1_500);
    }

    #[test]
    fn inline_media_and_token_lists_count_as_what_they_are() {
        let estimator = Estimator::new(512, OutputCount::Limit);
        let image = Part::image(format!("data:image/png;base64,{}", "A".repeat(4_000_000)));
        let mut message = Message::user("");
        message.content = Some(Content::Parts(vec![image]));
        assert!(estimator.chat(&ChatRequest::new("m").message(message), false).input < 2_000);
        assert_eq!(estimator.embed("m", &EmbedInput::TokenLists(vec![vec![1, 2], vec![3]])).input, 3);
        assert_eq!(estimator.embed("m", &EmbedInput::Texts(vec!["0123456789".into(); 2])).input, 6);
    }
}
