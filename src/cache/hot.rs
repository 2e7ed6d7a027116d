//! Which stored answers are asked for most, told from a sample of the hits.
//!
//! The sketch is Space-Saving (Metwally, Agrawal and El Abbadi, 2005): so many counters; who has none takes the lowest one
//! over, and counts on from it. With k counters and n samples no count is too high by more than n / k, none is too low,
//! and who has more than n / k of the samples is certain to have a counter.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use super::Probe;
use crate::env::Env;
use crate::sharded::Sharded;
use crate::types::{CacheControl, ChatRequest, Extensions, Tenant};

/// One hit in so many is looked at, on average.
const EVERY: u32 = 16;

/// The requests that are hit most.
pub(super) struct Hot {
    /// How many hits this thread lets pass before it looks at one.
    pass: Sharded<AtomicU32>,
    sketch: Mutex<Sketch>,
}

struct Sketch {
    counters: Vec<Counter>,
    most: usize,
}

struct Counter {
    fingerprint: u128,
    request: ChatRequest,
    samples: u64,
}

impl Hot {
    /// With so many counters, at least 1.
    pub(super) fn new(most: usize) -> Self {
        let sketch = Sketch { counters: Vec::new(), most };
        Self { pass: Sharded::new(), sketch: Mutex::new(sketch) }
    }

    /// A stored answer was served. It never waits.
    pub(super) fn saw(&self, env: &Env, probe: &Probe, request: &ChatRequest) {
        let pass = self.pass.local();
        // Not one operation: threads that share a shard may lose a step of each other's, which only shifts the sample.
        let left = pass.load(Ordering::Relaxed);
        if left > 0 {
            return pass.store(left - 1, Ordering::Relaxed);
        }
        // From 1 to 31 hits on: a fixed step would see one request only of callers who ask sixteen in turn.
        let next = env.bits() % u64::from(2 * EVERY - 1);
        pass.store(next as u32, Ordering::Relaxed);
        if let Some(mut sketch) = self.sketch.try_lock() {
            sketch.count(probe.fingerprint(), request);
        }
    }

    /// The requests with their estimated hits, most first.
    pub(super) fn hottest(&self) -> Vec<(ChatRequest, u64)> {
        let sketch = self.sketch.lock();
        let estimate = |one: &Counter| (one.request.clone(), one.samples.saturating_mul(u64::from(EVERY)));
        let mut all: Vec<_> = sketch.counters.iter().map(estimate).collect();
        drop(sketch);
        all.sort_by_key(|(_, hits)| std::cmp::Reverse(*hits));
        all
    }
}

impl Sketch {
    fn count(&mut self, fingerprint: u128, request: &ChatRequest) {
        if let Some(known) = self.counters.iter_mut().find(|one| one.fingerprint == fingerprint) {
            known.samples += 1;
        } else if self.counters.len() < self.most {
            self.counters.push(Counter { fingerprint, request: kept(request), samples: 1 });
        } else if let Some(lowest) = self.counters.iter_mut().min_by_key(|one| one.samples) {
            *lowest = Counter { fingerprint, request: kept(request), samples: lowest.samples + 1 };
        }
    }
}

/// The request with what decides where its answer is kept, and without what held for one call alone.
fn kept(request: &ChatRequest) -> ChatRequest {
    let mut extensions = Extensions::new();
    if let Some(tenant) = request.extensions.get::<Tenant>() {
        extensions.insert(tenant.clone());
    }
    if let Some(CacheControl { scope, namespace, tags, ttl, .. }) = request.extensions.get().cloned() {
        let control = CacheControl { scope, namespace, tags, ttl, ..CacheControl::new() };
        if control != CacheControl::new() {
            extensions.insert(control);
        }
    }
    let mut kept = request.clone();
    kept.extensions = extensions;
    kept
}

impl fmt::Debug for Hot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hot").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientInfo;
    use crate::env::SeededRandom;

    /// A few hot requests among many that come once, in turn: none is missed, and none is far off.
    #[test]
    fn finds_the_hottest_within_its_bound() {
        let env = Env::new().with_random(SeededRandom::new(7));
        let hot = Hot::new(32);
        let request = |n: usize| ChatRequest::new("m").user(n.to_string());
        let mut hits = 0_u64;
        for round in 0..10_000 {
            // Four hot ones in a fixed turn, of 16 hits; the other twelve never come again.
            for n in 0..16 {
                let request = if n < 4 { request(n) } else { request(1_000 + round * 16 + n) };
                let probe = Probe::chat(&ClientInfo::new("p"), &request, env.now());
                hot.saw(&env, &probe, &request);
                hits += 1;
            }
        }
        let hottest = hot.hottest();
        let mut texts: Vec<_> = hottest.iter().take(4).map(|(request, _)| request.messages[0].text()).collect();
        texts.sort();
        assert_eq!(texts, ["0", "1", "2", "3"]);
        for (_, estimate) in &hottest[..4] {
            // The sketch's bound, and five times what sampling spreads.
            let most = 10_000 + hits / 32 + 5 * 4 * 100;
            assert!((8_000..most).contains(estimate), "{estimate}");
        }
        assert!(hottest.len() <= 32 && hottest.windows(2).all(|two| two[0].1 >= two[1].1));
    }
}
