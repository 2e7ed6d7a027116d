//! How many calls may be in flight: a number, or one that follows what comes back.

mod adaptive;
mod growing;

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Instant;

use adaptive::{Aimd, Gradient};
use growing::Growing;

use super::{ORIGIN, Outcome};
use crate::error::{Error, Result};

/// How many calls may be in flight at once, streams until their end.
///
/// ```
/// use sluicegate::schedule::{Admission, Concurrency};
///
/// let fixed = Admission::new().concurrency(32);
/// let adaptive = Admission::new().concurrency(Concurrency::aimd(4..=64));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concurrency(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Fixed(usize),
    Aimd(RangeInclusive<usize>),
    Gradient(RangeInclusive<usize>),
    Growing(RangeInclusive<usize>, usize),
}

impl Concurrency {
    /// So many, always; at least 1.
    pub fn fixed(calls: usize) -> Self {
        Self(Kind::Fixed(calls))
    }

    /// Additive increase, multiplicative decrease, as TCP does it (RFC 5681): for an upstream that says when it has too
    /// much. Within these bounds, both at least 1.
    ///
    /// It starts at the lower one and grows by one with every answer until the first refusal, then by one with every
    /// round of answers, and only while at least half of it is in use. A refusal
    /// ([`RateLimited`](crate::ErrorKind::RateLimited), [`Overloaded`](crate::ErrorKind::Overloaded), status 503 or 529)
    /// takes it to seven tenths, the factor of CUBIC (RFC 9438), once per round trip: refusals of calls that began
    /// before the last decrease tell nothing new.
    pub fn aimd(bounds: RangeInclusive<usize>) -> Self {
        Self(Kind::Aimd(bounds))
    }

    /// Follows the time to the first chunk: for an upstream that gets slower before it refuses, such as a model of your
    /// own. Within these bounds, both at least 1.
    ///
    /// The gradient of Netflix's `concurrency-limits` (Gradient2): with each round of answers, the limit is multiplied
    /// by how much the long average exceeds the round's (between 0.5 and 1, half as slow again is tolerated), and its
    /// square root is added as head room. It starts at 20, grows only while half of it is in use, and answers to
    /// refusals like [`aimd`](Self::aimd). Only streams tell the time to their first chunk; other calls count by their
    /// refusals. The total latency is never looked at: it would teach the limit how long answers are.
    pub fn gradient(bounds: RangeInclusive<usize>) -> Self {
        Self(Kind::Gradient(bounds))
    }

    /// Grows with the queue: the lower bound, and one more for every four who wait, up to the upper one; with each call
    /// that ends while nobody waits, one less. Both at least 1. For an upstream that is kinder, or cheaper, when it is
    /// not used to the full, and for one that scales with its load.
    pub fn growing(bounds: RangeInclusive<usize>) -> Self {
        Self(Kind::Growing(bounds, 4))
    }

    /// How many must wait for one more place, if it is [`growing`](Self::growing); at least 1. Default 4.
    #[must_use]
    pub fn waiting_per_place(mut self, waiters: usize) -> Self {
        if let Kind::Growing(_, per) = &mut self.0 {
            *per = waiters;
        }
        self
    }

    /// The running limit.
    pub(super) fn start(&self) -> Result<Limiter> {
        let refuse = |value: &dyn fmt::Display, remedy| Err(Error::config(ORIGIN, "concurrency", value, remedy));
        if let Kind::Aimd(bounds) | Kind::Gradient(bounds) | Kind::Growing(bounds, _) = &self.0
            && (*bounds.start() == 0 || bounds.is_empty())
        {
            let value = format!("{bounds:?}");
            return refuse(&value, "use bounds of at least 1, the lower one first");
        }
        match &self.0 {
            Kind::Fixed(0) => refuse(&0, "allow at least 1 call in flight, or leave it out for no limit"),
            Kind::Growing(_, 0) => {
                let remedy = "let at least 1 wait for one more place, or leave it out for 4";
                Err(Error::config(ORIGIN, "waiting_per_place", 0, remedy))
            }
            Kind::Fixed(calls) => Ok(Limiter::Fixed(*calls)),
            Kind::Aimd(bounds) => Ok(Limiter::Aimd(Aimd::new(bounds.clone()))),
            Kind::Gradient(bounds) => Ok(Limiter::Gradient(Gradient::new(bounds.clone()))),
            Kind::Growing(bounds, per) => Ok(Limiter::Growing(Growing::new(bounds.clone(), *per))),
        }
    }
}

impl From<usize> for Concurrency {
    fn from(calls: usize) -> Self {
        Self::fixed(calls)
    }
}

impl fmt::Display for Concurrency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Fixed(calls) => write!(f, "{calls}"),
            Kind::Aimd(bounds) => write!(f, "aimd {bounds:?}"),
            Kind::Gradient(bounds) => write!(f, "gradient {bounds:?}"),
            Kind::Growing(bounds, _) => write!(f, "growing {bounds:?}"),
        }
    }
}

/// The limit as it runs.
#[derive(Debug)]
pub(super) enum Limiter {
    Unlimited,
    Fixed(usize),
    Aimd(Aimd),
    Gradient(Gradient),
    Growing(Growing),
}

impl Limiter {
    /// How many may be in flight now; `None`: any number.
    pub(super) fn limit(&self) -> Option<usize> {
        match self {
            Self::Unlimited => None,
            Self::Fixed(calls) => Some(*calls),
            Self::Aimd(aimd) => Some(aimd.limit()),
            Self::Gradient(gradient) => Some(gradient.limit()),
            Self::Growing(growing) => Some(growing.limit()),
        }
    }

    /// Whether it may change, so that the time matters.
    pub(super) fn is_adaptive(&self) -> bool {
        matches!(self, Self::Aimd(_) | Self::Gradient(_))
    }

    /// A call has ended while so many were in flight, itself among them.
    pub(super) fn ended(&mut self, outcome: Option<&Outcome<'_>>, in_flight: usize, waiting: usize, now: Instant) {
        match (self, outcome) {
            (Self::Aimd(aimd), Some(outcome)) => aimd.ended(outcome, in_flight, now),
            (Self::Gradient(gradient), Some(outcome)) => gradient.ended(outcome, in_flight, now),
            (Self::Growing(growing), _) => growing.ended(waiting),
            _ => {}
        }
    }

    /// So many wait now, one more than before.
    pub(super) fn entered(&mut self, waiting: usize) {
        if let Self::Growing(growing) = self {
            growing.entered(waiting);
        }
    }
}
