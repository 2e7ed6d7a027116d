//! Whose turn it is to ask upstream, among the processes of a fleet.
//!
//! Whoever takes the lease of a key asks. The others look for its answer, at growing distances, and try for the lease
//! again each time: when the holder dies, its lease ends with the term, and the next one asks. A lease is short and is
//! renewed while its holder's flight is polled, so a long answer holds it as long as it takes, and a dead holder delays
//! the others by no more than one term. A holder whose answer has been removed before it came lets the next one ask: who
//! asks after a removal does not wait for what was asked before. Whatever keeps the shared store from saying whose turn it
//! is, one asks without.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::fill::{Parts, Question};
use super::fleet::{Lease, Leasing};
use super::freshness::keeps;
use super::near::Moment;
use super::space::Space;
use super::tiers::{Found, Tiers};
use super::{Labels, Probe};
use crate::env::Env;
use crate::error::{Error, ErrorKind};
use crate::types::CacheControl;

/// How long those who wait leave between two looks: twice as long each time.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_millis(100);

/// A lease is taken for so long at first, and for its whole term once it is known to be ours: one whose reply was lost
/// delays the others no longer than this. Not shorter: on a busy machine it would run out before it is known, and others
/// would ask the same.
const FIRST_TERM: Duration = Duration::from_secs(1);

/// For how long nobody needs a lease after one that brought no answer to keep.
const OPEN_FOR: Duration = Duration::from_secs(1);

/// Whose turn it is.
pub(super) enum Turn {
    /// Somebody's answer is there.
    Found(Found),
    /// Ours; with the lease, if there is one.
    Ask(Option<Held>),
}

impl Parts {
    /// Waits until the answer is there or it is our turn to ask.
    pub(super) async fn turn(&self, space: &Space, probe: &Arc<Probe>, question: &Question) -> Turn {
        let control = question.request.extensions.get::<CacheControl>();
        // What is not to be kept, or not to be taken from others, is nobody else's business; and nobody waits for hours.
        let alone = control.is_some_and(|control| !keeps(control) || control.no_cache);
        if alone || self.defers(&question.request, question.streaming) {
            return Turn::Ask(None);
        }
        let look = |probe: Probe| async move { self.stored_meanwhile(space, &probe, question).await };
        let wanted = || question.labels();
        turn((&self.shared.tiers, self.shared.lease_term), &self.env, (probe, wanted), look).await
    }
}

/// Waits until somebody's answer is there, as `look` finds it, or it is our turn to ask.
pub(super) async fn turn<F: Future<Output = Option<Found>>>(
    (tiers, term): (&Arc<Tiers>, Duration),
    env: &Env,
    (probe, labels): (&Arc<Probe>, impl Fn() -> Labels),
    look: impl Fn(Probe) -> F,
) -> Turn {
    if !tiers.has_fleet() {
        return Turn::Ask(None);
    }
    let key = probe.key();
    let mut wait = FIRST_LOOK;
    loop {
        let since = tiers.near().now();
        let answer = tiers.ask_fleet(env, |fleet| async move { fleet.lease(&key, term.min(FIRST_TERM)).await }).await;
        let held = match answer {
            Some(Leasing::Held(lease)) => {
                let wanted = Wanted { since, labels: labels(), probe: Arc::clone(probe) };
                Some(Held::new((Arc::clone(tiers), term), env.clone(), lease, wanted))
            }
            Some(Leasing::Taken) => None,
            Some(Leasing::Open) | None => return Turn::Ask(None),
        };
        if held.is_none() {
            env.sleep(wait).await;
            wait = (wait * 2).min(LONGEST_LOOK);
        }
        // The last holder's answer may have come between our look and our lease.
        if let Some(found) = look(probe.again(env.now())).await {
            if let Some(held) = held {
                held.give_back(Duration::ZERO).await;
            }
            return Turn::Found(found);
        }
        if held.is_some() {
            return Turn::Ask(held);
        }
    }
}

/// What an answer is asked for, and since when: as long as nobody removes it, it will be kept.
struct Wanted {
    since: Moment,
    labels: Labels,
    probe: Arc<Probe>,
}

/// A lease we hold.
pub(super) struct Held {
    tiers: Arc<Tiers>,
    env: Env,
    lease: Option<Lease>,
    renewal: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Held {
    fn new((tiers, term): (Arc<Tiers>, Duration), env: Env, lease: Lease, wanted: Wanted) -> Self {
        let renewal = Box::pin(renew((Arc::clone(&tiers), term), env.clone(), lease.clone(), wanted));
        Self { tiers, env, lease: Some(lease), renewal }
    }

    /// Keeps the lease alive; to be polled whenever what is done under it is.
    pub(super) fn tend(&mut self, cx: &mut Context<'_>) {
        if self.renewal.as_mut().poll(cx).is_ready() {
            self.renewal = Box::pin(std::future::pending());
        }
    }

    /// Gives the lease back without an answer.
    pub(super) async fn give_back(mut self, open_for: Duration) {
        if let Some(lease) = self.lease.take() {
            give_back(&self.tiers, &self.env, &lease, open_for).await;
        }
    }

    /// Gives the lease back without an answer that others could have.
    pub(super) async fn open(self) {
        self.give_back(OPEN_FOR).await;
    }

    /// Gives the lease back after a failure. One that was ours alone says nothing to the others: the next of them asks.
    pub(super) async fn failed(self, error: &Error) {
        let ours = error.kind() == ErrorKind::Deadline;
        self.give_back(if ours { Duration::ZERO } else { OPEN_FOR }).await;
    }

    /// The lease, to put an answer under; it is given back by that.
    pub(super) fn spend(mut self) -> Option<Lease> {
        self.lease.take()
    }
}

async fn give_back(tiers: &Tiers, env: &Env, lease: &Lease, open_for: Duration) {
    // Failing that, it ends with its term.
    tiers.ask_fleet(env, |fleet| async move { fleet.release(lease, open_for).await }).await;
}

/// Renews the lease three times a term until it is lost, or of no more use.
async fn renew((tiers, term): (Arc<Tiers>, Duration), env: Env, lease: Lease, wanted: Wanted) {
    let (lease, Wanted { since, labels, probe }) = (&lease, wanted);
    loop {
        if !tiers.near().spares_asked(since, &labels, &probe) {
            return give_back(&tiers, &env, lease, Duration::ZERO).await;
        }
        let kept = tiers.ask_fleet(&env, |fleet| async move { fleet.renew(lease, term).await }).await;
        if kept == Some(false) {
            return;
        }
        env.sleep(term / 3).await;
    }
}

/// Who goes away while asking gives the lease back, so that the others need not wait for its end.
impl Drop for Held {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (tiers, env) = (Arc::clone(&self.tiers), self.env.clone());
        if !env.tasks().is_closed() {
            let tasks = env.tasks().clone();
            tasks.spawn_on(async move { give_back(&tiers, &env, &lease, Duration::ZERO).await }, &runtime);
        }
    }
}

/// Does this while the lease, if there is one, is kept alive.
pub(super) async fn under<T>(held: &mut Option<Held>, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|cx| {
        let done = work.as_mut().poll(cx);
        if let (Poll::Pending, Some(held)) = (&done, held.as_mut()) {
            held.tend(cx);
        }
        done
    })
    .await
}
