//! One timer per call or stream, armed as late as possible and moved as seldom as possible.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use crate::env::Env;

/// Fires at a moment that may move with every poll. Nothing is allocated before the first poll.
///
/// A timer that is armed too early is left alone until it fires and is armed anew then: a limit that moves with every
/// chunk of a stream costs a comparison per chunk, not a timer.
#[derive(Default)]
pub(super) struct Alarm(Option<(Instant, Sleep)>);

type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Alarm {
    /// Ready once `until` has passed.
    pub(super) fn poll(&mut self, env: &Arc<Env>, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.0 {
                Some((armed, sleep)) if *armed <= until => {
                    ready!(sleep.as_mut().poll(cx));
                    let reached = *armed == until;
                    self.0 = None;
                    if reached {
                        return Poll::Ready(());
                    }
                }
                _ => {
                    if env.now() >= until {
                        return Poll::Ready(());
                    }
                    let env = Arc::clone(env);
                    self.0 = Some((until, Box::pin(async move { env.sleep_until(until).await })));
                }
            }
        }
    }
}

/// What the future yields, or `None` once `until` has passed; the future is dropped by then.
///
/// It is polled first, so an answer that is there counts even when it is late, and one that is there at once costs no
/// timer.
pub(super) async fn before<T>(env: &Arc<Env>, until: Instant, inner: impl Future<Output = T>) -> Option<T> {
    let mut inner = pin!(inner);
    let mut alarm = Alarm::default();
    poll_fn(|cx| match inner.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => alarm.poll(env, until, cx).map(|()| None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Clock, TokioClock};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, SystemTime};

    /// Counts the timers it hands out.
    #[derive(Debug, Clone)]
    struct Counting(TokioClock, Arc<AtomicUsize>);

    impl Clock for Counting {
        fn now(&self) -> Instant {
            self.0.now()
        }

        fn wall(&self) -> SystemTime {
            self.0.wall()
        }

        fn sleep_until(&self, until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.0.sleep_until(until)
        }
    }

    fn counting() -> (Arc<Env>, Arc<AtomicUsize>) {
        let timers = Arc::new(AtomicUsize::new(0));
        (Arc::new(Env::new().with_clock(Counting(TokioClock::new(), Arc::clone(&timers)))), timers)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_there_costs_no_timer() {
        let (env, timers) = counting();
        let limit = env.after(Duration::from_secs(1));
        assert_eq!(before(&env, limit, async { 7 }).await, Some(7));
        assert_eq!(timers.load(Ordering::SeqCst), 0);
        assert_eq!(before(&env, limit, std::future::pending::<()>()).await, None);
        assert_eq!(timers.load(Ordering::SeqCst), 1);
        assert!(env.now() >= limit);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_moves_on_keeps_its_timer() {
        let (env, timers) = counting();
        let mut alarm = Alarm::default();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut poll = |until| alarm.poll(&env, until, &mut cx);
        let start = env.now();
        for tenth in 0..9 {
            assert!(poll(start + Duration::from_millis(1_000 + 100 * tenth)).is_pending());
        }
        assert_eq!(timers.load(Ordering::SeqCst), 1, "later limits wait for the timer that is armed");
        assert!(poll(start + Duration::from_millis(500)).is_pending());
        assert_eq!(timers.load(Ordering::SeqCst), 2, "an earlier limit needs its own");
        let until = start + Duration::from_millis(800);
        poll_fn(|cx| alarm.poll(&env, until, cx)).await;
        assert_eq!(env.now(), until, "not when the earlier timer fired");
    }
}
