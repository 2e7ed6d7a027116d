//! An entry as bytes, for every tier outside the process.
//!
//! | Bytes | What | |
//! |--:|---|---|
//! | 4 | magic `E5 4C 6C 1B` | no text starts like this |
//! | 1 | version | 2 |
//! | 1 | flags | 1: the payload is lz4; 2: a code of authenticity follows it; others refuse |
//! | 2 | length of the labels | |
//! | 4 | id of the authenticity key | zero without |
//! | 4 | payload length as stored | |
//! | 4 | payload length decoded | |
//! | 8, 8, 8 | created, fresh until, expires | milliseconds of the Unix epoch |
//! | 32 | the request's full [`CacheKey`](super::CacheKey) | |
//! | m | labels | JSON of namespace, name and tags, never pressed |
//! | n | payload | JSON of the answer, vector or value, its cost in picodollars and the milliseconds it took |
//! | 0 or 32 | keyed blake3 over all of the above | so neither key nor times can be exchanged |
//! | 8 | xxh3-64 over all of the above | |
//!
//! Numbers are little-endian. Lengths are checked before anything is allocated. Whatever is not exactly what was stored
//! for this request, and still alive, is [`Refused`]: a miss to the caller, which the tier counts and removes.

mod auth;
mod header;
mod label;
mod payload;
mod refused;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio_util::task::TaskTracker;
use twox_hash::XxHash3_64;

pub use auth::MacKey;
#[cfg(feature = "object-store")]
pub(crate) use header::VERSION;
pub(crate) use label::{HEAD, Head, head};
pub(crate) use refused::{Refusals, Refused};

use super::wire::{self, Parsed};
use super::{Entry, Labels, Payload, Probe};
use crate::env::Clock;
use crate::offload::{LARGE_JSON, offload};
use crate::types::Cost;
use header::{HEADER, Header, LZ4, MAC};

/// An envelope is at most so long: larger ones are neither made nor read.
pub(crate) const MAX_ENVELOPE: usize = 4 << 20;

const CHECKSUM: usize = 8;
const CODE: usize = 32;

/// Puts entries into envelopes and takes them out again.
#[derive(Debug, Clone)]
pub(crate) struct Envelopes {
    clock: Arc<dyn Clock>,
    mac: Option<Arc<MacKey>>,
    tasks: TaskTracker,
}

impl Envelopes {
    /// With a key, envelopes without a valid code of it are refused. `tasks` tracks the work of large ones.
    pub(crate) fn new(clock: Arc<dyn Clock>, mac: Option<MacKey>, tasks: TaskTracker) -> Self {
        Self { clock, mac: mac.map(Arc::new), tasks }
    }

    /// The time of day in milliseconds of the Unix epoch.
    #[allow(dead_code, reason = "Redis keeps the time by itself")]
    pub(crate) fn wall_ms(&self) -> u64 {
        millis(since_epoch(self.clock.wall()))
    }

    /// When this entry expires, in milliseconds of the Unix epoch, rounded down.
    pub(crate) fn expires_ms(&self, entry: &Entry) -> u64 {
        self.wall_of(entry.expires())
    }

    fn wall_of(&self, time: Instant) -> u64 {
        // The wall first: time that passes between the two readings shortens the life, and never lengthens it.
        let wall = since_epoch(self.clock.wall());
        let left = time.saturating_duration_since(self.clock.now());
        millis(wall.saturating_add(left))
    }

    /// The entry of this request as bytes. What is large is written elsewhere: see [`offload`].
    ///
    /// # Errors
    /// [`Refused::TooLarge`] beyond the limits, [`Refused::TooDeep`] for JSON that could not be read back,
    /// [`Refused::WrongKey`] for an entry of another request.
    #[allow(dead_code, reason = "the disk makes them where it writes")]
    pub(crate) async fn encode(&self, probe: &Probe, entry: &Entry) -> Result<Vec<u8>, Refused> {
        let sealing = self.sealing(probe, entry)?;
        offload(&self.tasks, sealing.is_large(), move || sealing.seal()).await
    }

    /// The entry of this request on its way to bytes, for whoever has a thread of his own to make them on.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), as far as can be told by now.
    pub(crate) fn sealing(&self, probe: &Probe, entry: &Entry) -> Result<Sealing, Refused> {
        if !entry.is_of(probe) {
            return Err(Refused::WrongKey);
        }
        let mut out = vec![0; HEADER];
        let labels = label::write(&mut out, entry)?;
        let age = self.clock.now().saturating_duration_since(entry.created());
        let header = Header {
            flags: if self.mac.is_some() { MAC } else { 0 },
            mac_id: self.mac.as_ref().map_or(0, |mac| mac.id()),
            labels,
            stored: 0,
            decoded: 0,
            created: millis(since_epoch(self.clock.wall()).saturating_sub(age)),
            fresh: self.wall_of(entry.fresh_until()),
            expires: self.expires_ms(entry),
            key: *probe.key().as_bytes(),
        };
        let (payload, cost, took) = (entry.payload().clone(), entry.cost(), entry.took());
        Ok(Sealing { out, header, payload, cost, took, mac: self.mac.clone() })
    }

    /// The live entry of this request in these bytes. What is large is read elsewhere: see [`offload`].
    ///
    /// # Errors
    /// Why there is none. Every error is a miss; whoever kept the bytes counts it and removes them.
    pub(crate) async fn decode<B>(&self, bytes: B, probe: &Probe) -> Result<Entry, Refused>
    where
        B: AsRef<[u8]> + Send + 'static,
    {
        let (opening, is_large) = self.opening(bytes.as_ref(), probe)?;
        let opened = offload(&self.tasks, is_large, move || opening.open(bytes.as_ref())).await?;
        opened.entry(probe)
    }

    /// How to open these bytes, and whether it takes long. Nothing of what the header says has been proved yet.
    fn opening(&self, bytes: &[u8], probe: &Probe) -> Result<(Opening, bool), Refused> {
        if bytes.len() > MAX_ENVELOPE {
            return Err(Refused::TooLarge);
        }
        let header = Header::from_bytes(bytes)?;
        let is_large = bytes.len().max(header.decoded as usize) > LARGE_JSON;
        // The monotonic time first: what passes until the wall is read, and while the payload is, shortens the life.
        let (now, wall) = (self.clock.now(), since_epoch(self.clock.wall()));
        Ok((Opening { header, now, wall, key: *probe.key().as_bytes(), mac: self.mac.clone() }, is_large))
    }
}

/// An entry on its way into an envelope.
pub(crate) struct Sealing {
    /// Room for the header, and the labels.
    out: Vec<u8>,
    header: Header,
    payload: Payload,
    cost: Option<Cost>,
    took: Duration,
    mac: Option<Arc<MacKey>>,
}

impl Sealing {
    /// Whether it takes longer than a poll may.
    pub(crate) fn is_large(&self) -> bool {
        self.payload.weight() > LARGE_JSON
    }

    /// The bytes.
    ///
    /// # Errors
    /// As [`Envelopes::encode`].
    pub(crate) fn seal(self) -> Result<Vec<u8>, Refused> {
        let Self { mut out, mut header, payload, cost, took, mac } = self;
        let start = out.len();
        let json = wire::write(&payload, cost, took)?;
        let (pressed, decoded) = payload::write(&mut out, &json)?;
        header.flags |= pressed;
        (header.stored, header.decoded) = ((out.len() - start) as u32, decoded);
        out[..HEADER].copy_from_slice(&header.to_bytes());
        if let Some(mac) = mac {
            let code = mac.sign(&out);
            out.extend_from_slice(code.as_bytes());
        }
        let checksum = XxHash3_64::oneshot(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        if out.len() > MAX_ENVELOPE { Err(Refused::TooLarge) } else { Ok(out) }
    }
}

/// An envelope that is to be opened for the request of this key.
struct Opening {
    header: Header,
    now: Instant,
    wall: Duration,
    key: [u8; 32],
    mac: Option<Arc<MacKey>>,
}

impl Opening {
    fn open(self, bytes: &[u8]) -> Result<Opened, Refused> {
        let Self { header, now, wall, key, mac } = self;
        let code = if header.flags & MAC == 0 { 0 } else { CODE };
        let start = HEADER + usize::from(header.labels);
        let signed = start + header.stored as usize;
        if bytes.len() != signed + code + CHECKSUM {
            return Err(Refused::Checksum);
        }
        let (body, checksum) = bytes.split_at(signed + code);
        if XxHash3_64::oneshot(body).to_le_bytes() != *checksum {
            return Err(Refused::Checksum);
        }
        let (body, code) = body.split_at(signed);
        if let Some(mac) = mac
            && !(header.flags & MAC != 0 && mac.verify(header.mac_id, body, code))
        {
            return Err(Refused::Mac);
        }
        if header.key != key {
            return Err(Refused::WrongKey);
        }
        let life = life(&header, wall)?;
        let labels = label::read(&body[HEADER..start])?;
        let parsed = payload::read(&body[start..], header.flags & LZ4 != 0, header.decoded as usize)?;
        Ok(Opened { now, life, labels, parsed })
    }
}

/// What was in an envelope.
struct Opened {
    now: Instant,
    life: Life,
    labels: Labels,
    parsed: Parsed,
}

impl Opened {
    fn entry(self, probe: &Probe) -> Result<Entry, Refused> {
        let Self { now, life, labels, parsed } = self;
        let (created, age) = now.checked_sub(life.age).map_or((now, Duration::ZERO), |created| (created, life.age));
        let entry = Entry::of(probe, parsed.payload, created, age.saturating_add(life.fresh))
            .with_grace(life.left.saturating_sub(life.fresh))
            .with_took(Duration::from_millis(parsed.took_ms))
            .with_cost(parsed.cost)
            .with_labels(labels);
        if entry.serves(probe) { Ok(entry) } else { Err(Refused::Expired) }
    }
}

/// How old the entry is and how long it may still be served: never longer than it was given when it was made, even if
/// the clock of whoever made it was, or ours is, wrong.
fn life(header: &Header, now: Duration) -> Result<Life, Refused> {
    let created = Duration::from_millis(header.created);
    let until = |ms: u64| {
        let until = Duration::from_millis(ms);
        until.saturating_sub(now).min(until.saturating_sub(created))
    };
    let left = until(header.expires);
    let life = Life { age: now.saturating_sub(created), fresh: until(header.fresh).min(left), left };
    if left.is_zero() { Err(Refused::Expired) } else { Ok(life) }
}

/// How old an entry is, and how long it is still fresh and may still be served.
struct Life {
    age: Duration,
    fresh: Duration,
    left: Duration,
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
