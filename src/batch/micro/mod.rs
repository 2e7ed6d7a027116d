//! Single items of many callers, merged into batches.

mod flight;
mod rules;
mod split;
mod state;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

pub use rules::{BatchResults, MicroBuilder};

use crate::batch::ORIGIN;
use crate::error::{Error, ErrorKind, Result};
pub(super) use state::Shared;

/// Merges single items, across callers, into calls of anything that takes a batch: an embedding endpoint, a self-hosted
/// model. Cloning shares it.
///
/// # When a batch is sent
/// 1. Nothing is under way: at once, after letting those who were ready at the same moment come along (one turn of the
///    scheduler, no timer). So an item alone never waits for company.
/// 2. A call is under way: when a batch is full, when all calls have ended, or when the oldest item has waited for
///    `max_wait`, or for as long as calls take in the mean if that is less: waiting longer than its own call takes could
///    not pay.
/// 3. Never more than `concurrency` calls are under way; what is due then waits for one of them to end.
///
/// # Results
/// Matched by position. Another number of results than items is an error of kind [`Decode`](ErrorKind::Decode) for all of
/// the batch, never a neighbour's result. A batch that fails as a whole with [`InvalidRequest`](ErrorKind::InvalidRequest),
/// [`ContextLength`](ErrorKind::ContextLength) or [`ContentFilter`](ErrorKind::ContentFilter) is halved, and its halves are
/// asked one after the other, until the item at fault fails alone: for one bad item among n, at most 2 log2(n) calls more
/// (rounded up), and 2n - 2 more if all are bad. Any other failure is that of all items of the call, and so is a panic.
///
/// # Cancellation
/// A caller that is dropped takes its item along if it was not sent yet. When the last caller of a call is dropped, the
/// call is. Nothing is spawned: whoever waits drives. So a call stands still, and counts as under way, while all of its
/// callers are kept and none is polled. A batcher must not be asked from within its own call.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use sluicegate::batch::MicroBatcher;
///
/// let squares = MicroBatcher::builder(|numbers: Vec<u64>| async move {
///     numbers.into_iter().map(|n| Ok(n * n)).collect::<Vec<sluicegate::Result<u64>>>()
/// });
/// let squares = squares.max_size(100).build()?;
/// let (three, four) = tokio::join!(squares.call(3), squares.call(4));
/// assert_eq!((three?, four?), (9, 16));
/// # Ok(()) }
/// ```
pub struct MicroBatcher<In, Out>(pub(super) Arc<Shared<In, Out>>);

impl<In: Clone + Send + 'static, Out: Send + 'static> MicroBatcher<In, Out> {
    /// Batches for `work`, which gives a result per item, in their order, or one error for all of them.
    pub fn builder<F, Answering, Results>(work: F) -> MicroBuilder<In, Out>
    where
        F: Fn(Vec<In>) -> Answering + Send + Sync + 'static,
        Answering: Future<Output = Results> + Send + 'static,
        Results: Into<BatchResults<Out>>,
    {
        MicroBuilder::new(work)
    }

    /// The result of this item.
    ///
    /// # Errors
    /// The item's own, or its batch's.
    pub async fn call(&self, item: In) -> Result<Out> {
        let shared = Arc::clone(&self.0);
        let seat = shared.state.lock().seat(item, &shared.rules, shared.env.now());
        let mut caller = Caller { shared, seat, fresh: true, timer: None };
        poll_fn(|cx| caller.poll(cx)).await
    }

    /// As long as nobody uses it, it is gone.
    pub(super) fn downgrade(&self) -> Weak<Shared<In, Out>> {
        Arc::downgrade(&self.0)
    }
}

impl<In, Out> Clone for MicroBatcher<In, Out> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<In, Out> fmt::Debug for MicroBatcher<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MicroBatcher").finish_non_exhaustive()
    }
}

/// Somebody who waits for an item's result.
struct Caller<In: Clone + Send + 'static, Out: Send + 'static> {
    shared: Arc<Shared<In, Out>>,
    seat: u64,
    fresh: bool,
    timer: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<In: Clone + Send + 'static, Out: Send + 'static> Caller<In, Out> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Out>> {
        loop {
            let shared = Arc::clone(&self.shared);
            let mut state = shared.state.lock();
            let Some(seat) = state.seats.get_mut(&self.seat) else {
                return Poll::Ready(Err(Error::new(ErrorKind::Other, ORIGIN, "polled after its end")));
            };
            if let Some(outcome) = seat.outcome.take() {
                return Poll::Ready(outcome);
            }
            let old = seat.waker.replace(cx.waker().clone());
            let job = seat.job;
            let flight = state.carrier(job);
            let fresh = std::mem::take(&mut self.fresh);
            // One look at the clock for both: what is not due to be sent is due later for the timer as well.
            let now = shared.env.now();
            let wakers = if flight.is_none() { shared.launch(&mut state, !fresh, now) } else { Vec::new() };
            let sent = flight.is_none() && state.carrier(job).is_some();
            let due = state.due(job, &shared.rules).filter(|due| *due > now);
            let gathers = fresh && state.is_idle() && (state.is_first(job) || due.is_none());
            drop(state);
            drop(old);
            wakers.into_iter().for_each(Waker::wake);
            if let Some(flight) = flight {
                if !flight.drive(&shared) {
                    return Poll::Pending;
                }
            } else if gathers {
                // Those who are ready now come before this is polled again.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            } else if !sent && !self.waited(due, cx) {
                return Poll::Pending;
            }
        }
    }

    /// Whether it is time to look again.
    fn waited(&mut self, due: Option<std::time::Instant>, cx: &mut Context<'_>) -> bool {
        let env = &self.shared.env;
        // What is due already waits for a call to end, which wakes it.
        let Some(due) = due else { return false };
        let timer = self.timer.get_or_insert_with(|| {
            let env = env.clone();
            Box::pin(async move { env.sleep_until(due).await })
        });
        let waited = timer.as_mut().poll(cx).is_ready();
        if waited {
            self.timer = None;
        }
        waited
    }
}

impl<In: Clone + Send + 'static, Out: Send + 'static> Drop for Caller<In, Out> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let left = state.leave(self.seat);
        // Its item, or its call, may have been what others waited for.
        let freed = left.0.is_some() || left.1.is_some();
        let now = self.shared.env.now();
        let wakers = if freed { self.shared.launch(&mut state, true, now) } else { Vec::new() };
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        if let Some(flight) = &left.1 {
            flight.cancel();
        }
    }
}
