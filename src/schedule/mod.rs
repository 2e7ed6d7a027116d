//! Which call may go upstream now: concurrency, requests and tokens per minute, priority.
//!
//! A [`Scheduler`] gives a [`Permit`] to every attempt. The one that comes with the crate is made of [`Admission`]:
//!
//! ```
//! use sluicegate::schedule::{Admission, ScheduleLayer};
//!
//! let layer = ScheduleLayer::from(Admission::new().concurrency(32).rpm(500).tpm(200_000));
//! ```
//!
//! The parts: `admission` holds the settings, `gate` the scheduler, `entry` what becomes of a job that asks, `decision` what
//! the lock guards and what must hold, `closing` the end of it, `ticket` a place in the queue, `queue` the order of those who wait, `pace` how fast it
//! moves, `concurrency` how many may be in flight, `control` pausing and draining, `status` and `event` what can be seen, `rate` what is allowed per minute,
//! `fleet` what several processes are allowed together, `estimate` the guess of a
//! request's tokens, `permit` what is handed out, `layer` the client around it; `sliding` a limit by key for a service's own
//! endpoints.

mod admission;
mod closing;
mod concurrency;
mod control;
mod decision;
mod entry;
mod estimate;
mod event;
#[cfg(feature = "redis")]
mod fleet;
mod gate;
mod layer;
mod pace;
mod permit;
mod queue;
mod rate;
mod sliding;
mod status;
mod ticket;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

pub use admission::{Admission, Shed};
pub use concurrency::Concurrency;
pub use estimate::OutputCount;
pub use event::{AdmissionEvent, AdmissionEvents, Heard};
#[cfg(feature = "redis")]
pub use fleet::{FleetLimits, FleetMode, FleetStatus};
pub use gate::AdmissionGate;
pub use layer::ScheduleLayer;
pub use permit::{Outcome, Permit, PermitGuard};
pub use rate::{Limit, LimitKey};
pub use sliding::{Left, SlidingWindow};
pub use status::{ClassStatus, Status, Totals};

use crate::error::Result;
use crate::types::Priority;

/// Where errors of this module come from.
const ORIGIN: &str = crate::layer::SCHEDULE;

/// Decides when a call may go upstream.
///
/// [`Admission`] makes the one that comes with the crate. Your own becomes a layer with
/// [`ScheduleLayer::from`]; it hands out [`Permit::new`] around anything that takes the end of the call:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use std::sync::Arc;
/// use sluicegate::schedule::{Job, Load, Outcome, Permit, Scheduler};
/// use sluicegate::{Error, ErrorKind};
///
/// #[derive(Debug)]
/// struct OneAtATime(Arc<tokio::sync::Semaphore>);
///
/// #[async_trait::async_trait]
/// impl Scheduler for OneAtATime {
///     async fn admit(&self, _job: &Job<'_>) -> sluicegate::Result<Permit> {
///         let turn = Arc::clone(&self.0).acquire_owned().await;
///         let turn = turn.map_err(|_| Error::new(ErrorKind::Shutdown, "one", "closed"))?;
///         Ok(Permit::new(move |_end: Option<Outcome<'_>>| drop(turn)))
///     }
///     fn load(&self) -> Load {
///         Load::new(1 - self.0.available_permits(), 0, 0)
///     }
///     fn close(&self) {
///         self.0.close();
///     }
/// }
///
/// let scheduler = OneAtATime(Arc::new(tokio::sync::Semaphore::new(1)));
/// let permit = scheduler.admit(&Job::new("m")).await?;
/// assert_eq!(scheduler.load().in_flight, 1);
/// drop(permit);
/// assert_eq!(scheduler.load().in_flight, 0);
/// # Ok(()) }
/// ```
#[async_trait]
pub trait Scheduler: fmt::Debug + Send + Sync + 'static {
    /// Waits until this job may start.
    ///
    /// Cancel-safe: dropping it at any poll leaves permits, reservations and queue as they were before, and hands its
    /// turn on.
    ///
    /// # Errors
    /// [`Overloaded`](crate::ErrorKind::Overloaded) when too many wait, [`Deadline`](crate::ErrorKind::Deadline) when
    /// the job cannot start in time, [`InvalidRequest`](crate::ErrorKind::InvalidRequest) when it never can, and
    /// [`Shutdown`](crate::ErrorKind::Shutdown).
    async fn admit(&self, job: &Job<'_>) -> Result<Permit>;

    /// Lets this job start if it can without waiting; `None` if it cannot, and nothing has changed: then
    /// [`admit`](Self::admit) is asked. Nobody overtakes those who wait.
    ///
    /// Saves a call that need not wait the allocation of a future. Unless a scheduler has its own, nothing starts so.
    ///
    /// # Errors
    /// Those of [`admit`](Self::admit), where waiting would not help.
    fn try_admit(&self, _job: &Job<'_>) -> Result<Option<Permit>> {
        Ok(None)
    }

    /// How busy it is now.
    fn load(&self) -> Load;

    /// Admits nobody any more: whoever waits or asks gets [`Shutdown`](crate::ErrorKind::Shutdown). Permits already
    /// given stay good.
    fn close(&self);
}

macro_rules! forward {
    ($pointer:ident) => {
        #[async_trait]
        impl<S: Scheduler + ?Sized> Scheduler for $pointer<S> {
            async fn admit(&self, job: &Job<'_>) -> Result<Permit> {
                (**self).admit(job).await
            }

            fn try_admit(&self, job: &Job<'_>) -> Result<Option<Permit>> {
                (**self).try_admit(job)
            }

            fn load(&self) -> Load {
                (**self).load()
            }

            fn close(&self) {
                (**self).close();
            }
        }
    };
}

forward!(Arc);
forward!(Box);

/// What asks for admission: one attempt of one call.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Job<'a> {
    /// The model asked for.
    pub model: &'a str,
    /// How much it matters.
    pub priority: Priority,
    /// Estimated input tokens.
    pub input_tokens: u64,
    /// Estimated output tokens, over all choices.
    pub output_tokens: u64,
    /// When its answer must be there.
    pub deadline: Option<Instant>,
    /// Whose it is.
    pub tenant: Option<&'a str>,
    /// Whether the output is an average of other answers, not a limit that the request sets.
    output_is_guess: bool,
}

impl<'a> Job<'a> {
    /// A job of normal priority, without tokens and without deadline.
    pub fn new(model: &'a str) -> Self {
        let (priority, deadline) = (Priority::default(), None);
        Self { model, priority, input_tokens: 0, output_tokens: 0, deadline, tenant: None, output_is_guess: false }
    }

    /// Sets the estimate of its tokens.
    #[must_use]
    pub fn tokens(mut self, input: u64, output: u64) -> Self {
        (self.input_tokens, self.output_tokens) = (input, output);
        self
    }

    /// Sets its priority.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Sets its deadline.
    #[must_use]
    pub fn deadline(mut self, deadline: Option<Instant>) -> Self {
        self.deadline = deadline;
        self
    }

    /// Says whose it is.
    #[must_use]
    pub fn tenant(mut self, tenant: Option<&'a str>) -> Self {
        self.tenant = tenant;
        self
    }

    /// What it reserves: estimated input and output.
    pub fn total_tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }
}

/// How busy a scheduler is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Load {
    /// Calls admitted and not yet over.
    pub in_flight: usize,
    /// Calls waiting for admission.
    pub queued: usize,
    /// Tokens estimated for the calls in flight.
    pub reserved_tokens: u64,
    /// How many may be in flight at once; `None` when that is not limited.
    pub concurrency: Option<usize>,
}

impl Load {
    /// So many in flight, waiting, and reserved; no concurrency limit.
    pub fn new(in_flight: usize, queued: usize, reserved_tokens: u64) -> Self {
        Self { in_flight, queued, reserved_tokens, concurrency: None }
    }
}
