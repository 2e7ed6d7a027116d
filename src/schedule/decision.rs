//! The decision: one lock, direct hand-over, nobody who runs in the background.
//!
//! Whoever frees something (a call that ends, a waiter that leaves) lets the heads of the queue in before it goes on.
//! Time is nobody's doing, so when a rate holds the head back, the head itself sleeps until the rate allows it.
//!
//! What must hold whenever the lock is free, so that no wake-up is lost. If somebody waits, the head cannot start now,
//! because
//!
//! 1. concurrency is used up: then a grant is out, and its release, or the leaving of the waiter it was meant for,
//!    calls [`Core::let_in`]; or
//! 2. a rate holds it back until some instant: then `told` names the head and an instant no later, which means that
//!    the head sleeps until then at most, or was woken and will look, and set its timer, when it is polled.
//!
//! Every waiter is in exactly one of three states: in the queue, in `granted` (its place and tokens are taken, it has
//! been woken), or gone. A future that is dropped leaves whichever it is in; if it was granted, its turn is handed on,
//! with its request of the rate. A timer of a waiter that is no longer the head is dropped when it is next polled; until
//! then it costs one wake-up.
//!
//! Wakers are woken and dropped outside the lock: either may run foreign code that comes back here.

use std::collections::HashMap;
use std::task::Waker;
use std::time::Instant;

use super::queue::{Place, Queue, Waiter};
use super::rate::{Ask, Debit, Held, Rates};
use super::{Load, Outcome};
use crate::types::Priority;

/// What the lock guards.
#[derive(Debug)]
pub(super) struct Core {
    concurrency: usize,
    in_flight: usize,
    pub(super) rates: Rates,
    pub(super) queue: Queue,
    /// Let in, and not polled since.
    pub(super) granted: HashMap<Place, Grant>,
    /// The head that has been told of the rate that holds it back, and until when.
    pub(super) told: Option<(Place, Instant)>,
}

/// What a call holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grant {
    debit: Debit,
}

/// Why the next one cannot start now.
#[derive(Debug)]
pub(super) enum Blocked {
    /// Until somebody leaves.
    Full,
    /// By a rate.
    Rate(Held),
}

impl Core {
    pub(super) fn new(concurrency: Option<usize>, rates: Rates) -> Self {
        Self {
            concurrency: concurrency.unwrap_or(usize::MAX),
            in_flight: 0,
            rates,
            queue: Queue::default(),
            granted: HashMap::new(),
            told: None,
        }
    }

    pub(super) fn load(&self) -> Load {
        Load::new(self.in_flight, self.queue.len(), self.rates.reserved())
    }

    /// Lets one in at once, if nobody of its class or above waits and it can start.
    pub(super) fn take_ahead(&mut self, priority: Priority, ask: Ask, now: Instant) -> Option<Grant> {
        let ahead = self.queue.is_ahead_of_all(self.queue.next_place(priority));
        ahead.then(|| self.take(ask, now).ok()).flatten()
    }

    /// Enters the queue. The real waker comes with the first poll, which must follow at once.
    pub(super) fn enter(&mut self, priority: Priority, ask: Ask) -> Place {
        self.queue.enter(priority, Waiter { ask, waker: Waker::noop().clone() })
    }

    /// Takes a place and what it asks of the rates, all or nothing.
    pub(super) fn take(&mut self, ask: Ask, now: Instant) -> Result<Grant, Blocked> {
        if self.in_flight >= self.concurrency {
            return Err(Blocked::Full);
        }
        let debit = self.rates.take(ask, now).map_err(Blocked::Rate)?;
        self.in_flight += 1;
        Ok(Grant { debit })
    }

    /// Frees what a call held; `None`: it was abandoned.
    pub(super) fn release(&mut self, grant: Grant, outcome: Option<&Outcome<'_>>, now: Instant) {
        self.in_flight -= 1;
        self.rates.settle(grant.debit, outcome, now);
    }

    /// Frees what was granted to somebody who left before he saw it, as if it had never been.
    pub(super) fn take_back(&mut self, grant: Grant, now: Instant) {
        self.in_flight -= 1;
        self.rates.undo(grant.debit, now);
    }

    /// Lets in as many heads as can start, then sees to it that the next one has a timer if it needs one. Returns whom
    /// to wake. `me` looks after itself.
    pub(super) fn let_in(&mut self, me: Option<Place>, now: Instant) -> Vec<Waker> {
        let mut wake = Vec::new();
        loop {
            let Some((place, head)) = self.queue.head() else {
                self.told = None;
                return wake;
            };
            match self.take(head.ask, now) {
                Ok(grant) => {
                    self.granted.insert(place, grant);
                    wake.extend(self.queue.pop().map(|waiter| waiter.waker));
                }
                Err(Blocked::Full) => {
                    self.told = None;
                    return wake;
                }
                Err(Blocked::Rate(Held { until: at, .. })) => {
                    let knows = me == Some(place) || self.told.is_some_and(|(who, when)| who == place && when <= at);
                    if !knows {
                        wake.extend(self.queue.head().map(|(_, head)| head.waker.clone()));
                    }
                    self.told = Some((place, at));
                    return wake;
                }
            }
        }
    }
}
