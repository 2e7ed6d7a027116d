//! Answers in this process's memory, on quick_cache.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};

use crate::cache::{CacheTier, Entry, Probe, Selector};
use crate::error::{Error, ErrorKind, Result};
use crate::fingerprint::ByFingerprint;

/// The name of the tier in memory.
pub(in crate::cache) const MEMORY: &str = "memory";

/// Answers in memory. A hit costs one lookup by fingerprint and one comparison of the request's bytes.
///
/// It holds at most so many entries and at most so many bytes, whichever is reached first; the scan-resistant CLOCK-Pro
/// of quick_cache decides who goes. An expired entry is never served; it goes when it is asked for or pushed out.
pub struct Memory {
    entries: Cache<u128, Arc<Entry>, ByBytes, ByFingerprint, Counting>,
    evictions: Arc<AtomicU64>,
}

impl Memory {
    /// At most so many entries and bytes, each at least 1. An entry larger than a shard's part of the bytes is not kept.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) when either is zero.
    pub fn new(entries: usize, bytes: u64) -> Result<Self> {
        if entries == 0 {
            let advice = "keep at least 1 entry, or leave the cache out";
            return Err(Error::config("cache", "memory entries", entries, advice));
        }
        if bytes == 0 {
            let advice = "allow at least a few KiB, or leave the cache out";
            return Err(Error::config("cache", "max_bytes", bytes, advice));
        }
        // quick_cache knows one capacity. Bytes are it, and no entry counts for less than an equal share of them: so
        // neither limit can be passed. A single entry counts for a little more than half, because quick_cache takes none
        // that fills its whole capacity.
        let share = if entries == 1 { bytes / 2 + 1 } else { bytes.div_ceil(entries as u64) };
        let options = OptionsBuilder::new().estimated_items_capacity(entries).weight_capacity(bytes).build();
        let options = options.map_err(|error| Error::new(ErrorKind::Config, "cache", error.to_string()))?;
        let evictions = Arc::<AtomicU64>::default();
        let counting = Counting(DefaultLifecycle::default(), Arc::clone(&evictions));
        let entries = Cache::with_options(options, ByBytes { share }, ByFingerprint::default(), counting);
        Ok(Self { entries, evictions })
    }

    /// How many entries it holds, expired ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The live entry of exactly this request, without waiting.
    pub fn find(&self, probe: &Probe) -> Option<Arc<Entry>> {
        let entry = self.entries.get(&probe.fingerprint())?;
        if entry.serves(probe) {
            return Some(entry);
        }
        if entry.expires() <= probe.now() {
            self.entries.remove_if(&probe.fingerprint(), |stored| Arc::ptr_eq(stored, &entry));
        }
        None
    }
}

impl Memory {
    /// As [`find`](Self::find), but the entry's place in the order of eviction stays what it was.
    pub(in crate::cache) fn peek(&self, probe: &Probe) -> Option<Arc<Entry>> {
        self.entries.peek(&probe.fingerprint()).filter(|entry| entry.serves(probe))
    }

    /// Every entry, expired ones included.
    pub(in crate::cache) fn all(&self) -> impl Iterator<Item = Arc<Entry>> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    /// How many entries were pushed out, or not let in because of their size.
    pub(in crate::cache) fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    /// Forgets this very entry, if it is still what is kept for its request.
    pub(in crate::cache) fn forget(&self, probe: &Probe, entry: &Arc<Entry>) {
        self.entries.remove_if(&probe.fingerprint(), |stored| Arc::ptr_eq(stored, entry));
    }

    /// Keeps an entry, without waiting.
    pub fn keep(&self, probe: &Probe, entry: Arc<Entry>) {
        self.entries.insert(probe.fingerprint(), entry);
    }
}

#[async_trait]
impl CacheTier for Memory {
    fn name(&self) -> &'static str {
        MEMORY
    }

    async fn get(&self, probe: &Probe) -> Result<Option<Arc<Entry>>> {
        Ok(self.find(probe))
    }

    async fn put(&self, probe: &Probe, entry: Arc<Entry>) -> Result<()> {
        self.keep(probe, entry);
        Ok(())
    }

    /// By key it looks at every entry: about 1 us each.
    async fn remove(&self, selector: &Selector) -> Result<u64> {
        let before = self.entries.len();
        match selector {
            Selector::All => self.entries.clear(),
            other => self.entries.retain(|_, entry| !other.selects(entry)),
        }
        Ok(before.saturating_sub(self.entries.len()) as u64)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("entries", &self.len()).finish_non_exhaustive()
    }
}

/// Counts who is pushed out.
#[derive(Debug, Clone)]
struct Counting(DefaultLifecycle<u128, Arc<Entry>>, Arc<AtomicU64>);

impl Lifecycle<u128, Arc<Entry>> for Counting {
    type RequestState = <DefaultLifecycle<u128, Arc<Entry>> as Lifecycle<u128, Arc<Entry>>>::RequestState;

    fn on_evict(&self, state: &mut Self::RequestState, key: u128, entry: Arc<Entry>) {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.on_evict(state, key, entry);
    }
}

#[derive(Debug, Clone)]
struct ByBytes {
    share: u64,
}

impl Weighter<u128, Arc<Entry>> for ByBytes {
    fn weight(&self, _: &u128, entry: &Arc<Entry>) -> u64 {
        entry.weight().max(self.share)
    }
}
