//! The tiers of a cache, nearest first: reads go outward, hits fill inward, writes go to all.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;

use super::breaker::Breaker;
use super::guard::guarded;
use super::near::{Moment, Near};
use super::space::Space;
use super::{CacheTier, Entry, Fleet, Lease, Probe, Selector};
use crate::env::Env;
use crate::error::{Error, Result};

/// Memory first, if there is any, then the others in their order.
#[derive(Debug)]
pub(super) struct Tiers {
    near: Arc<Near>,
    outer: Vec<Outer>,
    fleet: Option<Shore>,
    /// How long an outer tier may take.
    limit: Duration,
    errors: AtomicU64,
}

#[derive(Debug)]
struct Outer {
    tier: Arc<dyn CacheTier>,
    breaker: Breaker,
}

/// The outer tier that a fleet shares.
#[derive(Debug)]
struct Shore {
    at: usize,
    store: Arc<dyn Fleet>,
    followed: AtomicBool,
}

/// An entry, and the name of the tier that had it.
pub(super) type Found = (Arc<Entry>, &'static str);

impl Tiers {
    /// `fleet` is a store and its place among the outer tiers.
    pub(super) fn new(
        near: Near,
        outer: Vec<Arc<dyn CacheTier>>,
        fleet: Option<(usize, Arc<dyn Fleet>)>,
        limit: Duration,
    ) -> Self {
        let outer = outer.into_iter().map(|tier| Outer { tier, breaker: Breaker::default() }).collect();
        let near = Arc::new(near);
        let fleet = fleet.map(|(at, store)| Shore { at, store, followed: AtomicBool::new(false) });
        Self { near, outer, fleet, limit, errors: AtomicU64::new(0) }
    }

    /// This process's side.
    pub(super) fn near(&self) -> &Near {
        &self.near
    }

    /// The namespace of answers.
    pub(super) fn responses(&self) -> &Space {
        &self.near.spaces()[0]
    }

    /// Listens to what others change, from the first time there is a runtime to listen in.
    pub(super) fn follow(&self) {
        let Some(fleet) = &self.fleet else { return };
        if !fleet.followed.swap(true, Ordering::Relaxed) {
            let near: Weak<Near> = Arc::downgrade(&self.near);
            fleet.followed.store(fleet.store.follow(near).is_ok(), Ordering::Relaxed);
        }
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
        self.follow();
        let since = self.near.now();
        for (distance, outer) in self.outer.iter().enumerate() {
            let found = self.ask(env, outer, outer.tier.get(probe)).await.flatten();
            // Whatever a tier hands out, only what was stored for exactly this request is served.
            if let Some(entry) = found.filter(|entry| entry.serves(probe)) {
                self.near.fill(space, probe, &entry, since);
                self.put_outward(env, distance, probe, &entry, None).await;
                return Some((entry, outer.tier.name()));
            }
        }
        None
    }

    /// Keeps an entry in every tier, unless it was removed since; under the lease, if it was asked for under one.
    pub(super) async fn put(
        &self,
        env: &Env,
        (space, probe): (&Space, &Probe),
        entry: &Arc<Entry>,
        since: Moment,
        lease: Option<&Lease>,
    ) {
        self.near.keep(space, probe, entry, since);
        if self.outer.is_empty() || !self.near.spares(since, entry) {
            return;
        }
        let held = self.put_outward(env, self.outer.len(), probe, entry, lease).await;
        if !held {
            // Somebody else asked meanwhile, and his answer stands in the shared store.
            self.near.forget(space, probe, entry);
        }
        if !self.near.spares(since, entry) {
            // It was removed while it was being kept, and the removal may have come first.
            let key = Selector::Key(entry.key());
            join_all(self.outer.iter().map(|outer| self.ask(env, outer, outer.tier.remove(&key)))).await;
        }
    }

    /// Keeps an entry in the first so many outer tiers; whether the lease, if there was one, was held. It keeps its expiry
    /// wherever it goes.
    async fn put_outward(
        &self,
        env: &Env,
        distance: usize,
        probe: &Probe,
        entry: &Arc<Entry>,
        lease: Option<&Lease>,
    ) -> bool {
        let put = async |(at, outer): (usize, &Outer)| {
            let fleet = self.fleet.as_ref().filter(|fleet| fleet.at == at);
            if fleet.is_some() {
                self.near.expect_echo(env, probe.key());
            }
            match (fleet, lease) {
                (Some(fleet), Some(lease)) => {
                    self.ask(env, outer, fleet.store.put_leased(probe, entry, lease)).await.unwrap_or(true)
                }
                _ => {
                    self.ask(env, outer, outer.tier.put(probe, Arc::clone(entry))).await;
                    true
                }
            }
        };
        join_all(self.outer.iter().take(distance).enumerate().map(put)).await.into_iter().all(|held| held)
    }

    /// Asks the shared store, if there is one; `None` also when it is passed over or fails.
    pub(super) async fn ask_fleet<'a, T, F>(&'a self, env: &Env, question: impl FnOnce(&'a dyn Fleet) -> F) -> Option<T>
    where
        F: Future<Output = Result<T>>,
    {
        let fleet = self.fleet.as_ref()?;
        self.ask(env, &self.outer[fleet.at], question(&*fleet.store)).await
    }

    /// Whether a fleet shares one of the tiers.
    pub(super) fn has_fleet(&self) -> bool {
        self.fleet.is_some()
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
    ///
    /// A fleet is told twice: before, so that no process puts into the shared store what it had asked for before; and
    /// after, so that none keeps what it read from there meanwhile.
    pub(super) async fn remove(&self, selector: &Selector) -> Result<u64> {
        self.near.note_removal(selector);
        self.follow();
        let mut removed = 0;
        let mut failed: Option<Error> = None;
        if let Some(fleet) = &self.fleet {
            failed = fleet.store.announce(selector).await.err();
        }
        for outer in self.outer.iter().rev() {
            match outer.tier.remove(selector).await {
                Ok(count) => removed += count,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        removed += self.near.discard(selector);
        if let Some(fleet) = &self.fleet
            && let Err(error) = fleet.store.announce(selector).await
        {
            failed = failed.or(Some(error));
        }
        failed.map_or(Ok(removed), Err)
    }
}
