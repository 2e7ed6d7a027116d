//! The prompt: instructions, the summary, and the turns that are sent as they are.

use std::sync::Arc;

use super::clip::clip;
use super::cuts::Counted;
use crate::error::{Error, ErrorKind, Result};
use crate::history::carry::with_summary;
use crate::history::fit::{clamped, from};
use crate::history::{Fit, TokenBudget};
use crate::types::{Message, Messages};

/// How the message that carries a summary begins.
const HEADER: &str = "Summary of the conversation so far:";

/// Said by the user, not as an instruction: what was quoted from a conversation must not gain authority by it.
pub(super) fn message(summary: &str) -> Message {
    Message::user(format!("{HEADER}\n\n{summary}"))
}

/// The summary that such a message carries.
pub(super) fn text_of(message: &Message) -> Option<String> {
    Some(message.text().strip_prefix(HEADER)?.strip_prefix("\n\n")?.to_owned())
}

/// A summary of everything said before the start of a turn.
#[derive(Clone)]
pub(super) struct Summary {
    pub(super) end: usize,
    pub(super) text: Arc<str>,
    /// The message that carries it, whole.
    pub(super) message: Arc<Message>,
}

impl Summary {
    pub(super) fn new(end: usize, text: Arc<str>) -> Self {
        let message = Arc::new(message(&text));
        Self { end, text, message }
    }
}

/// What a prompt is made of.
pub(super) struct Prompt<'a> {
    pub(super) messages: &'a Messages,
    pub(super) counted: &'a Counted,
    pub(super) budget: &'a TokenBudget<'a>,
    /// What it may take.
    pub(super) limit: u64,
    /// What the summary may take of that.
    pub(super) reserve: u64,
    /// What is said in none of the messages, only in the summary.
    pub(super) before: u64,
}

impl Prompt<'_> {
    /// With this summary of everything before a turn, if there is one, and as many of the turns since as fit.
    pub(super) fn assemble(&self, summary: Option<&Summary>) -> Result<Fit> {
        let Self { messages, counted, budget, limit, reserve, before } = *self;
        let (first, last) = counted.ends().unwrap_or((messages.len(), messages.len()));
        let least = counted.fixed().saturating_add(counted.said_from(last));
        if least > limit {
            let text = format!(
                "instructions and the last turn take {least} tokens, {limit} are allowed: shorten them or allow more"
            );
            return Err(Error::new(ErrorKind::ContextLength, "history", text));
        }
        let room = reserve.min(limit - least);
        // What a summary stands for is not sent, not even where there is no room for the summary.
        let end = summary.map_or(first, |summary| summary.end);
        let covered = before.saturating_add(counted.said(first..end));
        let summary = summary.and_then(|summary| {
            let clipped = clip(&summary.text, |text| budget.message(&message(text)) <= room)?;
            let whole = *clipped == *summary.text;
            Some(if whole { Arc::clone(&summary.message) } else { Arc::new(message(&clipped)) })
        });
        let taken = summary.as_ref().map_or(0, |message| budget.message(message));
        let total = |start: usize| counted.fixed().saturating_add(taken).saturating_add(counted.said_from(start));
        let mut starts = counted.turns.iter().map(|turn| turn.start).filter(|start| *start >= end);
        let start = starts.find(|start| total(*start) <= limit).unwrap_or(last);

        let mut fit = Fit::unchanged(messages.clone()).kept(total(start));
        let left_out = counted.said(end..start);
        if start > first {
            fit.messages = from(messages, start);
        }
        let Some(summary) = summary else { return Ok(fit.trimmed(left_out.saturating_add(covered))) };
        fit.trace.summarized_tokens = clamped(covered);
        fit.messages = with_summary(fit.messages, summary);
        Ok(fit.trimmed(left_out))
    }
}
