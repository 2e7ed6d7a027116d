//! When a job that failed is tried again.

use std::time::Duration;

use crate::batch::ORIGIN;
use crate::error::{Error, ErrorKind, Result, Retryability};

/// As long as a job can be delayed; Redis counts in doubles, and cannot add much more to a time.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// Exponential back-off with full jitter between the attempts of a job: before the n-th retry a wait between nothing and
/// `base * 2^(n-1)`, at most `cap`, evenly distributed (AWS Architecture Blog, "Exponential Backoff And Jitter"). A
/// provider's hint is waited for first. A job waits in Redis: no worker is held up by it.
///
/// A failure counts as passing when its [`Retryability`] says so, when the retries of the client itself are spent (they
/// take seconds, these take minutes), and when the job panicked.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct JobRetry {
    base: Duration,
    cap: Duration,
}

impl JobRetry {
    /// A base of 1 s and a cap of 5 min: five attempts last through an outage of some seconds, and ten through one of
    /// some minutes.
    pub fn standard() -> Self {
        Self { base: Duration::from_secs(1), cap: Duration::from_secs(300) }
    }

    /// The longest first wait, 1 ms to 1 h; 1 s unless set.
    pub fn base(mut self, base: Duration) -> Self {
        self.base = base;
        self
    }

    /// The longest wait, 1 ms to 24 h; 5 min unless set. Hints of providers are not cut below 1 year.
    pub fn cap(mut self, cap: Duration) -> Self {
        self.cap = cap;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        let (ms, hour) = (Duration::from_millis(1), Duration::from_secs(3600));
        Error::unless_within(ORIGIN, "retry base", self.base, ms..=hour)?;
        Error::unless_within(ORIGIN, "retry cap", self.cap, ms..=hour * 24)
    }

    /// How long to wait after attempt number `attempt`, counted from 1; none when trying again is of no use.
    pub(super) fn wait(&self, error: &Error, attempt: u32, unit: f64) -> Option<Duration> {
        if error.retryability() == Retryability::Never && error.kind() != ErrorKind::Panicked {
            return None;
        }
        let longest = self.base.saturating_mul(1 << attempt.saturating_sub(1).min(31)).min(self.cap);
        let wait = Duration::try_from_secs_f64(longest.as_secs_f64() * unit).unwrap_or(longest);
        Some(error.retry_after().unwrap_or_default().saturating_add(wait).min(LONGEST))
    }
}

impl Default for JobRetry {
    fn default() -> Self {
        Self::standard()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap_after_the_hint_and_only_for_what_passes() {
        let retry = JobRetry::standard().cap(Duration::from_secs(5));
        let failed = Error::new(ErrorKind::Server, "test", "");
        let waits = [1, 2, 3, 4, u32::MAX].map(|attempt| retry.wait(&failed, attempt, 1.0).unwrap().as_secs());
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        assert_eq!(retry.wait(&failed, 3, 0.0), Some(Duration::ZERO));
        let hint = Duration::from_secs(60);
        let limited = failed.clone().with_retryability(Retryability::After(Some(hint)));
        assert_eq!(retry.wait(&limited, 1, 0.5), Some(hint + Duration::from_millis(500)));
        let never = failed.clone().with_retryability(Retryability::After(Some(Duration::MAX)));
        assert_eq!(retry.wait(&never, 1, 0.5), Some(LONGEST));
        assert!(retry.wait(&failed.clone().with_retryability(Retryability::Spent), 1, 0.5).is_some());
        assert!(retry.wait(&Error::new(ErrorKind::Panicked, "test", ""), 1, 0.5).is_some());
        assert_eq!(retry.wait(&Error::new(ErrorKind::Auth, "test", ""), 1, 0.5), None);
        assert!(retry.check().is_ok() && retry.base(Duration::ZERO).check().is_err());
    }
}
