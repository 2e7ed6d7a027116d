//! What a user says about caching.

use std::sync::Arc;
use std::time::Duration;

use super::{CacheTier, KeyPolicy, Namespace, StorePolicy};

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
    pub(super) in_memory: bool,
    pub(super) namespaces: Vec<Namespace>,
    pub(super) outer: Vec<Arc<dyn CacheTier>>,
    pub(super) tier_timeout: Duration,
    pub(super) keys: KeyPolicy,
    pub(super) store: StorePolicy,
    pub(super) hottest: usize,
}

impl Cache {
    /// In this process's memory: at most so many answers (at least 1), and 256 MiB unless
    /// [`max_bytes`](Self::max_bytes) says otherwise. Vectors and values have memory of their own: see [`Namespace`].
    pub fn memory(entries: usize) -> Self {
        let mut this = Self::new(true, Vec::new());
        this.responses().entries = entries;
        this
    }

    /// In this tier, and not in memory.
    pub fn on(tier: impl CacheTier) -> Self {
        Self::new(false, vec![Arc::new(tier)])
    }

    fn new(in_memory: bool, outer: Vec<Arc<dyn CacheTier>>) -> Self {
        Self {
            in_memory,
            namespaces: Namespace::ready_made(),
            outer,
            tier_timeout: Duration::from_millis(100),
            keys: KeyPolicy::default(),
            store: StorePolicy::default(),
            hottest: 0,
        }
    }

    /// The first namespace is that of answers.
    fn responses(&mut self) -> &mut Namespace {
        &mut self.namespaces[0]
    }

    /// Adds a namespace, or gives one that is there already another size and time to live.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        match self.namespaces.iter_mut().find(|known| known.name == namespace.name) {
            Some(known) => *known = namespace,
            None => self.namespaces.push(namespace),
        }
        self
    }

    /// Adds a tier outside those given before: it is asked when they have nothing, what it has fills them, with the life
    /// it has left, and new answers are written to all before the call ends. A tier that fails five times in a row is
    /// left alone for a second, then asked by one call; as long as that fails, for twice as long, up to half a minute.
    #[must_use]
    pub fn tier(mut self, tier: impl CacheTier) -> Self {
        self.outer.push(Arc::new(tier));
        self
    }

    /// How long an answer is served; more than zero. Other namespaces have their own. One hour unless set: long enough for questions that come again in
    /// a session or a shift, short enough that a corrected prompt or model is seen the same day.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.responses().ttl = ttl;
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

    /// What is part of the key; everything that can change the answer unless set.
    #[must_use]
    pub fn keys(mut self, policy: KeyPolicy) -> Self {
        self.keys = policy;
        self
    }

    /// Which answers may be kept; complete and successful ones unless set.
    #[must_use]
    pub fn store(mut self, policy: StorePolicy) -> Self {
        self.store = policy;
        self
    }

    /// Tracks so many of the requests that are hit most, for [`CacheHandle::hottest`](super::CacheHandle::hottest); at most
    /// 1024, zero tracks none. None unless set: tracked requests stay in memory as long as they are tracked. 64 are enough
    /// for most: who has more than a 64th of the hits is found. It costs a hit a few ns, and one in 16 a scan of so many
    /// numbers.
    #[must_use]
    pub fn track_hottest(mut self, requests: usize) -> Self {
        self.hottest = requests.min(1024);
        self
    }

    /// Bytes of memory for answers at most, their requests included; at least 1. No effect on tiers outside memory.
    #[must_use]
    pub fn max_bytes(mut self, max: u64) -> Self {
        self.responses().max_bytes = max;
        self
    }
}
