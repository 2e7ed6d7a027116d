//! The fixed part of an envelope.

use super::{MAX_ENVELOPE, Refused};

pub(super) const HEADER: usize = 76;
pub(super) const LZ4: u8 = 1;
pub(super) const MAC: u8 = 2;

/// Raised whenever the form changes: entries of other versions are refused.
pub(crate) const VERSION: u8 = 2;
const MAGIC: [u8; 4] = [0xE5, 0x4C, 0x6C, 0x1B];

/// What stands before the payload.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) flags: u8,
    pub(super) labels: u16,
    pub(super) mac_id: u32,
    pub(super) stored: u32,
    pub(super) decoded: u32,
    pub(super) created: u64,
    pub(super) fresh: u64,
    pub(super) expires: u64,
    pub(super) key: [u8; 32],
}

impl Header {
    pub(super) fn to_bytes(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = VERSION;
        out[5] = self.flags;
        out[6..8].copy_from_slice(&self.labels.to_le_bytes());
        out[8..12].copy_from_slice(&self.mac_id.to_le_bytes());
        out[12..16].copy_from_slice(&self.stored.to_le_bytes());
        out[16..20].copy_from_slice(&self.decoded.to_le_bytes());
        out[20..28].copy_from_slice(&self.created.to_le_bytes());
        out[28..36].copy_from_slice(&self.fresh.to_le_bytes());
        out[36..44].copy_from_slice(&self.expires.to_le_bytes());
        out[44..].copy_from_slice(&self.key);
        out
    }

    /// The header of an envelope, of which these may be the first bytes only.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        if !bytes.starts_with(&MAGIC) {
            return Err(Refused::NotOurs);
        }
        let Some(bytes) = bytes.first_chunk::<HEADER>() else { return Err(Refused::Checksum) };
        if bytes[4] != VERSION {
            return Err(Refused::Version);
        }
        if bytes[5] & !(LZ4 | MAC) != 0 {
            return Err(Refused::Version);
        }
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
        let header = Self {
            flags: bytes[5],
            labels: u16::from_le_bytes([bytes[6], bytes[7]]),
            mac_id: u32_at(8),
            stored: u32_at(12),
            decoded: u32_at(16),
            created: u64_at(20),
            fresh: u64_at(28),
            expires: u64_at(36),
            key: std::array::from_fn(|n| bytes[44 + n]),
        };
        if header.stored as usize > MAX_ENVELOPE { Err(Refused::TooLarge) } else { Ok(header) }
    }
}
