//! Removing what a selector takes: a walk along the live entries, reading of each no more than its head.

use std::io;

use super::files::Segment;
use super::index::Slot;
use super::log::{Log, Now};
use super::record;
use crate::cache::envelope::{HEAD, Head, head};
use crate::cache::{CacheKey, Selector};

/// How many entries were removed. It waits for the disk, and sees no entry that is put while it goes on. A head that cannot
/// be read does not keep the rest from being removed; the first failure is told at the end.
pub(super) fn remove(log: &Log, selector: &Selector, now: Now) -> io::Result<u64> {
    let mut failed = None;
    let keys: Vec<_> = match selector {
        Selector::All => return log.clear(now),
        Selector::Key(key) => vec![(*key, None)],
        Selector::Keys(keys) => keys.iter().map(|key| (*key, None)).collect(),
        Selector::Tag(_) | Selector::Pattern(_) | Selector::Namespace(_) => {
            let alive = log.slots().into_iter().filter(|(slot, _)| slot.life.is_on(now.wall_ms));
            let mut keys = Vec::new();
            for (slot, segment) in alive {
                match taken(slot, &segment, selector) {
                    Ok(key) => keys.extend(key.map(|key| (key, Some(slot)))),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            keys
        }
    };
    let removed = log.remove_each(&keys, now)?;
    failed.map_or(Ok(removed), Err)
}

/// The key of the entry at this slot, if the selector takes it. One that is damaged is not taken: it is a miss in any case.
fn taken(slot: Slot, segment: &Segment, selector: &Selector) -> io::Result<Option<CacheKey>> {
    let length = slot.length as usize;
    let mut part = HEAD.min(length);
    loop {
        let mut bytes = vec![0; record::HEAD + part];
        let read = segment.read_some(slot.at.into(), &mut bytes)?;
        let whole = read == bytes.len() && record::parse(&bytes).is_some();
        let Some(key) = record::key(&bytes).filter(|_| whole) else { return Ok(None) };
        match head(&bytes[record::HEAD..], selector) {
            Head::Taken(taken) => return Ok(taken.then_some(key)),
            Head::Needs(more) if more > part && more <= length => part = more,
            Head::Needs(_) => return Ok(None),
        }
    }
}
