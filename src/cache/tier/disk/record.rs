//! One record of the log: a fixed head, then an envelope or nothing.
//!
//! | Bytes | What |
//! |--:|---|
//! | 4 | magic `F6 53 6C 01`; its last byte is the version |
//! | 1 | 1: an entry; 2: from here back, this key is forgotten |
//! | 3 | zero |
//! | 4 | length of the envelope that follows |
//! | 8 | expires, milliseconds of the Unix epoch |
//! | 32 | full key |
//! | 8 | xxh3-64 over all of the above |
//!
//! `F6` is in no text, so an answer cannot imitate a head.

use xxhash_rust::xxh3::xxh3_64;

use crate::cache::CacheKey;
use crate::cache::envelope::MAX_ENVELOPE;

pub(super) const HEAD: usize = 60;
pub(super) const MAGIC: [u8; 4] = [0xF6, 0x53, 0x6C, 1];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Entry,
    Forgotten,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) length: u32,
    pub(super) expires: u64,
    /// The first half of the key: even so 128 bits of blake3.
    pub(super) name: u128,
}

/// What a key is found by.
pub(super) fn name(key: &[u8; 32]) -> u128 {
    u128::from_le_bytes(std::array::from_fn(|n| key[n]))
}

pub(super) fn head(kind: Kind, length: u32, expires: u64, key: &CacheKey) -> [u8; HEAD] {
    let mut out = [0; HEAD];
    out[..4].copy_from_slice(&MAGIC);
    out[4] = match kind {
        Kind::Entry => 1,
        Kind::Forgotten => 2,
    };
    out[8..12].copy_from_slice(&length.to_le_bytes());
    out[12..20].copy_from_slice(&expires.to_le_bytes());
    out[20..52].copy_from_slice(key.as_bytes());
    let check = xxh3_64(&out[..52]);
    out[52..].copy_from_slice(&check.to_le_bytes());
    out
}

/// `None` when these bytes are no head.
pub(super) fn parse(bytes: &[u8]) -> Option<Head> {
    let bytes = bytes.first_chunk::<HEAD>()?;
    if !bytes.starts_with(&MAGIC) || xxh3_64(&bytes[..52]).to_le_bytes() != bytes[52..] {
        return None;
    }
    let kind = match bytes[4] {
        1 => Kind::Entry,
        2 => Kind::Forgotten,
        _ => return None,
    };
    let length = u32::from_le_bytes(std::array::from_fn(|n| bytes[8 + n]));
    let expires = u64::from_le_bytes(std::array::from_fn(|n| bytes[12 + n]));
    let name = u128::from_le_bytes(std::array::from_fn(|n| bytes[20 + n]));
    (length as usize <= MAX_ENVELOPE).then_some(Head { kind, length, expires, name })
}

/// The full key in a head, which must have been parsed.
pub(super) fn key(bytes: &[u8]) -> Option<CacheKey> {
    bytes.get(20..)?.first_chunk().map(|key| CacheKey::from_bytes(*key))
}
