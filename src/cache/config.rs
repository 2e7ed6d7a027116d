//! What a user says about caching.

use std::sync::Arc;
use std::time::Duration;

use super::freshness::Freshness;
use super::{CacheTier, Fleet, KeyPolicy, Namespace, Negative, StorePolicy};

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
    pub(super) freshness: Freshness,
    pub(super) negative: Option<Negative>,
    pub(super) adaptive: Option<(Duration, Duration)>,
    pub(super) predicted: usize,
    pub(super) hottest: usize,
    pub(super) behind: Option<usize>,
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
            freshness: Freshness::default(),
            negative: None,
            adaptive: None,
            predicted: 0,
            hottest: 0,
            behind: None,
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
    /// it has left, and new answers are written to all before the call ends, unless they are
    /// [written behind](Self::write_behind). A tier that fails five times in a row is
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
    /// - so do the tiers given before it, which are taken for this process's own, such as a disk, in what any process
    ///   removes: it is gone before they are asked again. What is removed while a process is away or cut off they keep as
    ///   long as it lives. Tiers given after it are taken for shared, and whoever removes does so there for all;
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

    /// Writes new answers to the tiers outside memory in the background: a call ends when memory has its answer. At most so
    /// many puts, at least 1, are under way behind; what comes on top is written before its call ends, as everything is
    /// unless this is set. [`shutdown`](crate::OptimizedClient::shutdown) waits for them; a process that dies loses them,
    /// and every one takes no longer than [`tier_timeout`](Self::tier_timeout).
    #[must_use]
    pub fn write_behind(mut self, puts: usize) -> Self {
        self.behind = Some(puts);
        self
    }

    /// How long a lease lasts that is not renewed, that is, how long the death of the process that asks delays the others;
    /// more than zero. 3 s unless set: it is renewed every third of it, so a pause of less than two thirds costs nothing.
    #[must_use]
    pub fn lease_term(mut self, term: Duration) -> Self {
        self.lease_term = term;
        self
    }

    /// How long an answer is served; more than zero. Other namespaces have their own. One hour unless set: long enough
    /// for questions that come again in a session or a shift, short enough that a corrected prompt or model is seen the
    /// same day.
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

    /// By up to which share an entry's life is shortened at random, from 0 to 0.5, so that what was stored together does
    /// not expire together; never lengthened. 0.1 unless set: enough to spread a burst over minutes of an hour's life. A
    /// life that a call asked for itself ([`CacheControl::ttl`](crate::types::CacheControl::ttl)) is kept as it is.
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        self.freshness.jitter = share;
        self
    }

    /// For how long after its life an answer is still served, stale, while one refresh per key runs in the background
    /// (RFC 5861, section 3). Zero, which is off, unless set.
    ///
    /// The refresh is the upstream call that a miss would make: misses join it. It has low priority and no deadline, but
    /// gives up after ten times what the answer took, at least a minute; 32 run at a time, further ones wait for the next
    /// hit. That of a call which may wait for hours ([`DeferLayer`](crate::batch::DeferLayer)) is left to a batch, beside
    /// up to 1,023 others, for up to 30 hours; who cannot wait has one of their own. One that fails leaves the stale answer in place, and its key alone for a second, then two, up to a minute. It
    /// ends with [`shutdown`](crate::OptimizedClient::shutdown) and with the last handle. Without a tokio runtime at hand
    /// a call asks by itself. [`Trace::stale`](crate::types::Trace::stale) tells a caller.
    #[must_use]
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.freshness.while_revalidate = window;
        self
    }

    /// For how long after its life an answer is still served, stale, when asking upstream failed in a way that passes
    /// (RFC 5861, section 4): `Server`, `Network`, `Timeout`, `Truncated`, `Decode`, `RateLimited`, `Overloaded`,
    /// `Deadline`. Never when the request is at fault, access is refused or the quota is used up. Zero, which is off,
    /// unless set.
    ///
    /// Each call asks first, so a provider that hangs is waited for: set timeouts. A limit outside the cache, such as the
    /// stack's own deadline, ends the call before the stale answer can be given.
    #[must_use]
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.freshness.if_error = window;
        self
    }

    /// Refreshes an answer in the background before its life ends, at a moment drawn anew for each hit: the nearer the
    /// end, the longer the answer took to make and the larger `beta`, the likelier (XFetch; Vattani, Chierichetti and
    /// Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", 2015). So an answer that is asked for often hardly
    /// ever expires, and one that is asked for rarely is not refreshed in vain. 0, which is off, unless set; 1 is
    /// recommended; at most 100.
    #[must_use]
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.freshness.early = beta;
        self
    }

    /// Remembers failures of chosen kinds for a short time, and gives them again without asking upstream. None unless set.
    #[must_use]
    pub fn negative(mut self, negative: Negative) -> Self {
        self.negative = Some(negative);
        self
    }

    /// Lets lives follow the demand, between these bounds, `min` more than zero and at most `max`. Off unless set.
    ///
    /// A key's first life is the time to live of its namespace, within the bounds. When an answer is stored for it again,
    /// its life doubles if four hits or more came in the life before, and halves if none came; one to three leave it. As
    /// in binary exponential back-off, a few steps reach either bound, and one odd life is undone by the next. Jitter is
    /// taken off afterwards; a life that a call asked for itself stays as it is. What is asked for most is then served
    /// longest, up to `max`: choose it as long as any answer may be trusted. 16,384 keys are known by their lives.
    #[must_use]
    pub fn adaptive_ttl(mut self, min: Duration, max: Duration) -> Self {
        self.adaptive = Some((min, max));
        self
    }

    /// Follows the rhythm in which keys are asked for, of at most so many keys, and refreshes an answer in the background
    /// when its next call is expected after its life: the last hit of a life then starts the refresh, and the next call
    /// finds it done. A key counts once four gaps between its calls are known and two of their mean fit into a life. 0,
    /// which is off, unless set; a thousand keys take about 150 KB. A key nobody asks for again costs one call in vain.
    #[must_use]
    pub fn predict(mut self, keys: usize) -> Self {
        self.predicted = keys;
        self
    }

    /// Its tiers and settings in one line.
    pub(super) fn describe(&self) -> String {
        let responses = &self.namespaces[0];
        let memory = || format!("memory, {} entries, {}", responses.entries, size(responses.max_bytes));
        let inner = self.in_memory.then(memory);
        let names: Vec<_> = inner.into_iter().chain(self.outer.iter().map(|tier| tier.name().to_owned())).collect();
        let policies = format!("{}{}", self.keys.describe(), self.store.describe());
        let freshness = self.freshness.settings();
        let adaptive = self.adaptive.map_or_else(String::new, |(min, max)| format!(", adaptive {min:?} to {max:?}"));
        let negative = self.negative.as_ref().map_or("", |_| ", negative");
        let predict = if self.predicted > 0 { ", predict" } else { "" };
        let ttl = responses.ttl;
        format!("{}, ttl {ttl:?}{adaptive}{freshness}{predict}{negative}{policies}", names.join(" > "))
    }
}

/// Bytes for people: `256 MiB`, `100000 bytes`.
fn size(bytes: u64) -> String {
    match bytes {
        whole if whole % (1 << 20) == 0 => format!("{} MiB", whole >> 20),
        whole if whole % (1 << 10) == 0 => format!("{} KiB", whole >> 10),
        other => format!("{other} bytes"),
    }
}
