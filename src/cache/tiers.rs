//! The tiers of a cache, nearest first: reads go outward, hits fill inward, writes go to all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::breaker::Breaker;
use super::guard::guarded;
use super::negative::Failures;
use super::removals::{Mark, Removals};
use super::space::Space;
use super::{CacheTier, Entry, Labels, Probe, Selector};
use crate::env::Env;
use crate::error::{Error, Result};

/// Memory first, if there is any, then the others in their order.
#[derive(Debug)]
pub(super) struct Tiers {
    spaces: Vec<Space>,
    outer: Vec<Outer>,
    /// How long an outer tier may take.
    limit: Duration,
    errors: AtomicU64,
    removals: Removals,
    failures: Option<Failures>,
}

#[derive(Debug)]
struct Outer {
    tier: Arc<dyn CacheTier>,
    breaker: Breaker,
}

/// An entry, and the name of the tier that had it.
pub(super) type Found = (Arc<Entry>, &'static str);

impl Tiers {
    pub(super) fn new(spaces: Vec<Space>, outer: Vec<Arc<dyn CacheTier>>, limit: Duration) -> Self {
        let outer = outer.into_iter().map(|tier| Outer { tier, breaker: Breaker::default() }).collect();
        Self { spaces, outer, limit, errors: AtomicU64::new(0), removals: Removals::default(), failures: None }
    }

    /// That remember failures.
    pub(super) fn with_failures(mut self, failures: Option<Failures>) -> Self {
        self.failures = failures;
        self
    }

    /// How this request failed lately, no longer ago than this.
    pub(super) fn failure(&self, probe: &Probe, max_age: Option<Duration>) -> Option<Error> {
        self.failures.as_ref()?.find(probe, max_age)
    }

    /// Remembers how this request failed, if such failures are remembered, unless it was removed since the mark.
    pub(super) fn failed(&self, probe: &Probe, labels: Labels, error: &Error, now: Instant, mark: Mark) {
        if let Some(failures) = &self.failures {
            failures.keep(probe, labels, error, now, (&self.removals, mark));
        }
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

    /// To be taken before asking for what is kept afterwards.
    pub(super) fn mark(&self) -> Mark {
        self.removals.mark()
    }

    /// How often an outer tier failed and was passed over.
    pub(super) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// The entry of exactly this request from the nearest tier that has it; it may be stale.
    pub(super) async fn find(&self, env: &Env, space: &Space, probe: &Probe) -> Option<Found> {
        if let Some(memory) = space.memory()
            && let Some(entry) = memory.find(probe)
        {
            return Some((entry, memory.name()));
        }
        if self.outer.is_empty() {
            return None;
        }
        // Boxed, so that a hit in memory does not carry this around.
        Box::pin(self.find_outward(env, space, probe)).await
    }

    /// The same, passing over memory and what it has.
    pub(super) async fn find_beyond_memory(&self, env: &Env, space: &Space, probe: &Probe) -> Option<Found> {
        space.memory().filter(|_| !self.outer.is_empty())?;
        Box::pin(self.find_outward(env, space, probe)).await
    }

    async fn find_outward(&self, env: &Env, space: &Space, probe: &Probe) -> Option<Found> {
        let mark = self.mark();
        for (distance, outer) in self.outer.iter().enumerate() {
            let found = self.ask(env, outer, outer.tier.get(probe)).await.flatten();
            // Whatever a tier hands out, only what was stored for exactly this request is served.
            if let Some(entry) = found.filter(|entry| entry.serves(probe)) {
                self.put_within(env, distance, (space, probe), &entry, mark).await;
                return Some((entry, outer.tier.name()));
            }
        }
        None
    }

    /// Keeps an entry in every tier, unless it was removed since the mark.
    pub(super) async fn put(&self, env: &Env, space: &Space, probe: &Probe, entry: &Arc<Entry>, mark: Mark) {
        if let Some(failures) = &self.failures {
            failures.forget(probe);
        }
        space.sweep(entry.created());
        self.put_within(env, self.outer.len(), (space, probe), entry, mark).await;
    }

    /// Keeps an entry in memory only, unless it was removed since the mark.
    #[allow(dead_code)]
    pub(super) fn put_near(&self, space: &Space, probe: &Probe, entry: &Arc<Entry>, mark: Mark) {
        if let Some(memory) = space.memory() {
            memory.keep(probe, Arc::clone(entry));
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
        join_all(puts.map(|outer| self.ask(env, outer, outer.tier.put(probe, Arc::clone(entry))))).await;
        if !self.removals.spare(mark, entry) {
            // It was removed while it was being kept, and the removal may have come first.
            let key = Selector::Key(entry.key());
            let puts = self.outer.iter().take(distance);
            join_all(puts.map(|outer| self.ask(env, outer, outer.tier.remove(&key)))).await;
        }
    }

    /// What an outer tier says; `None` when it is passed over or fails.
    async fn ask<T>(&self, env: &Env, outer: &Outer, question: impl Future<Output = Result<T>>) -> Option<T> {
        let leave = outer.breaker.leave(env.now())?;
        match guarded(env, self.limit, question).await {
            Ok(answer) => {
                leave.answered();
                Some(answer)
            }
            Err(_) => {
                leave.failed(env.now());
                self.errors.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Forgets entries in every tier, the farthest first, so that a nearer one is not filled from it again. All tiers are
    /// asked, even those that are passed over otherwise, and given the time they need: removing may walk through a whole
    /// store. The first failure is told when all have been asked.
    pub(super) async fn remove(&self, selector: &Selector) -> Result<u64> {
        self.removals.note(selector);
        let mut removed = 0;
        let mut failed: Option<Error> = None;
        for outer in self.outer.iter().rev() {
            match outer.tier.remove(selector).await {
                Ok(count) => removed += count,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(failures) = &self.failures {
            failures.memory.remove(selector).await?;
        }
        for memory in self.spaces.iter().filter_map(Space::used_memory) {
            removed += memory.remove(selector).await?;
        }
        failed.map_or(Ok(removed), Err)
    }
}
