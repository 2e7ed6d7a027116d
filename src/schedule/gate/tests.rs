//! A gate with a clock that stands still, where a test does not move it.

use std::sync::atomic::AtomicUsize;
use std::time::SystemTime;

use super::*;
use crate::env::{Clock, TokioClock};
use crate::schedule::Admission;
use crate::types::Usage;
use futures_util::FutureExt;

const SECOND: Duration = Duration::from_secs(1);

/// As one sees it who looked just before somebody else had the lock.
fn seen_before(gate: &AdmissionGate) {
    assert!(gate.0.timed_now.swap(false, Ordering::Relaxed), "it matters now");
}

fn answered() -> Outcome<'static> {
    Outcome::answered(None, SECOND)
}

#[tokio::test(start_paused = true)]
async fn a_release_that_did_not_see_the_waiter_come_knows_the_time_all_the_same() {
    let gate = Admission::new().concurrency(1).start(&Env::new()).unwrap();
    let mut events = gate.events();
    let running = gate.admit(&Job::new("m")).await.unwrap();
    tokio::time::advance(10 * SECOND).await;
    let job = Job::new("m");
    let mut waiter = gate.admit(&job);
    assert!(waiter.as_mut().now_or_never().is_none());
    tokio::time::advance(5 * SECOND).await;
    seen_before(&gate);
    running.settle(answered());
    assert_eq!(waiter.await.unwrap().queued(), 5 * SECOND);
    let heard: Vec<_> = std::iter::from_fn(|| events.try_next()).collect();
    assert!(format!("{:?}", heard.last()).contains("queued: 5s"), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn who_did_not_see_a_gate_close_goes_first_at_the_true_time() {
    let env = Env::new();
    let gate = Admission::new().concurrency(8).start(&env).unwrap();
    let refused = Error::new(ErrorKind::RateLimited, "t", "").with_retryability(Retryability::After(Some(5 * SECOND)));
    let running = gate.admit(&Job::new("m")).await.unwrap();
    running.settle(Outcome::failed(&refused, SECOND));
    tokio::time::advance(5 * SECOND).await;
    // Another model's call tells the gate what time it is.
    drop(gate.admit(&Job::new("other")).await.unwrap());
    tokio::time::advance(SECOND * 9 / 10).await;
    seen_before(&gate);
    let _first = gate.admit(&Job::new("m")).await.unwrap();
    let before = env.now();
    drop(gate.admit(&Job::new("m")).await.unwrap());
    assert_eq!(env.now() - before, SECOND, "the first one goes alone for a second");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_starts_now_or_not_at_all() {
    let gate = Admission::new().concurrency(1).tpm(100).start(&Env::new()).unwrap();
    let (job, large) = (Job::new("m"), Job::new("m").tokens(101, 0));
    let running = gate.try_admit(&job).unwrap().unwrap();
    assert!(gate.try_admit(&job).unwrap().is_none());
    let status = gate.status();
    assert_eq!((status.in_flight, status.queued, status.totals.refused, status.totals.admitted), (1, 0, 0, 1));
    let mut waiter = gate.admit(&job);
    assert!(waiter.as_mut().now_or_never().is_none());
    gate.pause();
    running.settle(answered());
    assert!(gate.try_admit(&job).unwrap().is_none(), "nobody overtakes those who wait");
    gate.resume();
    drop(waiter.await.unwrap());
    drop(gate.try_admit(&job).unwrap().unwrap());

    let kind = |job: &Job<'_>| gate.try_admit(job).unwrap_err().kind();
    assert_eq!(kind(&large), ErrorKind::InvalidRequest);
    let passed = gate.0.env.now();
    assert_eq!(kind(&job.deadline(Some(passed))), ErrorKind::Deadline);
    assert_eq!(gate.status().totals.refused, 2);
    gate.close();
    assert_eq!(kind(&job), ErrorKind::Shutdown);
}

/// Tokio's, which counts how often it was read.
#[derive(Debug)]
struct Counting(TokioClock, AtomicUsize);

impl Clock for Counting {
    fn now(&self) -> Instant {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.now()
    }
    fn wall(&self) -> SystemTime {
        self.0.wall()
    }
    fn sleep_until(&self, until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.0.sleep_until(until)
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_of_an_end_is_asked_for_only_where_it_matters() {
    let clock = Arc::new(Counting(TokioClock::new(), AtomicUsize::new(0)));
    let gate = Admission::new().tpm(60_000).start(&Env::new().with_clock(Arc::clone(&clock))).unwrap();
    let usages = [(0, false), (100, false), (1_100, true)];
    for (used, matters) in usages {
        let permit = gate.admit(&Job::new("m").tokens(100, 0)).await.unwrap();
        tokio::time::advance(10 * SECOND).await;
        let usage = Usage::new(used, 0);
        let before = clock.1.load(Ordering::Relaxed);
        permit.settle(Outcome::answered(Some(&usage), 10 * SECOND));
        assert_eq!(clock.1.load(Ordering::Relaxed) - before, usize::from(matters), "{used}");
        // The bucket holds 5,000, and had long been full again: what went above the estimate is missing now.
        let next = gate.admit(&Job::new("m").tokens(5_000, 0)).await.unwrap();
        assert_eq!(next.queued(), if matters { SECOND } else { Duration::ZERO }, "{used}");
        drop(next);
        tokio::time::advance(100 * SECOND).await;
    }
}
