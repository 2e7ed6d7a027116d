//! The right to make one call, and how it ends.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Job;
use crate::error::{Error, ErrorKind};
use crate::types::{RateLimits, Usage};

/// Takes the end of a call, exactly once: what came of it when the permit was settled, `None` when it was dropped.
///
/// Called on the task that ends the call, possibly while it is dropped: it must not block and must not panic. Any
/// `FnOnce(Option<Outcome<'_>>)` is one.
pub trait PermitGuard: Send + 'static {
    /// The call is over: free what it held.
    fn release(self: Box<Self>, outcome: Option<Outcome<'_>>);
}

impl<F: FnOnce(Option<Outcome<'_>>) + Send + 'static> PermitGuard for F {
    fn release(self: Box<Self>, outcome: Option<Outcome<'_>>) {
        self(outcome);
    }
}

/// Takes the ends of many calls, told apart by number: their permits need no allocation each.
pub(super) trait Keeper: Send + Sync {
    /// As a [`PermitGuard`] does.
    fn release(&self, number: usize, outcome: Option<Outcome<'_>>);
}

enum Guard {
    Own(Box<dyn PermitGuard>),
    Kept(Arc<dyn Keeper>, usize),
}

impl Guard {
    fn release(self, outcome: Option<Outcome<'_>>) {
        match self {
            Self::Own(guard) => guard.release(outcome),
            Self::Kept(keeper, number) => keeper.release(number, outcome),
        }
    }
}

/// The right to make one call.
///
/// [`settle`](Self::settle) it when the call is over. Dropped without that, the call counts as abandoned: its place is
/// freed and its token reservation refunded in full.
#[must_use = "a permit that is dropped at once admits nothing"]
pub struct Permit {
    guard: Option<Guard>,
    queued: Duration,
}

impl Permit {
    /// A permit that tells `guard` how the call ended.
    pub fn new(guard: impl PermitGuard) -> Self {
        Self { guard: Some(Guard::Own(Box::new(guard))), queued: Duration::ZERO }
    }

    /// A permit that tells `keeper` how the call of this number ended.
    pub(super) fn kept(keeper: Arc<dyn Keeper>, number: usize) -> Self {
        Self { guard: Some(Guard::Kept(keeper, number)), queued: Duration::ZERO }
    }

    /// Says how long the call waited for it.
    pub fn with_queued(mut self, queued: Duration) -> Self {
        self.queued = queued;
        self
    }

    /// How long the call waited for admission; zero when it did not have to.
    pub fn queued(&self) -> Duration {
        self.queued
    }

    /// Reports how the call ended, and frees what it held.
    pub fn settle(mut self, outcome: Outcome<'_>) {
        if let Some(guard) = self.guard.take() {
            guard.release(Some(outcome));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.release(None);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("queued", &self.queued).finish_non_exhaustive()
    }
}

/// How an admitted call ended.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Outcome<'a> {
    /// What it used, as the provider counted.
    pub usage: Option<&'a Usage>,
    /// Why it failed, if it did.
    pub error: Option<&'a Error>,
    /// From admission to the end of the answer.
    pub latency: Duration,
    /// From admission to the first chunk of a stream; `None` without one.
    pub first_chunk: Option<Duration>,
    /// What the provider said is left, if it did.
    pub limits: Option<&'a RateLimits>,
    /// How long ago it said so: a stream's opening tells it, its end reports it.
    pub limits_age: Duration,
}

/// The tokens that count for a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Spent {
    /// Input, the cached part included.
    pub(super) input: u64,
    /// Of it from the provider's prompt cache.
    pub(super) cached: u64,
    pub(super) output: u64,
}

impl Spent {
    /// Whether it is the estimate.
    pub(super) fn is(&self, input: u64, output: u64) -> bool {
        (self.input, self.output) == (input, output)
    }
}

impl<'a> Outcome<'a> {
    /// It was answered.
    pub fn answered(usage: Option<&'a Usage>, latency: Duration) -> Self {
        Self { usage, error: None, latency, first_chunk: None, limits: None, limits_age: Duration::ZERO }
    }

    /// It failed; what it used all the same and what the provider said is left are taken from the error.
    pub fn failed(error: &'a Error, latency: Duration) -> Self {
        let (usage, limits) = (error.usage(), error.rate_limits());
        Self { usage, error: Some(error), latency, first_chunk: None, limits, limits_age: Duration::ZERO }
    }

    /// Says what the provider said is left, and how long ago that was.
    #[must_use]
    pub fn with_limits(mut self, limits: Option<&'a RateLimits>, age: Duration) -> Self {
        (self.limits, self.limits_age) = (limits, age);
        self
    }

    /// Says when a stream's first chunk came.
    #[must_use]
    pub fn with_first_chunk(mut self, first_chunk: Option<Duration>) -> Self {
        self.first_chunk = first_chunk;
        self
    }

    /// The tokens that count against a limit per minute for this job:
    ///
    /// * usage known: the input and the output. Input from the provider's prompt cache is billed at a fraction and counts
    ///   in full all the same: OpenAI's limits do, and too low a count is answered with 429
    ///   ([`Limit::without_cached_input`](super::Limit::without_cached_input) is for those that do not);
    /// * a refusal (rate limit, quota, authorisation, unknown model, overload, unsupported): nothing, no token was read;
    /// * another failure before the first chunk: the estimated input;
    /// * otherwise, usage unknown: the whole estimate.
    pub fn charged_tokens(&self, job: &Job<'_>) -> u64 {
        let spent = self.spent(job.input_tokens, job.output_tokens);
        spent.input.saturating_add(spent.output)
    }

    /// Whether it says what holds for a time from now on: a refusal, or what the provider has left.
    pub(super) fn is_of_a_moment(&self) -> bool {
        self.error.is_some() || self.limits.is_some()
    }

    pub(super) fn spent(&self, input: u64, output: u64) -> Spent {
        match (self.usage, self.error) {
            (Some(usage), _) => {
                let (input, output) = (usage.prompt_tokens, usage.completion_tokens);
                Spent { input, cached: usage.cached_tokens().min(input), output }
            }
            (None, Some(error)) if is_refusal(error.kind()) => Spent::default(),
            (None, Some(_)) if self.first_chunk.is_none() => Spent { input, ..Spent::default() },
            (None, _) => Spent { input, cached: 0, output },
        }
    }
}

fn is_refusal(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::RateLimited
            | ErrorKind::QuotaExhausted
            | ErrorKind::Auth
            | ErrorKind::NotFound
            | ErrorKind::Overloaded
            | ErrorKind::Unsupported
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_what_counts_against_the_limit() {
        let job = Job::new("m").tokens(100, 50);
        let second = Duration::from_secs(1);
        let usage = Usage::new(80, 7).with_cached(64);
        assert_eq!(Outcome::answered(Some(&usage), second).charged_tokens(&job), 87);
        let nonsense = Usage::new(u64::MAX, 7);
        assert_eq!(Outcome::answered(Some(&nonsense), second).charged_tokens(&job), u64::MAX);
        assert_eq!(Outcome::answered(None, second).charged_tokens(&job), 150);

        let error = |kind| Error::new(kind, "t", "");
        assert_eq!(Outcome::failed(&error(ErrorKind::RateLimited), second).charged_tokens(&job), 0);
        assert_eq!(Outcome::failed(&error(ErrorKind::Overloaded), second).charged_tokens(&job), 0);
        let broken = error(ErrorKind::Server);
        assert_eq!(Outcome::failed(&broken, second).charged_tokens(&job), 100);
        assert_eq!(Outcome::failed(&broken, second).with_first_chunk(Some(second)).charged_tokens(&job), 150);
        assert_eq!(Outcome::failed(&broken.with_usage(usage), second).charged_tokens(&job), 87);
    }
}
