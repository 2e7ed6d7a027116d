//! Settings of the tier, checked once at `build()`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::path::Path;

use super::Objects;
use super::fault::ORIGIN;
use super::names::Names;
use crate::cache::MacKey;
use crate::env::{Clock, TokioClock};
use crate::error::{Error, Result};

/// Settings of an [`Objects`] tier. Nothing is checked before [`build`](Self::build).
#[derive(Clone)]
#[must_use = "nothing is made before build()"]
pub struct ObjectsBuilder {
    pub(super) store: Arc<dyn ObjectStore>,
    prefix: String,
    pub(super) get_timeout: Duration,
    pub(super) put_timeout: Duration,
    pub(super) max_in_flight: usize,
    pub(super) read_only: bool,
    pub(super) public: bool,
    pub(super) mac: Option<MacKey>,
    pub(super) clock: Arc<dyn Clock>,
}

impl ObjectsBuilder {
    pub(super) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            prefix: "sluicegate".to_owned(),
            get_timeout: Duration::from_secs(1),
            put_timeout: Duration::from_secs(5),
            max_in_flight: 1_000,
            read_only: false,
            public: false,
            mac: None,
            clock: Arc::new(TokioClock::new()),
        }
    }

    /// The folder that all names lie in, `a` or `a/b`: 1 to 128 bytes, `sluicegate` unless set. Two caches that must not
    /// share answers, or not be cleared together, need two of which none lies in the other.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Longest wait of a `get`, 1 ms to 60 s; 1 s unless set: ten times what a healthy store takes, and still below what
    /// a model does. [`Cache::tier_timeout`](crate::cache::Cache::tier_timeout) bounds it too, by 100 ms unless set: raise
    /// that as well.
    pub fn get_timeout(mut self, wait: Duration) -> Self {
        self.get_timeout = wait;
        self
    }

    /// Longest wait of a `put`, and of each step of a removal, 1 ms to 5 min; 5 s unless set: an answer may be large. The
    /// tier timeout of the cache bounds a `put` too.
    pub fn put_timeout(mut self, wait: Duration) -> Self {
        self.put_timeout = wait;
        self
    }

    /// Reads and writes under way at most, 1 to 100,000; 1,000 unless set. What comes on top fails at once with
    /// [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded), so that a slow store takes bounded memory. Removals are
    /// not counted.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = calls;
        self
    }

    /// Reads only, for a bucket or a CDN that others fill: a `put` is declined without asking the store, what is refused
    /// or expired is left lying, and a removal fails with
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), because what it names would still be served.
    /// Off unless set.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Lets shared caches between store and reader, such as a CDN, keep the objects: `Cache-Control: public` instead of
    /// `private`. Off unless set: whoever knows a question can compute the name of its answer. Set it only where all who
    /// can reach the CDN may read all answers.
    pub fn public(mut self) -> Self {
        self.public = true;
        self
    }

    /// Marks entries as this fleet's own: whoever else can write to the bucket, or stands between it and us, can then
    /// delete answers, but not forge or exchange them. None unless set, because every process of the fleet needs the
    /// secret. Entries without a valid mark are misses.
    pub fn mac(mut self, key: MacKey) -> Self {
        self.mac = Some(key);
        self
    }

    /// Where time comes from; Tokio's clock unless set. It should be the one the client goes by.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The tier. It does not ask the store for anything.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a setting out of its range.
    pub fn build(self) -> Result<Objects> {
        let (least, minute) = (Duration::from_millis(1), Duration::from_secs(60));
        Error::unless_within(ORIGIN, "get_timeout", self.get_timeout, least..=minute)?;
        Error::unless_within(ORIGIN, "put_timeout", self.put_timeout, least..=5 * minute)?;
        Error::unless_within(ORIGIN, "max_in_flight", self.max_in_flight, 1..=100_000)?;
        let prefix = (1..=128).contains(&self.prefix.len()).then(|| Path::parse(&self.prefix).ok()).flatten();
        let Some(prefix) = prefix.filter(|prefix| !prefix.is_root()) else {
            let advice = "use 1 to 128 bytes, folders divided by '/', none of them empty, '.' or '..'";
            return Err(Error::config(ORIGIN, "prefix", format_args!("{:?}", self.prefix), advice));
        };
        Ok(Objects::new(self, Names::new(prefix)))
    }
}

impl fmt::Debug for ObjectsBuilder {
    // A store's own `Debug` may show addresses and credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectsBuilder")
            .field("prefix", &self.prefix)
            .field("get_timeout", &self.get_timeout)
            .field("put_timeout", &self.put_timeout)
            .field("max_in_flight", &self.max_in_flight)
            .field("read_only", &self.read_only)
            .field("public", &self.public)
            .field("mac", &self.mac)
            .finish_non_exhaustive()
    }
}
