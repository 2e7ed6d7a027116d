//! The scheduler that comes with the crate: asks for the decision, and waits for its turn.

use std::future::pending;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::decision::{Core, Grant};
use super::rate::Rates;
use super::ticket::Ticket;
use super::{Job, Load, ORIGIN, Outcome, Permit, PermitGuard, Scheduler};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

/// A running [`Admission`](super::Admission): concurrency, rates and a queue. Cloning shares it.
///
/// Uncontended, admitting takes one short lock. Under load, entering, leaving and being let in take O(log n). A future
/// of [`admit`](Scheduler::admit) that is not polled holds up those behind it as soon as it is at the head, as with any
/// fair queue.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use sluicegate::Env;
/// use sluicegate::schedule::{Admission, Job, Scheduler};
///
/// let gate = Admission::new().concurrency(2).start(&Env::new())?;
/// let permit = gate.admit(&Job::new("m").tokens(100, 50)).await?;
/// assert_eq!((gate.load().in_flight, gate.load().reserved_tokens), (1, 150));
/// drop(permit);
/// assert_eq!(gate.load().in_flight, 0);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct AdmissionGate(Arc<Shared>);

/// What every clone and every permit shares.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) env: Env,
    started: Instant,
    closing: CancellationToken,
    concurrency: Option<usize>,
    queue_limit: usize,
    timed: bool,
    pub(super) core: Mutex<Core>,
}

impl AdmissionGate {
    pub(super) fn new(
        env: &Env,
        concurrency: Option<usize>,
        queue_limit: usize,
        rates: Rates,
        started: Instant,
    ) -> Self {
        let shared = Shared {
            env: env.clone(),
            started,
            closing: env.closing().child_token(),
            concurrency,
            queue_limit,
            timed: rates.is_limited(),
            core: Mutex::new(Core::new(concurrency, rates)),
        };
        Self(Arc::new(shared))
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
            grant = ticket.granted() => Ok(self.permit(grant).with_queued(waited())),
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
        match self.0.enter(job)? {
            Entry::Admitted(grant) => Ok(self.permit(grant)),
            Entry::Queued(ticket) => self.wait(ticket, job.deadline).await,
        }
    }

    fn load(&self) -> Load {
        Load { concurrency: self.0.concurrency, ..self.0.core.lock().load() }
    }

    fn close(&self) {
        self.0.closing.cancel();
    }
}

fn shut_down() -> Error {
    Error::new(ErrorKind::Shutdown, ORIGIN, "the client shuts down and admits no more calls")
}

enum Entry<'a> {
    Admitted(Grant),
    Queued(Ticket<'a>),
}

impl Shared {
    /// Lets a job in, queues it, or refuses it.
    fn enter(&self, job: &Job<'_>) -> Result<Entry<'_>> {
        let refuse = |kind, message: String| Err(Error::new(kind, ORIGIN, message));
        if self.closing.is_cancelled() {
            return Err(shut_down());
        }
        let now = if job.deadline.is_some() { self.env.now() } else { self.now() };
        let too_late = |start: Instant| job.deadline.is_some_and(|deadline| start >= deadline);
        if too_late(now) {
            return refuse(ErrorKind::Deadline, "its deadline had passed before it asked for admission".to_owned());
        }
        let mut core = self.core.lock();
        let ask = core.rates.ask(job)?;
        if let Some(grant) = core.take_ahead(job.priority, ask, now) {
            return Ok(Entry::Admitted(grant));
        }
        if let Some(start) = core.rates.earliest(ask, now).filter(|start| too_late(*start)) {
            let wait = start.saturating_duration_since(now).as_millis();
            let message = format!("the limits per minute allow it in {wait} ms at the earliest, after its deadline");
            return refuse(ErrorKind::Deadline, message);
        }
        let waiting = core.queue.len();
        if waiting >= self.queue_limit {
            let advice = "send less, or raise Admission::queue or the limits they wait for";
            return refuse(ErrorKind::Overloaded, format!("{waiting} calls wait already; {advice}"));
        }
        let place = core.enter(job.priority, ask);
        Ok(Entry::Queued(Ticket::new(self, place)))
    }

    /// The time, if anything depends on it.
    pub(super) fn now(&self) -> Instant {
        if self.timed { self.env.now() } else { self.started }
    }

    /// Changes the core, then wakes whom that lets in.
    pub(super) fn change(&self, change: impl FnOnce(&mut Core, Instant) -> Vec<Waker>) {
        let now = self.now();
        // Two statements, so that the lock is free when the wakers run.
        let wake = change(&mut self.core.lock(), now);
        wake.into_iter().for_each(Waker::wake);
    }
}

/// What a permit holds.
struct Held {
    shared: Arc<Shared>,
    grant: Grant,
}

impl PermitGuard for Held {
    fn release(self: Box<Self>, outcome: Option<Outcome<'_>>) {
        self.shared.change(|core, now| {
            core.release(self.grant, outcome.as_ref(), now);
            core.let_in(None, now)
        });
    }
}
