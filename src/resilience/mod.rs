//! When a call may take longer, when it is tried again, and when it is given up.
//!
//! | Layer | Question it answers | Ends a call with |
//! |---|---|---|
//! | [`DeadlineLayer`] | by when must the whole call be answered, waits and retries included? | [`Deadline`] |
//! | [`RetryLayer`] | is it worth another attempt, and after which pause? | the last attempt's error, [`Spent`] |
//! | [`TimeoutLayer`] | how long may one attempt stay silent? | [`Timeout`], which may be retried |
//!
//! [`Deadline`]: crate::ErrorKind::Deadline
//! [`Spent`]: crate::Retryability::Spent
//! [`Timeout`]: crate::ErrorKind::Timeout
//!
//! They share two rules. Nothing is repeated once a chunk of the answer was handed out: the caller has seen it. And
//! everything that repeats a call pays from one [`RetryBudget`], so that an outage is not answered with a multiple of
//! the traffic that met it.

mod alarm;
mod backoff;
mod budget;
mod deadline;
mod limits;
mod policy;
mod retry;
mod timeout;

use std::fmt;
use std::time::Duration;

pub use budget::RetryBudget;
pub use deadline::DeadlineLayer;
pub use limits::Timeouts;
pub use policy::Retry;
pub use retry::RetryLayer;
pub use timeout::TimeoutLayer;

/// A duration for people: `500 ms`, `8 s`.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.as_secs(), self.0.subsec_nanos()) {
            (seconds, 0) => write!(f, "{seconds} s"),
            (_, nanos) if nanos % 1_000_000 == 0 => write!(f, "{} ms", self.0.as_millis()),
            _ => write!(f, "{:?}", self.0),
        }
    }
}
