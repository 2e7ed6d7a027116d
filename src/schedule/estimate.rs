//! A cheap guess of a request's tokens, better with every answer.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::types::{ChatBody, Content, EmbedInput, Message, Part, Usage};

/// What English text has in the common vocabularies: a little under four bytes per token, and some for the rest.
const FIRST_RATIO: f64 = 0.30;
/// Outside of this a sample says more about the provider's counting than about text.
const RATIOS: (f64, f64) = (0.05, 1.5);
/// How much a new sample counts. One in sixteen: it settles within a few dozen calls and is not thrown by one.
const WEIGHT: f64 = 1.0 / 16.0;
/// What a message costs beside its text: about four tokens.
const MESSAGE_BYTES: u64 = 12;
/// What an image or a sound costs, whatever its bytes: about a thousand tokens.
const MEDIA_BYTES: u64 = 3_000;

/// The learned numbers, without a lock: a lost race loses one sample.
#[derive(Debug)]
pub(super) struct Estimator {
    tokens_per_byte: AtomicU64,
    tokens_per_answer: AtomicU64,
}

/// The guess for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Estimate {
    pub(super) input: u64,
    pub(super) output: u64,
    pub(super) output_is_guess: bool,
    bytes: u64,
    choices: u64,
}

impl Estimator {
    pub(super) fn new(reply_tokens: u32) -> Self {
        Self {
            tokens_per_byte: AtomicU64::new(FIRST_RATIO.to_bits()),
            tokens_per_answer: AtomicU64::new(f64::from(reply_tokens).to_bits()),
        }
    }

    pub(super) fn chat(&self, body: &ChatBody) -> Estimate {
        let messages: u64 = body.messages.iter().map(|message| message_bytes(message)).sum();
        let bytes = messages
            + body.tools.iter().map(json_bytes).sum::<u64>()
            + body.response_format.as_ref().map_or(0, json_bytes);
        let choices = u64::from(body.n.unwrap_or(1).max(1));
        let answer = body.output_limit().map_or_else(|| read(&self.tokens_per_answer).ceil() as u64, u64::from);
        let (input, output) = (self.input(bytes), answer.saturating_mul(choices));
        Estimate { input, output, output_is_guess: body.output_limit().is_none(), bytes, choices }
    }

    pub(super) fn embed(&self, input: &EmbedInput) -> Estimate {
        let (bytes, tokens) = match input {
            EmbedInput::Text(text) => (text.len(), 0),
            EmbedInput::Texts(texts) => (texts.iter().map(String::len).sum(), 0),
            EmbedInput::Tokens(tokens) => (0, tokens.len()),
            EmbedInput::TokenLists(lists) => (0, lists.iter().map(Vec::len).sum()),
        };
        let bytes = bytes as u64;
        let input = self.input(bytes) + tokens as u64;
        Estimate { input, output: 0, output_is_guess: false, bytes, choices: 0 }
    }

    fn input(&self, bytes: u64) -> u64 {
        (bytes as f64 * read(&self.tokens_per_byte)).ceil() as u64
    }

    /// Learns from what the provider counted.
    pub(super) fn learn(&self, estimate: &Estimate, usage: &Usage) {
        if estimate.bytes > 0 && usage.prompt_tokens > 0 {
            let ratio = usage.prompt_tokens as f64 / estimate.bytes as f64;
            blend(&self.tokens_per_byte, ratio.clamp(RATIOS.0, RATIOS.1));
        }
        if estimate.choices > 0 && usage.completion_tokens > 0 {
            blend(&self.tokens_per_answer, usage.completion_tokens as f64 / estimate.choices as f64);
        }
    }
}

fn read(cell: &AtomicU64) -> f64 {
    f64::from_bits(cell.load(Ordering::Relaxed))
}

fn blend(cell: &AtomicU64, sample: f64) {
    let old = read(cell);
    cell.store((old + (sample - old) * WEIGHT).to_bits(), Ordering::Relaxed);
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
        let estimator = Estimator::new(512);
        let request = ChatRequest::new("m").user("x".repeat(988));
        let estimate = estimator.chat(&request);
        assert_eq!((estimate.input, estimate.output), (300, 512));
        let mut limited = request.max_tokens(100);
        limited.n = Some(3);
        assert_eq!(estimator.chat(&limited).output, 300);
    }

    #[test]
    fn learns_and_stays_within_reason() {
        let estimator = Estimator::new(512);
        let request = ChatRequest::new("m").user("x".repeat(988));
        for _ in 0..200 {
            estimator.learn(&estimator.chat(&request), &Usage::new(500, 40));
        }
        let estimate = estimator.chat(&request);
        assert!((499..=501).contains(&estimate.input) && (40..=41).contains(&estimate.output), "{estimate:?}");
        for _ in 0..200 {
            estimator.learn(&estimator.chat(&request), &Usage::new(u64::MAX, 40));
        }
        assert!(estimator.chat(&request).input <= 1_500);
    }

    #[test]
    fn inline_media_and_token_lists_count_as_what_they_are() {
        let estimator = Estimator::new(512);
        let image = Part::image(format!("data:image/png;base64,{}", "A".repeat(4_000_000)));
        let mut message = Message::user("");
        message.content = Some(Content::Parts(vec![image]));
        assert!(estimator.chat(&ChatRequest::new("m").message(message)).input < 2_000);
        assert_eq!(estimator.embed(&EmbedInput::TokenLists(vec![vec![1, 2], vec![3]])).input, 3);
        assert_eq!(estimator.embed(&EmbedInput::Texts(vec!["0123456789".into(); 2])).input, 6);
    }
}
