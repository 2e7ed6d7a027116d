//! Answers in an object store: a bucket that a fleet shares and a CDN may serve, or a folder.

mod builder;
mod fault;
mod names;
mod removal;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use async_trait::async_trait;
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::task::TaskTracker;

pub use builder::ObjectsBuilder;
/// The crate that the stores come from, in the version that this tier takes.
pub use object_store;

use crate::cache::envelope::{Envelopes, MAX_ENVELOPE, Refusals, Refused};
use crate::cache::{CacheTier, Entry, Probe, Selector};
use crate::error::{Error, ErrorKind, Result};
use fault::ORIGIN;
use names::Names;
use removal::Removal;
use wire::{Found, Wire};

/// Answers in an object store: S3 and its likes, Google Cloud Storage, Azure, WebDAV, any web server, a folder, memory.
///
/// The store is the user's own, made with the [`object_store`] crate, which is re-exported here so that the versions
/// agree. What talks to a cloud is switched on in the user's own `Cargo.toml`, and nothing of it is compiled otherwise:
///
/// ```toml
/// sluicegate = { version = "0.1", features = ["object-store"] }
/// object_store = { version = "0.14", default-features = false, features = ["aws"] } # or gcp, azure, http
/// ```
///
/// # What it does
/// An entry is one object, `<prefix>/v2/<namespace>/<first 2 digits>/<64 digits of the key>`, where `v2` is the form of
/// the bytes and the key is a hash of everything that can change the answer. An object holds one entry and says of which
/// key, until when, and with which checksum. `get` is one read, `put` one write over whatever is there, so that a
/// refreshed answer replaces the old one, and writers need not know of one another: the last one wins, with an answer to
/// the same question. What is not exactly the entry asked for (damaged, foreign, of another key or version, more than
/// 4 MiB) is a miss, counted in [`stats`](Self::stats), and removed.
///
/// Objects carry a content type and `Cache-Control`: `private`, or [`public`](ObjectsBuilder::public), with `max-age`
/// the time for which the answer is fresh. Stores that take no such attributes, folders among them, are written to without.
///
/// # Expiry
/// Object stores do not forget by themselves. What has expired is a miss and removed when it is found; what nobody asks
/// for again lies until a lifecycle rule of the bucket deletes it. Set one: for `<prefix>/v2/responses/`, delete after the
/// longest time to live of that namespace, rounded up to days. Nothing is served too long if there is none; it costs
/// storage. In a bucket that keeps versions, expire those that are not current as well.
///
/// An expired object that is removed just when another process has replaced it takes the new one with it. That costs one
/// call to the model.
///
/// # Removing
/// A namespace, or all of them, is a list of names and the removal of what was listed, 1,000 at a time; all includes what
/// other versions of this crate left. Keys are looked for in each namespace that is there. A tag or a pattern takes the
/// list of all names and a read of the first KiB of each, 16 at a time: 100,000 entries at 20 ms are two minutes, so
/// prefer namespaces. What lies under the prefix and has no name of this form stays. What is put while a list is walked
/// may be missed. A CDN goes on serving what it has: purge it there.
///
/// # When things go wrong
/// Each call ends within [`get_timeout`](ObjectsBuilder::get_timeout) or [`put_timeout`](ObjectsBuilder::put_timeout).
/// The tier asks once; the stores of `object_store` ask again, ten times in three minutes unless told otherwise. Tell
/// them, or a broken store takes its time from every miss until the cache leaves the tier alone:
/// `.with_retry(RetryConfig { max_retries: 1, retry_timeout: Duration::from_secs(1), ..Default::default() })`.
/// A store that answers "forbidden" where there is no object, as S3 does to those who may not list the bucket, makes
/// every miss an error: grant the right to list. Errors show neither names nor addresses;
/// [`provider_message`](Error::provider_message) has the store's words.
///
/// # Cost
/// A `get`: one request, 10 to 100 ms in a cloud, and the hash of the request. A cache gives its tiers 100 ms unless told
/// otherwise: set [`Cache::tier_timeout`](crate::cache::Cache::tier_timeout) to what the store takes. A `put` is waited
/// for by the call that made the answer. Folders and their files are read and written on blocking threads.
///
/// # Cancellation
/// A dropped call gives its place back at once. A write that was sent may still arrive, a removal too.
///
/// # Example
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use sluicegate::cache::tier::Objects;
/// use sluicegate::cache::{Cache, tier::object::object_store::local::LocalFileSystem};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path();
/// let objects = Objects::builder(LocalFileSystem::new_with_prefix(path)?).prefix("support-desk").build()?;
/// let cache = Cache::memory(10_000).tier(objects).tier_timeout(Duration::from_secs(1));
/// # let _ = cache; Ok(()) }
/// ```
pub struct Objects {
    settings: ObjectsBuilder,
    names: Names,
    wire: Wire,
    places: Semaphore,
    envelopes: Envelopes,
    refusals: Refusals,
    errors: AtomicU64,
}

/// What befell an [`Objects`] tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ObjectsStats {
    /// Entries that were found expired.
    pub expired: u64,
    /// Objects that were refused, and entries too large to be kept: damaged, foreign, of another version, not authentic.
    pub refused: u64,
    /// Reads, writes and removals that failed, took too long, or came when too many were under way.
    pub errors: u64,
}

impl Objects {
    /// A tier in this store: one of [`object_store`], or an `Arc<dyn ObjectStore>`.
    pub fn builder(store: impl ObjectStore) -> ObjectsBuilder {
        ObjectsBuilder::new(Arc::new(store))
    }

    fn new(settings: ObjectsBuilder, names: Names) -> Self {
        Self {
            names,
            wire: Wire::new(Arc::clone(&settings.store), Arc::clone(&settings.clock)),
            places: Semaphore::new(settings.max_in_flight),
            envelopes: Envelopes::new(Arc::clone(&settings.clock), settings.mac.clone(), TaskTracker::new()),
            refusals: Refusals::default(),
            errors: AtomicU64::new(0),
            settings,
        }
    }

    /// What befell it.
    pub fn stats(&self) -> ObjectsStats {
        let (expired, refused) = (self.refusals.of(Refused::Expired), self.refusals.faults());
        ObjectsStats { expired, refused, errors: self.errors.load(Relaxed) }
    }

    fn place(&self) -> Result<SemaphorePermit<'_>> {
        let full = |_| Error::new(ErrorKind::Overloaded, ORIGIN, "max_in_flight calls are under way");
        self.places.try_acquire().map_err(full)
    }

    fn counted<T>(&self, done: Result<T>) -> Result<T> {
        done.inspect_err(|_| {
            self.errors.fetch_add(1, Relaxed);
        })
    }

    async fn find(&self, probe: &Probe) -> Result<Option<Arc<Entry>>> {
        let _place = self.place()?;
        let until = self.wire.until(self.settings.get_timeout);
        let name = self.names.of(probe.namespace(), &probe.key());
        let reason = match self.wire.read(until, &name, None, MAX_ENVELOPE).await? {
            Found::Nothing => return Ok(None),
            Found::TooLarge => Refused::TooLarge,
            Found::Bytes(bytes) => match self.envelopes.decode(bytes, probe).await {
                Ok(entry) => return Ok(Some(Arc::new(entry))),
                Err(reason) => reason,
            },
        };
        self.refusals.count(reason);
        self.clear_away(until, &name).await;
        Ok(None)
    }

    /// It is a miss whether or not it can be removed; what stays is found again.
    async fn clear_away(&self, until: Instant, name: &Path) {
        if !self.settings.read_only {
            let _ = self.counted(self.wire.delete(until, name).await);
        }
    }

    async fn keep(&self, probe: &Probe, entry: &Entry) -> Result<()> {
        if self.settings.read_only || entry.expires() <= self.settings.clock.now() {
            return Ok(());
        }
        let _place = self.place()?;
        let bytes = match self.envelopes.encode(probe, entry).await {
            Ok(bytes) => bytes,
            Err(reason) => {
                self.refusals.count(reason);
                return Ok(());
            }
        };
        let until = self.wire.until(self.settings.put_timeout);
        let name = self.names.of(probe.namespace(), &probe.key());
        let caching = self.caching(entry, self.settings.clock.now());
        self.wire.write(until, &name, bytes, caching).await
    }

    /// For how long caches on the way may serve it without asking: as long as it is fresh, so that they see what replaces
    /// it then.
    fn caching(&self, entry: &Entry, now: Instant) -> String {
        let circle = if self.settings.public { "public" } else { "private" };
        let fresh = entry.fresh_until().saturating_duration_since(now);
        format!("{circle}, max-age={}", fresh.as_secs())
    }
}

#[async_trait]
impl CacheTier for Objects {
    fn name(&self) -> &'static str {
        "objects"
    }

    async fn get(&self, probe: &Probe) -> Result<Option<Arc<Entry>>> {
        self.counted(self.find(probe).await)
    }

    /// An answer that is too large for an envelope (4 MiB) is not kept, and counted.
    async fn put(&self, probe: &Probe, entry: Arc<Entry>) -> Result<()> {
        self.counted(self.keep(probe, &entry).await)
    }

    /// Takes as long as it takes: only its steps are bounded. See [`Objects`] for what each selector costs.
    async fn remove(&self, selector: &Selector) -> Result<u64> {
        if self.settings.read_only {
            let words = "the tier only reads: remove it where it is written";
            return Err(Error::new(ErrorKind::Unsupported, ORIGIN, words));
        }
        let removal = Removal { wire: &self.wire, names: &self.names, patience: self.settings.put_timeout };
        self.counted(Box::pin(removal.run(selector)).await)
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects")
            .field("settings", &self.settings)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
