//! The cache's numbers as a person reads them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

use crate::types::Cost;

/// What a cache did so far, by namespace and by tier. `Display` prints it as two tables, serde writes dollars as a number.
///
/// Every call that ended is one hit, one miss or one coalesced, and so is every text of a batch; calls that were dropped,
/// streams that broke off, those that joined a flight which failed, and those that a
/// [`StorePolicy`](super::StorePolicy) sends past the cache, are none of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CacheStats {
    /// One for each namespace, `responses` first.
    pub namespaces: Vec<NamespaceStats>,
    /// One for each tier, nearest first. Tiers of one name are counted together.
    pub tiers: Vec<TierStats>,
}

/// What one namespace did so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct NamespaceStats {
    /// Its name.
    pub name: String,
    /// Calls served with what was stored, stale ones included.
    pub hits: u64,
    /// Those hits by the tier that had it.
    pub hits_by_tier: BTreeMap<&'static str, u64>,
    /// Hits that were past their time to live.
    pub stale: u64,
    /// Calls for which nothing was stored: they were answered from upstream or failed.
    pub misses: u64,
    /// Calls served by another call's flight.
    pub coalesced: u64,
    /// Entries given to the tiers to keep.
    pub stored: u64,
    /// Answers that the store policy did not keep: cut, filtered, refused, empty.
    pub declined: u64,
    /// Input and output tokens that hits and shared flights saved.
    pub saved_tokens: u64,
    /// Dollars that hits and shared flights saved, where the price is known.
    #[serde(rename = "saved_dollars", serialize_with = "dollars")]
    pub saved: Cost,
    /// Entries in memory now, expired ones included.
    pub entries: u64,
    /// Bytes of memory they take, about.
    pub bytes: u64,
    /// Entries that were pushed out of memory to make room, or were too large to be let in.
    pub evictions: u64,
}

/// What one tier did so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TierStats {
    /// Its name.
    pub name: &'static str,
    /// Calls served with what it had.
    pub hits: u64,
    /// Times it was asked and had nothing. A call that becomes a flight asks twice.
    pub misses: u64,
    /// Entries it was given and took: new answers, and what farther tiers had.
    pub puts: u64,
    /// Times it failed, panicked or did not answer in time.
    pub errors: u64,
    /// Times it was not asked because it had failed too often just before.
    pub passed_over: u64,
}

fn dollars<S: Serializer>(cost: &Cost, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(cost.dollars())
}

impl CacheStats {
    /// The numbers of this namespace.
    pub fn namespace(&self, name: &str) -> Option<&NamespaceStats> {
        self.namespaces.iter().find(|one| one.name == name)
    }

    /// The numbers of this tier.
    pub fn tier(&self, name: &str) -> Option<&TierStats> {
        self.tiers.iter().find(|one| one.name == name)
    }
}

impl NamespaceStats {
    /// Calls served without an upstream call of their own, from 0 to 1.
    pub fn hit_ratio(&self) -> f64 {
        let served = self.hits + self.coalesced;
        let all = served + self.misses;
        if all == 0 { 0.0 } else { served as f64 / all as f64 }
    }

    fn is_used(&self) -> bool {
        self.hits + self.misses + self.coalesced + self.stored + self.declined + self.entries > 0
    }
}

/// Namespaces that were never used are left out.
impl fmt::Display for CacheStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<14} {:>9} {:>9} {:>9} {:>5} {:>7} {:>9} {:>9} {:>9} {:>8} {:>9} {:>11} {:>9}",
            "namespace",
            "hits",
            "misses",
            "coalesced",
            "rate",
            "stale",
            "stored",
            "declined",
            "entries",
            "MiB",
            "evicted",
            "tokens",
            "saved"
        )?;
        for one in self.namespaces.iter().filter(|one| one.is_used()) {
            writeln!(
                f,
                "{:<14} {:>9} {:>9} {:>9} {:>3.0} % {:>7} {:>9} {:>9} {:>9} {:>8.1} {:>9} {:>11} {:>9}",
                one.name,
                one.hits,
                one.misses,
                one.coalesced,
                one.hit_ratio() * 100.0,
                one.stale,
                one.stored,
                one.declined,
                one.entries,
                one.bytes as f64 / (1 << 20) as f64,
                one.evictions,
                one.saved_tokens,
                one.saved.to_string()
            )?;
        }
        let titles = ["hits", "misses", "puts", "errors", "passed over"];
        let [hits, misses, puts, errors, passed] = titles;
        write!(f, "{:<14} {hits:>9} {misses:>9} {puts:>9} {errors:>9} {passed:>11}", "tier")?;
        for one in &self.tiers {
            let TierStats { name, hits, misses, puts, errors, passed_over } = one;
            write!(f, "\n{name:<14} {hits:>9} {misses:>9} {puts:>9} {errors:>9} {passed_over:>11}")?;
        }
        Ok(())
    }
}
