//! Reads a log back after a restart, whatever state it is in.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::files::{Segment, segment_ids, segment_path};
use super::index::Index;
use super::record::{HEAD, Head, MAGIC, parse};

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
pub(super) fn scan(folder: &Path, now: u64, segment_bytes: u64) -> io::Result<Found> {
    let ids = segment_ids(folder)?;
    let next_id = ids.last().map_or(0, |id| id.saturating_add(1));
    let mut found = Found { index: Index::default(), newest: None, next_id, damaged: 0 };
    for id in &ids {
        // A link, a folder, a file of another user: not ours.
        let Ok(segment) = Segment::open(folder, *id) else {
            found.damaged += 1;
            continue;
        };
        let (segment, mut bytes) = (Arc::new(segment), 0);
        if let Ok(data) = segment.file.metadata() {
            bytes = data.len();
        }
        found.index.add(Arc::clone(&segment), bytes);
        let walk = walk(&segment, |at, head| found.index.record(head, *id, at, now));
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
    Ok(found)
}

struct Walk {
    /// Where the last good record ends.
    end: u64,
    damaged: u64,
    /// Whether all of it could be read.
    whole: bool,
}

fn walk(segment: &Segment, mut record: impl FnMut(u32, &Head)) -> Walk {
    let mut walk = Walk { end: 0, damaged: 0, whole: true };
    let length = segment.file.metadata().map_or(0, |data| data.len());
    let (mut at, mut head) = (0_u64, [0; HEAD]);
    while at < length {
        match segment.read_some(at, &mut head) {
            Ok(_) => {}
            Err(_) => return Walk { whole: false, damaged: walk.damaged + 1, ..walk },
        }
        let good = parse(&head).filter(|head| at + (HEAD as u64) + u64::from(head.length) <= length);
        match (good, u32::try_from(at)) {
            (Some(head), Ok(here)) => {
                record(here, &head);
                at += HEAD as u64 + u64::from(head.length);
                walk.end = at;
            }
            _ => {
                walk.damaged += 1;
                match next_head(segment, at + 1) {
                    Ok(Some(next)) => at = next,
                    Ok(None) => return walk,
                    Err(_) => return Walk { whole: false, ..walk },
                }
            }
        }
        head = [0; HEAD];
    }
    walk
}

/// Where the next good head is, from here on.
fn next_head(segment: &Segment, mut at: u64) -> io::Result<Option<u64>> {
    let mut block = vec![0; 256 << 10];
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
    }
}
