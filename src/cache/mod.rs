//! Answers kept, found again, and asked for once.
//!
//! A request becomes a [`Probe`]: its canonical bytes, a fast fingerprint of them, and their blake3 key when a tier
//! needs it. A [`CacheTier`] finds an [`Entry`] by it. What no tier has is asked for once, however many callers want it
//! at the same time: they share one flight, calls and streams alike.
//!
//! What makes two requests the same is a [`KeyPolicy`]'s to say, which answers may be kept a [`StorePolicy`]'s. Their
//! defaults share nothing by mistake and keep nothing broken: every field counts, byte by byte, and an answer that is
//! cut, filtered, refused, empty, or not the JSON that was asked for is not kept. Tenants never share, whatever a policy
//! says, unless a call asks for [`Scope::Public`](crate::types::Scope::Public).
//!
//! # How to add a tier
//!
//! Implement [`CacheTier`]. Find by [`Probe::fingerprint`] and compare [`Probe::bytes`] in full when the entry stays in
//! the process; use [`Probe::key`] when it leaves it. Never return an entry that was stored for other bytes, and none
//! whose [`Entry::expires`] has passed. Errors are counted and passed over: a cache never fails a call.

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
mod lines;
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
