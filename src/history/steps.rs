//! A turn that is too long by itself, without its oldest steps.

use std::ops::Range;
use std::sync::Arc;

use crate::types::{Message, Messages, Role};

/// What is kept of a conversation: all instructions, one message, and whatever stands at a position or after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    /// The first that is kept and no instruction: where a turn lost steps, what the user said in it last.
    pub(super) first: usize,
    /// All from here on; not before `first`.
    pub(super) from: usize,
}

impl Kept {
    /// Everything from this position on.
    pub(super) fn all_from(position: usize) -> Self {
        Self { first: position, from: position }
    }

    /// A turn from this position on, and what the user said last in it.
    pub(super) fn pinned(pinned: Option<usize>, from: usize) -> Self {
        Self { first: pinned.map_or(from, |pinned| pinned.min(from)), from }
    }

    /// Whether this message stays, which stands at this position.
    pub(super) fn keeps(self, at: usize, message: &Message) -> bool {
        at >= self.from || at == self.first || message.role.is_instruction()
    }

    /// Whether they all stay.
    pub(super) fn keeps_all(self, messages: &[Arc<Message>]) -> bool {
        messages.iter().take(self.from).enumerate().all(|(at, message)| self.keeps(at, message))
    }

    /// What is kept of these.
    pub(super) fn of(self, messages: &[Arc<Message>]) -> Messages {
        let (before, rest) = messages.split_at(self.from.min(messages.len()));
        // One instruction is what most conversations have.
        let mut kept = Vec::with_capacity(rest.len() + 2);
        let stays = before.iter().enumerate().filter(|(at, message)| self.keeps(*at, message));
        kept.extend(stays.map(|(_, message)| Arc::clone(message)));
        kept.extend_from_slice(rest);
        kept.into_iter().collect()
    }
}

/// Whether within a turn something begins here that goes as a whole: what the user says, message by message, and steps,
/// which are a message of the model and what tools answer to it.
pub(super) fn begins(role: &Role) -> bool {
    matches!(role, Role::User | Role::Assistant)
}

/// A turn that is too long by itself: as many of its newest steps as there is room for, the newest in any case, and what
/// the user said last; and what they take.
pub(super) fn newest(
    messages: &[Arc<Message>],
    turn: Range<usize>,
    room: u64,
    mut cost: impl FnMut(usize) -> u64,
) -> (Kept, u64) {
    let said = messages.iter().enumerate().take(turn.end).skip(turn.start);
    let said = said.filter(|(_, message)| !message.role.is_instruction());
    let pinned = said.clone().rfind(|(_, message)| message.role == Role::User).map(|(at, _)| at);
    let mut taken = pinned.map_or(0, &mut cost);
    let mut from = None;
    let mut step = 0_u64;
    for (at, message) in said.rev() {
        if Some(at) != pinned {
            step = step.saturating_add(cost(at));
        }
        if !begins(&message.role) && at != turn.start {
            continue;
        }
        if from.is_some() && taken.saturating_add(step) > room {
            break;
        }
        taken = taken.saturating_add(step);
        step = 0;
        from = Some(at);
    }
    (Kept::pinned(pinned, from.unwrap_or(turn.start)), taken)
}
