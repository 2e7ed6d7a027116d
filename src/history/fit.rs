//! What a policy made of a conversation.

use std::sync::Arc;

use crate::types::{Content, HistoryTrace, Message, Messages, Part};

/// What a policy made of a conversation: the messages to send, and what was done to them.
#[derive(Debug, Clone)]
pub struct Fit {
    /// The messages to send.
    pub messages: Messages,
    /// What was done.
    pub trace: HistoryTrace,
}

impl Fit {
    /// Nothing was done.
    pub fn unchanged(messages: Messages) -> Self {
        Self { messages, trace: HistoryTrace::default() }
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
    let kept = messages.iter().enumerate().filter(|(at, message)| *at >= first_kept || message.role.is_instruction());
    kept.map(|(_, message)| Arc::clone(message)).collect()
}

/// The tokens of what stands before this position, instructions excepted: an estimate from its length, at so many tokens
/// for so many bytes. To count it would cost more than all the rest, and what is left out is told, not billed.
pub(super) fn estimate_before(messages: &Messages, first_kept: usize, tokens: u64, bytes: usize) -> u64 {
    let dropped = messages[..first_kept].iter().filter(|message| !message.role.is_instruction());
    let dropped: usize = dropped.map(|message| length(message)).sum();
    // Four bytes a token where nothing else is known.
    let (tokens, bytes) = if bytes == 0 { (1, 4) } else { (tokens, bytes) };
    (dropped as u128 * u128::from(tokens) / bytes as u128).try_into().unwrap_or(u64::MAX)
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
