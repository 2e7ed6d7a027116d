//! What others removed, and the tiers of this process alone still have.
//!
//! A removal heard of is carried out in memory at once. A disk takes longer, and who removes does not wait for everybody's
//! disk. So it is written down, and carried out before such a tier is asked the next time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::OwnedMutexGuard;

use super::guard::guarded;
use super::{CacheTier, Selector};
use crate::env::Env;

/// More than so many become one: the removal of everything.
const MOST: usize = 256;

/// What is still to be removed.
#[derive(Debug, Default)]
pub(super) struct Arrears {
    heard: Mutex<Vec<Selector>>,
    /// Locked by who carries it out.
    in_hand: Arc<tokio::sync::Mutex<Vec<Selector>>>,
    /// Whether there is anything in either.
    left: AtomicBool,
}

impl Arrears {
    /// To be removed before the tiers are asked again.
    pub(super) fn add(&self, selector: &Selector) {
        let mut heard = self.heard.lock();
        if heard.len() >= MOST {
            *heard = vec![Selector::All];
        } else {
            heard.push(selector.clone());
        }
        self.left.store(true, SeqCst);
    }

    /// Removes from these tiers what is left; whether nothing is, after at most so long. It goes on without who waits.
    pub(super) async fn settle(self: &Arc<Self>, env: &Env, limit: Duration, tiers: &[Arc<dyn CacheTier>]) -> bool {
        if !self.left.load(SeqCst) {
            return true;
        }
        let Ok(runtime) = Handle::try_current() else { return false };
        if let (Ok(in_hand), false) = (Arc::clone(&self.in_hand).try_lock_owned(), env.closing().is_cancelled()) {
            let (this, tiers) = (Arc::clone(self), tiers.to_vec());
            env.tasks().spawn_on(async move { this.carry_out(in_hand, &tiers).await }, &runtime);
        }
        let done = async {
            drop(self.in_hand.lock().await);
            Ok(())
        };
        guarded(env, limit, done).await.is_ok() && !self.left.load(SeqCst)
    }

    /// What fails is tried again the next time.
    async fn carry_out(&self, mut in_hand: OwnedMutexGuard<Vec<Selector>>, tiers: &[Arc<dyn CacheTier>]) {
        in_hand.append(&mut self.heard.lock());
        while let Some(selector) = in_hand.last() {
            for tier in tiers {
                if tier.remove(selector).await.is_err() {
                    return;
                }
            }
            in_hand.pop();
        }
        let heard = self.heard.lock();
        self.left.store(!heard.is_empty(), SeqCst);
    }
}
