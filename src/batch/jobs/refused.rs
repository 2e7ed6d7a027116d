//! What Redis refuses a worker.

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Desk, JobQueue, gauges};
use crate::error::Error;

/// What Redis has refused the workers of a queue's handle, each time for a whole [`hold`](super::Worker::hold).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct JobRefusals {
    /// How many steps: attempts that could not be begun, and verdicts that could not be kept.
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
