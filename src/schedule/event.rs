//! What happens at a gate, for those who listen.

use std::time::Duration;

use tokio::sync::broadcast;

use crate::error::ErrorKind;
use crate::types::Priority;

/// How many events are kept for a listener that is behind.
pub(super) const KEPT: usize = 1_024;

/// Something that happened at an [`AdmissionGate`](super::AdmissionGate). It names no tenant and no prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdmissionEvent {
    /// A call must wait.
    Queued {
        /// Its class.
        priority: Priority,
        /// How many wait now.
        waiting: usize,
    },
    /// A call may start.
    Admitted {
        /// Its class.
        priority: Priority,
        /// How long it waited.
        queued: Duration,
    },
    /// A waiter had to make room for another ([`Shed`](super::Shed)).
    Shed {
        /// Its class.
        priority: Priority,
        /// How long it had waited.
        queued: Duration,
    },
    /// A call was turned away at once.
    Refused {
        /// Its class.
        priority: Priority,
        /// Why.
        kind: ErrorKind,
    },
    /// A waiter gave up, or reached its deadline.
    Left {
        /// Its class.
        priority: Priority,
        /// How long it had waited.
        queued: Duration,
    },
    /// The queue was emptied.
    Cleared {
        /// How many waited.
        waiters: usize,
    },
    /// Nobody is let in until it resumes.
    Paused,
    /// Calls are let in again.
    Resumed,
    /// Nobody may come any more; those who wait are served.
    Draining,
    /// The concurrency limit has changed.
    LimitChanged {
        /// What it was.
        from: usize,
        /// What it is.
        to: usize,
    },
}

/// Hears what happens at a gate, from the moment it was made.
///
/// It never holds admission up: one that is more than 1,024 events behind misses the oldest, and is told how many.
#[derive(Debug)]
pub struct AdmissionEvents(broadcast::Receiver<AdmissionEvent>);

/// The next thing heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Heard {
    /// This happened.
    Event(AdmissionEvent),
    /// So many were missed.
    Missed(u64),
}

impl AdmissionEvents {
    pub(super) fn new(receiver: broadcast::Receiver<AdmissionEvent>) -> Self {
        Self(receiver)
    }

    /// Waits for the next event; `None` once the gate and its permits are gone. Cancel-safe: nothing is lost.
    pub async fn next(&mut self) -> Option<Heard> {
        match self.0.recv().await {
            Ok(event) => Some(Heard::Event(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Heard::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Option<Heard> {
        match self.0.try_recv() {
            Ok(event) => Some(Heard::Event(event)),
            Err(broadcast::error::TryRecvError::Lagged(missed)) => Some(Heard::Missed(missed)),
            Err(_) => None,
        }
    }
}
