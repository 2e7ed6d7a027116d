//! What a user says about caching.

use std::sync::Arc;
use std::time::Duration;

use super::{CacheTier, Fleet, KeyPolicy, Namespace, StorePolicy};

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
    pub(super) fleet: Option<(usize, Arc<dyn Fleet>)>,
    pub(super) lease_term: Duration,
    pub(super) tier_timeout: Duration,
    pub(super) keys: KeyPolicy,
    pub(super) store: StorePolicy,
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
            fleet: None,
            lease_term: Duration::from_secs(3),
            tier_timeout: Duration::from_millis(100),
            keys: KeyPolicy::default(),
            store: StorePolicy::default(),
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
    /// One that fails at once, within 5 ms, as a tier does that knows that it is cut off, is asked every quarter of a
    /// second: that costs nobody anything, and it is in use again soon after it has recovered.
    #[must_use]
    pub fn tier(mut self, tier: impl CacheTier) -> Self {
        self.outer.push(Arc::new(tier));
        self
    }

    /// Adds a tier that several processes share, as [`tier`](Self::tier) does, and keeps the processes together by it:
    ///
    /// - memory follows it: what changes there, or is removed by any process, is dropped from the memory of all;
    /// - concurrent equal misses of all processes make one upstream call: one takes the lease of the key, the others wait
    ///   for its answer.
    ///
    /// A second one takes the place of the first as the fleet's; the first stays as a tier. When the store is away, every
    /// process goes on alone.
    #[must_use]
    pub fn fleet(mut self, store: impl Fleet) -> Self {
        let store: Arc<dyn Fleet> = Arc::new(store);
        self.outer.push(Arc::clone(&store) as Arc<dyn CacheTier>);
        self.fleet = Some((self.outer.len() - 1, store));
        self
    }

    /// How long a lease lasts that is not renewed, that is, how long the death of the process that asks delays the others;
    /// more than zero. 3 s unless set: it is renewed every third of it, so a pause of less than two thirds costs nothing.
    #[must_use]
    pub fn lease_term(mut self, term: Duration) -> Self {
        self.lease_term = term;
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

    /// What is part of the key; everything that can change the answer unless set, so that nothing is shared by mistake.
    #[must_use]
    pub fn keys(mut self, policy: KeyPolicy) -> Self {
        self.keys = policy;
        self
    }

    /// Which answers may be kept; unless set complete ones that say something, refuse nothing, and are JSON where JSON
    /// was asked for.
    #[must_use]
    pub fn store(mut self, policy: StorePolicy) -> Self {
        self.store = policy;
        self
    }

    /// Bytes of memory for answers at most, their requests included; at least 1. No effect on tiers outside memory.
    #[must_use]
    pub fn max_bytes(mut self, max: u64) -> Self {
        self.responses().max_bytes = max;
        self
    }
}
