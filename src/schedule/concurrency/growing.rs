//! A limit that grows with the queue.

use std::ops::RangeInclusive;

/// One more place for every so many who wait.
#[derive(Debug)]
pub(in crate::schedule) struct Growing {
    bounds: RangeInclusive<usize>,
    per: usize,
    limit: usize,
}

impl Growing {
    pub(super) fn new(bounds: RangeInclusive<usize>, per: usize) -> Self {
        Self { limit: *bounds.start(), bounds, per }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn entered(&mut self, waiting: usize) {
        let wanted = self.bounds.start().saturating_add(waiting / self.per);
        self.limit = self.limit.max(wanted.min(*self.bounds.end()));
    }

    /// One step at a time, so that a queue that is empty for a moment does not undo it all.
    pub(super) fn ended(&mut self, waiting: usize) {
        if waiting == 0 {
            self.limit = (self.limit - 1).max(*self.bounds.start());
        }
    }
}
