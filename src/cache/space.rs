//! A namespace at work.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use super::Namespace;
use super::counts::SpaceCounts;
use super::stats::NamespaceStats;
use super::tier::{MEMORY, Memory};
use crate::error::Result;

/// A namespace and its memory.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) name: Box<str>,
    pub(super) ttl: Duration,
    pub(super) counts: SpaceCounts,
    memory: Option<Lazy>,
}

/// Memory that is made when it is used: a cache of answers alone does not pay for the vectors it never sees.
#[derive(Debug)]
struct Lazy {
    entries: usize,
    max_bytes: u64,
    made: OnceLock<Option<Memory>>,
}

impl Space {
    /// With or without memory.
    pub(super) fn new(settings: Namespace, in_memory: bool) -> Result<Self> {
        settings.check()?;
        let Namespace { name, ttl, entries, max_bytes } = settings;
        let memory = in_memory.then(|| Lazy { entries, max_bytes, made: OnceLock::new() });
        Ok(Self { name: name.into(), ttl, counts: SpaceCounts::default(), memory })
    }

    /// Its memory, made on first use.
    pub(super) fn memory(&self) -> Option<&Memory> {
        let lazy = self.memory.as_ref()?;
        // The sizes have been checked, so it can be made.
        lazy.made.get_or_init(|| Memory::new(lazy.entries, lazy.max_bytes).ok()).as_ref()
    }

    /// Whether it keeps anything in memory.
    pub(super) fn has_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// Its memory, if it has been used.
    pub(super) fn used_memory(&self) -> Option<&Memory> {
        self.memory.as_ref()?.made.get()?.as_ref()
    }

    /// Its numbers so far.
    pub(super) fn stats(&self) -> NamespaceStats {
        let sums = self.counts.sums();
        let near = self.memory.is_some().then_some((MEMORY, sums.near_hits));
        let mut hits_by_tier = BTreeMap::new();
        for (tier, hits) in near.into_iter().chain(self.counts.outer_hits()) {
            *hits_by_tier.entry(tier).or_default() += hits;
        }
        let memory = self.used_memory();
        NamespaceStats {
            name: self.name.to_string(),
            hits: hits_by_tier.values().sum(),
            hits_by_tier,
            stale: sums.stale,
            misses: sums.misses,
            coalesced: sums.coalesced,
            stored: sums.stored,
            declined: sums.declined,
            saved_tokens: sums.saved_tokens,
            saved: sums.saved,
            entries: memory.map_or(0, |memory| memory.len() as u64),
            bytes: memory.map_or(0, |memory| memory.all().map(|entry| entry.weight()).sum()),
            evictions: memory.map_or(0, Memory::evictions),
        }
    }
}
