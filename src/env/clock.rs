//! Time, injected.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Where the time comes from. Waits use the monotonic side only; the wall side is for stored expiry and reports.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Monotonic time.
    fn now(&self) -> Instant;

    /// The time of day.
    fn wall(&self) -> SystemTime;

    /// Completes at `until`; at once if that has passed. Dropping it cancels the wait.
    fn sleep_until(&self, until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Tokio's clock: real time, or the paused time of a test (`#[tokio::test(start_paused = true)]`), in which the time of
/// day moves along with the monotonic time. It does so in real time too: a change of the system's clock is not followed.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    started: Instant,
    started_wall: SystemTime,
}

#[allow(clippy::disallowed_methods, reason = "the one place where time is taken from the system")]
mod system {
    use super::*;

    pub(super) fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    pub(super) fn wall() -> SystemTime {
        SystemTime::now()
    }

    pub(super) fn sleep_until(until: Instant) -> tokio::time::Sleep {
        tokio::time::sleep_until(until.into())
    }
}

impl TokioClock {
    /// A clock that starts now.
    pub fn new() -> Self {
        Self { started: system::now(), started_wall: system::wall() }
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Instant {
        system::now()
    }

    fn wall(&self) -> SystemTime {
        let passed = system::now().saturating_duration_since(self.started);
        self.started_wall.checked_add(passed).unwrap_or(self.started_wall)
    }

    fn sleep_until(&self, until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(system::sleep_until(until))
    }
}

/// So that a test can keep a handle on the clock it gives away.
impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Instant {
        (**self).now()
    }

    fn wall(&self) -> SystemTime {
        (**self).wall()
    }

    fn sleep_until(&self, until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        (**self).sleep_until(until)
    }
}

/// `now + wait`, at most a century ahead: a duration from outside (a header, a setting) may be absurd, and
/// `Instant + Duration` panics on overflow.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
    now.checked_add(wait.min(CENTURY)).unwrap_or(now)
}
