//! Counts remembered by content.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::fingerprint::fingerprint;

/// Counts by what was counted: a hash and a look-up, without a lock. `salt` tells apart what counts differently: the
/// vocabulary, the rule.
///
/// A text has its place in one bucket, a line of the processor's cache. Where that is full, what was not asked for since
/// the bucket was last full goes first. 65,536 texts in 1 MB.
pub(super) struct Memo(Box<[Bucket]>);

const BUCKETS: usize = 1 << 14;

#[derive(Default)]
#[repr(align(64))]
struct Bucket([Place; 4]);

/// A count, and the text's fingerprint but for the bits that say which bucket and some more. The two words are written one
/// after the other; a reader who sees them of different texts sees that they do not belong together.
#[derive(Default)]
struct Place {
    /// The count in the low half, half of the fingerprint's low half in the high one; nothing is 0.
    count: AtomicU64,
    /// The fingerprint's high half, and the other word, one upon the other.
    check: AtomicU64,
}

/// In the count: whether it was asked for.
const ASKED: u64 = 1 << 31;

/// What is written of a text.
#[derive(Clone, Copy)]
struct Key {
    high: u64,
    low: u64,
}

impl Key {
    fn of(salt: u8, content: &[u8]) -> Self {
        let key = fingerprint(content) ^ u128::from(salt);
        Self { high: (key >> 64) as u64, low: key as u64 }
    }

    fn with(self, count: u32) -> u64 {
        (self.low & !u64::from(u32::MAX)) | u64::from(count)
    }
}

impl Place {
    fn get(&self, key: Key) -> Option<u32> {
        let word = self.count.load(Relaxed);
        // Of another text, mostly.
        if (word ^ key.low) >> 32 != 0 || self.check.load(Relaxed) ^ (word & !ASKED) != key.high {
            return None;
        }
        let count = (word & (ASKED - 1)) as u32;
        // Written once only: a place that is read a lot stays in every processor's cache.
        if word & ASKED == 0 {
            let _ = self.count.compare_exchange(word, word | ASKED, Relaxed, Relaxed);
        }
        Some(count)
    }

    fn set(&self, key: Key, count: u32) {
        let word = key.with(count);
        self.count.store(word, Relaxed);
        self.check.store(key.high ^ word, Relaxed);
    }

    fn was_asked(&self) -> bool {
        self.count.load(Relaxed) & ASKED != 0
    }
}

impl Memo {
    pub(super) fn new() -> Self {
        Self((0..BUCKETS).map(|_| Bucket::default()).collect())
    }

    pub(super) fn get_or(&self, salt: u8, content: &[u8], count: impl FnOnce() -> u64) -> u64 {
        let key = Key::of(salt, content);
        if let Some(count) = self.get(key) {
            return u64::from(count);
        }
        let count = count();
        if let Some(small) = u32::try_from(count).ok().filter(|count| u64::from(*count) < ASKED) {
            self.set(key, small);
        }
        count
    }

    pub(super) fn has(&self, salt: u8, content: &[u8]) -> bool {
        self.get(Key::of(salt, content)).is_some()
    }

    fn bucket(&self, key: Key) -> &[Place] {
        self.0.get(key.low as usize % BUCKETS).map_or(&[], |bucket| &bucket.0)
    }

    fn get(&self, key: Key) -> Option<u32> {
        self.bucket(key).iter().find_map(|place| place.get(key))
    }

    fn set(&self, key: Key, count: u32) {
        let bucket = self.bucket(key);
        let free = || bucket.iter().find(|place| place.count.load(Relaxed) == 0);
        let idle = || bucket.iter().find(|place| !place.was_asked());
        if let Some(place) = free().or_else(idle) {
            return place.set(key, count);
        }
        // All were asked for: one goes by chance, the others have to be asked for again.
        for place in bucket {
            place.count.fetch_and(!ASKED, Relaxed);
        }
        if let Some(place) = bucket.get(key.high as usize % bucket.len().max(1)) {
            place.set(key, count);
        }
    }
}

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.0.iter().flat_map(|bucket| &bucket.0);
        let remembered = places.filter(|place| place.count.load(Relaxed) != 0).count();
        f.debug_struct("Memo").field("remembered", &remembered).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(number: usize) -> String {
        format!("text number {number}")
    }

    #[test]
    fn remembers_by_content_and_salt() {
        let memo = Memo::new();
        let count = |salt, text: &str, tokens| memo.get_or(salt, text.as_bytes(), || tokens);
        assert_eq!((count(0, "a", 7), count(0, "a", 8), count(1, "a", 9), count(0, "b", 0)), (7, 7, 9, 0));
        assert_eq!((count(0, "b", 5), count(1, "a", 5)), (0, 9), "none is a count too");
        assert!(memo.has(0, b"a") && !memo.has(2, b"a"));
        let large = u64::from(u32::MAX);
        assert_eq!((count(0, "large", large), count(0, "large", large + 1)), (large, large + 1), "too large to keep");
        assert!(format!("{memo:?}").contains("remembered: 3"), "{memo:?}");
    }

    #[test]
    fn what_is_asked_for_outlives_what_is_not() {
        let memo = Memo::new();
        let mut counted = 0;
        for number in 0..400_000 {
            memo.get_or(0, text(number).as_bytes(), || number as u64);
            // A thousand of them are asked for all the time.
            if number % 400 == 0 {
                for hot in 0..1_000 {
                    let tokens = memo.get_or(0, text(hot).as_bytes(), || {
                        counted += 1;
                        hot as u64
                    });
                    assert_eq!(tokens, hot as u64);
                }
            }
        }
        assert!(counted < 4_000, "{counted} times counted again");
        let remembered = (0..400_000).filter(|number| memo.has(0, text(*number).as_bytes())).count();
        assert!(remembered > BUCKETS * 3, "{remembered}");
    }

    /// What two writers at once leave, whichever of them was faster: one's first word, the other's second.
    #[test]
    fn half_of_one_text_and_half_of_another_are_no_count() {
        let place = Place::default();
        for low in [5 << 32, 6 << 32] {
            let (one, other) = (Key { high: 1, low: 5 << 32 }, Key { high: 2, low });
            for (first, second) in [(one, other), (other, one)] {
                place.set(second, 7);
                place.count.store(first.with(9), Relaxed);
                assert_eq!((place.get(one), place.get(other)), (None, None), "{low}");
            }
        }
    }

    #[test]
    fn in_a_full_bucket_all_have_to_be_asked_for_again() {
        let memo = Memo::new();
        let key = |high| Key { high, low: 0 };
        for high in 0..4 {
            memo.set(key(high), 7);
            assert_eq!(memo.get(key(high)), Some(7));
        }
        // If all still were, each of these would take the place of the one before.
        for high in [4, 8, 12] {
            memo.set(key(high), 7);
            assert_eq!(memo.get(key(4)), Some(7), "after {high}");
        }
    }

    #[test]
    fn threads_never_read_another_texts_count() {
        let memo = Memo::new();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let memo = &memo;
                scope.spawn(move || {
                    for round in 0..200_000 {
                        // Few buckets, so that they write over one another's places.
                        let (text, vocabulary): (u64, u64) = ((round * 7 + thread) % 64, round % 61);
                        let key = Key { high: (text + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15), low: vocabulary << 32 };
                        let count = (text * 61 + vocabulary) as u32;
                        match memo.get(key) {
                            Some(found) => assert_eq!(found, count),
                            None => memo.set(key, count),
                        }
                    }
                });
            }
        });
    }
}
