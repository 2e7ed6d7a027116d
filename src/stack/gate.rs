//! The door of a client: who is inside, and when it is shut.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::error::{Error, ErrorKind, Result};
use crate::sharded::Sharded;

/// Counts who is inside, sharded per thread, and lets nobody in once it is closed.
#[derive(Default)]
pub(super) struct Gate {
    counts: Sharded<Counts>,
    closed: AtomicBool,
    left: Notify,
}

#[derive(Default)]
struct Counts {
    entered: AtomicU64,
    left: AtomicU64,
}

impl Gate {
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub(super) async fn drained(&self) {
        loop {
            let left = self.left.notified();
            let sum = |pick: fn(&Counts) -> &AtomicU64| {
                self.counts.iter().fold(0_u64, |sum, counts| sum.wrapping_add(pick(counts).load(Ordering::SeqCst)))
            };
            // Leavers first: who leaves in between is then counted as still inside, never the other way round.
            let gone = sum(|counts| &counts.left);
            if sum(|counts| &counts.entered) == gone {
                return;
            }
            left.await;
        }
    }
}

/// A call under way: a call borrows the gate, a stream shares it.
pub(super) struct Inside<G: Deref<Target = Gate>>(G);

impl<G: Deref<Target = Gate>> Inside<G> {
    pub(super) fn enter(gate: G) -> Result<Self> {
        // Sequential consistency: either we see the gate closed, or who closes it sees us inside.
        gate.counts.local().entered.fetch_add(1, Ordering::SeqCst);
        let inside = Self(gate);
        if inside.0.closed.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Shutdown, "client", "shutdown() was called; build a new client"));
        }
        Ok(inside)
    }
}

impl<G: Deref<Target = Gate>> Drop for Inside<G> {
    fn drop(&mut self) {
        self.0.counts.local().left.fetch_add(1, Ordering::SeqCst);
        if self.0.closed.load(Ordering::SeqCst) {
            self.0.left.notify_waiters();
        }
    }
}
