//! What a conversation carries from one call to the next: its summary, and where to go on from it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::cuts::Counted;
use super::deliver::{Summary, text_of};
use super::keys::Key;
use crate::history::carry::{with_summary, without_summary};
use crate::history::fit::from;
use crate::history::turns::turns;
use crate::history::{Carry, TokenBudget};
use crate::types::Messages;

/// What is written down beside the messages.
#[derive(Serialize, Deserialize)]
struct Note {
    /// Of all that the summary stands for.
    summary_key: String,
    /// What failures of this conversation are remembered under.
    conversation_key: String,
    /// How far behind the end of the summary the last cut was: a summary may end before it.
    cut_after: usize,
    /// What was said before the end of the summary.
    summarized_tokens: u64,
}

/// Where a conversation that was cut before goes on.
pub(super) struct Resumed {
    /// All but the summary.
    pub(super) messages: Messages,
    /// The summary of what was said before them.
    pub(super) summary: Summary,
    pub(super) key: Key,
    pub(super) conversation: Key,
    /// Where it was cut last.
    pub(super) cut: usize,
    /// What the summary stands for.
    pub(super) tokens: u64,
}

impl Resumed {
    /// What these messages carry; `None` where there is nothing, or nothing that this policy wrote.
    pub(super) fn of(messages: &Messages, budget: &TokenBudget<'_>) -> Option<Self> {
        let carry = budget.carried().filter(|carry| carry.summarized)?;
        let note = Note::deserialize(&carry.note).ok()?;
        let key = |hex: &str| blake3::Hash::from_hex(hex).ok().map(Key::from);
        let (key, conversation) = (key(&note.summary_key)?, key(&note.conversation_key)?);
        let (messages, message) = without_summary(messages)?;
        let text = text_of(&message)?.into();
        let end = turns(&messages).first()?.start;
        let cut = end.saturating_add(note.cut_after);
        let summary = Summary { end, text, message };
        Some(Self { messages, summary, key, conversation, cut, tokens: note.summarized_tokens })
    }
}

/// What to show the next time: the summary, and all since its end, not only what fitted.
pub(super) fn carry(
    messages: &Messages,
    counted: &Counted,
    summary: &Summary,
    keys: &[(usize, Key)],
    conversation: Key,
    before: u64,
) -> Option<Carry> {
    let (_, key) = keys.iter().find(|(end, _)| *end == summary.end)?;
    let hex = |key: &Key| blake3::Hash::from(*key).to_hex().to_string();
    let (first, _) = counted.ends()?;
    let note = Note {
        summary_key: hex(key),
        conversation_key: hex(&conversation),
        cut_after: keys.last().map_or(0, |(last, _)| last.saturating_sub(summary.end)),
        summarized_tokens: before.saturating_add(counted.said(first..summary.end)),
    };
    let shown = with_summary(from(messages, summary.end), Arc::clone(&summary.message));
    Some(Carry::of(shown).noted(serde_json::to_value(note).ok()?).summarized())
}
