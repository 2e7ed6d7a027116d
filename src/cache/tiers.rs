//! The tiers of a cache, nearest first: reads go outward, hits fill inward, writes go to all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use super::breaker::Breaker;
use super::guard::guarded;
use super::removals::{Mark, Removals};
use super::share::Since;
use super::space::Space;
use super::{CacheTier, Entry, Probe, Selector};
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
        Self { spaces, outer, limit, errors: AtomicU64::new(0), removals: Removals::default() }
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

    /// What was asked for before now and is selected is not kept.
    pub(super) fn note(&self, selector: &Selector) {
        self.removals.note(selector);
    }

    /// Whether what has been asked for since then is still good for who asks now: no removal has taken it.
    pub(super) fn spares(&self, since: &Since, probe: &Probe) -> bool {
        let taken = |selector: &Selector| selector.takes(probe.namespace(), &since.labels, || probe.key());
        self.removals.spare_of(since.mark, taken)
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
        self.put_within(env, self.outer.len(), (space, probe), entry, mark).await;
    }

    /// Keeps an entry in memory only, unless it was removed since the mark.
    #[allow(dead_code)]
    pub(super) fn put_near(&self, space: &Space, probe: &Probe, entry: &Arc<Entry>, mark: Mark) {
        // Asked before too, so that what was put after the removal is not pushed out by what is not kept.
        if let Some(memory) = space.memory().filter(|_| self.removals.spare(mark, entry)) {
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
        for memory in self.spaces.iter().filter_map(Space::used_memory) {
            removed += memory.remove(selector).await?;
        }
        failed.map_or(Ok(removed), Err)
    }
}
