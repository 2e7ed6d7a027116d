//! Keys that are asked for in a rhythm, refreshed in time for the next beat.
//!
//! The time between two calls for a key is followed as an exponentially weighted mean, each new gap counting a quarter
//! (RFC 6298 follows a connection's round trips so, with an eighth). A hit is taken for the last of this life when less
//! than that mean and an eighth is left of it, or less than twice what it took to answer: then the answer is refreshed at
//! once, and the next call finds it fresh. That is done only where at least four gaps are known and two of them fit into
//! a life, so that the refreshed answer is likely to be asked for: of calls that come at random with that mean, six in
//! seven.
//!
//! No clock ticks for this, it all happens on hits. Gaps shorter than 1/256 of a life are not told apart, so a hot key is
//! written to no more than 256 times in a life, and read otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use super::{Entry, Probe};
use crate::fingerprint::ByFingerprint;

/// So many gaps make a rhythm.
const ENOUGH: u32 = 4;

type Paces = Cache<u128, Arc<Pace>, UnitWeighter, ByFingerprint, DefaultLifecycle<u128, Arc<Pace>>>;

/// The rhythms of the keys of a cache.
pub(super) struct Predict {
    /// Moments are microseconds since the first of them.
    origin: std::sync::OnceLock<Instant>,
    paces: Paces,
}

/// The rhythm of one key. Threads that write at once may lose a gap, no more.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: AtomicU64,
    mean: AtomicU64,
    gaps: AtomicU32,
}

impl Pace {
    /// It was asked for; gaps below the grain are not told apart.
    fn beat(&self, now: u64, grain: u64) {
        let gap = now.saturating_sub(self.last.load(Relaxed));
        if gap <= grain && self.last.load(Relaxed) > 0 {
            return;
        }
        if self.last.swap(now, Relaxed) == 0 {
            return;
        }
        let (mean, known) = (self.mean.load(Relaxed), self.gaps.load(Relaxed));
        let next = if known == 0 { gap } else { mean - mean / 4 + gap / 4 };
        self.mean.store(next, Relaxed);
        self.gaps.store(known.saturating_add(1), Relaxed);
    }
}

impl Predict {
    /// For so many keys.
    pub(super) fn new(keys: usize) -> Self {
        let hasher = ByFingerprint::default();
        let paces = Paces::with(keys, keys as u64, UnitWeighter, hasher, DefaultLifecycle::default());
        Self { origin: std::sync::OnceLock::new(), paces }
    }

    /// One at least: zero says "never".
    fn moment(&self, now: Instant) -> u64 {
        micros(now.saturating_duration_since(*self.origin.get_or_init(|| now))).saturating_add(1)
    }

    fn pace(&self, probe: &Probe) -> Arc<Pace> {
        self.paces.get(&probe.fingerprint()).unwrap_or_else(|| {
            let pace = Arc::<Pace>::default();
            self.paces.insert(probe.fingerprint(), Arc::clone(&pace));
            pace
        })
    }

    /// This entry was served; whether it is time to refresh it for the next call.
    pub(super) fn hit(&self, probe: &Probe, entry: &Entry) -> bool {
        let pace = entry.pace().get_or_init(|| self.pace(probe));
        let life = micros(entry.fresh_until().saturating_duration_since(entry.created()));
        let left = micros(entry.fresh_until().saturating_duration_since(probe.now()));
        pace.beat(self.moment(probe.now()), life / 256);
        let mean = pace.mean.load(Relaxed);
        // A key that is asked for more often than it can be answered needs the time to answer it.
        let ahead = (mean + mean / 8).max(micros(entry.took()).saturating_mul(2).min(life / 4));
        pace.gaps.load(Relaxed) >= ENOUGH && left <= ahead && mean <= life / 2
    }

    /// This entry was asked for upstream, by a caller or for one to come, and has been stored.
    pub(super) fn stored(&self, probe: &Probe, entry: &Entry, by_caller: bool) {
        let pace = entry.pace().get_or_init(|| self.pace(probe));
        if by_caller {
            pace.beat(self.moment(probe.now()), 0);
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
