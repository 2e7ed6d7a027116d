//! What Redis refuses a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Desk, JobQueue, gauges};
use crate::error::Error;

/// What Redis has refused the workers of a queue's handle, each time for a whole [`hold`](super::Worker::hold).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct JobRefusals {
    /// How many steps: attempts that could not be begun, verdicts that could not be kept, and holds in which no job could be
    /// taken, or none be kept hold of.
    pub count: u64,
    /// The last of them; its [`code`](Error::code) is the server's own word, such as `NOPERM`, `READONLY` or `WRONGTYPE`.
    pub last: Option<Error>,
}

#[derive(Default)]
pub(super) struct Refusals(Mutex<JobRefusals>);

/// Whether the server has said no, and would say so again until somebody changes something. One that starts, is busy or
/// looks for its master is as good as away.
pub(super) fn is_refusal(error: &Error) -> bool {
    let passes = |code| matches!(code, "LOADING" | "BUSY" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN");
    error.code().is_some_and(|code| !passes(code))
}

impl<T, O> JobQueue<T, O>
where
    T: Serialize + DeserializeOwned + Send + 'static,
    O: Serialize + DeserializeOwned + Send + 'static,
{
    /// What Redis has refused the workers of this handle and its clones so far. With the feature `metrics` the counter
    /// `sluicegate.jobs.refused`, labelled with the queue's name, tells the same.
    pub fn refusals(&self) -> JobRefusals {
        self.desk.refusals.0.lock().clone()
    }
}

impl Desk {
    pub(super) fn refused(&self, error: Error) {
        let mut refusals = self.refusals.0.lock();
        refusals.count += 1;
        refusals.last = Some(error);
        drop(refusals);
        gauges::refused(&self.settings.name);
    }
}

/// What a worker asks over and over. It goes on, so a refusal is told once a hold, for as long as it lasts.
pub(super) struct Routine {
    desk: Arc<Desk>,
    hold: Duration,
    told: Arc<AtomicU64>,
    /// When a hold of refusals ends. What fails otherwise in between changes nothing.
    due: Mutex<Option<Instant>>,
}

impl Routine {
    pub(super) fn new(desk: &Arc<Desk>, hold: Duration, told: &Arc<AtomicU64>) -> Self {
        Self { desk: Arc::clone(desk), hold, told: Arc::clone(told), due: Mutex::new(None) }
    }

    pub(super) fn answered(&self) {
        *self.due.lock() = None;
    }

    pub(super) fn failed(&self, error: Error) {
        if !is_refusal(&error) {
            return;
        }
        let env = &self.desk.env;
        let mut due = self.due.lock();
        if env.now() < *due.get_or_insert_with(|| env.after(self.hold)) {
            return;
        }
        *due = Some(env.after(self.hold));
        drop(due);
        self.told.fetch_add(1, Relaxed);
        self.desk.refused(error);
    }
}

impl Refusals {
    pub(super) fn count(&self) -> u64 {
        self.0.lock().count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_server_that_is_away_or_about_to_come_has_refused_nothing() {
        let error = |code: &str| Error::new(ErrorKind::Server, "test", "").with_code(code);
        for code in ["NOPERM", "NOAUTH", "WRONGPASS", "WRONGTYPE", "READONLY", "OOM", "MISCONF", "ERR"] {
            assert!(is_refusal(&error(code)), "{code}");
        }
        for code in ["LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN"] {
            assert!(!is_refusal(&error(code)), "{code}");
        }
        assert!(!is_refusal(&Error::new(ErrorKind::Network, "test", "")));
    }
}
