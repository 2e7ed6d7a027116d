//! Answers in Redis, shared by a fleet, on fred.

mod announce;
mod builder;
mod feed;
mod lease;
mod names;
mod sweep;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use fred::bytes::Bytes;
use fred::interfaces::KeysInterface;
use fred::types::Expiration;
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use tokio::runtime::Handle;

pub use builder::RedisBuilder;
pub use feed::Invalidations;

use crate::cache::envelope::{Envelopes, MAX_ENVELOPE, Refusals, Refused};
use crate::cache::{CacheKey, CacheTier, Entry, Fleet, Follower, Lease, Leasing, Probe, Selector};
use crate::env::after;
use crate::error::{Error, Result};
use crate::redis::{Asked, Connection, Lane, ORIGIN, RedisServer};
use feed::Feed;
use names::Names;

/// The least time for the removal of a key, and for each step of removing all: nobody's answer waits for it.
const REMOVAL: Duration = Duration::from_millis(250);

/// So many keys are removed at a time: their commands go out together, and each may lie on another master.
const ABREAST: usize = 256;

/// Answers in Redis: one node, Sentinel or Cluster, with or without TLS.
///
/// # What it does
/// `get` is one read, `put` one `SET` with the entry's remaining life as its expiry; removing a key is `UNLINK`, removing
/// all is `SCAN` in batches, never `KEYS`, on every master of a cluster, and touches only names this tier gives. A value
/// that is not exactly the entry asked for (foreign, damaged, of another key or version, too large) is a miss, counted in
/// [`refused`](Self::refused), and removed.
///
/// # When Redis fails
/// Every call comes back within its timeout and a tenth of it. When one waited in vain, the server is asked for a sign of
/// life; if none comes within a tenth of `get_timeout`, all calls fail at once, those under way too, so that an outage
/// costs a caller one wait and not several. After 500 ms without a sign the connection is given up; a new one is tried
/// after 100 ms, then at growing distances up to half a second, for ever: a server that can be reached again is in use
/// again within 2 s. `LOADING`, `READONLY`, `OOM`, `MISCONF`, `NOAUTH` are errors of this tier only: the cache counts them
/// and the call goes on. A connection whose server turned read-only is made anew, once it is 5 s old: the master may be
/// elsewhere by now. A value in Redis is never served for another key, whatever happened to the connection: the full key
/// stands in it.
///
/// Of several Sentinels or seed nodes, each attempt begins with the next one, so one that is silent does not keep the
/// others from being asked. A cluster is used as a whole: while one of its masters cannot be reached, nothing is.
///
/// # Cost
/// A `get`: one round trip and the hash of the request. Clones share the connections.
///
/// # Cancellation
/// A dropped call gives its place back at once. What was sent already is answered into the void, never to another call.
///
/// # Tasks
/// One for each connection, and one for [`invalidations`](Self::invalidations) if asked for. They end with the last
/// clone, or by [`shutdown`](Self::shutdown). They live in the runtime in which the tier was built or first used.
///
/// # Example
/// ```no_run
/// # fn main() -> sluicegate::Result<()> {
/// use sluicegate::cache::{Cache, tier::Redis};
/// let redis = Redis::builder("rediss://cache.internal:6380/0").password("…").prefix("support-desk:").build()?;
/// let cache = Cache::on(redis);
/// # let _ = cache; Ok(()) }
/// ```
#[derive(Clone)]
pub struct Redis(Arc<Shared>);

struct Shared {
    settings: RedisBuilder,
    names: Names,
    connection: Connection,
    envelopes: Envelopes,
    refusals: Refusals,
    feed: Mutex<Option<Arc<Feed>>>,
}

impl Redis {
    /// A tier on the server of this URL; [`RedisServer::at`] says of what forms.
    pub fn builder(url: impl Into<String>) -> RedisBuilder {
        RedisBuilder::new(RedisServer::at(url))
    }

    /// A tier on this server, with connections of its own.
    pub fn on(server: RedisServer) -> RedisBuilder {
        RedisBuilder::new(server)
    }

    fn new(settings: RedisBuilder, connection: Connection) -> Self {
        Self(Arc::new(Shared {
            names: Names(settings.prefix.clone()),
            envelopes: Envelopes::new(Arc::clone(&settings.clock), settings.mac.clone(), connection.tasks().clone()),
            refusals: Refusals::default(),
            feed: Mutex::default(),
            settings,
            connection,
        }))
    }

    /// Whether any connection stands now and answers.
    pub fn is_connected(&self) -> bool {
        self.0.connection.lanes().1 > 0
    }

    /// How many values were found that were not the entry asked for, and removed.
    pub fn refused(&self) -> u64 {
        self.0.refusals.faults()
    }

    /// What others change in Redis from now on, for a memory tier in front of this one; see [`Invalidations`]. The first
    /// use of this opens one more connection. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Shutdown`](crate::ErrorKind::Shutdown) after [`shutdown`](Self::shutdown), [`ErrorKind::Config`](crate::ErrorKind::Config) outside of a runtime.
    pub fn invalidations(&self) -> Result<Invalidations> {
        Ok(self.feed()?.subscribe(self.0.connection.closing().clone()))
    }

    /// The feed; started by its first use.
    fn feed(&self) -> Result<Arc<Feed>> {
        let shared = &*self.0;
        shared.connection.is_open()?;
        if Handle::try_current().is_err() {
            return Err(Error::config(ORIGIN, "invalidations", "no runtime", "call it inside a Tokio runtime"));
        }
        let mut feed = shared.feed.lock();
        let feed = feed.get_or_insert_with(|| {
            let clock = Arc::clone(&shared.settings.clock);
            let feed = Arc::new(Feed::new(shared.names.clone(), clock, Arc::downgrade(&self.0)));
            let connection = &shared.connection;
            connection.tasks().spawn(connection.session(Arc::clone(&feed), connection.closing().clone()));
            feed
        });
        Ok(Arc::clone(feed))
    }

    /// Closes all connections of all clones and waits until its tasks have ended. Every call fails from now on.
    pub async fn shutdown(&self) {
        self.0.connection.shutdown().await;
    }

    async fn unlink(&self, lane: &Lane, key: &CacheKey, budget: Duration) -> Result<u64> {
        let name = self.0.names.of(key);
        lane.ask(budget, |client| async move { client.unlink(name).await }).await
    }

    async fn find(&self, probe: &Probe) -> Result<Option<Arc<Entry>>> {
        let (_place, lane) = self.0.connection.enter()?;
        let shared = &*self.0;
        let (clock, budget) = (&shared.settings.clock, shared.settings.get_timeout);
        let until = after(clock.now(), budget);
        let name = shared.names.of(&probe.key());
        // Not GET: whoever wrote something huge under this name must not fill memory, or the time of every get.
        let read = |client: Asked| async move { client.getrange::<Bytes, _>(name, 0, MAX_ENVELOPE).await };
        let found = lane.ask(budget, read).await?;
        if found.is_empty() {
            return Ok(None);
        }
        match shared.envelopes.decode(found, probe).await {
            Ok(entry) => Ok(Some(Arc::new(entry))),
            // Redis drops it by itself.
            Err(Refused::Expired) => Ok(None),
            Err(reason) => {
                shared.refusals.count(reason);
                let left = until.saturating_duration_since(clock.now());
                if left >= Duration::from_millis(1) {
                    // A miss either way; what stays is found again.
                    let _ = self.unlink(lane, &probe.key(), left).await;
                }
                Ok(None)
            }
        }
    }

    async fn keep(&self, probe: &Probe, entry: &Entry) -> Result<()> {
        let (_place, lane) = self.0.connection.enter()?;
        let clock = &self.0.settings.clock;
        // Too large or too deep: declined, as any tier may.
        let Ok(value) = self.0.envelopes.encode(probe, entry).await else { return Ok(()) };
        let life = entry.expires().saturating_duration_since(clock.now()).as_millis();
        if life == 0 {
            return Ok(());
        }
        let expiry = Expiration::PX(i64::try_from(life).unwrap_or(i64::MAX));
        let value = Bytes::from(value);
        let name = self.0.names.of(&probe.key());
        let set = |client: Asked| async move { client.set(name, value, Some(expiry), None, false).await };
        lane.ask(self.0.settings.put_timeout, set).await
    }
}

#[async_trait]
impl CacheTier for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    async fn get(&self, probe: &Probe) -> Result<Option<Arc<Entry>>> {
        self.find(probe).await
    }

    async fn put(&self, probe: &Probe, entry: Arc<Entry>) -> Result<()> {
        self.keep(probe, &entry).await
    }

    /// All but keys take one `SCAN` through the whole key space in batches of 500; it does not see what is put
    /// meanwhile. By tag, pattern and namespace it reads the head of every entry, batch by batch.
    async fn remove(&self, selector: &Selector) -> Result<u64> {
        let (_place, lane) = self.0.connection.enter()?;
        let budget = self.0.settings.put_timeout.max(REMOVAL);
        match selector {
            Selector::Key(key) => self.unlink(lane, key, budget).await,
            Selector::Keys(keys) => {
                let mut removed = 0;
                for keys in keys.chunks(ABREAST) {
                    let unlinked = keys.iter().map(|key| self.unlink(lane, key, budget));
                    removed += try_join_all(unlinked).await?.into_iter().sum::<u64>();
                }
                Ok(removed)
            }
            other => Box::pin(sweep::sweep(lane, &self.0.names, other, budget)).await,
        }
    }
}

#[async_trait]
impl Fleet for Redis {
    /// The first follower opens one more connection. Must be called inside a Tokio runtime.
    fn follow(&self, follower: Weak<dyn Follower>) -> Result<()> {
        self.feed()?.follow(follower);
        Ok(())
    }

    async fn announce(&self, selector: &Selector) -> Result<()> {
        self.tell_all(selector).await
    }

    async fn lease(&self, key: &CacheKey, term: Duration) -> Result<Leasing> {
        self.take_lease(key, term).await
    }

    async fn renew(&self, lease: &Lease, term: Duration) -> Result<bool> {
        self.renew_lease(lease, term).await
    }

    async fn put_leased(&self, probe: &Probe, entry: &Entry, lease: &Lease) -> Result<bool> {
        self.keep_leased(probe, entry, lease).await
    }

    async fn release(&self, lease: &Lease, open_for: Duration) -> Result<()> {
        self.release_lease(lease, open_for).await
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (connections, connected) = self.0.connection.lanes();
        f.debug_struct("Redis")
            .field("connections", &connections)
            .field("connected", &connected)
            .field("refused", &self.refused())
            .finish_non_exhaustive()
    }
}
