//! The scheduler that comes with the crate: asks for the decision, and waits for its turn.

#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};

use super::admission::Rules;
use super::closing::Closing;
use super::concurrency::Limiter;
use super::decision::{Core, Grant, Verdict};
use super::entry::Entry;
use super::estimate::Estimator;
use super::event::AdmissionEvent;
#[cfg(feature = "redis")]
use super::fleet::{Fleet, FleetStatus};
use super::permit::Keeper;
use super::queue::Queue;
use super::rate::Rates;
use super::{Job, Load, ORIGIN, Outcome, Permit, Scheduler};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result, Retryability};

/// A running [`Admission`](super::Admission): concurrency, rates and a queue. Cloning shares it.
///
/// Uncontended, admitting takes one short lock. Under load, entering, leaving and being let in take O(log n). A future
/// of [`admit`](Scheduler::admit) that is not polled keeps what it was granted from others, and if it is the one that
/// looks after the time it holds up those behind it, as with any fair queue.
///
/// The one you keep controls every client that was given a clone:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use std::time::Duration;
/// use sluicegate::testing::Scripted;
/// use sluicegate::types::ChatRequest;
/// use sluicegate::{Admission, Env, LlmClient, OptimizedClient};
///
/// let gate = Admission::new().concurrency(2).start(&Env::new())?;
/// let llm = OptimizedClient::builder(Scripted::new()).schedule(gate.clone()).build()?;
///
/// gate.pause();
/// let call = llm.chat(ChatRequest::new("m").user("hi"));
/// let (answer, ()) = tokio::join!(call, async {
///     tokio::task::yield_now().await;
///     assert_eq!(gate.status().queued, 1);
///     gate.resume();
/// });
/// answer?;
/// gate.drain().await;
/// assert_eq!(gate.status().totals.admitted, 1);
/// assert!(llm.chat(ChatRequest::new("m").user("late")).await.is_err());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct AdmissionGate(pub(super) Arc<Shared>);

/// What every clone and every permit shares.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) env: Env,
    pub(super) rules: Rules,
    pub(super) started: Instant,
    pub(super) closing: Closing,
    /// Whether it always matters when a call starts.
    timed_starts: bool,
    /// Whether it always matters when one ends.
    timed_ends: bool,
    /// Whether the time matters for now, as of the last change: somebody waits, or a refusal holds somebody back.
    timed_now: AtomicBool,
    pub(super) events: OnceLock<broadcast::Sender<AdmissionEvent>>,
    /// Told when everything is over, while it drains.
    pub(super) idle: Notify,
    core: Mutex<Core>,
    /// What guesses the tokens of the requests of all its clients, and learns from all.
    estimator: Arc<Estimator>,
    #[cfg(feature = "redis")]
    fleet: Option<Fleet>,
}

impl AdmissionGate {
    pub(super) fn new(
        env: &Env,
        limiter: Limiter,
        rules: Rules,
        rates: Rates,
        estimator: Estimator,
        started: Instant,
    ) -> Self {
        #[cfg(feature = "redis")]
        let mut rates = rates;
        let queue = Queue::new(rules.order.clone(), rules.shed.newest_first_after());
        let shared = Shared {
            env: env.clone(),
            started,
            closing: Closing::by(env.closing().child_token()),
            timed_starts: rates.is_limited(),
            timed_ends: limiter.is_adaptive() || rates.is_shared(),
            timed_now: AtomicBool::new(false),
            events: OnceLock::new(),
            idle: Notify::new(),
            #[cfg(feature = "redis")]
            fleet: rates.take_fleet(),
            core: Mutex::new(Core::new(limiter, rates, queue)),
            estimator: Arc::new(estimator),
            rules,
        };
        Self(Arc::new(shared))
    }

    /// How the sharing goes, if the limits are [`shared`](super::Admission::shared).
    #[cfg(feature = "redis")]
    pub fn fleet(&self) -> Option<FleetStatus> {
        self.0.fleet.as_ref().map(Fleet::status)
    }

    /// Joins the fleet, if it has not.
    #[cfg(feature = "redis")]
    fn join(&self) {
        if let Some(fleet) = &self.0.fleet {
            fleet.start(|| {
                let shared = Arc::downgrade(&self.0);
                Box::new(move || match shared.upgrade() {
                    Some(shared) => {
                        let now = shared.env.now();
                        shared.change(|core| core.ask_again(now));
                        true
                    }
                    None => false,
                })
            });
        }
    }

    pub(super) fn estimator(&self) -> Arc<Estimator> {
        Arc::clone(&self.0.estimator)
    }

    fn permit(&self, grant: Grant) -> Permit {
        let Grant(number) = grant;
        Permit::kept(Arc::clone(&self.0) as _, number)
    }

    /// What one who waited for so long is told. It has its permit before the clock is read, which may panic.
    fn told(&self, verdict: Verdict, waited: impl FnOnce() -> Duration) -> Result<Permit> {
        match verdict {
            Verdict::Granted(grant) => Ok(self.permit(grant).with_queued(waited())),
            Verdict::Shed => {
                let message = "made room in a full queue; send less, or raise Admission::queue";
                Err(Error::new(ErrorKind::Overloaded, ORIGIN, message))
            }
            Verdict::Cleared => {
                let cleared = Error::new(ErrorKind::Overloaded, ORIGIN, "the queue was cleared while it waited");
                Err(cleared.with_retryability(Retryability::Never))
            }
        }
    }
}

#[async_trait]
impl Scheduler for AdmissionGate {
    async fn admit(&self, job: &Job<'_>) -> Result<Permit> {
        #[cfg(feature = "redis")]
        self.join();
        let mut ticket = match self.0.enter(job)? {
            Entry::Admitted(grant) => return Ok(self.permit(grant)),
            Entry::Held(ticket) => ticket,
        };
        // By hand, and what is rare behind a pointer: a hundred thousand may wait here.
        let env = &self.0.env;
        let entered = env.now();
        let mut expiry = job.deadline.map(|deadline| Box::pin(env.sleep_until(deadline)));
        let mut closed = pin!(self.0.closing.closed());
        poll_fn(|cx| {
            if closed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(shut_down()));
            }
            let waited = || env.now().saturating_duration_since(entered);
            if let Poll::Ready(verdict) = Pin::new(&mut ticket).poll(cx) {
                return Poll::Ready(self.told(verdict, waited));
            }
            match expiry.as_mut().map(|expiry| expiry.as_mut().poll(cx)) {
                Some(Poll::Ready(())) => {
                    let message = format!("still queued at its deadline, after {} ms", waited().as_millis());
                    Poll::Ready(Err(Error::new(ErrorKind::Deadline, ORIGIN, message)))
                }
                _ => Poll::Pending,
            }
        })
        .await
    }

    fn try_admit(&self, job: &Job<'_>) -> Result<Option<Permit>> {
        #[cfg(feature = "redis")]
        self.join();
        Ok(match self.0.try_enter(job)? {
            Entry::Admitted(grant) => Some(self.permit(grant)),
            Entry::Held(()) => None,
        })
    }

    fn load(&self) -> Load {
        self.0.change(|core| core.load())
    }

    fn close(&self) {
        self.0.closing.close();
    }
}

pub(super) fn shut_down() -> Error {
    Error::new(ErrorKind::Shutdown, ORIGIN, "the client shuts down and admits no more calls")
}

impl Shared {
    /// The time at which a call starts, if anything seems to depend on it. Inside the lock [`Core::is_timed`] says
    /// whether it does.
    pub(super) fn time_of_start(&self, matters: bool) -> Option<Instant> {
        self.time(matters || self.timed_starts)
    }

    fn time(&self, matters: bool) -> Option<Instant> {
        (matters || self.timed_now.load(Ordering::Relaxed)).then(|| self.env.now())
    }

    /// Changes the core, then does what is to be done with the lock free.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.core.lock();
        let answer = change(&mut core);
        self.timed_now.store(core.is_timed(), Ordering::Relaxed);
        let effects = (!core.effects.is_empty()).then(|| std::mem::take(&mut core.effects));
        let over = core.draining && core.is_idle();
        drop(core);
        if over {
            self.idle.notify_waiters();
        }
        if let Some(effects) = effects {
            if let Some(events) = self.events.get() {
                // Nobody listening any more is no failure.
                effects.events.into_iter().for_each(|event| drop(events.send(event)));
            }
            effects.wake.into_iter().for_each(Waker::wake);
        }
        answer
    }
}

impl Keeper for Shared {
    fn release(&self, number: usize, outcome: Option<Outcome<'_>>) {
        let mut time = self.time(self.timed_ends || outcome.is_some_and(|outcome| outcome.is_of_a_moment()));
        let mut grant = Some(Grant(number));
        loop {
            self.change(|core| {
                let ended = grant.take_if(|grant| time.is_some() || !core.is_timed_end(grant, outcome.as_ref()));
                if let Some(grant) = ended {
                    core.release(grant, outcome.as_ref(), time.unwrap_or(self.started));
                }
            });
            if grant.is_none() {
                return;
            }
            time = Some(self.env.now());
        }
    }
}
