//! How many retries an outage may cause: a bucket of tokens that all callers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::ErrorKind;

/// A retry after a failed connection or a failing provider.
const TRANSIENT: u32 = 14;
/// A retry after a rate limit: the provider is alive and said no cheaply.
const THROTTLED: u32 = 5;
/// A retry after a timeout: the first attempt may have been served, and billed, all the same.
const TIMED_OUT: u32 = 2 * TRANSIENT;

/// Tokens that retries are paid with. Cloning shares the bucket: give clones to everything that repeats calls to the
/// same provider.
///
/// The scheme and its figures are those of the AWS SDKs' standard retry mode. A retry takes 14 tokens, after a rate
/// limit 5, after a timeout 28 (the first attempt may be billed as well). A call that succeeds gives back what its
/// retries took, or 1 if it needed none. An empty bucket means: no retry, fail now. First attempts are free, so calls
/// go on while the bucket is empty and refill it as soon as the provider has recovered; nothing depends on time.
///
/// With the standard 500 tokens a total outage causes at most 35 retries, however many callers meet it and however long
/// it lasts: 17 if it shows as timeouts. A provider that is alive and refuses everything with rate limits is asked at
/// most 100 times more than without retries.
///
/// ```
/// use sluicegate::{Retry, RetryBudget};
/// let shared = RetryBudget::standard();
/// let chat = Retry::standard().budget(shared.clone());
/// let batch = Retry::standard().attempts(5).budget(shared.clone());
/// assert_eq!(shared.available(), 500);
/// ```
#[derive(Debug, Clone)]
pub struct RetryBudget(Arc<Bucket>);

#[derive(Debug)]
struct Bucket {
    capacity: u32,
    tokens: AtomicU32,
}

impl RetryBudget {
    /// 500 tokens, as in the AWS SDKs.
    pub fn standard() -> Self {
        Self::tokens(500)
    }

    /// A full bucket of so many tokens, at least 14: less pays for no retry of a failing provider and is refused when
    /// the stack is built. At least 28 are needed for a retry after a timeout.
    pub fn tokens(capacity: u32) -> Self {
        Self(Arc::new(Bucket { capacity, tokens: AtomicU32::new(capacity) }))
    }

    /// How many tokens are left now.
    pub fn available(&self) -> u32 {
        self.0.tokens.load(Ordering::Relaxed)
    }

    /// How many tokens a full bucket holds.
    pub fn capacity(&self) -> u32 {
        self.0.capacity
    }

    /// Whether it can ever pay for an ordinary retry.
    pub(super) fn is_usable(&self) -> bool {
        self.0.capacity >= TRANSIENT
    }

    fn take(&self, cost: u32) -> bool {
        // The tokens guard no other memory, so relaxed order is enough here and below.
        let tokens = &self.0.tokens;
        tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(cost)).is_ok()
    }

    fn give_back(&self, count: u32) {
        let capacity = self.0.capacity;
        // A full bucket is the usual case and is only read, so that callers on many cores do not fight over it.
        let refill = |left: u32| (left < capacity).then(|| left.saturating_add(count).min(capacity));
        let _full = self.0.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, refill);
    }
}

/// What one call has taken. Tokens held for a retry that was never sent go back when it is dropped.
#[derive(Debug)]
pub(super) struct Tab<'a> {
    budget: &'a RetryBudget,
    held: u32,
    sent: u32,
}

impl<'a> Tab<'a> {
    pub(super) fn open(budget: &'a RetryBudget) -> Self {
        Self { budget, held: 0, sent: 0 }
    }

    /// Takes the tokens for a retry after this failure; whether there were enough.
    pub(super) fn hold(&mut self, failure: ErrorKind) -> bool {
        let cost = match failure {
            ErrorKind::RateLimited | ErrorKind::Overloaded => THROTTLED,
            ErrorKind::Timeout => TIMED_OUT,
            _ => TRANSIENT,
        };
        let enough = self.budget.take(cost);
        if enough {
            self.held += cost;
        }
        enough
    }

    /// The retry goes out: from here on its tokens are spent, unless the call succeeds.
    pub(super) fn send(&mut self) {
        self.sent += std::mem::take(&mut self.held);
    }

    /// The call succeeded.
    pub(super) fn succeed(self) {
        self.budget.give_back(self.sent.max(1));
    }
}

impl Drop for Tab<'_> {
    fn drop(&mut self) {
        if self.held > 0 {
            self.budget.give_back(self.held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_price_and_success_gives_it_back() {
        let budget = RetryBudget::tokens(100);
        let mut tab = Tab::open(&budget);
        let mut left = Vec::new();
        for kind in [ErrorKind::Server, ErrorKind::RateLimited, ErrorKind::Overloaded, ErrorKind::Timeout] {
            assert!(tab.hold(kind));
            tab.send();
            left.push(budget.available());
        }
        assert_eq!(left, [86, 81, 76, 48]);
        tab.succeed();
        assert_eq!(budget.available(), 100);
    }

    #[test]
    fn a_first_attempt_gives_one_token_and_never_more_than_fit() {
        let budget = RetryBudget::tokens(28);
        let mut tab = Tab::open(&budget);
        assert!(tab.hold(ErrorKind::Server));
        tab.send();
        drop(tab);
        assert_eq!(budget.available(), 14, "a failed call gives nothing back");
        for expected in [15, 16] {
            Tab::open(&budget).succeed();
            assert_eq!(budget.available(), expected);
        }
        let mut tab = Tab::open(&budget);
        assert!(tab.hold(ErrorKind::Server));
        tab.send();
        (0..20).for_each(|_| Tab::open(&budget).succeed());
        assert_eq!(budget.available(), 22);
        tab.succeed();
        assert_eq!(budget.available(), 28, "others had refilled it meanwhile");
        Tab::open(&budget).succeed();
        assert_eq!(budget.available(), 28);
    }

    #[test]
    fn an_empty_bucket_refuses_and_keeps_the_rest() {
        let budget = RetryBudget::tokens(20);
        let mut tab = Tab::open(&budget);
        assert!(tab.hold(ErrorKind::Network));
        assert!(!tab.hold(ErrorKind::Network));
        assert!(tab.hold(ErrorKind::RateLimited), "six are left, enough for a cheap one");
        assert_eq!(budget.available(), 1);
        drop(tab);
        assert_eq!(budget.available(), 20, "neither was sent");
    }

    #[test]
    fn clones_share_it_across_threads() {
        let budget = RetryBudget::tokens(1_400);
        let taken: u32 = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    let budget = budget.clone();
                    scope.spawn(move || (0..100).filter(|_| budget.take(TRANSIENT)).count() as u32)
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!((taken, budget.available()), (100, 0));
    }
}
