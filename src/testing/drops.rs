//! Dropping a future at every await point.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// Runs an operation again and again and drops it after its 0th, 1st, 2nd … poll, until one run completes; after each
/// drop, and after the completion, `settled` may look whether everything is as it was before. Returns how many polls
/// the completed run took.
///
/// Each run is awaited on the caller's task, so wake-ups and paused time work as usual. An operation that cannot
/// complete by itself never ends: give it what it waits for.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let lock = tokio::sync::Mutex::new(());
/// let polls = sluicegate::testing::drop_at_every_await(
///     || async {
///         let _guard = lock.lock().await;
///         tokio::task::yield_now().await;
///     },
///     async || assert!(lock.try_lock().is_ok(), "the lock is free again"),
/// )
/// .await;
/// assert_eq!(polls, 2);
/// # }
/// ```
pub async fn drop_at_every_await<F: Future>(mut start: impl FnMut() -> F, mut settled: impl AsyncFnMut()) -> usize {
    for allowed in 0.. {
        let completed = poll_at_most(start(), allowed).await;
        settled().await;
        if completed {
            return allowed;
        }
    }
    usize::MAX
}

/// Polls at most so often, then drops; whether it completed.
async fn poll_at_most<F: Future>(future: F, allowed: usize) -> bool {
    let mut future = pin!(future);
    let mut polls = 0;
    poll_fn(|cx| {
        if polls == allowed {
            return Poll::Ready(false);
        }
        polls += 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if polls == allowed => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
