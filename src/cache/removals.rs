//! What was removed lately, so that an answer that was on its way meanwhile is not kept.
//!
//! A removal that returned is a promise: nobody is served what was stored, or asked for, before it. But an answer may
//! have been asked for before the removal and come after it, and an entry may have been read from an outer tier before
//! the removal and be about to fill memory. So whoever keeps an entry takes a [`Mark`] before it asks, and after keeping
//! the entry looks whether it was removed since.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Entry, Selector};

/// So many removals are remembered. Who has been on the way for longer than that keeps nothing.
const REMEMBERED: usize = 1024;
/// So many keys they may name together, 2 MiB: a removal of very many is soon forgotten.
const KEYS: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct Removals {
    count: AtomicU64,
    recent: Mutex<Recent>,
}

/// The last removals, and how many keys they name.
#[derive(Debug, Default)]
struct Recent {
    selectors: VecDeque<Selector>,
    keys: usize,
}

impl Recent {
    fn push(&mut self, selector: Selector) {
        self.keys += keys(&selector);
        self.selectors.push_back(selector);
        while self.selectors.len() > REMEMBERED || self.keys > KEYS {
            self.keys -= self.selectors.pop_front().as_ref().map_or(0, keys);
        }
    }
}

fn keys(selector: &Selector) -> usize {
    if let Selector::Keys(keys) = selector { keys.len() } else { 0 }
}

/// A moment between two removals.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark(u64);

impl Removals {
    /// Now.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.count.load(Ordering::SeqCst))
    }

    /// Must be called before anything is removed.
    pub(super) fn note(&self, selector: &Selector) {
        let mut recent = self.recent.lock();
        recent.push(selector.clone());
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether nothing since the mark removed such an entry. Must be asked after it was kept.
    pub(super) fn spare(&self, mark: Mark, entry: &Entry) -> bool {
        self.spare_of(mark, |selector| selector.selects(entry))
    }

    /// Whether no removal since the mark takes what this says.
    pub(super) fn spare_of(&self, mark: Mark, taken_by: impl Fn(&Selector) -> bool) -> bool {
        if self.count.load(Ordering::SeqCst) == mark.0 {
            return true;
        }
        let recent = &self.recent.lock().selectors;
        let since = self.count.load(Ordering::SeqCst) - mark.0;
        let known = usize::try_from(since).ok().filter(|since| *since <= recent.len());
        known.is_some_and(|since| !recent.iter().rev().take(since).any(&taken_by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Payload, Probe};
    use crate::error::{Error, ErrorKind};
    use std::time::Duration;

    fn entry(namespace: &str) -> Entry {
        let now = crate::Env::new().now();
        let probe = Probe::value(namespace, None, "key", now);
        let failure = Error::new(ErrorKind::Other, "test", "any payload will do");
        Entry::of(&probe, Payload::Failure(failure), now, Duration::from_secs(1))
    }

    #[test]
    fn only_what_was_removed_since_the_mark_is_not_spared() {
        let removals = Removals::default();
        removals.note(&Selector::All);
        let mark = removals.mark();
        assert!(removals.spare(mark, &entry("a")));
        removals.note(&Selector::Namespace("a".into()));
        assert!(!removals.spare(mark, &entry("a")) && removals.spare(mark, &entry("b")));
        assert!(removals.spare(removals.mark(), &entry("a")));
        for _ in 0..REMEMBERED {
            removals.note(&Selector::Namespace("c".into()));
        }
        assert!(!removals.spare(mark, &entry("b")), "too long ago to know");
    }

    #[test]
    fn many_keys_take_bounded_memory_and_none_of_them_is_kept() {
        let (removals, kept) = (Removals::default(), entry("a"));
        let mark = removals.mark();
        let others = |many: usize| Selector::Keys(vec![crate::cache::CacheKey::of(b"other"); many]);
        removals.note(&others(KEYS));
        assert!(removals.spare(mark, &kept));
        removals.note(&others(1));
        assert!(!removals.spare(mark, &kept), "too many to know");
        assert!(removals.recent.lock().keys <= KEYS);
        removals.note(&others(KEYS + 1));
        assert_eq!(removals.recent.lock().keys, 0);
        assert!(!removals.spare(mark, &kept) && removals.spare(removals.mark(), &kept));
    }
}
