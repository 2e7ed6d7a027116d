//! Callers at odd moments: when nothing is to be waited for, between two looks at the clock, in crowds, with odd results.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use futures_util::poll;
use parking_lot::Mutex;
use sluicegate::batch::MicroBatcher;
use sluicegate::env::{Clock, TokioClock};
use sluicegate::{Env, ErrorKind, Result};
use tokio::sync::Semaphore;

use super::{Log, MS, always, batcher};

#[tokio::test(start_paused = true)]
async fn those_who_come_together_go_together_also_when_no_wait_is_allowed() {
    let log = Log::default();
    let some = batcher(&log, always(MS)).max_size(1_000).max_wait(Duration::ZERO).build().unwrap();
    for _ in 0..2 {
        join_all((0..100).map(|n| some.call(n))).await;
    }
    assert_eq!((log.sizes(), log.times()), (vec![100, 100], vec![0, 1]));
    // So it is when calls take no time at all.
    let log = Log::default();
    let quick = batcher(&log, always(Duration::ZERO)).max_size(1_000).build().unwrap();
    for _ in 0..2 {
        join_all((0..100).map(|n| quick.call(n))).await;
    }
    assert_eq!(log.sizes(), [100, 100]);
    // The one whose turn it is to look again does not come back: the next one does not wait for it.
    let mut first = Box::pin(some.call(1));
    assert!(poll!(&mut first).is_pending());
    let answered = tokio::time::timeout(Duration::from_secs(1), some.call(2)).await;
    assert_eq!(answered.expect("somebody looks").unwrap(), "20");
}

#[tokio::test(start_paused = true)]
async fn whoever_gathers_and_leaves_keeps_nobody_waiting() {
    let log = Log::default();
    let some = batcher(&log, always(MS)).max_wait(Duration::from_secs(60)).build().unwrap();
    let mut first = Box::pin(some.call(1));
    assert!(futures_util::poll!(&mut first).is_pending());
    let second = tokio::spawn({
        let some = some.clone();
        async move { some.call(2).await }
    });
    tokio::task::yield_now().await;
    let started = tokio::time::Instant::now();
    drop(first);
    assert_eq!((second.await.unwrap().unwrap(), started.elapsed()), ("20".to_owned(), MS));
}

/// Each look at it takes a millisecond.
#[derive(Debug, Clone)]
struct Slow(Instant, Arc<AtomicU64>);

impl Clock for Slow {
    fn now(&self) -> Instant {
        self.0 + Duration::from_millis(self.1.fetch_add(1, Ordering::SeqCst))
    }

    fn wall(&self) -> SystemTime {
        TokioClock::new().wall()
    }

    fn sleep_until(&self, _: Instant) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

#[tokio::test]
async fn an_item_that_becomes_due_between_two_looks_at_the_clock_is_sent() {
    for wait in 1..8 {
        let gate = Arc::new(Semaphore::new(0));
        let (held, asked) = (Arc::clone(&gate), Arc::<Mutex<Vec<u64>>>::default());
        let log = Arc::clone(&asked);
        let some = MicroBatcher::builder(move |items: Vec<u64>| {
            log.lock().extend(&items);
            let held = Arc::clone(&held);
            async move {
                if items == [1] {
                    let _passed = held.acquire().await;
                }
                items.into_iter().map(Ok).collect::<Vec<Result<u64>>>()
            }
        });
        let env = Env::new().with_clock(Slow(TokioClock::new().now(), Arc::default()));
        let some = some.max_wait(Duration::from_millis(wait)).env(env).build().unwrap();
        let mut first = Box::pin(some.call(1));
        while asked.lock().is_empty() {
            assert!(poll!(&mut first).is_pending());
        }
        let second = tokio::time::timeout(Duration::from_secs(5), some.call(2)).await;
        assert_eq!(second.expect("it does not wait for the first").unwrap(), 2, "{wait}");
        gate.close();
        assert_eq!(first.await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_crowd_that_leaves_one_by_one_is_not_looked_through_each_time() {
    const CROWD: u64 = 40_000;
    let log = Log::default();
    let some = batcher(&log, always(Duration::from_secs(3_600))).max_size(CROWD as usize).build().unwrap();
    let mut callers: Vec<_> = (0..CROWD).map(|n| Box::pin(some.call(n))).collect();
    for caller in &mut callers {
        assert!(poll!(caller).is_pending());
    }
    assert!(poll!(&mut callers[0]).is_pending());
    assert_eq!((log.sizes(), log.open()), (vec![CROWD as usize], 1));
    let started = Instant::now();
    drop(callers);
    assert_eq!(log.open(), 0);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_result_that_cannot_be_copied_fails_those_who_wanted_the_copy() {
    #[derive(Debug)]
    struct Fragile(u64);
    impl Clone for Fragile {
        fn clone(&self) -> Self {
            assert_ne!(self.0, 7, "told to");
            Self(self.0)
        }
    }
    let some = MicroBatcher::builder(|items: Vec<u64>| async move {
        items.into_iter().map(|item| Ok(Fragile(item))).collect::<Vec<Result<Fragile>>>()
    });
    let some = some.once_by(|item| item.to_le_bytes()).build().unwrap();
    let callers = join_all([7, 8, 7, 9, 8].map(|n| some.call(n)));
    let answers = tokio::time::timeout(Duration::from_secs(1), callers).await.expect("nobody hangs");
    let answers: Vec<_> = answers.iter().map(|one| one.as_ref().map(|one| one.0).map_err(|e| e.kind())).collect();
    assert_eq!(answers, [Err(ErrorKind::Panicked), Ok(8), Ok(7), Ok(9), Ok(8)]);
}

/// A result that nobody took may itself ask the batcher when it goes.
#[test]
fn a_result_that_nobody_takes_goes_outside_of_the_lock() {
    struct Asks(Arc<dyn Fn() + Send + Sync>);
    impl Drop for Asks {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    static DROPPED: AtomicUsize = AtomicUsize::new(0);
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let some = Arc::<std::sync::OnceLock<MicroBatcher<u64, Asks>>>::default();
        let weak = Arc::downgrade(&some);
        let ask: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
            DROPPED.fetch_add(1, Ordering::SeqCst);
            if let Some(some) = weak.upgrade().as_ref().and_then(|some| some.get()) {
                // Asked and left at once.
                let mut call = Box::pin(some.call(0));
                let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                let _ = call.as_mut().poll(&mut cx);
            }
        });
        let built = MicroBatcher::builder(move |items: Vec<u64>| {
            let ask = Arc::clone(&ask);
            async move { items.iter().map(|_| Ok(Asks(Arc::clone(&ask)))).collect::<Vec<Result<Asks>>>() }
        });
        // Without a wait there is no timer, which would want a runtime.
        assert!(some.set(built.max_wait(Duration::ZERO).build().unwrap()).is_ok());
        let call = |n: u64| Box::pin(some.get().unwrap().call(n));
        let (mut one, mut two) = (call(1), call(2));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        while one.as_mut().poll(&mut cx).is_pending() {
            let _ = two.as_mut().poll(&mut cx).is_pending();
        }
        drop(two);
        done.send(()).unwrap();
    });
    wait.recv_timeout(Duration::from_secs(10)).expect("it does not wait for itself");
    assert!(DROPPED.load(Ordering::SeqCst) >= 2);
}
