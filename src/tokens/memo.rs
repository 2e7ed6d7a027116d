//! Counts remembered by content.

use std::fmt;

use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::fingerprint::{ByFingerprint, fingerprint};

/// About 8 MB when full.
const TEXTS: usize = 1 << 16;

/// Counts by what was counted: a hash and a look-up. `salt` tells apart what counts differently: the vocabulary, the
/// rule.
pub(super) struct Memo(Cache<u128, u32, UnitWeighter, ByFingerprint, DefaultLifecycle<u128, u32>>);

impl Memo {
    pub(super) fn new() -> Self {
        Self(Cache::with(TEXTS, TEXTS as u64, UnitWeighter, ByFingerprint::default(), DefaultLifecycle::default()))
    }

    pub(super) fn get_or(&self, salt: u8, content: &[u8], count: impl FnOnce() -> u64) -> u64 {
        let key = fingerprint(content) ^ u128::from(salt);
        if let Some(count) = self.0.get(&key) {
            return u64::from(count);
        }
        let count = count();
        self.0.insert(key, u32::try_from(count).unwrap_or(u32::MAX));
        count
    }

    pub(super) fn has(&self, salt: u8, content: &[u8]) -> bool {
        self.0.get(&(fingerprint(content) ^ u128::from(salt))).is_some()
    }
}

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memo").field("remembered", &self.0.len()).finish_non_exhaustive()
    }
}
