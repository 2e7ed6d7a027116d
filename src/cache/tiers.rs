//! The tiers of a cache, nearest first: reads go outward, hits fill inward, writes go to all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::breaker::Breaker;
use super::counts::{SpaceCounts, Sums, TierCounts, add, read};
use super::guard::guarded;
use super::near::{Moment, Near};
use super::space::Space;
use super::stats::TierStats;
use super::tier::{MEMORY, Memory};
use super::{CacheStats, CacheTier, Entry, Fleet, Lease, Probe, Selector};
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
    /// Places of the puts that nobody waits for, if puts go behind.
    behind: Option<Arc<Semaphore>>,
}

#[derive(Debug)]
struct Outer {
    tier: Arc<dyn CacheTier>,
    breaker: Breaker,
    counts: TierCounts,
}

/// The outer tier that a fleet shares.
#[derive(Debug)]
struct Shore {
    at: usize,
    store: Arc<dyn Fleet>,
    followed: AtomicBool,
    /// The tiers nearer than it: this process's alone, so that they hear of what others removed as memory does.
    alone: Vec<Arc<dyn CacheTier>>,
}

/// An entry, and the name of the tier that had it.
pub(super) type Found = (Arc<Entry>, &'static str);

impl Tiers {
    /// `fleet` is a store and its place among the outer tiers.
    pub(super) fn new(
        mut near: Near,
        outers: Vec<Arc<dyn CacheTier>>,
        fleet: Option<(usize, Arc<dyn Fleet>)>,
        limit: Duration,
    ) -> Self {
        for space in near.spaces_mut() {
            space.counts = SpaceCounts::new(outers.iter().map(|tier| tier.name()));
        }
        let fleet = fleet.map(|(at, store)| Shore {
            at,
            store,
            followed: AtomicBool::new(false),
            alone: outers.iter().take(at).cloned().collect(),
        });
        let outer = |tier| Outer { tier, breaker: Breaker::default(), counts: TierCounts::default() };
        let outer = outers.into_iter().map(outer).collect();
        if fleet.as_ref().is_some_and(|fleet| fleet.at > 0) {
            near.keep_arrears();
        }
        let near = Arc::new(near);
        Self { near, outer, fleet, limit, behind: None }
    }

    /// Lets at most so many puts go on while their calls have ended already.
    pub(super) fn with_puts_behind(mut self, places: Option<usize>) -> Self {
        self.behind = places.map(|places| Arc::new(Semaphore::new(places)));
        self
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

    /// The memories that have been used.
    pub(super) fn memories(&self) -> impl Iterator<Item = &Memory> {
        self.near.spaces().iter().filter_map(Space::used_memory)
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

    /// The same, passing over memory and what it has.
    pub(super) async fn find_beyond_memory(&self, env: &Env, space: &Space, probe: &Probe) -> Option<Found> {
        space.memory().filter(|_| !self.outer.is_empty())?;
        Box::pin(self.find_outward(env, space, probe)).await
    }

    async fn find_outward(&self, env: &Env, space: &Space, probe: &Probe) -> Option<Found> {
        self.follow();
        probe.hash_ahead().await;
        let since = self.near.now();
        let first = self.first_to_ask(env).await;
        for (distance, outer) in self.outer.iter().enumerate().skip(first) {
            let Some(found) = self.ask(env, outer, outer.tier.get(probe)).await else { continue };
            // Whatever a tier hands out, only what was stored for exactly this request is served.
            let Some(entry) = found.filter(|entry| entry.serves(probe)) else {
                add(&outer.counts.misses, 1);
                continue;
            };
            self.near.fill(space, probe, &entry, since);
            self.put_outward(env, distance, probe, &entry, (since, None)).await;
            return Some((entry, outer.tier.name()));
        }
        None
    }

    /// The nearest outer tier that has nothing any more of what others removed.
    async fn first_to_ask(&self, env: &Env) -> usize {
        let (Some(fleet), Some(arrears)) = (&self.fleet, self.near.arrears()) else { return 0 };
        if arrears.settle(env, self.limit, &fleet.alone).await { 0 } else { fleet.at }
    }

    /// The entry of exactly this request from the nearest tier that has it, and nothing is moved for it.
    pub(super) async fn peek(&self, env: &Env, space: &Space, probe: &Probe) -> Option<Found> {
        if let Some(memory) = space.used_memory()
            && let Some(entry) = memory.peek(probe)
        {
            return Some((entry, memory.name()));
        }
        let first = self.first_to_ask(env).await;
        for outer in self.outer.iter().skip(first) {
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
            let sums: Vec<_> = self.near.spaces().iter().map(|space| space.counts.sums()).collect();
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
            let hits = self.near.spaces().iter().flat_map(|space| space.counts.outer_hits());
            one.hits += hits.filter(|(name, _)| *name == one.name).map(|(_, hits)| hits).sum::<u64>();
        }
        CacheStats { namespaces: self.near.spaces().iter().map(Space::stats).collect(), tiers }
    }

    /// Keeps an entry in every tier, unless it was removed since; under the lease, if it was asked for under one.
    pub(super) async fn put(
        self: &Arc<Self>,
        env: &Env,
        (space, probe): (&Space, &Probe),
        entry: &Arc<Entry>,
        since: Moment,
        lease: Option<&Lease>,
    ) {
        space.counts.stored();
        if !self.outer.is_empty() {
            self.follow();
            // The entry's key is known from now on, and what changes under it is dropped.
            self.near.replaces(entry.key());
        }
        self.near.keep(space, probe, entry, since);
        if self.outer.is_empty() {
            return;
        }
        let Some((place, runtime)) = self.place_behind() else {
            return self.put_everywhere(env, (space, probe), entry, since, lease).await;
        };
        let (this, env, probe) = (Arc::clone(self), env.clone(), probe.again(probe.now()));
        let (entry, lease, tasks) = (Arc::clone(entry), lease.cloned(), env.tasks().clone());
        let behind = async move {
            if let Ok(space) = this.near.space(entry.namespace()) {
                this.put_everywhere(&env, (space, &probe), &entry, since, lease.as_ref()).await;
            }
            drop(place);
        };
        tasks.spawn_on(behind, &runtime);
    }

    /// A place among the puts that nobody waits for, and where to do it; none when this one is to be waited for.
    fn place_behind(&self) -> Option<(OwnedSemaphorePermit, Handle)> {
        Some((Arc::clone(self.behind.as_ref()?).try_acquire_owned().ok()?, Handle::try_current().ok()?))
    }

    async fn put_everywhere(
        &self,
        env: &Env,
        (space, probe): (&Space, &Probe),
        entry: &Arc<Entry>,
        since: Moment,
        lease: Option<&Lease>,
    ) {
        if !self.put_outward(env, self.outer.len(), probe, entry, (since, lease)).await {
            // Somebody else asked meanwhile, and his answer stands in the shared store.
            self.near.forget(space, probe, entry);
        }
    }

    /// Keeps an entry in the first so many outer tiers, unless it was removed since; whether the lease, if there was one,
    /// was held. It keeps its expiry wherever it goes.
    async fn put_outward(
        &self,
        env: &Env,
        distance: usize,
        probe: &Probe,
        entry: &Arc<Entry>,
        (since, lease): (Moment, Option<&Lease>),
    ) -> bool {
        if distance == 0 {
            return true;
        }
        if !self.near.spares(since, entry) {
            // Nobody is to wait for what is not kept.
            if let Some(lease) = lease {
                self.ask_fleet(env, |fleet| async move { fleet.release(lease, Duration::ZERO).await }).await;
            }
            return true;
        }
        // First: what is put now is not what others removed.
        let first = self.first_to_ask(env).await;
        let put = async |(at, outer): (usize, &Outer)| {
            let fleet = self.fleet.as_ref().filter(|fleet| fleet.at == at);
            if fleet.is_some() {
                self.near.expect_echo(env, probe.key());
            }
            match (fleet, lease) {
                (Some(fleet), Some(lease)) => {
                    let held = self.ask(env, outer, fleet.store.put_leased(probe, entry, lease)).await;
                    add(&outer.counts.puts, u64::from(held == Some(true)));
                    if held != Some(true) {
                        self.near.expect_no_echo(&probe.key());
                    }
                    held.unwrap_or(true)
                }
                _ => {
                    let put = self.ask(env, outer, outer.tier.put(probe, Arc::clone(entry))).await;
                    add(&outer.counts.puts, u64::from(put.is_some()));
                    if fleet.is_some() && put.is_none() {
                        self.near.expect_no_echo(&probe.key());
                    }
                    true
                }
            }
        };
        let outers = self.outer.iter().enumerate().take(distance).skip(first);
        let held = join_all(outers.map(put)).await.into_iter().all(|held| held);
        if !self.near.spares(since, entry) {
            // It was removed while it was being kept, and the removal may have come first.
            let key = Selector::Key(entry.key());
            join_all(self.outer.iter().take(distance).map(|outer| self.ask(env, outer, outer.tier.remove(&key)))).await;
        }
        held
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
            // Noted anew for each tier: a farther one may have handed out what it had after the first note.
            self.near.note_removal(selector);
            match outer.tier.remove(selector).await {
                Ok(count) => removed += count,
                Err(error) => {
                    add(&outer.counts.errors, 1);
                    failed = failed.or(Some(error));
                }
            }
        }
        removed += self.near.removed(selector);
        if let Some(fleet) = &self.fleet
            && let Err(error) = fleet.store.announce(selector).await
        {
            failed = failed.or(Some(error));
        }
        failed.map_or(Ok(removed), Err)
    }
}
