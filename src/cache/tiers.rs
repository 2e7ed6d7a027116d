//! The tiers of a cache, nearest first: reads go outward, hits fill inward, writes go to all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use super::breaker::Breaker;
use super::guard::guarded;
use super::tier::Memory;
use super::{CacheTier, Entry, Probe, Selector};
use crate::env::Env;
use crate::error::{Error, Result};

/// Memory first, if there is any, then the others in their order.
#[derive(Debug)]
pub(super) struct Tiers {
    memory: Option<Memory>,
    outer: Vec<Outer>,
    /// How long an outer tier may take.
    limit: Duration,
    errors: AtomicU64,
}

#[derive(Debug)]
struct Outer {
    tier: Arc<dyn CacheTier>,
    breaker: Breaker,
}

/// An entry, and the name of the tier that had it.
pub(super) type Found = (Arc<Entry>, &'static str);

impl Tiers {
    pub(super) fn new(memory: Option<Memory>, outer: Vec<Arc<dyn CacheTier>>, limit: Duration) -> Self {
        let outer = outer.into_iter().map(|tier| Outer { tier, breaker: Breaker::default() }).collect();
        Self { memory, outer, limit, errors: AtomicU64::new(0) }
    }

    /// How often an outer tier failed and was passed over.
    pub(super) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// The entry of exactly this request from the nearest tier that has it.
    pub(super) async fn find(&self, env: &Env, probe: &Probe) -> Option<Found> {
        if let Some(memory) = &self.memory
            && let Some(entry) = memory.find(probe)
        {
            return Some((entry, memory.name()));
        }
        if self.outer.is_empty() {
            return None;
        }
        // Boxed, so that a hit in memory does not carry this around.
        Box::pin(self.find_outward(env, probe)).await
    }

    async fn find_outward(&self, env: &Env, probe: &Probe) -> Option<Found> {
        for (distance, outer) in self.outer.iter().enumerate() {
            let found = self.ask(env, outer, outer.tier.get(probe)).await.flatten();
            // Whatever a tier hands out, only what was stored for exactly this request is served.
            if let Some(entry) = found.filter(|entry| entry.serves(probe)) {
                self.put_within(env, distance, probe, &entry).await;
                return Some((entry, outer.tier.name()));
            }
        }
        None
    }

    /// Keeps an entry in every tier.
    pub(super) async fn put(&self, env: &Env, probe: &Probe, entry: &Arc<Entry>) {
        self.put_within(env, self.outer.len(), probe, entry).await;
    }

    /// Keeps an entry in memory and in the first so many outer tiers. It keeps its expiry wherever it goes.
    async fn put_within(&self, env: &Env, distance: usize, probe: &Probe, entry: &Arc<Entry>) {
        if let Some(memory) = &self.memory {
            memory.keep(probe, Arc::clone(entry));
        }
        let puts = self.outer.iter().take(distance);
        join_all(puts.map(|outer| self.ask(env, outer, outer.tier.put(probe, Arc::clone(entry))))).await;
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
        let mut removed = 0;
        let mut failed: Option<Error> = None;
        for outer in self.outer.iter().rev() {
            match outer.tier.remove(selector).await {
                Ok(count) => removed += count,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(memory) = &self.memory {
            removed += memory.remove(selector).await?;
        }
        failed.map_or(Ok(removed), Err)
    }
}
