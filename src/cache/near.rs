//! The near side of a cache: the namespaces in this process's memory, and what must not stay in them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::arrears::Arrears;
use super::fleet::{Follower, Invalidation};
use super::flight::Flights;
use super::negative::Failures;
use super::removals::{Mark, Removals};
use super::space::Space;
use super::{CacheKey, Entry, Labels, Probe, Selector};
use crate::env::Env;
use crate::error::{Error, Result};

/// The namespaces, with what was removed and what changed lately.
#[derive(Debug)]
pub(super) struct Near {
    spaces: Vec<Space>,
    failures: Option<Failures>,
    /// What is under way is not joined any more once it is removed.
    flights: Arc<Flights>,
    /// What somebody removed: whatever was asked for before is not kept after it.
    removals: Removals,
    /// What changed in a shared store: whatever was read from there before does not fill memory after it.
    changes: Removals,
    echoes: Echoes,
    arrears: Option<Arc<Arrears>>,
    /// Whether a shared store has begun to tell this process what changes.
    told: AtomicBool,
}

/// What was removed and what had changed at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    removals: Mark,
    changes: Mark,
}

impl Near {
    pub(super) fn new(spaces: Vec<Space>, failures: Option<Failures>, flights: Arc<Flights>) -> Self {
        let (removals, changes, echoes) = (Removals::default(), Removals::default(), Echoes::default());
        let (arrears, told) = (None, AtomicBool::new(false));
        Self { spaces, failures, flights, removals, changes, echoes, arrears, told }
    }

    pub(super) fn spaces(&self) -> &[Space] {
        &self.spaces
    }

    pub(super) fn spaces_mut(&mut self) -> &mut [Space] {
        &mut self.spaces
    }

    /// The namespace of this name.
    ///
    /// # Errors
    /// The cache was not given one of this name.
    pub(super) fn space(&self, name: &str) -> Result<&Space> {
        self.spaces.iter().find(|space| *space.name == *name).ok_or_else(|| {
            let known: Vec<_> = self.spaces.iter().map(|space| &*space.name).collect();
            let advice = format!("add it with Cache::namespace, or use one of {}", known.join(", "));
            Error::invalid("cache", "namespace", format!("{name:?}"), &advice)
        })
    }

    /// To be taken before asking for what is kept afterwards.
    pub(super) fn now(&self) -> Moment {
        Moment { removals: self.removals.mark(), changes: self.changes.mark() }
    }

    /// Whether nobody has removed such an entry since.
    pub(super) fn spares(&self, since: Moment, entry: &Entry) -> bool {
        self.removals.spare(since.removals, entry)
    }

    /// Whether what has been asked for since then, with these labels, is still good for who asks now.
    pub(super) fn spares_asked(&self, since: Moment, labels: &Labels, probe: &Probe) -> bool {
        let taken = |selector: &Selector| selector.takes(probe.namespace(), labels, || probe.key());
        self.removals.spare_of(since.removals, taken)
    }

    /// Keeps what was just made in memory, unless it was removed since.
    pub(super) fn keep(&self, space: &Space, probe: &Probe, entry: &Arc<Entry>, since: Moment) {
        if let Some(failures) = &self.failures {
            failures.forget(probe);
        }
        space.sweep(entry.created());
        // Asked before too, so that what was put after the removal is not pushed out by what is not kept.
        if let Some(memory) = space.memory().filter(|_| self.spares(since, entry)) {
            memory.keep(probe, Arc::clone(entry));
            space.counts.near_put();
            if !self.spares(since, entry) {
                memory.forget(probe, entry);
            }
        }
    }

    /// How this request failed lately, no longer ago than this.
    pub(super) fn failure(&self, probe: &Probe, max_age: Option<Duration>) -> Option<Error> {
        self.failures.as_ref()?.find(probe, max_age)
    }

    /// Remembers how this request failed, if such failures are remembered, unless it was removed since.
    pub(super) fn failed(&self, probe: &Probe, labels: Labels, error: &Error, now: Instant, since: Moment) {
        if let Some(failures) = &self.failures {
            failures.keep(probe, labels, error, now, (&self.removals, since.removals));
        }
    }

    /// Keeps what an outer tier had in memory, unless it was removed or changed there since, or memory has what is as
    /// fresh: a tier that was away when that was put has an older one.
    pub(super) fn fill(&self, space: &Space, probe: &Probe, entry: &Arc<Entry>, since: Moment) {
        let nearer = space.used_memory().and_then(|memory| memory.peek(probe));
        if nearer.is_some_and(|nearer| nearer.fresh_until() >= entry.fresh_until()) {
            return;
        }
        self.keep(space, probe, entry, since);
        if !self.changes.spare(since.changes, entry)
            && let Some(memory) = space.memory()
        {
            memory.forget(probe, entry);
        }
    }

    /// Forgets this very entry.
    pub(super) fn forget(&self, space: &Space, probe: &Probe, entry: &Arc<Entry>) {
        if let Some(memory) = space.memory() {
            memory.forget(probe, entry);
        }
    }

    /// The entry of this key is about to be put anew: whatever was read from an outer tier before does not take its place.
    pub(super) fn replaces(&self, key: CacheKey) {
        self.changes.note(&Selector::Key(key));
    }

    /// This process is about to put the entry of this key into the shared store, which will tell it so.
    pub(super) fn expect_echo(&self, env: &Env, key: CacheKey) {
        self.echoes.expect(key, env.now());
    }

    /// It did not, or nobody knows: the next word about this key may be another's.
    pub(super) fn expect_no_echo(&self, key: &CacheKey) {
        self.echoes.0.lock().remove(key);
    }

    /// There are tiers of this process alone: what others remove is written down for them.
    pub(super) fn keep_arrears(&mut self) {
        self.arrears = Some(Arc::default());
    }

    /// What others removed, if it is written down.
    pub(super) fn arrears(&self) -> Option<&Arc<Arrears>> {
        self.arrears.as_ref()
    }

    /// From now on, nothing that was asked for before and that the selector takes is kept.
    pub(super) fn note_removal(&self, selector: &Selector) {
        self.removals.note(selector);
    }

    /// Forgets what the selector takes; how many.
    fn discard(&self, selector: &Selector) -> u64 {
        if let Some(failures) = &self.failures {
            failures.memory.discard(selector);
        }
        self.spaces.iter().filter_map(Space::used_memory).map(|memory| memory.discard(selector)).sum()
    }

    /// The last step of a removal: what is near goes, and nobody joins what was asked for before. How many went.
    pub(super) fn removed(&self, selector: &Selector) -> u64 {
        self.removals.note(selector);
        let removed = self.discard(selector);
        // Last: a flight may have been started, and found in a tier what was there still.
        self.flights.detach(selector);
        removed
    }
}

impl Follower for Near {
    fn hear(&self, invalidation: &Invalidation, now: Instant) {
        match invalidation {
            Invalidation::Key(key) if self.echoes.take(key, now) => {}
            Invalidation::Key(key) => {
                self.changes.note(&Selector::Key(*key));
                self.spaces.iter().filter_map(Space::used_memory).for_each(|memory| memory.discard_key(key));
            }
            Invalidation::Removed(selector) => {
                self.arrears.iter().for_each(|arrears| arrears.add(selector));
                self.removed(selector);
            }
            // The first says that this process is being told from now on. What is on its way then was asked for by a
            // process that had just begun, so it may be kept; what comes later may have missed a removal.
            Invalidation::Flush if !self.told.swap(true, Ordering::Relaxed) => {
                self.changes.note(&Selector::All);
                self.discard(&Selector::All);
            }
            Invalidation::Flush => {
                self.changes.note(&Selector::All);
                self.removed(&Selector::All);
            }
        }
    }
}

/// What a shared store is about to tell this process about its own puts.
///
/// One word is taken for the echo of one put, within two seconds. If somebody else's word about the same key comes
/// together with ours, the store may make one of both: then a change by hand stays unseen in memory for as long as its time
/// to live. What other processes of this crate remove is announced beside it, and never unseen.
#[derive(Debug, Default)]
struct Echoes(Mutex<HashMap<CacheKey, Instant>>);

const ECHO: Duration = Duration::from_secs(2);
const EXPECTED: usize = 4096;

impl Echoes {
    fn expect(&self, key: CacheKey, now: Instant) {
        let mut expected = self.0.lock();
        if expected.len() >= EXPECTED {
            expected.retain(|_, since| now.saturating_duration_since(*since) < ECHO);
        }
        if expected.len() < EXPECTED {
            expected.insert(key, now);
        }
    }

    fn take(&self, key: &CacheKey, now: Instant) -> bool {
        self.0.lock().remove(key).is_some_and(|since| now.saturating_duration_since(since) < ECHO)
    }
}
