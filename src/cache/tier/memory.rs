//! Answers in this process's memory, on quick_cache.

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};

use super::key_index::KeyIndex;
use crate::cache::{CacheKey, CacheTier, Entry, Probe, Selector};
use crate::error::{Error, ErrorKind, Result};
use crate::fingerprint::ByFingerprint;

/// The name of the tier in memory.
pub(in crate::cache) const MEMORY: &str = "memory";

/// Answers in memory. A hit costs one lookup by fingerprint and one comparison of the request's bytes.
///
/// It holds at most so many entries and at most so many bytes, whichever is reached first; the scan-resistant CLOCK-Pro
/// of quick_cache decides who goes. An expired entry is never served; it goes when it is asked for, pushed out or
/// [swept](Self::sweep): a [`Cache`](crate::cache::Cache) sweeps once a minute at most, when it keeps an answer.
pub struct Memory {
    entries: Cache<Key, Kept, ByBytes, ByFingerprint, Counting>,
    keys: KeyIndex,
    evictions: Arc<AtomicU64>,
}

/// Bytes that a shard holds at least. Below about thirty times its largest entries a shard pushes out what is still
/// wanted: at 64 MiB and entries of up to 128 KiB, 2 MiB each cost two hits in a hundred and 256 KiB six.
const SHARD: u64 = 4 << 20;

/// What an entry is taken to weigh on average, to tell how many there will be when bytes run out first.
const TYPICAL: u64 = 16 << 10;

/// How many fingerprints of entries pushed out are remembered, as a share of the entries held: one that is asked for
/// again comes back to stay. More of them follow a new set of hot requests faster and keep fewer of a steady one; at
/// this share neither is further than one hit in a hundred from the best of moka and foyer (`benches/hit_ratio.rs`).
const REMEMBERED: f64 = 0.6;

impl Memory {
    /// At most so many entries and bytes, each at least 1. There are up to four shards per core, of at least 4 MiB each;
    /// an entry larger than 97 % of a shard's part of the bytes is not kept.
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
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let shards = (bytes / SHARD).clamp(1, 4 * threads as u64);
        let expected = (entries as u64).min((bytes / TYPICAL).max(1));
        let options = OptionsBuilder::new()
            // quick_cache would round up.
            .shards(1 << shards.ilog2())
            .estimated_items_capacity(expected as usize)
            .ghost_allocation(REMEMBERED)
            .weight_capacity(bytes)
            .build();
        let options = options.map_err(|error| Error::new(ErrorKind::Config, "cache", error.to_string()))?;
        let evictions = Arc::<AtomicU64>::default();
        let counting = Counting(DefaultLifecycle::default(), Arc::clone(&evictions));
        let entries = Cache::with_options(options, ByBytes { share }, ByFingerprint::default(), counting);
        Ok(Self { entries, keys: KeyIndex::default(), evictions })
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
        let Kept { entry, .. } = self.entries.get(&Key::of(probe))?;
        if entry.serves(probe) {
            return Some(entry);
        }
        if entry.expires() <= probe.now() {
            self.entries.remove_if(&Key::of(probe), |stored| Arc::ptr_eq(&stored.entry, &entry));
        }
        None
    }
}

impl Memory {
    /// As [`find`](Self::find), but the entry's place in the order of eviction stays what it was.
    pub(in crate::cache) fn peek(&self, probe: &Probe) -> Option<Arc<Entry>> {
        self.entries.peek(&Key::of(probe)).map(|kept| kept.entry).filter(|entry| entry.serves(probe))
    }

    /// Every entry, expired ones included.
    pub(in crate::cache) fn all(&self) -> impl Iterator<Item = Arc<Entry>> {
        self.entries.iter().map(|(_, kept)| kept.entry)
    }

    /// How many entries were pushed out, or not let in because of their size.
    pub(in crate::cache) fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    /// Forgets this very entry, if it is still what is kept for its request.
    pub(in crate::cache) fn forget(&self, probe: &Probe, entry: &Arc<Entry>) {
        self.entries.remove_if(&Key::of(probe), |stored| Arc::ptr_eq(&stored.entry, entry));
    }

    /// Drops what has expired by now. It looks at every entry, a few tens of nanoseconds each.
    pub fn sweep(&self, now: Instant) {
        self.entries.retain(|_, kept| now < kept.entry.expires());
    }

    /// Keeps an entry, without waiting.
    pub fn keep(&self, probe: &Probe, entry: Arc<Entry>) {
        // Known when an outer tier has asked for it: only then is anything told by key.
        let (at, key) = (probe.fingerprint(), entry.known_key());
        self.entries.insert(Key::at(at), Kept { weight: entry.weight(), entry });
        // Afterwards: what is not held yet would be pruned, or taken by a word about the entry before this one.
        if let Some(key) = key {
            self.keys.learn(key, at, self.entries.len(), |at| self.entries.peek(&Key::at(*at)).is_some());
        }
    }

    /// Forgets what the selector takes, without waiting; how many. It looks at every entry: about 0.1 us each, by key 1 us
    /// where the key has to be computed.
    pub fn discard(&self, selector: &Selector) -> u64 {
        let before = self.entries.len();
        match selector {
            Selector::All => {
                // In this order: an entry that is kept meanwhile is known or gone.
                self.keys.clear();
                self.entries.clear();
            }
            Selector::Keys(keys) => {
                let keys: HashSet<&CacheKey> = keys.iter().collect();
                self.entries.retain(|_, kept| !keys.contains(&kept.entry.key()));
            }
            other => self.entries.retain(|_, kept| !other.selects(&kept.entry)),
        }
        before.saturating_sub(self.entries.len()) as u64
    }

    /// Forgets the entry of a key that an outer tier has asked for, without looking at the others.
    pub(in crate::cache) fn discard_key(&self, key: &CacheKey) {
        if let Some(at) = self.keys.take(key) {
            self.entries.remove_if(&Key::at(at), |kept| kept.entry.key() == *key);
        }
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

    async fn remove(&self, selector: &Selector) -> Result<u64> {
        Ok(self.discard(selector))
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("entries", &self.len()).finish_non_exhaustive()
    }
}

/// A fingerprint in halves: aligned to 8 bytes instead of 16, it makes a place in the cache 48 bytes instead of 64.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    high: u64,
    low: u64,
}

impl Key {
    fn of(probe: &Probe) -> Self {
        Self::at(probe.fingerprint())
    }

    fn at(whole: u128) -> Self {
        Self { high: (whole >> 64) as u64, low: whole as u64 }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128((u128::from(self.high) << 64) | u128::from(self.low));
    }
}

/// An entry, weighed once: quick_cache asks for the weight of what it passes and pushes out, under its lock.
#[derive(Clone)]
struct Kept {
    weight: u64,
    entry: Arc<Entry>,
}

/// Counts who is pushed out.
#[derive(Debug, Clone)]
struct Counting(DefaultLifecycle<Key, Kept>, Arc<AtomicU64>);

impl Lifecycle<Key, Kept> for Counting {
    type RequestState = <DefaultLifecycle<Key, Kept> as Lifecycle<Key, Kept>>::RequestState;

    fn on_evict(&self, state: &mut Self::RequestState, key: Key, kept: Kept) {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.on_evict(state, key, kept);
    }
}

#[derive(Debug, Clone)]
struct ByBytes {
    share: u64,
}

impl Weighter<Key, Kept> for ByBytes {
    fn weight(&self, _: &Key, kept: &Kept) -> u64 {
        kept.weight.max(self.share)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::ClientInfo;
    use crate::types::{ChatCompletion, ChatRequest};

    fn put(memory: &Memory, name: &str, text: usize) -> Probe {
        let now = crate::Env::new().now();
        let probe = Probe::chat(&ClientInfo::new("p"), &ChatRequest::new("m").user(name), now);
        // As after an outer tier has been asked.
        let _ = probe.key();
        let completion = Arc::new(ChatCompletion::text("m", "x".repeat(text)));
        let entry = Entry::new(&probe, completion, Arc::from([]), now, Duration::from_secs(60), None);
        memory.keep(&probe, Arc::new(entry));
        probe
    }

    /// Were the bytes dealt out to four shards per core, none would have the room.
    #[test]
    fn an_entry_of_most_of_a_small_cache_is_kept_on_any_machine() {
        let memory = Memory::new(10_000, 4 << 20).unwrap();
        let probe = put(&memory, "large", 3 << 20);
        assert!(memory.find(&probe).is_some());
    }

    #[test]
    fn neither_limit_is_passed_however_the_room_is_dealt_out() {
        for (entries, bytes, text) in [(100, 64 << 20, 10), (100_000, 16 << 20, 60_000), (1, 1 << 20, 10)] {
            let memory = Memory::new(entries, bytes).unwrap();
            (0..1_000).for_each(|n| drop(put(&memory, &n.to_string(), text)));
            assert!(memory.len() <= entries, "{} of {entries}", memory.len());
            assert!(memory.len() as u64 * text as u64 <= bytes, "{} in {bytes}", memory.len());
            assert!(!memory.is_empty());
        }
    }

    /// Whatever the index drops when it is pruned: what was just kept is found by its key.
    #[test]
    fn what_changes_elsewhere_is_dropped_by_its_key() {
        let memory = Memory::new(10, 1 << 20).unwrap();
        for n in 0..4_000 {
            let probe = put(&memory, &n.to_string(), 10);
            // Not each: the index is to grow.
            if n % 5 == 0 && memory.find(&probe).is_some() {
                memory.discard_key(&probe.key());
                assert!(memory.find(&probe).is_none(), "{n}");
            }
        }
    }
}
