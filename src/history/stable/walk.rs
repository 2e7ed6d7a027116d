//! A conversation as it grew: where it was trimmed, and what was sent the last time.

use std::sync::Arc;

use super::depth::Depth;
use crate::history::steps::{self, Kept};
use crate::history::turns::Begins;
use crate::types::{Message, Role};

/// What growing led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Walked {
    /// What is left: nothing but instructions when there are no turns.
    pub(super) kept: Kept,
    /// The tokens of the prompt, tools and all.
    pub(super) prompt: u64,
    /// The tokens of the turns that went, and of the steps.
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
        units: Vec::new(),
        first_unit: 0,
        pinned: None,
        held: Held::default(),
        gone: 0,
        asked: None,
    };
    for (position, message) in messages.iter().enumerate() {
        if begins.at(&message.role) {
            let kept = Kept::all_from(position);
            walk.turns.push(Turn { kept, before: walk.fixed, held: Held::default() });
            walk.units.clear();
            (walk.first_unit, walk.pinned) = (0, None);
        }
        // What answers the call to come, should it end with words of the model, was not asked for yet.
        if message.role == Role::Assistant && position + 1 < messages.len() {
            walk.asked = walk.ask();
        }
        walk.add(position, message, cost(position));
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

impl Held {
    fn without(self, goes: Self) -> Self {
        let Self { tokens, answers } = self;
        Self { tokens: tokens.saturating_sub(goes.tokens), answers: answers.saturating_sub(goes.answers) }
    }
}

#[derive(Debug)]
struct Turn {
    kept: Kept,
    /// The tokens of the tools and of the instructions that stand before what is left of it.
    before: u64,
    /// What is in it still.
    held: Held,
}

/// What goes as a whole where a turn is too long by itself.
#[derive(Debug, Clone, Copy)]
struct Unit {
    start: usize,
    /// As of a turn.
    before: u64,
    held: Held,
}

/// What the user said last.
#[derive(Debug, Clone, Copy)]
struct Pinned {
    at: usize,
    /// As of a turn.
    before: u64,
    tokens: u64,
}

/// A call that was made.
#[derive(Debug, Clone, Copy)]
struct Asked {
    prompt: u64,
    /// The tokens before its first turn.
    before: u64,
    kept: Kept,
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
    /// What the last turn is made of.
    units: Vec<Unit>,
    /// The first of them that is left.
    first_unit: usize,
    pinned: Option<Pinned>,
    /// What is in the turns that are left.
    held: Held,
    /// The tokens of what went.
    gone: u64,
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
        let turn = self.turns.get(self.first);
        let before = turn.map_or(self.fixed, |turn| turn.before);
        let kept = turn.map_or(Kept::all_from(0), |turn| turn.kept);
        let prompt = if self.prompt() <= self.limit { self.prompt() } else { before };
        (self.shortens || self.prompt() <= self.limit).then_some(Asked { prompt, before, kept })
    }

    fn add(&mut self, position: usize, message: &Message, tokens: u64) {
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
        if message.role == Role::User {
            self.pinned = Some(Pinned { at: position, before: self.fixed, tokens });
        }
        if self.units.is_empty() || steps::begins(&message.role) {
            self.units.push(Unit { start: position, before: self.fixed, held: Held::default() });
        }
        if let Some(unit) = self.units.last_mut() {
            unit.held = with(unit.held);
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
            let left = self.held.without(turn.held);
            if self.reached(target, room, left) {
                return;
            }
            self.gone = self.gone.saturating_add(turn.held.tokens);
            self.held = left;
            self.first += 1;
        }
        if self.held.tokens > room {
            self.trim_last(target, room);
        }
    }

    /// Whether enough went: with what would be left next, less than is wanted would be.
    fn reached(&self, target: u64, room: u64, left: Held) -> bool {
        self.held.tokens <= target || (self.held.tokens <= room && left.tokens < target)
    }

    /// The last turn does not fit by itself: its oldest units go, but for what the user said last.
    fn trim_last(&mut self, target: u64, room: u64) {
        while let [unit, next, ..] = self.units.get(self.first_unit..).unwrap_or_default() {
            let (mut goes, next) = (unit.held, *next);
            // What the user says begins a unit.
            let pinned = self.pinned.filter(|pinned| pinned.at < next.start);
            if let Some(pinned) = pinned.filter(|pinned| pinned.at == unit.start) {
                goes.tokens = goes.tokens.saturating_sub(pinned.tokens);
            }
            let left = self.held.without(goes);
            if self.reached(target, room, left) {
                return;
            }
            self.gone = self.gone.saturating_add(goes.tokens);
            self.held = left;
            self.first_unit += 1;
            if let Some(turn) = self.turns.last_mut() {
                turn.held = turn.held.without(goes);
                turn.before = pinned.map_or(next.before, |pinned| pinned.before);
                turn.kept = Kept::pinned(pinned.map(|pinned| pinned.at), next.start);
            }
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
        let kept = self.turns.get(self.first).map_or(Kept::all_from(length), |turn| turn.kept);
        let grown = |asked: &Asked| asked.kept == kept && self.prompt() <= self.limit;
        let warm = self.asked.map_or(0, |asked| if grown(&asked) { asked.prompt } else { asked.before });
        Walked { kept, prompt: self.prompt(), trimmed: self.gone, warm }
    }
}
