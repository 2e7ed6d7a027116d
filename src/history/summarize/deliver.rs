//! The prompt: instructions, the summary, and the turns that are sent as they are.

use std::sync::Arc;

use super::clip::clip;
use super::cuts::Counted;
use crate::error::{Error, ErrorKind, Result};
use crate::history::{Fit, TokenBudget};
use crate::types::{Message, Messages};

/// How the message that carries a summary begins.
const HEADER: &str = "Summary of the conversation so far:";

/// Said by the user, not as an instruction: what was quoted from a conversation must not gain authority by it.
pub(super) fn message(summary: &str) -> Message {
    Message::user(format!("{HEADER}\n\n{summary}"))
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
}

impl Prompt<'_> {
    /// With this summary of everything before a turn, if there is one, and as many of the turns since as fit.
    pub(super) fn assemble(&self, summary: Option<(usize, Arc<str>)>) -> Result<Fit> {
        let Self { messages, counted, budget, limit, reserve } = *self;
        let (first, last) = counted.ends().unwrap_or((messages.len(), messages.len()));
        let least = counted.fixed().saturating_add(counted.said_from(last));
        if least > limit {
            let text = format!(
                "instructions and the last turn take {least} tokens, {limit} are allowed: shorten them or allow more"
            );
            return Err(Error::new(ErrorKind::ContextLength, "history", text));
        }
        let room = reserve.min(limit - least);
        let summary = summary.and_then(|(end, text)| {
            let text = clip(&text, |text| budget.message(&message(text)) <= room)?;
            Some((end, message(&text)))
        });
        let (end, taken) = summary.as_ref().map_or((first, 0), |(end, message)| (*end, budget.message(message)));
        let total = |start: usize| counted.fixed().saturating_add(taken).saturating_add(counted.said_from(start));
        let mut starts = counted.turns.iter().map(|turn| turn.start).filter(|start| *start >= end);
        let start = starts.find(|start| total(*start) <= limit).unwrap_or(last);

        let mut fit = Fit::unchanged(messages.clone()).kept(total(start)).trimmed(counted.said(end..start));
        let Some((_, summary)) = summary else {
            if start > first {
                fit.messages = crate::history::fit::from(messages, start);
            }
            return Ok(fit);
        };
        fit.trace.summarized_tokens = crate::history::fit::clamped(counted.said(first..end));
        let (before, after) = messages.split_at(start.min(messages.len()));
        let instructions = before.iter().filter(|message| message.role.is_instruction());
        let kept = instructions.cloned().chain([Arc::new(summary)]).chain(after.iter().cloned());
        fit.messages = kept.collect();
        Ok(fit)
    }
}
