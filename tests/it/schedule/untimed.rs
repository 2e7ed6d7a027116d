//! Gates for which time matters now and then only: no limit per minute is set.

use super::*;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sluicegate::Retryability;
use sluicegate::env::{Clock, TokioClock};
use sluicegate::types::RateLimits;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Tokio's, which counts how often it is looked at, and panics when a countdown ends.
#[derive(Debug, Default)]
struct Counted {
    clock: TokioClock,
    looks: AtomicUsize,
    breaks_in: AtomicUsize,
}

impl Counted {
    fn looks(&self) -> usize {
        self.looks.swap(0, Ordering::SeqCst)
    }
}

impl Clock for Counted {
    fn now(&self) -> Instant {
        self.looks.fetch_add(1, Ordering::SeqCst);
        let left = self.breaks_in.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        assert_ne!(left, Ok(1), "the clock broke");
        self.clock.now()
    }

    fn wall(&self) -> std::time::SystemTime {
        self.clock.wall()
    }

    fn sleep_until(&self, until: Instant) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        self.clock.sleep_until(until)
    }
}

fn counted(admission: Admission) -> (AdmissionGate, Arc<Counted>) {
    let clock = Arc::<Counted>::default();
    let gate = admission.start(&Env::new().with_clock(Arc::clone(&clock))).unwrap();
    clock.looks();
    (gate, clock)
}

fn refused(seconds: Option<u64>) -> Error {
    let hint = Retryability::After(seconds.map(Duration::from_secs));
    Error::new(ErrorKind::RateLimited, "t", "").with_status(429).with_retryability(hint)
}

fn answered() -> Outcome<'static> {
    Outcome::answered(None, SECOND)
}

/// Waits from now on.
fn waiting<'a>(gate: &'a AdmissionGate, job: &'a Job<'a>) -> BoxFuture<'a, Result<Permit>> {
    let mut ask = gate.admit(job);
    assert!(ask.as_mut().now_or_never().is_none());
    ask
}

#[tokio::test(start_paused = true)]
async fn the_clock_is_looked_at_only_while_it_matters() {
    let (gate, clock) = counted(Admission::new().concurrency(1));
    let job = Job::new("m").tokens(1, 1);
    let plain = async || {
        for _ in 0..10 {
            gate.admit(&job).await.unwrap().settle(answered());
            drop(gate.admit(&job).await.unwrap());
        }
        clock.looks()
    };
    assert_eq!(plain().await, 0);
    let running = gate.admit(&job).await.unwrap();
    let waiter = waiting(&gate, &job);
    running.settle(answered());
    waiter.await.unwrap().settle(answered());
    assert!(clock.looks() > 0);
    assert_eq!(plain().await, 0, "nobody waits any more");
    gate.admit(&job.deadline(Some(now() + SECOND))).await.unwrap().settle(answered());
    assert!(clock.looks() > 0);
    gate.admit(&job).await.unwrap().settle(Outcome::failed(&Error::new(ErrorKind::Server, "t", ""), SECOND));
    assert!(clock.looks() > 0);
    assert_eq!(plain().await, 0, "a failure that is no refusal holds nobody back");
    gate.admit(&job).await.unwrap().settle(Outcome::failed(&refused(Some(5)), SECOND));
    let before = now();
    gate.admit(&job).await.unwrap().settle(answered());
    assert_eq!(now() - before, 5 * SECOND);
    clock.looks();
    assert_eq!(plain().await, 0, "the gate is open again");
}

#[tokio::test(start_paused = true)]
async fn one_refusal_holds_others_back_where_nothing_else_is_timed() {
    for admission in [Admission::new().concurrency(2), Admission::new().concurrency(2).trust_headers(false)] {
        let gate = gate(admission);
        let job = Job::new("m");
        sleep(100 * SECOND).await;
        let [one, two] = [gate.admit(&job).await.unwrap(), gate.admit(&job).await.unwrap()];
        let start = now();
        let early = job.deadline(Some(start + 3 * SECOND));
        let (hasty, first, second) = (waiting(&gate, &early), waiting(&gate, &job), waiting(&gate, &job));
        one.settle(Outcome::failed(&refused(Some(5)), SECOND));
        assert_eq!(gate.admit(&early).await.unwrap_err().kind(), ErrorKind::Deadline, "it cannot make it");
        // Of the same burst, and knows no better.
        two.settle(Outcome::failed(&refused(None), SECOND));
        let admitted = async |ask: BoxFuture<'_, Result<Permit>>, answer: Duration| {
            let permit = ask.await.unwrap();
            let (waited, queued) = (now() - start, permit.queued());
            assert_eq!(waited, queued);
            sleep(answer).await;
            permit.settle(answered());
            waited
        };
        let (hasty, first, second) = tokio::join!(
            async { (hasty.await.unwrap_err().kind(), now() - start) },
            admitted(first, SECOND / 2),
            admitted(second, SECOND),
        );
        assert_eq!(hasty, (ErrorKind::Deadline, 3 * SECOND));
        assert_eq!((first, second), (5 * SECOND, 5 * SECOND + SECOND / 2), "one first, the next once it is answered");
        let before = now();
        let _both = [gate.admit(&job).await.unwrap(), gate.admit(&job).await.unwrap()];
        assert_eq!(now(), before, "it is open");
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_calls_that_nobody_timed_closes_the_gate_once() {
    let gate = gate(Admission::new());
    let job = Job::new("m");
    let free = async || {
        let before = now();
        let permit = gate.admit(&job).await.unwrap();
        (permit, now() - before)
    };
    sleep(50 * SECOND).await;
    let mut calls = Vec::new();
    for _ in 0..5 {
        calls.push(gate.admit(&job).await.unwrap());
        sleep(SECOND).await;
    }
    for call in calls {
        call.settle(Outcome::failed(&refused(None), SECOND));
        sleep(SECOND / 10).await;
    }
    let (first, waited) = free().await;
    assert_eq!(waited, SECOND / 2, "a second from the first of them");
    first.settle(Outcome::failed(&refused(None), SECOND));
    let (next, waited) = free().await;
    assert_eq!(waited, 2 * SECOND, "the one that tried was refused");
    next.settle(answered());
    assert_eq!(free().await.1, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_pause_a_refusal_and_a_drain_agree_on_the_time() {
    for drains in [false, true] {
        let gate = gate(Admission::new().concurrency(1));
        let job = Job::new("m");
        sleep(10 * SECOND).await;
        let running = gate.admit(&job).await.unwrap();
        gate.pause();
        sleep(10 * SECOND).await;
        let waiter = waiting(&gate, &job);
        sleep(10 * SECOND).await;
        running.settle(Outcome::failed(&refused(Some(5)), SECOND));
        sleep(SECOND).await;
        let drained = if drains {
            gate.drain().boxed()
        } else {
            gate.resume();
            async {}.boxed()
        };
        let permit = waiter.await.unwrap();
        assert_eq!(permit.queued(), 15 * SECOND);
        permit.settle(answered());
        drained.await;
        gate.resume();
        assert!(gate.admit(&job).now_or_never().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_with_the_deadline_is_decided_and_nothing_is_lost() {
    let env = Env::new();
    let gate = Admission::new().concurrency(1).start(&env).unwrap();
    let (job, deadline) = (Job::new("m"), now() + 10 * SECOND);
    let hasty = job.deadline(Some(deadline));
    // Granted at the very moment: it goes.
    let running = gate.admit(&job).await.unwrap();
    let granted = waiting(&gate, &hasty);
    sleep(10 * SECOND).await;
    running.settle(answered());
    let running = granted.await.unwrap();
    assert_eq!((running.queued(), gate.load().in_flight), (10 * SECOND, 1));
    // Granted when it is too late: it goes all the same, for it has not been told otherwise.
    let late = job.deadline(Some(now() + SECOND));
    let granted = waiting(&gate, &late);
    sleep(2 * SECOND).await;
    running.settle(answered());
    let running = granted.await.unwrap();
    // Told first, its turn is the next one's.
    let late = job.deadline(Some(now() + SECOND));
    let (told, next) = (waiting(&gate, &late), waiting(&gate, &job));
    sleep(SECOND).await;
    assert_eq!(told.await.unwrap_err().kind(), ErrorKind::Deadline);
    running.settle(answered());
    let running = next.await.unwrap();
    // The shutdown comes before a grant, whose place is free again.
    let mut granted = waiting(&gate, &job);
    running.settle(answered());
    assert_eq!(gate.load().in_flight, 1);
    env.closing().cancel();
    assert_eq!(granted.as_mut().await.unwrap_err().kind(), ErrorKind::Shutdown);
    assert_eq!((gate.load().in_flight, gate.load().queued), (0, 0), "before the future is dropped");
    let totals = gate.status().totals;
    assert_eq!((totals.admitted, totals.left), (4, 2));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_panics_takes_no_place_along() {
    for looks in 1..=2 {
        let (gate, clock) = counted(Admission::new().concurrency(1));
        let job = Job::new("m");
        let running = gate.admit(&job).await.unwrap();
        let waiter = waiting(&gate, &job);
        running.settle(answered());
        clock.breaks_in.store(looks, Ordering::SeqCst);
        assert!(std::panic::AssertUnwindSafe(waiter).catch_unwind().await.is_err());
        assert_eq!((gate.load().in_flight, gate.load().queued), (0, 0), "look {looks}");
        assert!(gate.admit(&job).now_or_never().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_limit_the_time_always_matters() {
    let gate = gate(Admission::new().tpm(60_000));
    let job = Job::new("m").tokens(1, 0);
    sleep(100 * SECOND).await;
    let mut limits = RateLimits::default();
    (limits.limit_tokens, limits.remaining_tokens, limits.reset_tokens) =
        (Some(60_000), Some(0), Some(Duration::from_secs(60)));
    let told = answered().with_limits(Some(&limits), Duration::ZERO);
    gate.admit(&job).await.unwrap().settle(told);
    let before = now();
    gate.admit(&job).await.unwrap().settle(answered());
    assert_eq!(now() - before, SECOND / 1_000, "nothing was left when it was said");
}
