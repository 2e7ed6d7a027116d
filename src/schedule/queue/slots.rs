//! Where those who wait stand: numbered slots, strung on lists.
//!
//! Every waiter is on two lists, the line of its class in order of arrival and the lane it shares with its tenant's
//! calls to the same model. Entering and leaving either, wherever in it, takes constant time.

use std::task::Waker;
use std::time::{Duration, Instant};

use super::Lane;
use crate::schedule::decision::Verdict;
use crate::schedule::rate::Ask;
use crate::types::Priority;

/// The number of a slot. It belongs to one waiter until that one has seen its verdict or left.
pub(in crate::schedule) type Seat = u32;

const NOBODY: Seat = Seat::MAX;
/// Slots are added so many at a time, so that growing never moves those who wait.
const BLOCK: usize = 256;

/// One who waits.
#[derive(Debug)]
pub(in crate::schedule) struct Waiter {
    pub(in crate::schedule) ask: Ask,
    /// Whom to wake when it has its verdict, or must look after a timer.
    pub(in crate::schedule) waker: Waker,
    pub(in crate::schedule) entered: Instant,
    pub(in crate::schedule) lane: Lane,
    pub(super) arrival: u64,
    /// What it costs its tenant: tokens, at least 1.
    pub(super) cost: u32,
    links: [Link; 2],
}

impl Waiter {
    pub(super) fn new(ask: Ask, entered: Instant, lane: Lane, arrival: u64, cost: u32) -> Self {
        Self { ask, waker: Waker::noop().clone(), entered, lane, arrival, cost, links: [Link::ALONE; 2] }
    }

    /// Its class, and how long it has waited.
    pub(in crate::schedule) fn seen(&self, now: Instant) -> (Priority, Duration) {
        (self.lane.priority(), now.saturating_duration_since(self.entered))
    }
}

#[derive(Debug, Clone, Copy)]
struct Link {
    before: Seat,
    after: Seat,
}

impl Link {
    const ALONE: Self = Self { before: NOBODY, after: NOBODY };
}

/// Which of a waiter's two lists.
#[derive(Debug, Clone, Copy)]
pub(super) enum Thread {
    Line = 0,
    Lane = 1,
}

/// The ends of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    oldest: Seat,
    newest: Seat,
}

impl Ends {
    pub(super) const EMPTY: Self = Self { oldest: NOBODY, newest: NOBODY };

    pub(super) fn oldest(self) -> Option<Seat> {
        (self.oldest != NOBODY).then_some(self.oldest)
    }

    pub(super) fn newest(self) -> Option<Seat> {
        (self.newest != NOBODY).then_some(self.newest)
    }
}

#[derive(Debug)]
enum Slot {
    Free { next: Seat },
    Waiting(Waiter),
    Over(Verdict),
}

/// All slots.
#[derive(Debug)]
pub(super) struct Slots {
    blocks: Vec<Vec<Slot>>,
    free: Seat,
    used: usize,
}

impl Default for Slots {
    fn default() -> Self {
        Self { blocks: Vec::new(), free: NOBODY, used: 0 }
    }
}

impl Slots {
    fn slot(&self, seat: Seat) -> Option<&Slot> {
        let seat = seat as usize;
        self.blocks.get(seat / BLOCK)?.get(seat % BLOCK)
    }

    fn slot_mut(&mut self, seat: Seat) -> Option<&mut Slot> {
        let seat = seat as usize;
        self.blocks.get_mut(seat / BLOCK)?.get_mut(seat % BLOCK)
    }

    pub(super) fn waiter(&self, seat: Seat) -> Option<&Waiter> {
        match self.slot(seat) {
            Some(Slot::Waiting(waiter)) => Some(waiter),
            _ => None,
        }
    }

    pub(super) fn waiter_mut(&mut self, seat: Seat) -> Option<&mut Waiter> {
        match self.slot_mut(seat) {
            Some(Slot::Waiting(waiter)) => Some(waiter),
            _ => None,
        }
    }

    pub(super) fn insert(&mut self, waiter: Waiter) -> Seat {
        self.used += 1;
        let seat = self.free;
        if let Some(slot) = self.slot_mut(seat)
            && let Slot::Free { next } = *slot
        {
            *slot = Slot::Waiting(waiter);
            self.free = next;
            return seat;
        }
        if self.blocks.last().is_none_or(|block| block.len() == BLOCK) {
            self.blocks.push(Vec::with_capacity(BLOCK));
        }
        let before = (self.blocks.len() - 1) * BLOCK;
        let seat = self.blocks.last_mut().map_or(0, |block| {
            block.push(Slot::Waiting(waiter));
            before + block.len() - 1
        });
        // A queue is bounded far below that.
        Seat::try_from(seat).unwrap_or(NOBODY)
    }

    /// Puts the verdict where the waiter was.
    pub(super) fn decide(&mut self, seat: Seat, verdict: Verdict) -> Option<Waiter> {
        match std::mem::replace(self.slot_mut(seat)?, Slot::Over(verdict)) {
            Slot::Waiting(waiter) => Some(waiter),
            _ => None,
        }
    }

    /// Frees the slot, and gives what was in it.
    pub(super) fn free(&mut self, seat: Seat) -> (Option<Waiter>, Option<Verdict>) {
        let next = self.free;
        let Some(slot) = self.slot_mut(seat) else { return (None, None) };
        let was = std::mem::replace(slot, Slot::Free { next });
        self.free = seat;
        self.used -= 1;
        if self.used == 0 {
            *self = Self::default();
        }
        match was {
            Slot::Waiting(waiter) => (Some(waiter), None),
            Slot::Over(verdict) => (None, Some(verdict)),
            Slot::Free { .. } => (None, None),
        }
    }

    pub(super) fn is_decided(&self, seat: Seat) -> bool {
        matches!(self.slot(seat), Some(Slot::Over(_)))
    }

    /// Appends to a list.
    pub(super) fn append(&mut self, ends: &mut Ends, seat: Seat, thread: Thread) {
        let before = ends.newest;
        self.relink(seat, thread, Link { before, after: NOBODY });
        match self.waiter_mut(before) {
            Some(waiter) => waiter.links[thread as usize].after = seat,
            None => ends.oldest = seat,
        }
        ends.newest = seat;
    }

    /// Takes out of a list, wherever it stands.
    pub(super) fn unlink(&mut self, ends: &mut Ends, seat: Seat, thread: Thread) {
        let Some(Link { before, after }) = self.waiter(seat).map(|waiter| waiter.links[thread as usize]) else {
            return;
        };
        match self.waiter_mut(before) {
            Some(waiter) => waiter.links[thread as usize].after = after,
            None => ends.oldest = after,
        }
        match self.waiter_mut(after) {
            Some(waiter) => waiter.links[thread as usize].before = before,
            None => ends.newest = before,
        }
        self.relink(seat, thread, Link::ALONE);
    }

    fn relink(&mut self, seat: Seat, thread: Thread, link: Link) {
        if let Some(waiter) = self.waiter_mut(seat) {
            waiter.links[thread as usize] = link;
        }
    }
}
