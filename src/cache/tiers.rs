//! The tiers of a cache, nearest first: reads go outward, hits fill inward, writes go to all.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::breaker::Breaker;
use super::counts::{SpaceCounts, Sums, TierCounts, add, read};
use super::flight::Flights;
use super::guard::guarded;
use super::removals::{Mark, Removals};
use super::space::Space;
use super::stats::TierStats;
use super::tier::{MEMORY, Memory};
use super::{CacheStats, CacheTier, Entry, Probe, Selector};
use crate::env::Env;
use crate::error::{Error, Result};

/// Memory first, if there is any, then the others in their order.
#[derive(Debug)]
pub(super) struct Tiers {
    spaces: Vec<Space>,
    outer: Vec<Outer>,
    /// How long an outer tier may take.
    limit: Duration,
    removals: Removals,
    flights: Arc<Flights>,
}

#[derive(Debug)]
struct Outer {
    tier: Arc<dyn CacheTier>,
    breaker: Breaker,
    counts: TierCounts,
}

/// An entry, and the name of the tier that had it.
pub(super) type Found = (Arc<Entry>, &'static str);

impl Tiers {
    /// What is removed from them is also what nobody joins these flights for any more.
    pub(super) fn new(
        mut spaces: Vec<Space>,
        outers: Vec<Arc<dyn CacheTier>>,
        limit: Duration,
        flights: Arc<Flights>,
    ) -> Self {
        for space in &mut spaces {
            space.counts = SpaceCounts::new(outers.iter().map(|tier| tier.name()));
        }
        let outer = |tier| Outer { tier, breaker: Breaker::default(), counts: TierCounts::default() };
        let outer = outers.into_iter().map(outer).collect();
        Self { spaces, outer, limit, removals: Removals::default(), flights }
    }

    /// The namespace of answers.
    pub(super) fn responses(&self) -> &Space {
        &self.spaces[0]
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

    /// The memories that have been used.
    pub(super) fn memories(&self) -> impl Iterator<Item = &Memory> {
        self.spaces.iter().filter_map(Space::used_memory)
    }

    /// To be taken before asking for what is kept afterwards.
    pub(super) fn mark(&self) -> Mark {
        self.removals.mark()
    }

    /// How often an outer tier failed and was passed over.
    pub(super) fn errors(&self) -> u64 {
        self.outer.iter().map(|outer| read(&outer.counts.errors)).sum()
    }

    /// The entry of exactly this request from the nearest tier that has it; it may be stale.
    pub(super) async fn find(&self, env: &Env, space: &Space, probe: &Probe) -> Option<Found> {
        if let Some(memory) = space.memory()
            && let Some(entry) = memory.find(probe)
        {
            return Some((entry, memory.name()));
        }
        space.counts.near_missed();
        if self.outer.is_empty() {
            return None;
        }
        // Boxed, so that a hit in memory does not carry this around.
        Box::pin(self.find_outward(env, space, probe)).await
    }

    async fn find_outward(&self, env: &Env, space: &Space, probe: &Probe) -> Option<Found> {
        let mark = self.mark();
        for (distance, outer) in self.outer.iter().enumerate() {
            let Some(found) = self.ask(env, outer, outer.tier.get(probe)).await else { continue };
            // Whatever a tier hands out, only what was stored for exactly this request is served.
            let Some(entry) = found.filter(|entry| entry.serves(probe)) else {
                add(&outer.counts.misses, 1);
                continue;
            };
            self.put_within(env, distance, (space, probe), &entry, mark).await;
            return Some((entry, outer.tier.name()));
        }
        None
    }

    /// The entry of exactly this request from the nearest tier that has it, and nothing is moved for it.
    pub(super) async fn peek(&self, env: &Env, space: &Space, probe: &Probe) -> Option<Found> {
        if let Some(memory) = space.used_memory()
            && let Some(entry) = memory.peek(probe)
        {
            return Some((entry, memory.name()));
        }
        for outer in &self.outer {
            let found = self.ask(env, outer, outer.tier.get(probe)).await.flatten();
            if let Some(entry) = found.filter(|entry| entry.serves(probe)) {
                return Some((entry, outer.tier.name()));
            }
        }
        None
    }

    /// The numbers so far. It looks at every entry in memory: about 0.1 us each.
    pub(super) fn stats(&self) -> CacheStats {
        let mut tiers: Vec<TierStats> = Vec::new();
        if self.responses().has_memory() {
            let sums: Vec<_> = self.spaces.iter().map(|space| space.counts.sums()).collect();
            let total = |of: fn(&Sums) -> u64| sums.iter().map(of).sum();
            let (hits, misses, puts) = (total(|s| s.near_hits), total(|s| s.near_misses), total(|s| s.near_puts));
            tiers.push(TierStats { name: MEMORY, hits, misses, puts, ..TierStats::default() });
        }
        for Outer { tier, counts, .. } in &self.outer {
            let name = tier.name();
            let place = tiers.iter().position(|known| known.name == name).unwrap_or(tiers.len());
            if place == tiers.len() {
                tiers.push(TierStats { name, ..TierStats::default() });
            }
            let one = &mut tiers[place];
            one.misses += read(&counts.misses);
            one.puts += read(&counts.puts);
            one.errors += read(&counts.errors);
            one.passed_over += read(&counts.passed_over);
        }
        for one in &mut tiers {
            let hits = self.spaces.iter().flat_map(|space| space.counts.outer_hits());
            one.hits += hits.filter(|(name, _)| *name == one.name).map(|(_, hits)| hits).sum::<u64>();
        }
        CacheStats { namespaces: self.spaces.iter().map(Space::stats).collect(), tiers }
    }

    /// Keeps an entry in every tier, unless it was removed since the mark.
    pub(super) async fn put(&self, env: &Env, space: &Space, probe: &Probe, entry: &Arc<Entry>, mark: Mark) {
        space.counts.stored();
        self.put_within(env, self.outer.len(), (space, probe), entry, mark).await;
    }

    /// Keeps an entry in memory only, unless it was removed since the mark.
    pub(super) fn put_near(&self, space: &Space, probe: &Probe, entry: &Arc<Entry>, mark: Mark) {
        if let Some(memory) = space.memory() {
            memory.keep(probe, Arc::clone(entry));
            space.counts.near_put();
            if !self.removals.spare(mark, entry) {
                memory.forget(probe, entry);
            }
        }
    }

    /// Keeps an entry in memory and in the first so many outer tiers. It keeps its expiry wherever it goes.
    async fn put_within(
        &self,
        env: &Env,
        distance: usize,
        (space, probe): (&Space, &Probe),
        entry: &Arc<Entry>,
        mark: Mark,
    ) {
        self.put_near(space, probe, entry, mark);
        if distance == 0 || !self.removals.spare(mark, entry) {
            return;
        }
        let puts = self.outer.iter().take(distance);
        join_all(puts.map(async |outer| {
            if self.ask(env, outer, outer.tier.put(probe, Arc::clone(entry))).await.is_some() {
                add(&outer.counts.puts, 1);
            }
        }))
        .await;
        if !self.removals.spare(mark, entry) {
            // It was removed while it was being kept, and the removal may have come first.
            let key = Selector::Key(entry.key());
            let puts = self.outer.iter().take(distance);
            join_all(puts.map(|outer| self.ask(env, outer, outer.tier.remove(&key)))).await;
        }
    }

    /// What an outer tier says; `None` when it is passed over or fails.
    async fn ask<T>(&self, env: &Env, outer: &Outer, question: impl Future<Output = Result<T>>) -> Option<T> {
        let Some(leave) = outer.breaker.leave(env.now()) else {
            add(&outer.counts.passed_over, 1);
            return None;
        };
        match guarded(env, self.limit, question).await {
            Ok(answer) => {
                leave.answered();
                Some(answer)
            }
            Err(_) => {
                leave.failed(env.now());
                add(&outer.counts.errors, 1);
                None
            }
        }
    }

    /// Forgets entries in every tier, the farthest first, so that a nearer one is not filled from it again. All tiers are
    /// asked, even those that are passed over otherwise, and given the time they need: removing may walk through a whole
    /// store. The first failure is told when all have been asked. Who asks after it has returned joins no flight that was
    /// started before.
    pub(super) async fn remove(&self, selector: &Selector) -> Result<u64> {
        let mut removed = 0;
        let mut failed: Option<Error> = None;
        for outer in self.outer.iter().rev() {
            // Noted anew for each tier: a farther one may have handed out what it had after the first note.
            self.removals.note(selector);
            match outer.tier.remove(selector).await {
                Ok(count) => removed += count,
                Err(error) => {
                    add(&outer.counts.errors, 1);
                    failed = failed.or(Some(error));
                }
            }
        }
        self.removals.note(selector);
        for memory in self.memories() {
            match memory.remove(selector).await {
                Ok(count) => removed += count,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        // Last: a flight may have been started, and found in a tier what was there still.
        self.flights.detach(selector);
        failed.map_or(Ok(removed), Err)
    }
}
