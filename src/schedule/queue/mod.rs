//! Who waits, and who is next.
//!
//! The classes are strict: a higher one goes first. Lasting overload by a higher class would keep a lower one out for
//! ever, so that one of every [`AGED_TURN`] turns goes to a lower class whose oldest has waited for longer than
//! [`Admission::ageing`](super::Admission::ageing). A share, and not a rise into the class above: after minutes of overload
//! everybody has aged, and risen waiters, older than all newcomers, would be the whole of the top class. So the top class
//! never gives up more than a tenth, and a class below always moves.
//!
//! Within a class, `class` decides whose turn it is. Entering, leaving and finding the next take O(log n).

mod class;
mod names;
mod slots;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::ops::Bound;
use std::time::{Duration, Instant};

use class::{Class, Room};
use names::Name;
pub(super) use slots::{Seat, Waiter};

use super::decision::Verdict;
use super::rate::Ask;
use crate::types::Priority;

/// One of so many turns may go to those who have aged. Ten: the top class keeps nine tenths of what there is, more than
/// a class that is not overloaded by itself needs.
pub(super) const AGED_TURN: u32 = 10;
/// How many held-back lanes are asked again after a call has ended; the others wait for their time, or the next end.
const RECONSIDERED: usize = 32;

/// The classes, highest first.
pub(super) const CLASSES: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

fn index(priority: Priority) -> u8 {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

/// The calls of one tenant to one model within a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lane {
    class: u8,
    tenant: Name,
    model: Name,
}

impl Lane {
    /// Calls of nobody in particular.
    const ANYBODY: Name = Name::MAX;

    /// 0 is the highest.
    pub(super) fn class(self) -> u8 {
        self.class
    }

    fn priority(self) -> Priority {
        CLASSES[usize::from(self.class)]
    }

    fn key(self) -> (Name, Name) {
        (self.tenant, self.model)
    }
}

/// The settings of the order.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) ageing: Duration,
    pub(super) weights: HashMap<Box<str>, NonZeroU32>,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Who<'a> {
    pub(super) priority: Priority,
    pub(super) tenant: Option<&'a str>,
    pub(super) model: &'a str,
    /// In tokens.
    pub(super) cost: u64,
}

/// Those who wait.
#[derive(Debug)]
pub(super) struct Queue {
    order: Order,
    /// Newest first once somebody has waited without a break for so long.
    newest_first_after: Option<Duration>,
    classes: [Class; 3],
    room: Room,
    len: usize,
    /// Lanes held back by a limit of their own, and until when.
    parked: BTreeSet<(Instant, Lane)>,
    /// The last one that was asked again.
    asked_again: Option<(Instant, Lane)>,
    arrivals: u64,
    /// Turns since the last that went to an aged class.
    turns: u32,
    /// Since when somebody has waited.
    busy_since: Option<Instant>,
}

impl Queue {
    pub(super) fn new(order: Order, newest_first_after: Option<Duration>) -> Self {
        Self {
            order,
            newest_first_after,
            classes: Default::default(),
            room: Room::default(),
            len: 0,
            parked: BTreeSet::new(),
            asked_again: None,
            arrivals: 0,
            turns: 0,
            busy_since: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Enters. The real waker comes with the first poll.
    pub(super) fn enter(&mut self, who: Who<'_>, ask: Ask, now: Instant) -> Seat {
        let class = index(who.priority);
        let tenant = who.tenant.map_or(Lane::ANYBODY, |tenant| self.room.tenants.take(tenant));
        let lane = Lane { class, tenant, model: self.room.models.take(who.model) };
        let cost = u32::try_from(who.cost).unwrap_or(u32::MAX).max(1);
        self.arrivals += 1;
        let seat = self.room.slots.insert(Waiter::new(ask, now, lane, self.arrivals, cost));
        let weights = &self.order.weights;
        let weight = || who.tenant.and_then(|tenant| weights.get(tenant)).map_or(1, |weight| weight.get());
        self.classes[usize::from(class)].enter(&mut self.room, seat, weight);
        self.len += 1;
        self.busy_since.get_or_insert(now);
        seat
    }

    /// The highest class with somebody who is not held back.
    pub(super) fn top(&self) -> Option<u8> {
        (0..).zip(&self.classes).find(|(_, class)| class.is_ready()).map(|(at, _)| at)
    }

    /// Who is next among those who are not held back.
    pub(super) fn next(&self, now: Instant) -> Option<Seat> {
        let top = self.classes.iter().position(Class::is_ready)?;
        let aged = (self.turns + 1 >= AGED_TURN).then(|| self.aged_below(top, now)).flatten();
        let since = self.busy_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let newest_first = self.newest_first_after.is_some_and(|after| since > after);
        self.classes[aged.unwrap_or(top)].next(newest_first)
    }

    /// The class below this one whose oldest has waited longest, if that is long enough.
    fn aged_below(&self, top: usize, now: Instant) -> Option<usize> {
        let entered = |class: &Class| {
            // One that a limit of its own holds back is no reason to let others of its class in.
            let oldest = self.waiter(class.oldest()?).filter(|oldest| !class.is_parked(oldest.lane));
            oldest.or_else(|| self.waiter(class.next(false)?)).map(|oldest| oldest.entered)
        };
        let below = (top + 1..self.classes.len()).filter(|class| self.classes[*class].is_ready());
        let oldest = below.filter_map(|class| Some((entered(&self.classes[class])?, class))).min();
        oldest
            .filter(|(entered, _)| now.saturating_duration_since(*entered) > self.order.ageing)
            .map(|(_, class)| class)
    }

    /// The next one has its turn: its verdict stands where it waited.
    pub(super) fn serve(&mut self, seat: Seat, verdict: Verdict) -> Option<Waiter> {
        let (lane, cost) = self.waiter(seat).map(|waiter| (waiter.lane, waiter.cost))?;
        let class = usize::from(lane.class);
        let passed_over = self.classes[..class].iter().any(Class::is_ready);
        self.turns = if passed_over { 0 } else { (self.turns + 1).min(AGED_TURN) };
        self.classes[class].charge(lane.tenant, cost);
        self.decide(seat, verdict)
    }

    /// Ends the waiting of this one; what became of it stands where it waited.
    pub(super) fn decide(&mut self, seat: Seat, verdict: Verdict) -> Option<Waiter> {
        self.unlist(seat);
        self.room.slots.decide(seat, verdict)
    }

    /// Frees the place of one who leaves, or who has come for its verdict.
    pub(super) fn leave(&mut self, seat: Seat) -> (Option<Waiter>, Option<Verdict>) {
        self.unlist(seat);
        self.room.slots.free(seat)
    }

    fn unlist(&mut self, seat: Seat) {
        let Some(lane) = self.waiter(seat).map(|waiter| waiter.lane) else { return };
        self.len -= 1;
        if let Some(until) = self.classes[usize::from(lane.class)].leave(&mut self.room, seat) {
            self.parked.remove(&(until, lane));
        }
        if self.len == 0 {
            (self.busy_since, self.turns, self.asked_again) = (None, 0, None);
        }
    }

    pub(super) fn waiter(&self, seat: Seat) -> Option<&Waiter> {
        self.room.slots.waiter(seat)
    }

    pub(super) fn waiter_mut(&mut self, seat: Seat) -> Option<&mut Waiter> {
        self.room.slots.waiter_mut(seat)
    }

    /// Whether its verdict is there.
    pub(super) fn is_decided(&self, seat: Seat) -> bool {
        self.room.slots.is_decided(seat)
    }

    /// Holds the lane of this waiter back until then.
    pub(super) fn park(&mut self, seat: Seat, until: Instant) {
        let Some(lane) = self.waiter(seat).map(|waiter| waiter.lane) else { return };
        if let Some(before) = self.classes[usize::from(lane.class)].park(lane, until) {
            self.parked.remove(&(before, lane));
        }
        self.parked.insert((until, lane));
    }

    fn unpark(&mut self, parked: (Instant, Lane)) {
        self.parked.remove(&parked);
        self.classes[usize::from(parked.1.class)].unpark(parked.1);
    }

    /// Lets those go on whose time has come.
    pub(super) fn unpark_until(&mut self, now: Instant) {
        while let Some(parked) = self.parked.first().copied().filter(|(until, _)| *until <= now) {
            self.unpark(parked);
        }
    }

    /// Lets those go on whose time would have been then.
    pub(super) fn unpark_at(&mut self, until: Instant) {
        let first = Lane { class: 0, tenant: 0, model: 0 };
        let again: Vec<_> = self.parked.range((until, first)..).take_while(|(at, _)| *at == until).copied().collect();
        again.into_iter().for_each(|parked| self.unpark(parked));
    }

    /// When the first of those who are held back may go on, and who that is.
    pub(super) fn first_parked(&self) -> Option<(Instant, Seat)> {
        let (until, lane) = self.parked.first()?;
        Some((*until, self.classes[usize::from(lane.class)].head(*lane)?))
    }

    /// Something was given back: some of those who are held back are asked again, others the next time.
    pub(super) fn reconsider(&mut self) {
        if self.parked.is_empty() {
            return;
        }
        let from = self.asked_again.map_or(Bound::Unbounded, Bound::Excluded);
        let after = self.parked.range((from, Bound::Unbounded));
        let again: Vec<_> = after.chain(&self.parked).take(RECONSIDERED.min(self.parked.len())).copied().collect();
        self.asked_again = again.last().copied().or(self.asked_again);
        for parked in again {
            self.unpark(parked);
        }
    }

    /// How many surely go before the next one of this kind: all of higher classes, and its own tenant's of its class;
    /// nobody for sure while a limit holds some of them back.
    pub(super) fn surely_ahead_of(&self, who: Who<'_>) -> usize {
        let class = usize::from(index(who.priority));
        let higher: usize = self.classes[..class].iter().map(Class::len).sum();
        // Where limits hold some back, others go by.
        if self.parked.is_empty() { higher + self.waiting_of(who) } else { 0 }
    }

    /// How many of its tenant wait in its class.
    pub(super) fn waiting_of(&self, who: Who<'_>) -> usize {
        let tenant = who.tenant.map_or(Some(Lane::ANYBODY), |tenant| self.room.tenants.find(tenant));
        tenant.map_or(0, |tenant| self.classes[usize::from(index(who.priority))].waiting_of(tenant))
    }

    /// Of the lowest class that is below this one, or (`or_equal`) not above it, the newest waiter and the oldest.
    pub(super) fn lowest(&self, than: Priority, or_equal: bool) -> Option<(Seat, Seat)> {
        let from = usize::from(index(than)) + usize::from(!or_equal);
        let class = self.classes[from.min(self.classes.len())..].iter().rev().find(|class| class.len() > 0)?;
        class.newest().zip(class.oldest())
    }

    /// Somebody who waits, whoever it is.
    pub(super) fn anybody(&self) -> Option<Seat> {
        self.classes.iter().find_map(Class::oldest)
    }

    /// Of each class how many wait, and since when the oldest does.
    pub(super) fn by_class(&self) -> [(usize, Option<Instant>); 3] {
        let oldest = |class: &Class| class.oldest().and_then(|seat| self.waiter(seat)).map(|waiter| waiter.entered);
        [0, 1, 2].map(|class: usize| (self.classes[class].len(), oldest(&self.classes[class])))
    }

    /// Tenants with somebody waiting, those of nobody in particular among them; one who waits in two classes counts twice.
    pub(super) fn tenants(&self) -> usize {
        self.classes.iter().map(Class::tenants).sum()
    }
}
