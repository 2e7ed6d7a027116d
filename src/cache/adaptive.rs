//! Lives that follow the demand.
//!
//! When an answer is stored again for a key, its life is
//!
//! ```text
//! life(n+1) = clamp(life(n) * 2, min, max)    if life n saw 4 hits or more
//!             clamp(life(n) / 2, min, max)    if it saw none
//!             life(n)                         otherwise
//! ```
//!
//! where life 1 is the namespace's time to live within the bounds. Doubling and halving is the step of binary
//! exponential back-off (Metcalfe and Boggs, "Ethernet", 1976): a few steps reach either bound from anywhere, and a
//! single odd life is undone by the next. What a web cache adapts by, the time since a document last changed (Gwertzman
//! and Seltzer, "World-Wide Web Cache Consistency", 1996), a model's answer does not tell; how often it is asked for is
//! all there is to know. So a long life is a statement about use, not about truth: keep `max` where answers still hold.
//!
//! Hits are counted up to the four that matter, then only read: threads that share a hot key do not write to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use super::{Entry, Probe};
use crate::error::{Error, Result};
use crate::fingerprint::ByFingerprint;

/// So many hits make a life worth doubling.
const ENOUGH: u32 = 4;
/// So many keys are known; who has been forgotten starts anew.
const KNOWN: usize = 16_384;

type Lives = Cache<u128, Arc<Life>, UnitWeighter, ByFingerprint, DefaultLifecycle<u128, Arc<Life>>>;

/// What is known of the keys of a cache.
pub(super) struct Adaptive {
    min: Duration,
    max: Duration,
    lives: Lives,
}

/// One life of one key.
#[derive(Debug)]
pub(super) struct Life {
    length: Duration,
    hits: AtomicU32,
}

impl Life {
    fn new(length: Duration) -> Arc<Self> {
        Arc::new(Self { length, hits: AtomicU32::new(0) })
    }

    /// How long, before jitter.
    pub(super) fn length(&self) -> Duration {
        self.length
    }
}

impl Adaptive {
    pub(super) fn new(min: Duration, max: Duration) -> Result<Self> {
        if min.is_zero() {
            let advice = "let answers live for at least a millisecond";
            return Err(Error::config("cache", "adaptive_ttl min", "0s", advice));
        }
        if max < min {
            let advice = format!("give at least the min, {min:?}");
            return Err(Error::config("cache", "adaptive_ttl max", format!("{max:?}"), &advice));
        }
        let lives =
            Lives::with(KNOWN, KNOWN as u64, UnitWeighter, ByFingerprint::default(), DefaultLifecycle::default());
        Ok(Self { min, max, lives })
    }

    /// This entry was served.
    pub(super) fn hit(&self, probe: &Probe, entry: &Entry) {
        // One from outside the process does not know its life yet, and may be the first of its key here.
        let life = entry.life().get_or_init(|| {
            self.lives.get(&probe.fingerprint()).unwrap_or_else(|| {
                let life = Life::new(entry.fresh_until().saturating_duration_since(entry.created()));
                self.lives.insert(probe.fingerprint(), Arc::clone(&life));
                life
            })
        });
        if life.hits.load(Ordering::Relaxed) < ENOUGH {
            life.hits.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The life of what is to be stored now.
    pub(super) fn next(&self, probe: &Probe, first: Duration) -> Arc<Life> {
        let last = self.lives.get(&probe.fingerprint());
        let length = last.map_or(first, |last| match last.hits.load(Ordering::Relaxed) {
            0 => last.length / 2,
            ENOUGH.. => last.length.saturating_mul(2),
            _ => last.length,
        });
        Life::new(length.clamp(self.min, self.max))
    }

    /// It has been stored.
    pub(super) fn began(&self, probe: &Probe, life: Arc<Life>) {
        self.lives.insert(probe.fingerprint(), life);
    }
}
