//! Fast 128-bit fingerprints under a seed of this process, and maps keyed by them.

use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::OnceLock;

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// A fast hash of the bytes. Not for use outside the process; whoever finds by it compares what it found.
pub(crate) fn fingerprint(bytes: &[u8]) -> u128 {
    xxh3_128_with_seed(bytes, seed())
}

/// Unpredictable from outside, so that nobody can prepare texts whose fingerprints collide.
fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| RandomState::new().hash_one("fingerprint"))
}

/// Hashes fingerprints, which are evenly spread already: takes their low half as it is.
pub(crate) type ByFingerprint = BuildHasherDefault<LowHalf>;

#[derive(Default)]
pub(crate) struct LowHalf(u64);

impl Hasher for LowHalf {
    fn finish(&self) -> u64 {
        self.0
    }

    // Only `u128` keys are hashed with it; other bytes still give a usable, if slow, hash.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, fingerprint: u128) {
        self.0 = fingerprint as u64;
    }
}
