//! The scheduler that comes with the crate: asks for the decision, and waits for its turn.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Instant;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

use super::admission::Rules;
use super::concurrency::Limiter;
use super::decision::{Core, Grant, Verdict};
use super::entry::Entry;
use super::estimate::Estimator;
use super::event::AdmissionEvent;
#[cfg(feature = "redis")]
use super::fleet::{Fleet, FleetStatus};
use super::queue::Queue;
use super::rate::Rates;
use super::ticket::Ticket;
use super::{Job, Load, ORIGIN, Outcome, Permit, PermitGuard, Scheduler};
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
    pub(super) closing: CancellationToken,
    /// Whether the time matters even when nobody waits.
    timed: bool,
    /// How many wait, as of the last change: whether the time matters.
    waiting: AtomicUsize,
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
            #[cfg(feature = "redis")]
            fleet: rates.take_fleet(),
            started,
            closing: env.closing().child_token(),
            timed: rates.is_limited() || limiter.is_adaptive(),
            waiting: AtomicUsize::new(0),
            events: OnceLock::new(),
            idle: Notify::new(),
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
                        let now = shared.now();
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
        Permit::new(Held { shared: Arc::clone(&self.0), grant })
    }

    async fn wait(&self, ticket: Ticket<'_>, deadline: Option<Instant>) -> Result<Permit> {
        let env = &self.0.env;
        let entered = env.now();
        let waited = || env.now().saturating_duration_since(entered);
        let expired = async {
            match deadline {
                Some(deadline) => env.sleep_until(deadline).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.0.closing.cancelled() => Err(shut_down()),
            verdict = ticket => match verdict {
                Verdict::Granted(grant) => Ok(self.permit(grant).with_queued(waited())),
                Verdict::Shed => {
                    let message = "made room in a full queue; send less, or raise Admission::queue";
                    Err(Error::new(ErrorKind::Overloaded, ORIGIN, message))
                }
                Verdict::Cleared => {
                    let cleared = Error::new(ErrorKind::Overloaded, ORIGIN, "the queue was cleared while it waited");
                    Err(cleared.with_retryability(Retryability::Never))
                }
            },
            () = expired => {
                let message = format!("still queued at its deadline, after {} ms", waited().as_millis());
                Err(Error::new(ErrorKind::Deadline, ORIGIN, message))
            }
        }
    }
}

#[async_trait]
impl Scheduler for AdmissionGate {
    async fn admit(&self, job: &Job<'_>) -> Result<Permit> {
        #[cfg(feature = "redis")]
        self.join();
        match self.0.enter(job)? {
            Entry::Admitted(grant) => Ok(self.permit(grant)),
            Entry::Queued(ticket) => self.wait(ticket, job.deadline).await,
        }
    }

    fn load(&self) -> Load {
        self.0.change(|core| core.load())
    }

    fn close(&self) {
        self.0.closing.cancel();
    }
}

pub(super) fn shut_down() -> Error {
    Error::new(ErrorKind::Shutdown, ORIGIN, "the client shuts down and admits no more calls")
}

impl Shared {
    /// The time, if anything depends on it.
    pub(super) fn now(&self) -> Instant {
        if self.is_timed() { self.env.now() } else { self.started }
    }

    /// Whether anything depends on the time.
    pub(super) fn is_timed(&self) -> bool {
        self.timed || self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Changes the core, then does what is to be done with the lock free.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.core.lock();
        let answer = change(&mut core);
        self.waiting.store(core.queue.len(), Ordering::Relaxed);
        let effects = std::mem::take(&mut core.effects);
        let over = core.draining && core.is_idle();
        drop(core);
        if over {
            self.idle.notify_waiters();
        }
        if let Some(events) = self.events.get() {
            // Nobody listening any more is no failure.
            effects.events.into_iter().for_each(|event| drop(events.send(event)));
        }
        effects.wake.into_iter().for_each(Waker::wake);
        answer
    }
}

/// What a permit holds.
struct Held {
    shared: Arc<Shared>,
    grant: Grant,
}

impl PermitGuard for Held {
    fn release(self: Box<Self>, outcome: Option<Outcome<'_>>) {
        let Self { shared, grant } = *self;
        let now = shared.now();
        shared.change(|core| core.release(grant, outcome.as_ref(), now));
    }
}
