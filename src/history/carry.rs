//! What a policy hands on to the next request of the same conversation.

use std::sync::Arc;

use serde_json::Value;

use super::chain::Links;
use super::counted::Counted;
use crate::types::{Message, Messages};

/// What a policy hands on to the next request of a conversation: show me these messages in place of those you showed me,
/// and then what is new.
///
/// A [`Conversation`](super::Conversation) keeps it, stores it, and hands it back by
/// [`TokenBudget::carried`](super::TokenBudget::carried). The messages must be a prompt that anybody could be sent: where
/// the request was changed on its way, or another policy goes on, they are shown without the note. The policies of this
/// crate leave what the messages took with it too, in memory only, so that none is counted twice by the same client.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Carry {
    /// The messages to show the next time.
    pub messages: Messages,
    /// What the policy must know beside them, small enough to be stored with every conversation. `Null` for nothing.
    pub note: Value,
    /// Whether the first of the messages that is no instruction is the policy's own, and stands for what is no longer
    /// shown. On its way it is neither put right nor normalised.
    pub summarized: bool,
    /// Of a chain; kept in memory only.
    pub(super) links: Option<Arc<Links>>,
    /// What messages of these took; kept in memory only.
    pub(super) counted: Option<Arc<Counted>>,
}

impl Carry {
    /// These messages, and nothing beside them.
    pub fn of(messages: Messages) -> Self {
        Self { messages, ..Self::default() }
    }

    /// With a note.
    #[must_use]
    pub fn noted(mut self, note: Value) -> Self {
        self.note = note;
        self
    }

    /// Says that the first of the messages that is no instruction is a summary of the policy's own.
    #[must_use]
    pub fn summarized(mut self) -> Self {
        self.summarized = true;
        self
    }

    /// The same, for a list that these messages begin.
    pub(super) fn shown(&self, messages: Messages) -> Self {
        Self { messages, ..self.clone() }
    }

    /// With what its messages took.
    pub(super) fn counted(mut self, counted: Option<Counted>) -> Self {
        self.counted = counted.map(Arc::new);
        self
    }

    /// Whether there is nothing beside the messages.
    pub(super) fn is_plain(&self) -> bool {
        self.note.is_null() && !self.summarized && self.links.is_none() && self.counted.is_none()
    }
}

/// A carried list without the summary in it; and the summary.
pub(super) fn without_summary(messages: &Messages) -> Option<(Messages, Arc<Message>)> {
    let at = messages.iter().position(|message| !message.role.is_instruction())?;
    let summary = Arc::clone(messages.get(at)?);
    let others = messages.iter().enumerate().filter(|(other, _)| *other != at);
    Some((others.map(|(_, message)| Arc::clone(message)).collect(), summary))
}

/// With the summary, before the first that is said.
pub(super) fn with_summary(mut messages: Messages, summary: Arc<Message>) -> Messages {
    let at = messages.iter().position(|message| !message.role.is_instruction()).unwrap_or(messages.len());
    messages.make_mut().insert(at, summary);
    messages
}
