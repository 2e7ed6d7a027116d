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
    pub(super) memory: Option<MemoryLimits>,
    pub(super) outer: Vec<Arc<dyn CacheTier>>,
    pub(super) ttl: Duration,
    pub(super) tier_timeout: Duration,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct MemoryLimits {
    pub(super) entries: usize,
    pub(super) bytes: u64,
}

impl Cache {
    /// In this process's memory: at most so many answers (at least 1), and 256 MiB unless
    /// [`max_bytes`](Self::max_bytes) says otherwise.
    pub fn memory(entries: usize) -> Self {
        Self::new(Some(MemoryLimits { entries, bytes: 256 << 20 }), Vec::new())
    }

    /// In this tier, and not in memory.
    pub fn on(tier: impl CacheTier) -> Self {
        Self::new(None, vec![Arc::new(tier)])
    }

    fn new(memory: Option<MemoryLimits>, outer: Vec<Arc<dyn CacheTier>>) -> Self {
        Self { memory, outer, ttl: Duration::from_secs(3600), tier_timeout: Duration::from_millis(100) }
    }

    /// Adds a tier outside those given before: it is asked when they have nothing, what it has fills them, with the life
    /// it has left, and new answers are written to all before the call ends. A tier that fails five times in a row is
    /// left alone for a second, then asked by one call; as long as that fails, for twice as long, up to half a minute.
    /// One that fails at once, within 5 ms, as a tier does that knows that it is cut off, is asked every quarter of a
    /// second: that costs nobody anything, and it is in use again soon after it has recovered.
    #[must_use]
    pub fn tier(mut self, tier: impl CacheTier) -> Self {
        self.outer.push(Arc::new(tier));
        self
    }

    /// How long an answer is served; more than zero. One hour unless set: long enough for questions that come again in
    /// a session or a shift, short enough that a corrected prompt or model is seen the same day.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long a tier outside memory may take to find or to keep an answer; more than zero. 100 ms unless set: a few times
    /// what a healthy store in the same network takes, and little beside a model's answer. A tier that takes longer,
    /// fails or panics is passed over and counted.
    #[must_use]
    pub fn tier_timeout(mut self, limit: Duration) -> Self {
        self.tier_timeout = limit;
        self
    }

    /// Bytes of memory for answers at most, their requests included; at least 1. No effect on tiers outside memory.
    #[must_use]
    pub fn max_bytes(mut self, max: u64) -> Self {
        if let Some(memory) = &mut self.memory {
            memory.bytes = max;
        }
        self
    }
}
