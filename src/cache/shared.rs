//! What all clients wrapped by one cache layer share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::adaptive::Adaptive;
use super::config::Cache;
use super::embed::Fetched;
use super::flight::Flights;
use super::freshness::Freshness;
use super::hot::Hot;
use super::key_policy::KeyPolicy;
use super::near::Near;
use super::negative::Failures;
use super::predict::Predict;
use super::refresh::Refreshes;
use super::share::Shares;
use super::space::Space;
use super::store_policy::StorePolicy;
use super::tiers::Tiers;
use super::value::ValueParts;
use crate::error::{Error, Result};

/// What all clients wrapped by one layer share.
pub(super) struct Shared {
    pub(super) flights: Arc<Flights>,
    pub(super) tiers: Arc<Tiers>,
    pub(super) keys: KeyPolicy,
    pub(super) store: StorePolicy,
    pub(super) lease_term: Duration,
    pub(super) freshness: Freshness,
    pub(super) refreshes: Refreshes,
    pub(super) adaptive: Option<Adaptive>,
    pub(super) predict: Option<Predict>,
    pub(super) batches: Arc<Shares<Arc<Fetched>>>,
    pub(super) values: ValueParts,
    pub(super) hot: Option<Hot>,
}

impl Shared {
    /// As these settings say.
    ///
    /// # Errors
    /// The first that cannot work: which one, its value, what to do.
    pub(super) fn new(cache: Cache) -> Result<Self> {
        let Cache { in_memory, namespaces, outer, fleet, lease_term, tier_timeout, keys, store, .. } = cache;
        let Cache { freshness, negative, adaptive, predicted, hottest, behind, .. } = cache;
        freshness.check()?;
        if tier_timeout.is_zero() {
            let advice = "give the tier at least a millisecond to answer";
            return Err(Error::config("cache", "tier_timeout", "0s", advice));
        }
        if lease_term.is_zero() {
            return Err(Error::config(
                "cache",
                "lease_term",
                "0s",
                "a few seconds are enough: a lease is renewed while it is needed",
            ));
        }
        if behind.is_some_and(|places| !(1..=Semaphore::MAX_PERMITS).contains(&places)) {
            let advice = "let at least 1 put go behind, or leave it out";
            return Err(Error::config("cache", "write_behind", behind.unwrap_or_default(), advice));
        }
        keys.check()?;
        store.check()?;
        let spaces = namespaces.into_iter().map(|namespace| Space::new(namespace, in_memory)).collect::<Result<_>>()?;
        let failures = negative.map(Failures::new).transpose()?;
        let flights = Arc::default();
        let near = Near::new(spaces, failures, Arc::clone(&flights));
        Ok(Self {
            flights,
            tiers: Arc::new(Tiers::new(near, outer, fleet, tier_timeout).with_puts_behind(behind)),
            keys,
            store,
            lease_term,
            freshness,
            refreshes: Refreshes::default(),
            adaptive: adaptive.map(|(min, max)| Adaptive::new(min, max)).transpose()?,
            predict: (predicted > 0).then(|| Predict::new(predicted)),
            hot: (hottest > 0).then(|| Hot::new(hottest)),
            batches: Arc::default(),
            values: ValueParts::default(),
        })
    }
}
