//! What a store that several processes share can do beside keeping entries.
//!
//! Memory is the trouble with a fleet: what one process removes, another still has. So a process follows the store: it
//! hears what changes there, and what others remove, and drops its own copies. And a miss that all processes have at the
//! same time would be asked by all of them, so one takes the lease of the key, asks, and the others find its answer.

use std::fmt;
use std::sync::Weak;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::{CacheKey, CacheTier, Entry, Probe, Selector};
use crate::error::Result;

/// A tier that several processes share, and that keeps them together.
///
/// Every method may fail; the cache then goes on alone, as one process without a fleet.
#[async_trait]
pub trait Fleet: CacheTier {
    /// Tells the follower what happens from now on, as long as it lives. It hears [`Invalidation::Flush`] first, as soon as
    /// it is being told, and again whenever something may have been missed.
    ///
    /// # Errors
    /// When nobody can be told: the store is shut down, or there is no runtime to listen in.
    fn follow(&self, follower: Weak<dyn Follower>) -> Result<()>;

    /// Tells all processes that these entries are removed, and waits until all that are connected have dropped them.
    ///
    /// # Errors
    /// When some have not said so in time: they may serve these entries as long as memory keeps them.
    async fn announce(&self, selector: &Selector) -> Result<()>;

    /// Takes the lease of this key for so long, unless somebody has it.
    ///
    /// # Errors
    /// Whatever keeps it from knowing; the caller asks without a lease.
    async fn lease(&self, key: &CacheKey, term: Duration) -> Result<Leasing>;

    /// Makes the lease last for another term from now; whether it was still held.
    ///
    /// # Errors
    /// Whatever keeps it from knowing.
    async fn renew(&self, lease: &Lease, term: Duration) -> Result<bool>;

    /// Keeps an entry if the lease is still held, and gives the lease back; whether it was held. The lease is the fence:
    /// a holder that was away too long does not overwrite its successor's answer.
    ///
    /// # Errors
    /// Whatever keeps it from storing.
    async fn put_leased(&self, probe: &Probe, entry: &Entry, lease: &Lease) -> Result<bool>;

    /// Gives the lease back without an answer: for so long everybody may ask without one, since an answer that is not kept
    /// would else be asked for by one process after the other.
    ///
    /// # Errors
    /// Whatever keeps it from doing so: the lease ends with its term.
    async fn release(&self, lease: &Lease, open_for: Duration) -> Result<()>;
}

/// Somebody who follows a [`Fleet`].
pub trait Follower: Send + Sync + 'static {
    /// Drops what this says, heard now. Called on the store's own task: it must return within milliseconds and must not block.
    fn hear(&self, invalidation: &Invalidation, now: Instant);
}

/// What a copy kept nearer than the shared store must be dropped for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invalidation {
    /// The entry of this key was put, replaced, removed, evicted, or it expired.
    Key(CacheKey),
    /// Somebody removed these entries.
    Removed(Selector),
    /// Anything may have changed unseen: the store was flushed, the connection was made anew, or the listener was too slow.
    /// Drop everything.
    Flush,
}

/// Whether one may ask upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leasing {
    /// One has the lease now.
    Held(Lease),
    /// Somebody else has it: wait for the answer.
    Taken,
    /// Its last holder brought no answer that could be kept: ask without.
    Open,
}

/// The right to ask for one key.
#[derive(Clone, PartialEq, Eq)]
pub struct Lease {
    /// The key.
    pub key: CacheKey,
    /// What nobody else has.
    pub token: u128,
}

impl fmt::Debug for Lease {
    // Whoever knows the token could give the lease back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("key", &self.key).finish_non_exhaustive()
    }
}
