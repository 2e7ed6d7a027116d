//! Answers kept, found again, and asked for once.
//!
//! # What a cache is made of
//!
//! | Type | What it is |
//! |---|---|
//! | [`Cache`] | the settings: memory, tiers, lives, policies; checked when the stack is built |
//! | [`CacheLayer`] | the cache in its slot of the stack |
//! | [`CacheHandle`] | the cache at work: statistics, single entries, removal, export, warm-up |
//! | [`Probe`] | a question: the canonical bytes of a request, a fast fingerprint of them, and their [`CacheKey`], blake3, when it leaves the process |
//! | [`Entry`] | what is stored: its [`Payload`], its life, its [`Labels`], what it once cost |
//! | [`CacheTier`] | a place where entries are kept: [`tier::Memory`], disk, Redis, an object store, one of your own |
//! | [`Fleet`] | a tier that several processes share, and that keeps them together |
//! | [`Namespace`] | a part of the cache with its own size and time to live |
//! | [`Values`] | values of your own in a namespace |
//! | [`KeyPolicy`], [`StorePolicy`] | what makes two requests the same; which answers may be kept |
//! | [`Negative`] | which failures are remembered |
//! | [`Selector`] | what to forget: keys, a tag, a pattern, a namespace, all |
//! | [`CacheControl`](crate::types::CacheControl) | what one call says about all this |
//!
//! The defaults share nothing by mistake and keep nothing broken: every field counts, byte by byte, and an answer that is
//! cut, filtered, refused, empty, or not the JSON that was asked for is not kept. Tenants never share, whatever a policy
//! says, unless a call asks for [`Scope::Public`](crate::types::Scope::Public).
//!
//! # How a request travels
//!
//! 1. **Probe.** Everything that can change the answer is written into one buffer, which is hashed once.
//! 2. **Memory** finds by the fingerprint and compares the bytes in full. Most hits end here.
//! 3. **Outer tiers** are asked one after the other, by key. What one has fills all that are nearer, with the life it has
//!    left. A tier that is slow or fails is passed over, and after five failures in a row left alone for a while.
//! 4. **Judgement.** A fresh entry is served, a stale one as the table below says.
//! 5. **Flight.** What nobody has is asked for once: calls and streams that want it meanwhile join, whoever started it.
//!    The flight looks into the tiers again, then among the failures that are remembered.
//! 6. **Lease.** In a fleet the flight takes the lease of the key, or waits for the answer of the process that has it.
//! 7. **Upstream.** The call goes down the stack; the chunks of a stream are handed out as they come.
//! 8. **Store.** A whole answer that the store policy takes is put into every tier, unless it was removed meanwhile. In
//!    the shared tier it is put under the lease: who has lost his overwrites nobody. With [`Cache::write_behind`] the call
//!    does not wait for the tiers outside memory.
//!
//! Embeddings take the same way text by text, without lease and staleness: what is known is found, what another batch is
//! asking for is waited for, the rest is asked for in one call. [`Values`] take it without staleness, with your fetch in
//! place of the upstream call.
//!
//! # How long an answer lives
//!
//! It is fresh for its time to live, then stale for as long as a setting lets it be served so, then gone.
//!
//! | Setting | What it does | Unless set |
//! |---|---|---|
//! | [`ttl`](Cache::ttl) | how long an answer is fresh; each [`Namespace`] has its own | 1 h |
//! | [`jitter`](Cache::jitter) | shortens lives by chance, so that what was stored together does not expire together | up to 10 % |
//! | [`stale_while_revalidate`](Cache::stale_while_revalidate) | serves what is stale while one refresh runs | off |
//! | [`stale_if_error`](Cache::stale_if_error) | serves what is stale when asking fails in a way that passes | off |
//! | [`early_refresh`](Cache::early_refresh) | refreshes what is asked for often before it expires | off |
//! | [`predict`](Cache::predict) | refreshes what is asked for in a rhythm before its next call | off |
//! | [`adaptive_ttl`](Cache::adaptive_ttl) | lengthens the lives of what is asked for, shortens those of the rest | off |
//! | [`negative`](Cache::negative) | remembers failures that the request itself brings about | off |
//!
//! What a call does with what it found, the first line that fits; staleness counts from the end of freshness:
//!
//! | The call says | The entry is | What happens |
//! |---|---|---|
//! | `no_cache` | any | upstream is asked; a failure is told |
//! | `max_age` | older than that | upstream is asked; a failure is told |
//! | | fresh | it is served; near its end it may be refreshed |
//! | `max_stale` | staler than that | upstream is asked; a failure is told |
//! | | stale, within `stale_while_revalidate` | it is served, and refreshed in the background |
//! | `max_stale` | stale, within that | it is served, nothing is asked |
//! | `only_if_cached` | anything else, or none | the call fails with [`CacheMiss`](crate::ErrorKind::CacheMiss) |
//! | | stale, within `stale_if_error` | upstream is asked; after a failure that passes it is served |
//! | | anything else, or none | upstream is asked; a failure is told |
//!
//! # Namespaces
//!
//! Answers, vectors, results of prompts and what retrieval found each have memory and a time to live of their own, so
//! that none pushes another out: see [`Namespace`]. Tiers outside memory are shared by all namespaces. A call names its
//! namespace with [`CacheControl::namespace`](crate::types::CacheControl::namespace); [`CacheHandle::namespace`] gives
//! one to values of your own.
//!
//! # A fleet
//!
//! Processes that share a [`Fleet`] (Redis is one) have three things that one process has by itself:
//!
//! - one upstream call for equal misses, by a lease that is renewed while its holder asks and ends with its term;
//! - removals that hold everywhere: once [`remove_selected`](CacheHandle::remove_selected) has returned `Ok`, no process
//!   that is connected serves what was removed;
//! - memory that follows: what changes in the store is dropped from the memory of the others, and all of it when a
//!   connection was lost, because something may have been missed. A process that is cut off serves what it has until it
//!   is connected again, and no longer than its time to live.
//!
//! When the store is away, each process goes on alone.
//!
//! # How to add a tier
//!
//! Implement [`CacheTier`]. Find by [`Probe::fingerprint`] and compare [`Probe::bytes`] in full when the entry stays in
//! the process; use [`Probe::key`] when it leaves it. Never return an entry that was stored for other bytes, and none
//! whose [`Entry::expires`] has passed. Errors are counted and passed over: a cache never fails a call. `testing::laws`
//! (feature `test-util`) holds a tier against all of this.
//!
//! # The files
//!
//! | Idea | Files |
//! |---|---|
//! | what a user says | `config` `namespace` `key_policy` `key_texts` `store_policy` `freshness` `negative` |
//! | a request as bytes | `canonical/` `key` |
//! | what is stored | `entry` `payload` `selector`; outside the process `wire` `envelope/` |
//! | where | `tier/`; near and far together `space` `near` `tiers`; kept from harm by `guard` `breaker` `removals` |
//! | the way of a call | `layer` `fill` `flight`; in a fleet `fleet` `turn`; vectors and values `share` `embed/` `value` |
//! | lives | `refresh` `adaptive` `predict` |
//! | structured output | `structured` `schemas` |
//! | the handle | `handle` `order` `stats` `counts` `hot` `warm` `log` `export` `lines` |

mod adaptive;
mod arrears;
mod breaker;
mod canonical;
mod config;
mod counts;
mod embed;
mod entry;
#[cfg(feature = "_envelope")]
mod envelope;
mod export;
mod fill;
mod fleet;
mod flight;
mod freshness;
mod guard;
mod handle;
mod hot;
mod key;
mod key_policy;
mod key_texts;
mod layer;
mod log;
mod namespace;
mod near;
mod negative;
mod order;
mod payload;
mod predict;
mod refresh;
mod removals;
#[cfg(feature = "json-schema")]
mod schemas;
mod selector;
mod share;
mod shared;
mod space;
mod stats;
mod store_policy;
mod structured;
pub mod tier;
mod tiers;
mod turn;
mod value;
mod warm;
mod wire;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

pub use config::Cache;
pub use entry::Entry;
#[cfg(feature = "_envelope")]
pub use envelope::MacKey;
pub use export::Imported;
pub use fleet::{Fleet, Follower, Invalidation, Lease, Leasing};
pub use handle::CacheHandle;
pub use key::{CacheKey, Probe};
pub use key_policy::{KeyField, KeyPolicy};
pub use key_texts::KeyTexts;
pub use layer::CacheLayer;
pub use namespace::Namespace;
pub use negative::Negative;
pub use order::EntryInfo;
pub use payload::{Payload, StoredValue, StoredVector};
pub use selector::{Labels, Selector};
pub use stats::{CacheStats, NamespaceStats, TierStats};
pub use store_policy::StorePolicy;
pub use value::Values;
pub use warm::{WarmUp, Warmed};

use crate::error::Result;

/// A place where answers are kept.
#[async_trait]
pub trait CacheTier: fmt::Debug + Send + Sync + 'static {
    /// Its name in traces and metrics: lower case, one word.
    fn name(&self) -> &'static str;

    /// The live entry of exactly this request, if it has one.
    ///
    /// # Errors
    /// Whatever keeps it from answering; the caller takes it for a miss.
    async fn get(&self, probe: &Probe) -> Result<Option<Arc<Entry>>>;

    /// Keeps an entry. It may decline, silently: a cache promises nothing.
    ///
    /// # Errors
    /// Whatever keeps it from storing; the caller goes on without.
    async fn put(&self, probe: &Probe, entry: Arc<Entry>) -> Result<()>;

    /// Forgets entries; how many it forgot, where it can tell.
    ///
    /// # Errors
    /// Whatever kept it from forgetting them: they may still be served.
    async fn remove(&self, selector: &Selector) -> Result<u64>;
}

macro_rules! forward {
    ($pointer:ident) => {
        #[async_trait]
        impl<T: CacheTier + ?Sized> CacheTier for $pointer<T> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            async fn get(&self, probe: &Probe) -> Result<Option<Arc<Entry>>> {
                (**self).get(probe).await
            }

            async fn put(&self, probe: &Probe, entry: Arc<Entry>) -> Result<()> {
                (**self).put(probe, entry).await
            }

            async fn remove(&self, selector: &Selector) -> Result<u64> {
                (**self).remove(selector).await
            }
        }
    };
}

forward!(Arc);
forward!(Box);
