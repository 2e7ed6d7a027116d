//! Reads a log back after a restart, whatever state it is in.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::files::{Segment, segment_ids, segment_path};
use super::index::{Index, Slot};
use super::log::MOST_SEGMENTS;
use super::record::{HEAD, Head, MAGIC, forgotten, parse};

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) index: Index,
    /// The segment to go on with.
    pub(super) newest: Option<Arc<Segment>>,
    pub(super) next_id: u64,
    /// Places that could not be read.
    pub(super) damaged: u64,
}

/// Reads the heads of all records, oldest first. `now` is in milliseconds of the Unix epoch.
///
/// # Errors
/// A segment that is there and cannot be opened: were it passed over, its bytes would not count under the cap.
pub(super) fn scan(folder: &Path, now: u64, segment_bytes: u64) -> io::Result<Found> {
    let ids = segment_ids(folder)?;
    let next_id = ids.last().map_or(0, |id| id.saturating_add(1));
    let mut found = Found { index: Index::default(), newest: None, next_id, damaged: 0 };
    let mut hidden = Vec::new();
    let (many, ids) = ids.split_at(ids.len().saturating_sub(MOST_SEGMENTS));
    for id in many {
        let _ = std::fs::remove_file(segment_path(folder, *id));
    }
    for id in ids {
        let Some(segment) = Segment::open(folder, *id)? else {
            found.damaged += 1;
            continue;
        };
        let (bytes, segment) = (segment.file.metadata()?.len(), Arc::new(segment));
        found.index.add(Arc::clone(&segment), bytes);
        let walk = walk(&segment, bytes, |at, head| hidden.extend(found.index.record(head, *id, at)));
        found.damaged += walk.damaged;
        if walk.end == 0 && std::fs::remove_file(segment_path(folder, *id)).is_ok() {
            found.index.drop_segment(*id);
        } else if Some(id) == ids.last() && walk.whole {
            // A record that was cut short is taken away, so that the next one follows the last good one.
            let clean = walk.end == bytes || segment.file.set_len(walk.end).is_ok();
            if clean {
                found.index.resize(*id, walk.end);
            }
            found.newest = (clean && walk.end < segment_bytes).then_some(segment);
        }
    }
    // Whoever hid these was stopped before it could mark them.
    for slot in hidden.into_iter().filter(|slot| slot.life.is_on(now)) {
        let _ = mark(&found.index, slot);
    }
    Ok(found)
}

fn mark(index: &Index, slot: Slot) -> io::Result<()> {
    let Some(held) = index.segments.get(&slot.segment) else { return Ok(()) };
    let mut head = [0; HEAD];
    held.segment.read_some(u64::from(slot.at), &mut head)?;
    held.segment.write(u64::from(slot.at), &forgotten(head))
}

struct Walk {
    /// Where the last good record ends.
    end: u64,
    damaged: u64,
    /// Whether all of it could be read.
    whole: bool,
}

fn walk(segment: &Segment, length: u64, mut record: impl FnMut(u32, &Head)) -> Walk {
    let mut walk = Walk { end: 0, damaged: 0, whole: true };
    let (mut at, mut window) = (0_u64, Window { segment, start: 0, bytes: vec![0; 16 << 10], read: 0 });
    while at < length {
        let Ok(head) = window.head(at) else {
            return Walk { whole: false, damaged: walk.damaged + 1, ..walk };
        };
        let good = parse(head).filter(|head| at + (HEAD as u64) + u64::from(head.length) <= length);
        if let (Some(head), Ok(here)) = (good, u32::try_from(at)) {
            record(here, &head);
            at += HEAD as u64 + u64::from(head.length);
            walk.end = at;
            continue;
        }
        walk.damaged += 1;
        match next_head(segment, at + 1) {
            Ok(Some(next)) => at = next,
            Ok(None) => return walk,
            Err(_) => return Walk { whole: false, ..walk },
        }
    }
    walk
}

/// Part of a segment. Records are short, mostly: reading several at a time takes a quarter less work.
struct Window<'a> {
    segment: &'a Segment,
    start: u64,
    bytes: Vec<u8>,
    read: usize,
}

impl Window<'_> {
    /// What stands here, as long as a head; shorter at the end of the segment.
    fn head(&mut self, at: u64) -> io::Result<&[u8]> {
        if at < self.start || at + HEAD as u64 > self.start + self.read as u64 {
            (self.start, self.read) = (at, 0);
            self.read = self.segment.read_some(at, &mut self.bytes)?;
        }
        let from = (at - self.start) as usize;
        Ok(&self.bytes[from..self.read.min(from + HEAD)])
    }
}

/// Where the next good head is, from here on. It is near, mostly; where it is not, more is read at a time.
fn next_head(segment: &Segment, mut at: u64) -> io::Result<Option<u64>> {
    let mut block = vec![0; 8 << 10];
    let finder = memchr::memmem::Finder::new(&MAGIC);
    loop {
        let read = segment.read_some(at, &mut block)?;
        let found = finder.find_iter(&block[..read]).find(|place| parse(&block[*place..read]).is_some());
        if let Some(place) = found {
            return Ok(Some(at + place as u64));
        }
        if read < block.len() {
            return Ok(None);
        }
        // A head may lie across the border.
        at += (read - HEAD) as u64;
        block.resize((block.len() * 2).min(256 << 10), 0);
    }
}
