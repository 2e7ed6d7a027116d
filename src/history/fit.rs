//! What a policy made of a conversation.

use super::Carry;
use super::steps::Kept;
use crate::types::{Content, HistoryTrace, Message, Messages, Part};

/// What a policy made of a conversation: the messages to send, and what was done to them.
#[derive(Debug, Clone)]
pub struct Fit {
    /// The messages to send.
    pub messages: Messages,
    /// What was done.
    pub trace: HistoryTrace,
    /// What to show the next time; nothing to show the same again.
    pub carry: Option<Carry>,
}

impl Fit {
    /// Nothing was done.
    pub fn unchanged(messages: Messages) -> Self {
        Self { messages, trace: HistoryTrace::default(), carry: None }
    }

    /// The next time, this is shown in place of what was shown now.
    #[must_use]
    pub fn carrying(mut self, carry: Carry) -> Self {
        self.carry = Some(carry);
        self
    }

    /// What is sent now is what is shown the next time.
    pub(super) fn carrying_what_is_sent(self) -> Self {
        let carry = Carry::of(self.messages.clone());
        self.carrying(carry)
    }

    /// These messages take so many tokens, tools and all.
    #[must_use]
    pub fn kept(mut self, tokens: u64) -> Self {
        self.trace.kept_tokens = clamped(tokens);
        self
    }

    /// So many tokens were left out.
    #[must_use]
    pub fn trimmed(mut self, tokens: u64) -> Self {
        self.trace.trimmed_tokens = clamped(tokens);
        self
    }
}

/// Tokens as a trace tells them.
pub(super) fn clamped(tokens: u64) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

/// The instructions, and whatever stands at this position or after it.
pub(super) fn from(messages: &Messages, first_kept: usize) -> Messages {
    Kept::all_from(first_kept).of(messages)
}

/// How many tokens so many bytes of text are, learnt from messages that were counted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rate {
    tokens: u64,
    bytes: usize,
}

/// What a message takes beside what it says, as OpenAI counts.
const PER_MESSAGE: u64 = 4;

impl Rate {
    /// Learns from a message that takes so many tokens; not from media, which are tokens without a byte of text.
    pub(super) fn learn(&mut self, message: &Message, tokens: u64) {
        let of_text = |part: &Part| matches!(part, Part::Text { .. });
        if matches!(&message.content, Some(Content::Parts(parts)) if !parts.iter().all(of_text)) {
            return;
        }
        self.tokens = self.tokens.saturating_add(tokens.saturating_sub(PER_MESSAGE));
        self.bytes = self.bytes.saturating_add(length(message));
    }
}

/// The tokens of what stands before this position, instructions excepted: an estimate from its length, at this rate. To
/// count it would cost more than all the rest, and what is left out is told, not billed.
pub(super) fn estimate_before(messages: &Messages, first_kept: usize, rate: Rate) -> u64 {
    let dropped = messages.iter().take(first_kept).filter(|message| !message.role.is_instruction());
    let (count, length) = dropped.fold((0_u64, 0), |(count, sum), message| (count + 1, sum + length(message)));
    // Four bytes a token where nothing else is known; and no token is shorter than a byte.
    let (tokens, bytes, each) = match rate {
        Rate { bytes: 0, .. } => (1, 4, 0),
        Rate { tokens, bytes } => (tokens.min(bytes as u64), bytes, PER_MESSAGE),
    };
    let said: u64 = (length as u128 * u128::from(tokens) / bytes as u128).try_into().unwrap_or(u64::MAX);
    said.saturating_add(count.saturating_mul(each))
}

/// The bytes of text in a message, media not counted.
pub(super) fn length(message: &Message) -> usize {
    let content = match &message.content {
        None => 0,
        Some(Content::Text(text)) => text.len(),
        Some(Content::Parts(parts)) => {
            parts.iter().map(|part| if let Part::Text { text, .. } = part { text.len() } else { 0 }).sum()
        }
    };
    let calls = message.tool_calls.iter().map(|call| call.function.name.len() + call.function.arguments.len());
    content + calls.sum::<usize>()
}
