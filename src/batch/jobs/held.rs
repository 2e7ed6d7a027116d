//! What a worker has in hand.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::JobId;

/// The entries in hand, each with what is cancelled when another worker has it.
#[derive(Clone, Default)]
pub(super) struct Hand(Arc<Mutex<HashMap<String, CancellationToken>>>);

/// An entry in hand, until this is dropped.
pub(super) struct Held {
    hand: Hand,
    pub(super) entry: String,
    pub(super) id: JobId,
    pub(super) lost: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Hand {
    /// Takes an entry in hand; none if it is already, as when Redis stood still for longer than the hold.
    pub(super) fn take(&self, entry: String, id: JobId, place: OwnedSemaphorePermit) -> Option<Held> {
        let lost = CancellationToken::new();
        let mut entries = self.0.lock();
        if entries.contains_key(&entry) {
            return None;
        }
        entries.insert(entry.clone(), lost.clone());
        Some(Held { hand: self.clone(), entry, id, lost, _place: place })
    }

    pub(super) fn entries(&self) -> Vec<String> {
        self.0.lock().keys().cloned().collect()
    }

    /// Another worker has it.
    pub(super) fn lose(&self, entry: &str) {
        if let Some(lost) = self.0.lock().get(entry) {
            lost.cancel();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.hand.0.lock().remove(&self.entry);
    }
}
