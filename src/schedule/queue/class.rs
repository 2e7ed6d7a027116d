//! One priority class: whose turn it is among its tenants.
//!
//! Every tenant with somebody waiting is a flow with a tag, the virtual time at which its next call starts; the smallest
//! tag goes first, and a call that starts moves its flow's tag on by its cost over the flow's weight. This is start-time
//! fair queueing (Goyal, Vin, Cheng 1996) instead of deficit round-robin: the same shares, without a quantum to choose (one
//! below the largest call makes rounds that serve nobody, one above it makes rounds long), and O(log n) where a round
//! may have to pass many flows in deficit. The tag does not depend on which call the flow sends next, so that one may
//! leave, or the newest go first, without any of it being computed anew.
//!
//! The virtual time is that of WF²Q+ (Bennett, Zhang 1997): it moves on by each start's cost over the weights of all
//! who wait, and never stays behind the smallest tag. A flow that comes starts there, not earlier: it goes before
//! nobody who waited a round, and ever new tenants cannot keep the old ones out. A flow that has gone is remembered until
//! the virtual time has passed its tag, so that leaving and coming back pays no debt; that lasts about a round.
//!
//! Within a flow, calls to one model are a lane. A limit of their own holds one lane back, not the tenant's others.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use super::Lane;
use super::names::{Name, Names};
use super::slots::{Ends, Seat, Slots, Thread};

/// Virtual time of one token at weight one: fine enough for any weight.
const TOKEN: u128 = 1 << 20;

/// What the classes share.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) slots: Slots,
    pub(super) tenants: Names,
    pub(super) models: Names,
}

#[derive(Debug, Default)]
pub(super) struct Class {
    /// All of the class, in order of arrival.
    line: Option<Ends>,
    len: usize,
    flows: HashMap<Name, Flow>,
    lanes: HashMap<(Name, Name), Calls>,
    /// Flows that can be served: tag, turn, tenant.
    order: BTreeSet<(u128, u64, Name)>,
    /// Lanes that can be served: tenant, arrival of the oldest, model.
    ready: BTreeSet<(Name, u64, Name)>,
    /// Flows with nobody waiting whose tag is still to come.
    owing: BTreeSet<(u128, Name)>,
    clock: u128,
    turns: u64,
    /// The weights of the flows in `order`.
    weights: u64,
}

#[derive(Debug)]
struct Flow {
    weight: u32,
    waiting: u32,
    ready: u32,
    tag: Tag,
    turn: u64,
}

/// A virtual time that does not make its neighbours as wide as itself: there may be a flow for each waiter.
#[derive(Debug, Clone, Copy)]
#[repr(Rust, packed(8))]
struct Tag(u128);

#[derive(Debug)]
struct Calls {
    ends: Ends,
    /// Arrival of the oldest, as `ready` knows it.
    oldest: u64,
    /// Until when a limit of its own holds it back.
    held: Option<Instant>,
}

impl Class {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Tenants with somebody waiting.
    pub(super) fn tenants(&self) -> usize {
        self.flows.len() - self.owing.len()
    }

    /// How many of this tenant wait.
    pub(super) fn waiting_of(&self, tenant: Name) -> usize {
        self.flows.get(&tenant).map_or(0, |flow| flow.waiting as usize)
    }

    pub(super) fn oldest(&self) -> Option<Seat> {
        self.line.and_then(Ends::oldest)
    }

    pub(super) fn newest(&self) -> Option<Seat> {
        self.line.and_then(Ends::newest)
    }

    /// Whether somebody waits who is not held back by a limit of his own.
    pub(super) fn is_ready(&self) -> bool {
        !self.order.is_empty()
    }

    pub(super) fn is_parked(&self, lane: Lane) -> bool {
        self.lanes.get(&lane.key()).is_some_and(|calls| calls.held.is_some())
    }

    /// The oldest of a lane.
    pub(super) fn head(&self, lane: Lane) -> Option<Seat> {
        self.lanes.get(&lane.key()).and_then(|calls| calls.ends.oldest())
    }

    /// Whose turn it is.
    pub(super) fn next(&self, newest_first: bool) -> Option<Seat> {
        let (_, _, tenant) = *self.order.first()?;
        let (_, _, model) = *self.ready.range((tenant, 0, 0)..).next()?;
        let ends = self.lanes.get(&(tenant, model))?.ends;
        if newest_first { ends.newest() } else { ends.oldest() }
    }

    /// Enters at the end. The names of the lane were taken once for this call.
    pub(super) fn enter(&mut self, room: &mut Room, seat: Seat, weight: impl FnOnce() -> u32) {
        let Some((lane, arrival)) = room.slots.waiter(seat).map(|waiter| (waiter.lane, waiter.arrival)) else { return };
        room.slots.append(self.line.get_or_insert(Ends::EMPTY), seat, Thread::Line);
        self.len += 1;
        match self.flows.get_mut(&lane.tenant) {
            Some(flow) => {
                room.tenants.release(lane.tenant);
                if flow.waiting == 0 {
                    self.owing.remove(&(flow.tag.0, lane.tenant));
                }
                flow.waiting += 1;
            }
            None => {
                let flow = Flow { weight: weight().max(1), waiting: 1, ready: 0, tag: Tag(self.clock), turn: 0 };
                self.flows.insert(lane.tenant, flow);
            }
        }
        if let Some(calls) = self.lanes.get_mut(&lane.key()) {
            room.models.release(lane.model);
            room.slots.append(&mut calls.ends, seat, Thread::Lane);
            return;
        }
        let mut ends = Ends::EMPTY;
        room.slots.append(&mut ends, seat, Thread::Lane);
        self.lanes.insert(lane.key(), Calls { ends, oldest: arrival, held: None });
        self.list(lane, arrival);
    }

    /// Lets the lane be served again.
    pub(super) fn unpark(&mut self, lane: Lane) {
        let Some(calls) = self.lanes.get_mut(&lane.key()) else { return };
        if calls.held.take().is_some() {
            let oldest = calls.oldest;
            self.list(lane, oldest);
        }
    }

    fn list(&mut self, lane: Lane, oldest: u64) {
        self.ready.insert((lane.tenant, oldest, lane.model));
        let Some(flow) = self.flows.get_mut(&lane.tenant) else { return };
        flow.ready += 1;
        if flow.ready == 1 {
            // Time in which it could not be served is not made up for.
            flow.tag.0 = flow.tag.0.max(self.clock);
            self.turns += 1;
            flow.turn = self.turns;
            self.weights += u64::from(flow.weight);
            self.order.insert((flow.tag.0, flow.turn, lane.tenant));
        }
    }

    /// Keeps the lane from being served; until when it was kept before.
    pub(super) fn park(&mut self, lane: Lane, until: Instant) -> Option<Instant> {
        let calls = self.lanes.get_mut(&lane.key())?;
        let before = calls.held.replace(until);
        if before.is_none() {
            let oldest = calls.oldest;
            self.unlist(lane, oldest);
        }
        before
    }

    fn unlist(&mut self, lane: Lane, oldest: u64) {
        self.ready.remove(&(lane.tenant, oldest, lane.model));
        let Some(flow) = self.flows.get_mut(&lane.tenant) else { return };
        flow.ready -= 1;
        if flow.ready == 0 {
            self.weights -= u64::from(flow.weight);
            self.order.remove(&(flow.tag.0, flow.turn, lane.tenant));
        }
    }

    /// Moves its flow's tag on: this one starts.
    pub(super) fn charge(&mut self, tenant: Name, cost: u32) {
        let cost = u128::from(cost) * TOKEN;
        let Some(flow) = self.flows.get_mut(&tenant) else { return };
        let listed = self.order.remove(&(flow.tag.0, flow.turn, tenant));
        flow.tag.0 += cost / u128::from(flow.weight);
        if listed {
            self.turns += 1;
            flow.turn = self.turns;
            self.order.insert((flow.tag.0, flow.turn, tenant));
        }
        self.clock += cost / u128::from(self.weights.max(1));
        if let Some((least, ..)) = self.order.first() {
            self.clock = self.clock.max(*least);
        }
    }

    /// Takes a waiter off the lists. If its lane was held back and is no more, until when it was: the next one is asked.
    pub(super) fn leave(&mut self, room: &mut Room, seat: Seat) -> Option<Instant> {
        let lane = room.slots.waiter(seat)?.lane;
        room.slots.unlink(self.line.get_or_insert(Ends::EMPTY), seat, Thread::Line);
        self.len -= 1;
        let held = self.leave_lane(room, seat, lane);
        if let Some(flow) = self.flows.get_mut(&lane.tenant) {
            flow.waiting -= 1;
            if flow.waiting == 0 {
                self.owing.insert((flow.tag.0, lane.tenant));
            }
        }
        self.forget(room);
        held
    }

    fn leave_lane(&mut self, room: &mut Room, seat: Seat, lane: Lane) -> Option<Instant> {
        let calls = self.lanes.get_mut(&lane.key())?;
        room.slots.unlink(&mut calls.ends, seat, Thread::Lane);
        let oldest = calls.ends.oldest().and_then(|oldest| room.slots.waiter(oldest)).map(|waiter| waiter.arrival);
        if let Some(oldest) = oldest {
            if calls.held.is_none() && oldest != calls.oldest {
                self.ready.remove(&(lane.tenant, calls.oldest, lane.model));
                self.ready.insert((lane.tenant, oldest, lane.model));
            }
            let first_left = oldest != calls.oldest;
            calls.oldest = oldest;
            // The next one may need less.
            let held = if first_left { calls.held.take() } else { None };
            if held.is_some() {
                self.list(lane, oldest);
            }
            return held;
        }
        let (oldest, held) = (calls.oldest, calls.held);
        if held.is_none() {
            self.unlist(lane, oldest);
        }
        self.lanes.remove(&lane.key());
        room.models.release(lane.model);
        held
    }

    /// Forgets the flows that owe nothing, and all of them once nobody waits.
    fn forget(&mut self, room: &mut Room) {
        while let Some((tag, tenant)) = self.owing.first().copied()
            && (tag <= self.clock || self.len == 0)
        {
            self.owing.pop_first();
            self.flows.remove(&tenant);
            room.tenants.release(tenant);
        }
        if self.len == 0 {
            *self = Self::default();
        }
    }
}
