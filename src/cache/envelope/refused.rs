//! Why an envelope was not taken.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why bytes are not the live entry of a request. Each is a miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// They do not start as an envelope does.
    #[error("not an envelope")]
    NotOurs,
    /// Another version of the crate wrote them, or they carry flags this one does not know.
    #[error("of another version")]
    Version,
    /// They were damaged or cut.
    #[error("damaged")]
    Checksum,
    /// They lack a valid code of authenticity.
    #[error("not authentic")]
    Mac,
    /// They were stored for another request.
    #[error("of another request")]
    WrongKey,
    /// Their time is over.
    #[error("expired")]
    Expired,
    /// They are, or claim to unpack to, more than is taken.
    #[error("too large")]
    TooLarge,
    /// Their JSON nests 128 levels or more.
    #[error("nested too deep")]
    TooDeep,
    /// What they carry is no answer.
    #[error("no answer inside")]
    Payload,
}

/// How often each reason came up.
#[derive(Debug, Default)]
pub(crate) struct Refusals([AtomicU64; 9]);

impl Refusals {
    pub(crate) fn count(&self, reason: Refused) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn of(&self, reason: Refused) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }

    /// All reasons but expiry, which is no fault.
    pub(crate) fn faults(&self) -> u64 {
        let all: u64 = self.0.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        all.saturating_sub(self.of(Refused::Expired))
    }
}
