//! What a gate looks like at one moment.

use std::time::Duration;

use crate::types::Priority;

/// A gate at one moment: [`AdmissionGate::status`](super::AdmissionGate::status).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Calls admitted and not yet over.
    pub in_flight: usize,
    /// How many may be in flight now; `None` when that is not limited.
    pub concurrency: Option<usize>,
    /// Calls waiting.
    pub queued: usize,
    /// The classes, highest first.
    pub classes: [ClassStatus; 3],
    /// Tenants with a call waiting, counted once in each class; calls without a tenant count as one.
    pub tenants: usize,
    /// Tokens estimated for the calls in flight.
    pub reserved_tokens: u64,
    /// Whether it is paused.
    pub paused: bool,
    /// Whether it admits no newcomers.
    pub draining: bool,
    /// How many were treated how, since the start.
    pub totals: Totals,
}

impl Status {
    /// One class.
    pub fn class(&self, priority: Priority) -> ClassStatus {
        let empty = ClassStatus { priority, queued: 0, oldest: Duration::ZERO };
        self.classes.into_iter().find(|class| class.priority == priority).unwrap_or(empty)
    }
}

/// A priority class at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassStatus {
    /// Which.
    pub priority: Priority,
    /// Calls of it that wait.
    pub queued: usize,
    /// How long the oldest of them has waited; zero when nobody waits.
    pub oldest: Duration,
}

/// Calls since the start, by what became of them at the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Totals {
    /// Let in.
    pub admitted: u64,
    /// Turned away at once.
    pub refused: u64,
    /// Turned away while they waited, to make room.
    pub shed: u64,
    /// Turned away while they waited, by [`clear`](super::AdmissionGate::clear).
    pub cleared: u64,
    /// Gave up while they waited, or reached their deadline.
    pub left: u64,
}
