//! A namespace at work.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

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
    swept: Mutex<Option<Instant>>,
}

/// Memory is swept no more often than this.
const SWEEPS: Duration = Duration::from_secs(60);

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
        Ok(Self { name: name.into(), ttl, counts: SpaceCounts::default(), memory, swept: Mutex::new(None) })
    }

    /// Its memory, made on first use.
    pub(super) fn memory(&self) -> Option<&Memory> {
        let lazy = self.memory.as_ref()?;
        // The sizes have been checked, so it can be made.
        lazy.made.get_or_init(|| Memory::new(lazy.entries, lazy.max_bytes).ok()).as_ref()
    }

    /// Drops what has expired from its memory, if that was not done within the last minute.
    pub(super) fn sweep(&self, now: Instant) {
        // Who finds it locked finds somebody sweeping.
        let Some(mut swept) = self.swept.try_lock() else { return };
        let due = swept.is_some_and(|last| now.saturating_duration_since(last) >= SWEEPS);
        if swept.is_none() || due {
            *swept = Some(now);
        }
        if due && let Some(memory) = self.used_memory() {
            memory.sweep(now);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Entry, Payload, Probe, StoredValue};
    use std::sync::Arc;

    #[test]
    fn what_has_expired_is_swept_once_a_minute_at_most() {
        let space = Space::new(Namespace::new("values"), true).unwrap();
        let memory = space.memory().unwrap();
        let start = crate::Env::new().now();
        let keep = |key: &str, ttl: u64| {
            let probe = Probe::value("values", None, key, start);
            let value = Payload::Value(Arc::new(StoredValue::from_json(*b"1")));
            let entry = Entry::of(&probe, value, start, Duration::from_secs(ttl)).with_grace(Duration::from_secs(10));
            memory.keep(&probe, Arc::new(entry));
        };
        for (key, ttl) in [("a", 10), ("b", 50), ("c", 100), ("d", 1_000)] {
            keep(key, ttl);
        }
        let left = |after| {
            space.sweep(start + Duration::from_secs(after));
            memory.len()
        };
        assert_eq!([0, 59, 60, 119, 120, 1_000, 1_010, 1_060].map(left), [4, 4, 2, 2, 1, 1, 1, 0]);
    }
}
