//! Where a conversation is cut: a pure function of its messages.
//!
//! Its growth is played through, message by message. Whenever the prompt would have exceeded the limit, everything before
//! a turn goes into the summary, so deep that what stays and the room for the summary are below the low water. So whoever
//! calls when, it is cut at the same places each time, between two cuts the prompt only grows, and from the last cut it
//! goes on without what came before it.

use std::ops::Range;

use crate::history::TokenBudget;
use crate::history::turns::turns;
use crate::types::Messages;

/// A conversation, counted.
pub(super) struct Counted {
    pub(super) turns: Vec<Range<usize>>,
    overhead: u64,
    /// What was said before each position, and at the end; instructions excepted.
    said: Vec<u64>,
    /// The instructions before each position, and at the end.
    instructions: Vec<u64>,
}

impl Counted {
    pub(super) fn of(messages: &Messages, budget: &TokenBudget<'_>) -> Self {
        let (mut said, mut instructions) = (vec![0_u64], vec![0_u64]);
        let (mut told, mut asked) = (0_u64, 0_u64);
        for message in messages.iter() {
            let sum = if message.role.is_instruction() { &mut asked } else { &mut told };
            *sum = sum.saturating_add(budget.message(message));
            said.push(told);
            instructions.push(asked);
        }
        Self { turns: turns(messages), overhead: budget.overhead(), said, instructions }
    }

    fn end(&self) -> usize {
        self.said.len() - 1
    }

    /// Where the first turn begins, and the last.
    pub(super) fn ends(&self) -> Option<(usize, usize)> {
        Some((self.turns.first()?.start, self.turns.last()?.start))
    }

    /// The tokens of what was said in this range.
    pub(super) fn said(&self, range: Range<usize>) -> u64 {
        let at = |position: usize| self.said.get(position).copied().unwrap_or_default();
        at(range.end).saturating_sub(at(range.start))
    }

    /// The tokens of what was said from here to the end.
    pub(super) fn said_from(&self, start: usize) -> u64 {
        self.said(start..self.end())
    }

    /// The tokens that no cut saves: instructions, tools, what primes the reply.
    pub(super) fn fixed(&self) -> u64 {
        self.fixed_before(self.end())
    }

    fn fixed_before(&self, position: usize) -> u64 {
        self.overhead.saturating_add(self.instructions.get(position).copied().unwrap_or_default())
    }

    /// The tokens of the whole prompt, uncut.
    pub(super) fn whole(&self) -> u64 {
        self.fixed().saturating_add(self.said_from(0))
    }

    /// The starts of turns at which the conversation was cut as it grew, oldest first; the last of those before, if it was
    /// cut before, is where it goes on.
    pub(super) fn cuts(&self, limit: u64, low_water: f64, reserve: u64, before: Option<usize>) -> Vec<usize> {
        let mut cuts: Vec<usize> = before.into_iter().collect();
        let mut starts = self.turns.iter().map(|turn| turn.start).peekable();
        let Some(mut kept) = starts.next() else { return cuts };
        while let Some(start) = starts.next_if(|start| before.is_some_and(|cut| *start <= cut)) {
            kept = start;
        }
        for at in 1..=self.end() {
            let fixed = self.fixed_before(at);
            let summary = if cuts.is_empty() { 0 } else { reserve };
            if fixed.saturating_add(summary).saturating_add(self.said(kept..at)) <= limit {
                continue;
            }
            // Of the room that instructions and tools leave. `as` saturates.
            let low = (limit.saturating_sub(fixed) as f64 * low_water) as u64;
            let before = kept;
            // At the first turn that brings it below the low water; at the last turn, when none does.
            while let Some(start) = starts.next_if(|start| *start < at) {
                kept = start;
                if reserve.saturating_add(self.said(start..at)) <= low {
                    break;
                }
            }
            if kept != before {
                cuts.push(kept);
            }
        }
        cuts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::TokenCounter;
    use crate::types::{ChatBody, Message};

    /// A token a byte and nothing else.
    #[derive(Debug)]
    struct Bytes;

    impl TokenCounter for Bytes {
        fn text(&self, _: &str, text: &str) -> u64 {
            text.len() as u64
        }

        fn message(&self, _: &str, message: &Message) -> u64 {
            message.text().len() as u64
        }

        fn request(&self, body: &ChatBody) -> u64 {
            body.messages.iter().map(|message| self.message("", message)).sum()
        }
    }

    fn cuts(sizes: &[usize], limit: u64, low_water: f64, reserve: u64) -> Vec<usize> {
        let said = sizes.iter().enumerate().map(|(at, size)| match at {
            0 => Message::system("s".repeat(*size)),
            at if at % 2 == 1 => Message::user("u".repeat(*size)),
            _ => Message::assistant("a".repeat(*size)),
        });
        let messages: Messages = said.collect();
        let body = ChatBody::default();
        let budget = TokenBudget::new(&body, &Bytes);
        Counted::of(&messages, &budget).cuts(limit, low_water, reserve, None)
    }

    #[test]
    fn cuts_rarely_and_deeply() {
        let sizes = |turns: usize| [&[10][..], &vec![10; 2 * turns + 1]].concat();
        // 10 of instructions; of the other 100, 50 at most remain after a cut, 10 of them for the summary.
        assert_eq!(cuts(&sizes(4), 110, 0.5, 10), [] as [usize; 0]);
        // The sixth question makes it 120: the last two turns and the summary stay, 10 + 10 + 30.
        assert_eq!(cuts(&sizes(5), 110, 0.5, 10), [9]);
        assert_eq!(cuts(&sizes(8), 110, 0.5, 10), [9]);
        // The ninth answer makes it 120 with the summary, before anything is asked again.
        assert_eq!(cuts(&sizes(9), 110, 0.5, 10), [9, 15]);
    }

    #[test]
    fn what_was_cut_stays_cut_as_the_conversation_grows() {
        let mut sizes = vec![7];
        let mut last = Vec::new();
        for at in 0..200_usize {
            sizes.push(5 + (at * 7919) % 23);
            if at % 2 == 1 {
                continue;
            }
            let now = cuts(&sizes, 150, 0.4, 12);
            assert!(now.starts_with(&last) && now.len() <= last.len() + 1, "{last:?} became {now:?}");
            last = now;
        }
        assert!(last.len() > 10, "{last:?}");
    }

    #[test]
    fn a_turn_too_long_for_the_low_water_is_kept_whole() {
        assert_eq!(cuts(&[10, 10, 10, 90], 110, 0.5, 10), [3]);
        assert_eq!(cuts(&[10, 200], 110, 0.5, 10), [] as [usize; 0]);
    }
}
