//! One record of the log: a fixed head, then an envelope or nothing.
//!
//! | Bytes | What |
//! |--:|---|
//! | 4 | magic `F6 53 6C 01`; its last byte is the version |
//! | 1 | 1: an entry; 2: from here back, this key is forgotten |
//! | 3 | zero |
//! | 4 | length of the envelope that follows |
//! | 8, 8 | created, expires, milliseconds of the Unix epoch |
//! | 32 | full key |
//! | 8 | xxh3-64 over all of the above |
//!
//! `F6` is in no text, so an answer cannot imitate a head. A head of another version is damage: a segment of nothing else
//! is removed when the log is opened, be it of an older version or of a newer one.

use twox_hash::XxHash3_64;

use crate::cache::CacheKey;
use crate::cache::envelope::MAX_ENVELOPE;

pub(super) const HEAD: usize = 68;
const CHECKED: usize = HEAD - 8;
pub(super) const MAGIC: [u8; 4] = [0xF6, 0x53, 0x6C, 1];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Entry = 1,
    Forgotten = 2,
}

/// From when to when an entry is served, in milliseconds of the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) created: u64,
    pub(super) expires: u64,
}

impl Life {
    /// What comes from the future has an unknown age, for the clock was set back since: it is not served.
    pub(super) fn is_on(&self, now: u64) -> bool {
        self.created <= now && now < self.expires
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) length: u32,
    pub(super) life: Life,
    /// The first half of the key: even so 128 bits of blake3.
    pub(super) name: u128,
}

/// What a key is found by.
pub(super) fn name(key: &[u8; 32]) -> u128 {
    u128::from_le_bytes(std::array::from_fn(|n| key[n]))
}

pub(super) fn head(kind: Kind, length: u32, life: Life, key: &[u8; 32]) -> [u8; HEAD] {
    let mut out = [0; HEAD];
    out[..4].copy_from_slice(&MAGIC);
    out[4] = kind as u8;
    out[8..12].copy_from_slice(&length.to_le_bytes());
    out[12..20].copy_from_slice(&life.created.to_le_bytes());
    out[20..28].copy_from_slice(&life.expires.to_le_bytes());
    out[28..CHECKED].copy_from_slice(key);
    sealed(out)
}

fn sealed(mut head: [u8; HEAD]) -> [u8; HEAD] {
    let check = XxHash3_64::oneshot(&head[..CHECKED]);
    head[CHECKED..].copy_from_slice(&check.to_le_bytes());
    head
}

/// This head, saying that its entry is forgotten.
pub(super) fn forgotten(mut head: [u8; HEAD]) -> [u8; HEAD] {
    head[4] = Kind::Forgotten as u8;
    sealed(head)
}

/// `None` when these bytes are no head.
pub(super) fn parse(bytes: &[u8]) -> Option<Head> {
    let bytes = bytes.first_chunk::<HEAD>()?;
    if !bytes.starts_with(&MAGIC) || XxHash3_64::oneshot(&bytes[..CHECKED]).to_le_bytes() != bytes[CHECKED..] {
        return None;
    }
    let kind = match bytes[4..8] {
        [1, 0, 0, 0] => Kind::Entry,
        [2, 0, 0, 0] => Kind::Forgotten,
        _ => return None,
    };
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
    let length = u32::from_le_bytes(std::array::from_fn(|n| bytes[8 + n]));
    let life = Life { created: u64_at(12), expires: u64_at(20) };
    let name = u128::from_le_bytes(std::array::from_fn(|n| bytes[28 + n]));
    (length as usize <= MAX_ENVELOPE).then_some(Head { kind, length, life, name })
}

/// The full key in a head, which must have been parsed.
pub(super) fn key(bytes: &[u8]) -> Option<CacheKey> {
    bytes.get(28..)?.first_chunk().map(|key| CacheKey::from_bytes(*key))
}
