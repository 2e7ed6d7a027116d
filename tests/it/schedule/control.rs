//! A gate that is held up, emptied and looked at.

use super::*;
use futures_util::FutureExt;
use sluicegate::Retryability;
use sluicegate::schedule::{AdmissionEvent, Concurrency, Heard};
use std::task::{Context, Waker};

#[tokio::test(start_paused = true)]
async fn a_paused_gate_lets_nobody_in_until_it_resumes() {
    for admission in [Admission::new(), Admission::new().concurrency(2), Admission::new().rpm(60).burst(10 * SECOND)] {
        let gate = gate(admission);
        let order = Arc::default();
        let running = gate.admit(&Job::new("m")).await.unwrap();
        gate.pause();
        let waiters: Vec<_> = (0..2).map(|name| ask(&gate, &order, name, Priority::Normal)).collect();
        sleep(100 * SECOND).await;
        running.settle(Outcome::answered(None, SECOND));
        settle_down().await;
        let status = gate.status();
        assert_eq!((status.paused, status.queued, status.in_flight), (true, 2, 0));
        assert_eq!(status.class(Priority::Normal).oldest, 100 * SECOND);
        gate.resume();
        for waiter in waiters {
            soon(waiter).await.unwrap().settle(Outcome::answered(None, SECOND));
        }
        assert_eq!(*order.lock(), [0, 1]);
        assert!(!gate.status().paused);
    }
}

#[tokio::test(start_paused = true)]
async fn draining_serves_those_who_wait_and_nobody_else() {
    let gate = gate(Admission::new().concurrency(1));
    let running = gate.admit(&Job::new("m")).await.unwrap();
    let waiter = ask(&gate, &Arc::default(), 0, Priority::Normal);
    settle_down().await;
    gate.pause();
    let drained = tokio::spawn(gate.drain());
    settle_down().await;
    let refused = gate.admit(&Job::new("m")).await.unwrap_err();
    assert_eq!((refused.kind(), refused.retryability()), (ErrorKind::Shutdown, Retryability::Never));
    running.settle(Outcome::answered(None, SECOND));
    let last = soon(waiter).await.unwrap();
    settle_down().await;
    assert!(!drained.is_finished(), "one is in flight");
    drop(last);
    soon(drained).await;
    gate.drain().now_or_never().expect("it is over already");
    let again = tokio::spawn(gate.drain());
    gate.resume();
    soon(again).await;
    assert!(gate.admit(&Job::new("m")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_resumed_does_not_wait_for_ever() {
    let gate = gate(Admission::new());
    let _running = gate.admit(&Job::new("m")).await.unwrap();
    let drained = tokio::spawn(gate.drain());
    settle_down().await;
    gate.resume();
    soon(drained).await;
}

#[tokio::test(start_paused = true)]
async fn clearing_sends_every_waiter_away_and_nobody_else() {
    let gate = gate(Admission::new().concurrency(1));
    let running = gate.admit(&Job::new("m")).await.unwrap();
    let waiters: Vec<_> = (0..3).map(|name| ask(&gate, &Arc::default(), name, Priority::Low)).collect();
    settle_down().await;
    assert_eq!(gate.clear(), 3);
    for waiter in waiters {
        let cleared = soon(waiter).await.unwrap_err();
        assert_eq!((cleared.kind(), cleared.retryability()), (ErrorKind::Overloaded, Retryability::Never));
    }
    let status = gate.status();
    assert_eq!((status.queued, status.in_flight, status.totals.cleared), (0, 1, 3));
    let next = ask(&gate, &Arc::default(), 4, Priority::Low);
    settle_down().await;
    drop(running);
    assert!(soon(next).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_status_says_who_waits_and_what_became_of_the_others() {
    let gate = gate(Admission::new().concurrency(1).queue(3));
    let running = gate.admit(&Job::new("m").tokens(10, 5)).await.unwrap();
    let job = |tenant| Job::new("m").tenant(tenant);
    let mut cx = Context::from_waker(Waker::noop());
    let (a, b, high) = (job(Some("a")), job(Some("b")), job(None).priority(Priority::High));
    let mut waiting = [gate.admit(&a), gate.admit(&b), gate.admit(&high)];
    waiting.iter_mut().for_each(|ask| assert!(ask.as_mut().poll(&mut cx).is_pending()));
    assert!(gate.admit(&a).await.is_err());
    sleep(SECOND).await;
    let status = gate.status();
    assert_eq!((status.in_flight, status.concurrency, status.reserved_tokens), (1, Some(1), 15));
    assert_eq!((status.queued, status.tenants), (3, 3));
    let normal = status.class(Priority::Normal);
    assert_eq!((normal.queued, normal.oldest), (2, SECOND));
    assert_eq!(status.class(Priority::Low).oldest, Duration::ZERO);
    drop((waiting, running));
    let totals = gate.status().totals;
    assert_eq!((totals.admitted, totals.refused, totals.left), (1, 1, 3));
}

#[tokio::test(start_paused = true)]
async fn events_tell_what_happens_and_a_slow_listener_holds_nothing_up() {
    let gate = gate(Admission::new().concurrency(Concurrency::aimd(1..=2)).queue(1));
    let mut events = gate.events();
    let mut heard = || match events.try_next() {
        Some(Heard::Event(event)) => Some(event),
        _ => None,
    };
    let priority = Priority::Normal;
    let running = gate.admit(&Job::new("m")).await.unwrap();
    assert_eq!(heard(), Some(AdmissionEvent::Admitted { priority, queued: Duration::ZERO }));
    let waiter = ask(&gate, &Arc::default(), 0, priority);
    settle_down().await;
    assert_eq!(heard(), Some(AdmissionEvent::Queued { priority, waiting: 1 }));
    assert!(gate.admit(&Job::new("m")).await.is_err());
    assert_eq!(heard(), Some(AdmissionEvent::Refused { priority, kind: ErrorKind::Overloaded }));
    sleep(SECOND).await;
    running.settle(Outcome::answered(None, SECOND));
    assert_eq!(heard(), Some(AdmissionEvent::LimitChanged { from: 1, to: 2 }));
    assert_eq!(heard(), Some(AdmissionEvent::Admitted { priority, queued: SECOND }));
    drop(soon(waiter).await);
    gate.pause();
    let waiter = ask(&gate, &Arc::default(), 0, priority);
    settle_down().await;
    waiter.abort();
    settle_down().await;
    gate.resume();
    let rest: Vec<_> = std::iter::from_fn(heard).collect();
    let left = AdmissionEvent::Left { priority, queued: Duration::ZERO };
    let queued = AdmissionEvent::Queued { priority, waiting: 1 };
    assert_eq!(rest, [AdmissionEvent::Paused, queued, left, AdmissionEvent::Resumed]);

    for _ in 0..2_000 {
        drop(gate.admit(&Job::new("m")).now_or_never().expect("at once"));
    }
    assert!(matches!(events.next().await, Some(Heard::Missed(900..=1_100))));
    drop(gate);
    while let Some(heard) = events.next().await {
        assert!(matches!(heard, Heard::Event(AdmissionEvent::Admitted { .. })));
    }
}
