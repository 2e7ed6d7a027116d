//! The client's way into batches.

use super::{Builder, OptimizedClient, Side};
use crate::batch::{BatchLayer, Bulk, DeferLayer};
use crate::layer::Slot;

impl OptimizedClient {
    /// Bulk runs over this client, with its clock; its [`shutdown`](Self::shutdown) drains them.
    pub fn bulk(&self) -> Bulk {
        Bulk::new(self.clone()).env(self.0.env.clone())
    }
}

impl Builder {
    /// Merges small embedding requests of different callers into one.
    pub fn batch(self, batch: impl Into<BatchLayer>) -> Self {
        self.set(Slot::Batch, Side::Own, batch.into())
    }

    /// Leaves calls that can wait for hours to a provider's batches, at half the price.
    pub fn defer(mut self, defer: DeferLayer) -> Self {
        self.env = self.env.with_deferral(defer.min_wait());
        self.set(Slot::Batch, Side::First, defer)
    }
}
