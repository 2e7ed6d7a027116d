//! What is where: in memory, rebuilt from the heads of the records when the log is opened.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::files::Segment;
use super::record::{Head, Kind, Life};
use crate::fingerprint::ByFingerprint;

/// Where an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) segment: u64,
    pub(super) at: u32,
    pub(super) length: u32,
    pub(super) life: Life,
}

#[derive(Debug)]
pub(super) struct Held {
    pub(super) segment: Arc<Segment>,
    pub(super) bytes: u64,
    /// Nothing in it is alive after this.
    pub(super) alive_until: u64,
    /// What was written into it, so that it can be dropped without a look at everything else.
    names: Vec<u128>,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) slots: HashMap<u128, Slot, ByFingerprint>,
    pub(super) segments: BTreeMap<u64, Held>,
    /// Bytes of all segments.
    pub(super) bytes: u64,
}

impl Index {
    pub(super) fn find(&self, name: u128) -> Option<(Slot, Arc<Segment>)> {
        let slot = *self.slots.get(&name)?;
        Some((slot, Arc::clone(&self.segments.get(&slot.segment)?.segment)))
    }

    pub(super) fn add(&mut self, segment: Arc<Segment>, bytes: u64) {
        self.bytes += bytes;
        let held = Held { bytes, alive_until: 0, names: Vec::new(), segment };
        self.segments.insert(held.segment.id, held);
    }

    /// Says how long a segment is now.
    pub(super) fn resize(&mut self, id: u64, bytes: u64) {
        if let Some(held) = self.segments.get_mut(&id) {
            self.bytes = self.bytes - held.bytes + bytes;
            held.bytes = bytes;
        }
    }

    /// Takes a record in that stands here; the entry it hides, if there is one. Entries that have expired are taken in like
    /// others: were they forgotten, a removal would not meet them, and a clock that is put right would bring them back.
    pub(super) fn record(&mut self, head: &Head, segment: u64, at: u32) -> Option<Slot> {
        if head.kind == Kind::Forgotten {
            return self.slots.remove(&head.name);
        }
        let held = self.segments.get_mut(&segment)?;
        held.alive_until = held.alive_until.max(head.life.expires);
        held.names.push(head.name);
        self.slots.insert(head.name, Slot { segment, at, length: head.length, life: head.life })
    }

    /// Takes a segment away; the names of what is in it, which nobody finds from now on.
    pub(super) fn drop_segment(&mut self, id: u64) -> Vec<u128> {
        let Some(held) = self.segments.remove(&id) else { return Vec::new() };
        self.bytes -= held.bytes;
        held.names
    }

    /// Forgets which of these are in a segment that was dropped.
    pub(super) fn forget_all(&mut self, names: &[u128], segment: u64) {
        for name in names {
            if self.slots.get(name).is_some_and(|slot| slot.segment == segment) {
                self.slots.remove(name);
            }
        }
    }
}
