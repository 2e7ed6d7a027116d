//! Fast 128-bit fingerprints under a seed of this process, and maps keyed by them.

use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::LazyLock;

use twox_hash::XxHash3_128;

/// Unpredictable from outside, so that nobody can prepare texts whose fingerprints collide. Made once: hashing with a
/// seed would derive it anew for each text.
static SECRET: LazyLock<[u8; 192]> = LazyLock::new(|| {
    let mut seed = blake3::Hasher::new();
    for half in ["fingerprint", "secret"] {
        seed.update(&RandomState::new().hash_one(half).to_le_bytes());
    }
    let mut secret = [0; 192];
    seed.finalize_xof().fill(&mut secret);
    secret
});

/// A fast hash of the bytes. Not for use outside the process; whoever finds by it compares what it found.
pub(crate) fn fingerprint(bytes: &[u8]) -> u128 {
    // It fails for a secret shorter than 136 bytes only; and what all have in common is still a fingerprint.
    XxHash3_128::oneshot_with_secret(&*SECRET, bytes).unwrap_or_default()
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
