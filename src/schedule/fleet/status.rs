//! How it is going.

use crate::error::ErrorKind;

/// Where a process has its limits from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FleetMode {
    /// From nowhere yet: the first trip is not over.
    Starting,
    /// From Redis, with all others.
    Shared,
    /// Redis answers again, and the others are given a second to find that out: still its own share.
    Returning,
    /// Redis does not answer: its own share.
    Alone,
}

/// How the sharing of limits is going.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FleetStatus {
    /// Where the limits come from now.
    pub mode: FleetMode,
    /// Processes seen within the last five seconds, this one included; when Redis was last reached.
    pub processes: usize,
    /// How many of them have other limits under the same name; of each limit that they set differently, the lowest holds.
    pub differing: usize,
    /// Trips to Redis, failed ones included.
    pub trips: u64,
    /// Trips that failed or took too long.
    pub failed: u64,
    /// Why the last one failed that did.
    pub last_error: Option<ErrorKind>,
    /// The least number of processes to share by without Redis.
    expected: usize,
}

impl FleetStatus {
    pub(super) fn new(expected: usize) -> Self {
        let mode = FleetMode::Starting;
        Self { mode, processes: 1, differing: 0, trips: 0, failed: 0, last_error: None, expected }
    }

    /// By how many to divide without Redis.
    pub(super) fn share_of(&self) -> usize {
        self.processes.max(self.expected)
    }
}
