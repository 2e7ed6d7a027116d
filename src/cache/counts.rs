//! What a cache counts while it works. A hit writes to this thread's own lines only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fill::Parts;
use super::flight::Landed;
use super::space::Space;
use super::{Entry, Probe};
use crate::error::Error;
use crate::sharded::{Sharded, is_alone};
use crate::types::{ChatRequest, Cost, Source, Trace};

pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

pub(super) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// What is counted per namespace.
#[derive(Debug, Default)]
pub(super) struct SpaceCounts {
    /// Of the first threads, each of which has its own.
    own: Sharded<Local>,
    /// Of all threads after them.
    shared: Sharded<Local>,
    /// Hits of the tiers outside memory, by name. Not sharded: such a hit takes microseconds in any case.
    outer: Box<[(&'static str, AtomicU64)]>,
}

/// Two cache lines per thread.
#[derive(Debug, Default)]
struct Local {
    near_hits: AtomicU64,
    saved_tokens: AtomicU64,
    saved_picos: AtomicU64,
    stale: AtomicU64,
    near_misses: AtomicU64,
    near_puts: AtomicU64,
    misses: AtomicU64,
    coalesced: AtomicU64,
    stored: AtomicU64,
    declined: AtomicU64,
}

/// This thread's part, and how it is to be written.
struct Pen<'a> {
    local: &'a Local,
    alone: bool,
}

impl Pen<'_> {
    fn add(&self, counter: &AtomicU64, more: u64) {
        if self.alone {
            // Nobody else writes it, so the two steps lose nothing.
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
        } else {
            add(counter, more);
        }
    }
}

/// The sums of a namespace's counts.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) near_hits: u64,
    pub(super) saved_tokens: u64,
    pub(super) saved: Cost,
    pub(super) stale: u64,
    pub(super) near_misses: u64,
    pub(super) near_puts: u64,
    pub(super) misses: u64,
    pub(super) coalesced: u64,
    pub(super) stored: u64,
    pub(super) declined: u64,
}

impl SpaceCounts {
    /// With tiers of these names outside memory.
    pub(super) fn new(outer: impl Iterator<Item = &'static str>) -> Self {
        Self {
            own: Sharded::new(),
            shared: Sharded::new(),
            outer: outer.map(|name| (name, AtomicU64::new(0))).collect(),
        }
    }

    fn pen(&self) -> Pen<'_> {
        let alone = is_alone();
        Pen { local: if alone { self.own.local() } else { self.shared.local() }, alone }
    }

    /// A call was served, as its trace tells. What came from upstream is a miss.
    pub(super) fn served(&self, trace: &Trace) {
        let pen = self.pen();
        match trace.source {
            Source::Cache(tier) => {
                match self.outer.iter().find(|(name, _)| *name == tier) {
                    Some((_, hits)) => add(hits, 1),
                    None => pen.add(&pen.local.near_hits, 1),
                }
                if trace.stale {
                    pen.add(&pen.local.stale, 1);
                }
            }
            Source::Coalesced => pen.add(&pen.local.coalesced, 1),
            Source::Upstream => return pen.add(&pen.local.misses, 1),
        }
        if trace.saved_tokens > 0 {
            pen.add(&pen.local.saved_tokens, trace.saved_tokens);
        }
        if let Some(saved) = trace.saved.filter(|saved| *saved > Cost::ZERO) {
            pen.add(&pen.local.saved_picos, saved.picos());
        }
    }

    /// A call found nothing, and failed or was answered from upstream.
    pub(super) fn missed(&self) {
        self.missed_times(1);
    }

    /// So many of them.
    pub(super) fn missed_times(&self, calls: usize) {
        let pen = self.pen();
        pen.add(&pen.local.misses, calls as u64);
    }

    /// Memory was asked and had nothing.
    pub(super) fn near_missed(&self) {
        let pen = self.pen();
        pen.add(&pen.local.near_misses, 1);
    }

    /// Memory was given an entry.
    pub(super) fn near_put(&self) {
        let pen = self.pen();
        pen.add(&pen.local.near_puts, 1);
    }

    /// An entry was given to the tiers.
    pub(super) fn stored(&self) {
        let pen = self.pen();
        pen.add(&pen.local.stored, 1);
    }

    /// What a policy says about keeping an answer; a refusal is counted.
    pub(super) fn admit(&self, storable: bool) -> bool {
        if !storable {
            let pen = self.pen();
            pen.add(&pen.local.declined, 1);
        }
        storable
    }

    /// Hits of the tiers outside memory.
    pub(super) fn outer_hits(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.outer.iter().map(|(name, hits)| (*name, read(hits)))
    }

    pub(super) fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for local in self.own.iter().chain(self.shared.iter()) {
            sums.near_hits += read(&local.near_hits);
            sums.saved_tokens += read(&local.saved_tokens);
            sums.saved += Cost::from_picos(read(&local.saved_picos));
            sums.stale += read(&local.stale);
            sums.near_misses += read(&local.near_misses);
            sums.near_puts += read(&local.near_puts);
            sums.misses += read(&local.misses);
            sums.coalesced += read(&local.coalesced);
            sums.stored += read(&local.stored);
            sums.declined += read(&local.declined);
        }
        sums
    }
}

impl Parts {
    /// A call is served with what was stored: counts it, and makes its trace.
    pub(super) fn hit(
        &self,
        space: &Space,
        asked: (&Probe, &ChatRequest),
        (entry, tier): (&Arc<Entry>, &'static str),
    ) -> Trace {
        let (probe, request) = asked;
        let trace = entry.saved(Source::Cache(tier), probe.now());
        space.counts.served(&trace);
        if let Some(hot) = &self.shared.hot {
            hot.saw(&self.env, probe, request);
        }
        trace
    }

    /// A flight brought an answer for a call: counts it, and makes its trace. The leader is told what its own call came to.
    pub(super) fn landed(&self, landed: &Landed, leader: bool) -> Trace {
        let trace = if leader { *landed.answer.trace() } else { self.saved(&landed.entry, Source::Coalesced) };
        if let Ok(space) = self.shared.tiers.near().space(landed.entry.namespace()) {
            if leader && !landed.stored {
                // A miss here, even if another cache below this one had it.
                space.counts.missed();
            } else {
                space.counts.served(&trace);
            }
        }
        trace
    }

    /// A call failed: a miss, unless it failed with somebody else's flight.
    pub(super) fn missed(&self, leader: bool, request: &ChatRequest, error: Error) -> Error {
        if leader && let Ok(space) = self.space(request.extensions.get()) {
            space.counts.missed();
        }
        error
    }
}

/// What is counted per tier outside memory.
#[derive(Debug, Default)]
pub(super) struct TierCounts {
    pub(super) misses: AtomicU64,
    pub(super) puts: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) passed_over: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More threads than have a part of their own: those that share one lose nothing either.
    #[test]
    fn no_count_is_lost_between_threads() {
        let counts = SpaceCounts::default();
        let trace = Trace { source: Source::Cache("memory"), saved_tokens: 3, ..Trace::default() };
        let start = std::sync::Barrier::new(40);
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| {
                    start.wait();
                    (0..10_000).for_each(|_| counts.served(&trace));
                });
            }
        });
        let sums = counts.sums();
        assert_eq!((sums.near_hits, sums.saved_tokens), (400_000, 1_200_000));
    }
}
