//! From the keys of entries in memory, as far as they are known, to where they are.
//!
//! Memory finds by fingerprint; what changes in a shared store is told by key. A key is known when an outer tier has used
//! it. The index does not hear what memory evicts: it is pruned when it has grown to twice what memory holds, so that it
//! costs a bounded share of the work of filling it.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::cache::CacheKey;

const SHARDS: usize = 16;

#[derive(Debug, Default)]
pub(super) struct KeyIndex {
    shards: [Mutex<HashMap<CacheKey, u128>>; SHARDS],
}

impl KeyIndex {
    fn shard(&self, key: &CacheKey) -> &Mutex<HashMap<CacheKey, u128>> {
        &self.shards[usize::from(key.as_bytes()[0]) % SHARDS]
    }

    /// Learns where the entry of this key is. `held` says how many entries memory holds, and `holds` whether it holds one.
    pub(super) fn learn(&self, key: CacheKey, at: u128, held: usize, holds: impl Fn(&u128) -> bool) {
        let mut shard = self.shard(&key).lock();
        shard.insert(key, at);
        if shard.len() > 64 + 2 * held / SHARDS {
            shard.retain(|_, at| holds(at));
        }
    }

    /// Where the entry of this key was put; forgets it.
    pub(super) fn take(&self, key: &CacheKey) -> Option<u128> {
        self.shard(key).lock().remove(key)
    }

    pub(super) fn clear(&self) {
        self.shards.iter().for_each(|shard| shard.lock().clear());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_to_twice_what_memory_holds() {
        let index = KeyIndex::default();
        for n in 0..100_000_u32 {
            // Memory holds the last thousand.
            index.learn(CacheKey::of(&n.to_le_bytes()), u128::from(n), 1_000, |at| *at + 1_000 > u128::from(n));
        }
        let known: usize = index.shards.iter().map(|shard| shard.lock().len()).sum();
        assert!(known <= SHARDS * 64 + 2 * 1_000 + SHARDS, "{known}");
        assert_eq!(index.take(&CacheKey::of(&99_999_u32.to_le_bytes())), Some(99_999));
        assert_eq!(index.take(&CacheKey::of(&99_999_u32.to_le_bytes())), None);
    }
}
