//! What a user says about caching.

use std::sync::Arc;
use std::time::Duration;

use super::CacheTier;

/// How answers are cached.
///
/// ```
/// # use std::time::Duration;
/// use sluicegate::cache::Cache;
/// let cache = Cache::memory(10_000).ttl(Duration::from_secs(3600)).max_bytes(64 << 20);
/// # let _ = cache;
/// ```
#[derive(Debug, Clone)]
pub struct Cache {
    pub(super) store: Store,
    pub(super) ttl: Duration,
    pub(super) tier_timeout: Duration,
}

#[derive(Debug, Clone)]
pub(super) enum Store {
    Memory { entries: usize, bytes: u64 },
    Custom(Arc<dyn CacheTier>),
}

impl Cache {
    /// In this process's memory: at most so many answers (at least 1), and 256 MiB unless
    /// [`max_bytes`](Self::max_bytes) says otherwise.
    pub fn memory(entries: usize) -> Self {
        Self::new(Store::Memory { entries, bytes: 256 << 20 })
    }

    /// In a tier of your own.
    pub fn on(tier: impl CacheTier) -> Self {
        Self::new(Store::Custom(Arc::new(tier)))
    }

    fn new(store: Store) -> Self {
        Self { store, ttl: Duration::from_secs(3600), tier_timeout: Duration::from_millis(100) }
    }

    /// How long an answer is served; more than zero. One hour unless set: long enough for questions that come again in
    /// a session or a shift, short enough that a corrected prompt or model is seen the same day.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long a tier of your own may take to find or to keep an answer; more than zero. 100 ms unless set: a few times
    /// what a healthy store in the same network takes, and little beside a model's answer. A tier that takes longer,
    /// fails or panics is passed over and counted. No effect in memory, which never waits.
    #[must_use]
    pub fn tier_timeout(mut self, limit: Duration) -> Self {
        self.tier_timeout = limit;
        self
    }

    /// Bytes of memory for answers at most, their requests included; at least 1. No effect on a tier of your own.
    #[must_use]
    pub fn max_bytes(mut self, max: u64) -> Self {
        if let Store::Memory { bytes, .. } = &mut self.store {
            *bytes = max;
        }
        self
    }
}
