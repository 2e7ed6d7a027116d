//! An entry as bytes, for every tier outside the process.
//!
//! | Bytes | What | |
//! |--:|---|---|
//! | 4 | magic `E5 4C 6C 1B` | no text starts like this |
//! | 1 | version | 1 |
//! | 1 | flags | 1: the payload is lz4; 2: a code of authenticity follows it; others refuse |
//! | 2 | zero | |
//! | 4 | id of the authenticity key | zero without |
//! | 4 | payload length as stored | |
//! | 4 | payload length decoded | |
//! | 8, 8 | created, expires | milliseconds of the Unix epoch |
//! | 32 | the request's full [`CacheKey`](super::CacheKey) | |
//! | n | payload | JSON of completion, chunks, cost in picodollars |
//! | 0 or 32 | keyed blake3 over all of the above | so neither key nor times can be exchanged |
//! | 8 | xxh3-64 over all of the above | |
//!
//! Numbers are little-endian. Lengths are checked before anything is allocated. Whatever is not exactly what was stored for
//! this request, and still alive, is [`Refused`]: a miss to the caller, which the tier counts and removes.

mod auth;
mod header;
mod payload;
mod refused;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use xxhash_rust::xxh3::xxh3_64;

pub use auth::MacKey;
pub(crate) use refused::{Refusals, Refused};

use super::{Entry, Probe};
use crate::env::Clock;
use header::{HEADER, Header, LZ4, MAC};

/// An envelope is at most so long: larger ones are neither made nor read.
pub(crate) const MAX_ENVELOPE: usize = 4 << 20;

const CHECKSUM: usize = 8;
const CODE: usize = 32;

/// Puts entries into envelopes and takes them out again.
#[derive(Debug, Clone)]
pub(crate) struct Envelopes {
    clock: Arc<dyn Clock>,
    mac: Option<MacKey>,
}

impl Envelopes {
    /// With a key, envelopes without a valid code of it are refused.
    pub(crate) fn new(clock: Arc<dyn Clock>, mac: Option<MacKey>) -> Self {
        Self { clock, mac }
    }

    /// The time of day in milliseconds of the Unix epoch.
    #[allow(dead_code, reason = "Redis keeps the time by itself")]
    pub(crate) fn wall_ms(&self) -> u64 {
        millis(since_epoch(self.clock.wall()))
    }

    /// When this entry expires, in milliseconds of the Unix epoch, rounded down.
    pub(crate) fn expires_ms(&self, entry: &Entry) -> u64 {
        // The wall first: time that passes between the two readings shortens the life, and never lengthens it.
        let wall = since_epoch(self.clock.wall());
        let left = entry.expires().saturating_duration_since(self.clock.now());
        millis(wall.saturating_add(left))
    }

    /// The entry of this request as bytes.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] beyond the limits, [`Refused::TooDeep`] for JSON that could not be read back,
    /// [`Refused::WrongKey`] for an entry of another request.
    pub(crate) fn encode(&self, probe: &Probe, entry: &Entry) -> Result<Vec<u8>, Refused> {
        if !entry.is_of(probe) {
            return Err(Refused::WrongKey);
        }
        let mut out = vec![0; HEADER];
        let (flags, decoded) = payload::write(&mut out, entry)?;
        let age = self.clock.now().saturating_duration_since(entry.created());
        let header = Header {
            flags: flags | if self.mac.is_some() { MAC } else { 0 },
            mac_id: self.mac.as_ref().map_or(0, MacKey::id),
            stored: (out.len() - HEADER) as u32,
            decoded,
            created: millis(since_epoch(self.clock.wall()).saturating_sub(age)),
            expires: self.expires_ms(entry),
            key: *probe.key().as_bytes(),
        };
        out[..HEADER].copy_from_slice(&header.to_bytes());
        if let Some(mac) = &self.mac {
            let code = mac.sign(&out);
            out.extend_from_slice(code.as_bytes());
        }
        let checksum = xxh3_64(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        if out.len() > MAX_ENVELOPE { Err(Refused::TooLarge) } else { Ok(out) }
    }

    /// The live entry of this request in these bytes.
    ///
    /// # Errors
    /// Why there is none. Every error is a miss; whoever kept the bytes counts it and removes them.
    pub(crate) fn decode(&self, bytes: &[u8], probe: &Probe) -> Result<Entry, Refused> {
        let header = Header::from_bytes(bytes)?;
        let code = if header.flags & MAC == 0 { 0 } else { CODE };
        let signed = HEADER + header.stored as usize;
        if bytes.len() != signed + code + CHECKSUM {
            return Err(Refused::Checksum);
        }
        let (body, checksum) = bytes.split_at(signed + code);
        if xxh3_64(body).to_le_bytes() != *checksum {
            return Err(Refused::Checksum);
        }
        let (body, code) = body.split_at(signed);
        if let Some(mac) = &self.mac
            && !(header.flags & MAC != 0 && mac.verify(header.mac_id, body, code))
        {
            return Err(Refused::Mac);
        }
        if header.key != *probe.key().as_bytes() {
            return Err(Refused::WrongKey);
        }
        // The monotonic time first: what passes until the wall is read, and while the payload is, shortens the life.
        let now = self.clock.now();
        let (age, left) = self.life(&header)?;
        let payload = payload::read(&body[HEADER..], header.flags & LZ4 != 0, header.decoded as usize)?;
        let (created, ttl) = now.checked_sub(age).map_or((now, left), |created| (created, age.saturating_add(left)));
        let entry = Entry::new(probe, payload.completion, payload.chunks, created, ttl, payload.cost);
        if entry.serves(probe) { Ok(entry) } else { Err(Refused::Expired) }
    }

    /// How old the entry is and how long it may still be served: never longer than it was given when it was made, even if
    /// the clock of whoever made it was, or ours is, wrong.
    fn life(&self, header: &Header) -> Result<(Duration, Duration), Refused> {
        let now = since_epoch(self.clock.wall());
        let (created, expires) = (Duration::from_millis(header.created), Duration::from_millis(header.expires));
        let left = expires.saturating_sub(now).min(expires.saturating_sub(created));
        if left.is_zero() { Err(Refused::Expired) } else { Ok((now.saturating_sub(created), left)) }
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
