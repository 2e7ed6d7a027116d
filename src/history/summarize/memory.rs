//! Summaries that were written, and conversations whose summaries failed.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use quick_cache::{OptionsBuilder, Weighter};

use super::keys::{Key, bound, owned};
use super::stats::Tally;
use crate::env::after;

/// How many conversations are known to have failed; a failed one that was forgotten is tried again at once.
const FAILED: usize = 4_096;
/// The longest pause, in the first pauses: 2 to the power of 6.
const DOUBLINGS: u32 = 6;

#[derive(Debug, Clone)]
struct Weight;

impl Weighter<Key, Arc<str>> for Weight {
    fn weight(&self, key: &Key, summary: &Arc<str>) -> u64 {
        (key.len() + summary.len() + size_of::<Arc<str>>()) as u64
    }
}

/// What is remembered of all conversations. Bounded.
pub(super) struct Memory {
    summaries: Cache<Key, Arc<str>, Weight>,
    failed: Cache<Key, (u32, Instant)>,
    pub(super) tally: Tally,
}

impl fmt::Debug for Memory {
    // Summaries are what people said: only their number is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("summaries", &self.summaries.len()).finish_non_exhaustive()
    }
}

impl Memory {
    /// With so many bytes for summaries.
    pub(super) fn new(bytes: u64) -> Self {
        /// A summary of 500 tokens has about this many bytes.
        const TYPICAL: u64 = 2_048;
        /// No summary longer than a shard is remembered, so there are no more of them than hold so much each.
        const SHARD: u64 = 1 << 20;
        let items = usize::try_from(bytes / TYPICAL).unwrap_or(usize::MAX).clamp(1, 1 << 20);
        let shards = (bytes / SHARD).clamp(1, 16) as usize;
        let options = OptionsBuilder::new()
            // quick_cache would round up.
            .shards(1 << shards.ilog2())
            .estimated_items_capacity(items)
            .weight_capacity(bytes)
            .build();
        let summaries = match options {
            Ok(options) => Cache::with_options(options, Weight, Default::default(), Default::default()),
            // All that must be set is.
            Err(_) => Cache::with_weighter(items, bytes, Weight),
        };
        Self { summaries, failed: Cache::new(FAILED), tally: Tally::default() }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<str>> {
        self.summaries.get(key)
    }

    /// The key under which to go on from a summary that came with a conversation: the one that came with it only if it
    /// is known to stand for this text. A stored conversation may have been in anybody's hands, so what came with it is
    /// remembered under a key that covers the text: no other conversation can ever ask for that.
    pub(super) fn trusted(&self, root: &Key, key: Key, summary: &Arc<str>) -> Key {
        if self.get(&owned(root, &key)).is_some_and(|known| known == *summary) {
            return key;
        }
        let key = bound(&key, summary);
        self.put(owned(root, &key), Arc::clone(summary));
        key
    }

    pub(super) fn put(&self, key: Key, summary: Arc<str>) {
        self.summaries.insert(key, summary);
    }

    /// Whether this conversation is left alone for now.
    pub(super) fn pauses(&self, conversation: &Key, now: Instant) -> bool {
        self.failed.get(conversation).is_some_and(|(_, until)| now < until)
    }

    /// Leaves a conversation alone for a while: so long after the first failure, twice as long after each further one.
    pub(super) fn failed(&self, conversation: Key, now: Instant, pause: Duration) {
        let times = self.failed.get(&conversation).map_or(0, |(times, _)| times);
        let until = after(now, pause.saturating_mul(1 << times.min(DOUBLINGS)));
        self.failed.insert(conversation, (times.saturating_add(1), until));
    }

    pub(super) fn worked(&self, conversation: &Key) {
        self.failed.remove(conversation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_summary_is_remembered() {
        for (memory, summary) in [(1 << 16, 40_000), (1 << 20, 400_000), (16 << 20, 900_000)] {
            let memory = Memory::new(memory);
            memory.put([1; 32], "x".repeat(summary).into());
            assert_eq!(memory.get(&[1; 32]).map(|text| text.len()), Some(summary));
        }
    }

    #[test]
    fn what_came_with_a_conversation_takes_nobody_elses_place() {
        let memory = Memory::new(1 << 20);
        let (ours, forged): (Arc<str>, Arc<str>) = ("ours".into(), "forged".into());
        let (root, place) = ([7; 32], owned(&[7; 32], &[1; 32]));
        memory.put(place, Arc::clone(&ours));
        assert_eq!(memory.trusted(&root, [1; 32], &ours), [1; 32]);
        let other = memory.trusted(&root, [1; 32], &forged);
        assert_ne!(other, [1; 32]);
        let found = (memory.get(&place), memory.get(&owned(&root, &other)));
        assert_eq!(found, (Some(Arc::clone(&ours)), Some(Arc::clone(&forged))));
        assert_eq!(memory.trusted(&root, other, &forged), other, "and it goes on from there");
        assert_ne!(memory.trusted(&[8; 32], [1; 32], &ours), [1; 32], "another tenant's is not trusted");
        assert_eq!(memory.get(&place), Some(ours));
    }

    #[test]
    fn is_bounded_and_pauses_double() {
        let memory = Memory::new(1 << 20);
        for at in 0..10_000_u32 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&at.to_le_bytes());
            memory.put(key, "x".repeat(2_000).into());
        }
        assert!((200..=520).contains(&memory.summaries.len()), "{memory:?}");

        let (start, key) = (crate::Env::new().now(), [1; 32]);
        let seconds = Duration::from_secs;
        assert!(!memory.pauses(&key, start));
        for (pause, over) in [(10, 10), (10, 20), (10, 40)] {
            memory.failed(key, start, seconds(pause));
            assert!(memory.pauses(&key, start + seconds(over - 1)) && !memory.pauses(&key, start + seconds(over)));
        }
        memory.worked(&key);
        memory.failed(key, start, seconds(10));
        assert!(!memory.pauses(&key, start + seconds(10)));
        memory.failed([2; 32], start, Duration::MAX);
        assert!(memory.pauses(&[2; 32], start + seconds(1_000_000)));
    }
}
