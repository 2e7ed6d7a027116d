//! A conversation as it grew: where it was trimmed, and what was sent the last time.

use std::sync::Arc;

use super::depth::Depth;
use crate::history::turns::Begins;
use crate::types::{Message, Role};

/// What growing led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Walked {
    /// Where the first turn that is left begins; the end of the conversation when it has none.
    pub(super) first_kept: usize,
    /// The tokens of the prompt, tools and all.
    pub(super) prompt: u64,
    /// The tokens of the turns that went.
    pub(super) trimmed: u64,
    /// The tokens at its front that the call before had there too.
    pub(super) warm: u64,
}

/// Walks through a conversation and trims it wherever it had outgrown the limit by then.
///
/// It is trimmed after any message, not only where a call was made: so it comes to the same whoever calls when, and what
/// went before a trim has no part in what follows it.
pub(super) fn walk(
    messages: &[Arc<Message>],
    overhead: u64,
    limit: u64,
    shortens: bool,
    depth: &Depth,
    mut cost: impl FnMut(usize) -> u64,
) -> Walked {
    let mut begins = Begins::default();
    let mut walk = Walk {
        limit,
        shortens,
        depth,
        fixed: overhead,
        turns: Vec::with_capacity(messages.len() / 2),
        first: 0,
        held: Held::default(),
        asked: None,
    };
    for (position, message) in messages.iter().enumerate() {
        if begins.at(&message.role) {
            walk.turns.push(Turn { start: position, before: walk.fixed, held: Held::default() });
        }
        // What answers the call to come, should it end with words of the model, was not asked for yet.
        if message.role == Role::Assistant && position + 1 < messages.len() {
            walk.asked = walk.ask();
        }
        walk.add(message, cost(position));
        walk.trim();
    }
    walk.end(messages.len())
}

/// Tokens, and how many of the messages are answers.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    tokens: u64,
    answers: u64,
}

#[derive(Debug)]
struct Turn {
    start: usize,
    /// The tokens of the tools and of the instructions that stand before it.
    before: u64,
    held: Held,
}

/// A call that was made.
#[derive(Debug, Clone, Copy)]
struct Asked {
    prompt: u64,
    /// The tokens before its first turn.
    before: u64,
    first: usize,
}

#[derive(Debug)]
struct Walk<'a> {
    limit: u64,
    /// Whether a last turn that takes more is shortened, rather than the call refused.
    shortens: bool,
    depth: &'a Depth,
    /// The tokens of tools and instructions.
    fixed: u64,
    turns: Vec<Turn>,
    /// The first turn that is left.
    first: usize,
    /// What is in the turns that are left.
    held: Held,
    asked: Option<Asked>,
}

impl Walk<'_> {
    fn prompt(&self) -> u64 {
        self.fixed.saturating_add(self.held.tokens)
    }

    /// The call that could be made here: one that is refused leaves nothing with the provider, and of one that was
    /// shortened the beginning alone is certain.
    fn ask(&self) -> Option<Asked> {
        // The turn that begins here is the answer's own.
        let before = self.turns.get(self.first).map_or(self.fixed, |turn| turn.before);
        let prompt = if self.prompt() <= self.limit { self.prompt() } else { before };
        (self.shortens || self.prompt() <= self.limit).then_some(Asked { prompt, before, first: self.first })
    }

    fn add(&mut self, message: &Message, tokens: u64) {
        if message.role.is_instruction() {
            self.fixed = self.fixed.saturating_add(tokens);
            return;
        }
        let answers = u64::from(message.role == Role::Assistant);
        let with = |held: Held| Held { tokens: held.tokens.saturating_add(tokens), answers: held.answers + answers };
        self.held = with(self.held);
        if let Some(turn) = self.turns.last_mut() {
            turn.held = with(turn.held);
        }
    }

    /// Nothing is trimmed that fits; what does not is trimmed so deeply that it pays.
    fn trim(&mut self) {
        if self.prompt() <= self.limit {
            return;
        }
        let room = self.limit.saturating_sub(self.fixed);
        let target = self.target(room);
        // Turns go whole: the one with which the target is reached stays, so that it is met on average.
        while let [turn, _, ..] = self.turns.get(self.first..).unwrap_or_default() {
            let rest = self.held.tokens.saturating_sub(turn.held.tokens);
            if self.held.tokens <= target || (self.held.tokens <= room && rest < target) {
                break;
            }
            self.held = Held { tokens: rest, answers: self.held.answers.saturating_sub(turn.held.answers) };
            self.first += 1;
        }
    }

    /// How much of this room a trim is to leave.
    fn target(&self, room: u64) -> u64 {
        // Spares the window that trims at every message the divisions.
        if !self.depth.prices.differ() {
            return room;
        }
        let growth = self.held.tokens as f64 / self.held.answers.max(1) as f64;
        (self.depth.share(growth / room.max(1) as f64) * room as f64) as u64
    }

    fn end(self, length: usize) -> Walked {
        let grown = |asked: &Asked| asked.first == self.first && self.prompt() <= self.limit;
        let warm = self.asked.map_or(0, |asked| if grown(&asked) { asked.prompt } else { asked.before });
        let gone = self.turns.iter().take(self.first);
        Walked {
            first_kept: self.turns.get(self.first).map_or(length, |turn| turn.start),
            prompt: self.prompt(),
            trimmed: gone.fold(0, |sum, turn| sum.saturating_add(turn.held.tokens)),
            warm,
        }
    }
}
