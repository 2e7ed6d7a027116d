//! The log: records are appended to the newest segment, and the oldest segment goes when there is no room.
//!
//! All of it waits for the disk, but [`Log::find`]. Only one thread writes at a time; readers go on.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::builder::DiskSync;
use super::files::{Held, Segment, segment_path, sync_folder};
use super::index::{Index, Slot};
use super::record::{HEAD, Kind, Life, head, name, parse};
use super::scan::Found;
use crate::cache::CacheKey;

#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    max_bytes: u64,
    segment_bytes: u64,
    sync: DiskSync,
    index: RwLock<Index>,
    writer: Mutex<Writer>,
    /// Held as long as the log is.
    _lock: Held,
}

#[derive(Debug)]
struct Writer {
    active: Option<Arc<Segment>>,
    next_id: u64,
    synced: Instant,
}

/// When it is, in both times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) monotonic: Instant,
    pub(super) wall_ms: u64,
}

impl Log {
    pub(super) fn new(
        (folder, lock): (PathBuf, Held),
        (max_bytes, segment_bytes, sync): (u64, u64, DiskSync),
        found: Found,
        now: Instant,
    ) -> Self {
        let writer = Writer { active: found.newest, next_id: found.next_id, synced: now };
        let (index, writer) = (RwLock::new(found.index), Mutex::new(writer));
        Self { folder, max_bytes, segment_bytes, sync, index, writer, _lock: lock }
    }

    /// Where the entry of this key is.
    pub(super) fn find(&self, key: &CacheKey) -> Option<(Slot, Arc<Segment>)> {
        self.index.read().find(name(key.as_bytes()))
    }

    /// Where all entries are, in no order.
    pub(super) fn slots(&self) -> Vec<(Slot, Arc<Segment>)> {
        let index = self.index.read();
        index.slots.keys().filter_map(|name| index.find(*name)).collect()
    }

    /// Entries, bytes and segments.
    pub(super) fn size(&self) -> (usize, u64, usize) {
        let index = self.index.read();
        (index.slots.len(), index.bytes, index.segments.len())
    }

    /// Whether a record of so many bytes is taken at all.
    pub(super) fn takes(&self, bytes: usize) -> bool {
        bytes as u64 <= self.segment_bytes
    }

    /// Drops the oldest segments until the log is within its cap.
    pub(super) fn fit(&self, now: Now) -> io::Result<()> {
        self.make_room(&mut self.writer.lock(), 0, now)
    }

    /// Appends a record of this key. What it replaces is marked as forgotten in place: should the new record be damaged
    /// one day, the old one must not come back. If this fails, nothing has changed.
    pub(super) fn append(&self, record: &[u8], key: &CacheKey, now: Now) -> io::Result<()> {
        let mut writer = self.writer.lock();
        if let Some((slot, segment)) = self.append_held(&mut writer, record, now)?
            && slot.life.is_on(now.wall_ms)
        {
            // A mark that fails leaves what a process killed at this point leaves: the next opening marks it.
            let _ = mark(&segment, slot, key);
        }
        let due = match self.sync {
            DiskSync::System => false,
            DiskSync::Every(interval) => now.monotonic.saturating_duration_since(writer.synced) >= interval,
            DiskSync::EachPut => true,
        };
        if due && let Some(active) = &writer.active {
            active.file.sync_data()?;
            writer.synced = now.monotonic;
        }
        Ok(())
    }

    /// What the record hides.
    fn append_held(&self, writer: &mut Writer, record: &[u8], now: Now) -> io::Result<Option<(Slot, Arc<Segment>)>> {
        let bytes = record.len() as u64;
        self.make_room(writer, bytes, now)?;
        let (active, at) = self.active(writer, bytes)?;
        if let Err(error) = active.write(at, record) {
            // A part of it may have been written: take it away, or leave the segment if even that fails.
            let left = active.file.set_len(at).map_or(at + bytes, |()| at);
            self.index.write().resize(active.id, left);
            if left != at {
                writer.active = None;
            }
            return Err(error);
        }
        let mut index = self.index.write();
        index.resize(active.id, at + bytes);
        let (Some(head), Ok(at)) = (parse(record), u32::try_from(at)) else { return Ok(None) };
        let hidden = index.record(&head, active.id, at);
        Ok(hidden.and_then(|slot| Some((slot, Arc::clone(&index.segments.get(&slot.segment)?.segment)))))
    }

    /// The segment to write so many bytes to, and where in it.
    fn active(&self, writer: &mut Writer, bytes: u64) -> io::Result<(Arc<Segment>, u64)> {
        let end = |segment: &Segment| self.index.read().segments.get(&segment.id).map(|held| held.bytes);
        if let Some(active) = &writer.active
            && let Some(at) = end(active)
        {
            if at + bytes <= self.segment_bytes {
                return Ok((Arc::clone(active), at));
            }
            let full = Arc::clone(active);
            writer.active = None;
            // The next sync will be for the next segment alone.
            if self.sync != DiskSync::System {
                full.file.sync_data()?;
            }
        }
        // The id is spent even if this fails: whatever stands under it is not overwritten.
        let id = writer.next_id;
        writer.next_id = id.saturating_add(1);
        let segment = Arc::new(Segment::create(&self.folder, id)?);
        self.index.write().add(Arc::clone(&segment), 0);
        writer.active = Some(Arc::clone(&segment));
        sync_folder(&self.folder)?;
        Ok((segment, 0))
    }

    /// Drops the oldest segments until so many bytes fit under the cap, and those in which nothing is alive.
    fn make_room(&self, writer: &mut Writer, bytes: u64, now: Now) -> io::Result<()> {
        loop {
            let (full, oldest) = {
                let index = self.index.read();
                let oldest = index.segments.values().next().map(|held| (held.segment.id, held.alive_until));
                (index.bytes + bytes > self.max_bytes || index.segments.len() >= MOST_SEGMENTS, oldest)
            };
            let Some((oldest, alive_until)) = oldest else { return Ok(()) };
            let active = writer.active.as_ref().is_some_and(|active| active.id == oldest);
            if !full && (active || alive_until > now.wall_ms) {
                return Ok(());
            }
            if active {
                writer.active = None;
            }
            self.delete(oldest)?;
        }
    }

    fn delete(&self, id: u64) -> io::Result<()> {
        match std::fs::remove_file(segment_path(&self.folder, id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let names = self.index.write().drop_segment(id);
        // In parts: whoever looks something up meanwhile does so on a thread that must not wait.
        for names in names.chunks(256) {
            self.index.write().forget_all(names, id);
        }
        Ok(())
    }

    /// Forgets a key, for good. With a slot, only what is there. Whether there was anything to be served.
    pub(super) fn remove(&self, key: &CacheKey, only: Option<Slot>, now: Now) -> io::Result<bool> {
        self.remove_each(&[(*key, only)], now).map(|removed| removed == 1)
    }

    /// Forgets keys, for good: both in place and by a new record, so that neither an older entry of them nor this one comes
    /// back when the log is read again. It is synced once for all. How many there were to be served.
    pub(super) fn remove_each(&self, keys: &[(CacheKey, Option<Slot>)], now: Now) -> io::Result<u64> {
        let mut writer = self.writer.lock();
        let (mut removed, mut marked, mut appended) = (0, Ok(()), Ok(()));
        let mut touched = BTreeMap::new();
        for (key, only) in keys {
            let name = name(key.as_bytes());
            let found = self.index.read().find(name).filter(|(slot, _)| only.is_none_or(|only| only == *slot));
            let Some((slot, segment)) = found else { continue };
            self.index.write().slots.remove(&name);
            marked = marked.and(mark(&segment, slot, key));
            let record = head(Kind::Forgotten, 0, slot.life, key.as_bytes());
            appended = appended.and(self.append_held(&mut writer, &record, now).map(drop));
            touched.insert(segment.id, segment);
            removed += u64::from(slot.life.is_on(now.wall_ms));
        }
        if touched.is_empty() {
            return Ok(0);
        }
        let marked = marked.and_then(|()| touched.values().try_for_each(|segment| segment.file.sync_data()));
        let appended = appended.and_then(|()| writer.active.as_ref().map_or(Ok(()), |active| active.file.sync_data()));
        // One of the two is enough: on a full disk only the first can be done.
        marked.or(appended).map(|()| removed)
    }

    /// Forgets everything; how many entries that was.
    pub(super) fn clear(&self, now: Now) -> io::Result<u64> {
        let mut writer = self.writer.lock();
        writer.active = None;
        let (slots, ids) = {
            let mut index = self.index.write();
            (std::mem::take(&mut index.slots), index.segments.keys().copied().collect::<Vec<_>>())
        };
        let entries = slots.values().filter(|slot| slot.life.is_on(now.wall_ms)).count() as u64;
        // Oldest first: what a newer one forgets must not outlive it.
        for id in ids {
            self.delete(id)?;
        }
        sync_folder(&self.folder)?;
        Ok(entries)
    }
}

/// Marks an entry as forgotten where it stands. Its envelope stays as it is, for those who are reading it.
fn mark(segment: &Segment, slot: Slot, key: &CacheKey) -> io::Result<()> {
    segment.write(u64::from(slot.at), &head(Kind::Forgotten, slot.length, slot.life, key.as_bytes()))
}

/// A record around this envelope.
pub(super) fn record(envelope: &[u8], life: Life, key: &CacheKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + envelope.len());
    out.extend_from_slice(&head(Kind::Entry, envelope.len() as u32, life, key.as_bytes()));
    out.extend_from_slice(envelope);
    out
}

/// The shortest and the longest time between two syncs that make sense.
pub(super) const SYNC_RANGE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(3600));
/// Each segment holds a file open, and a process may have few of them.
pub(super) const MOST_SEGMENTS: usize = 256;
