//! Concurrency that follows what comes back.

use super::*;
use sluicegate::schedule::Concurrency;
use std::task::{Context, Poll, Waker};

fn limit(gate: &AdmissionGate) -> usize {
    gate.load().concurrency.unwrap()
}

/// A round of calls that fill the limit, each ended like this.
async fn round(gate: &AdmissionGate, outcome: impl Fn(usize) -> Outcome<'static>) {
    let mut permits = Vec::new();
    for _ in 0..limit(gate) {
        permits.push(gate.admit(&Job::new("m")).await.unwrap());
    }
    sleep(SECOND).await;
    for (number, permit) in permits.into_iter().enumerate() {
        permit.settle(outcome(number));
    }
}

#[tokio::test(start_paused = true)]
async fn aimd_starts_fast_goes_down_once_a_round_and_up_by_one_a_round() {
    static REFUSED: std::sync::LazyLock<Error> =
        std::sync::LazyLock::new(|| Error::new(ErrorKind::RateLimited, "t", ""));
    let gate = gate(Admission::new().concurrency(Concurrency::aimd(2..=40)));
    let answered = |_| Outcome::answered(None, SECOND);
    let mut limits = vec![limit(&gate)];
    for _ in 0..5 {
        round(&gate, answered).await;
        limits.push(limit(&gate));
    }
    assert_eq!(limits[0], 2);
    let top = limit(&gate);
    assert!(top > 10 && top <= 40, "{limits:?}");
    round(&gate, |_| Outcome::failed(&REFUSED, SECOND)).await;
    let lowered = limit(&gate);
    assert_eq!(lowered, (top as f64 * 0.7) as usize, "once for all of a round");
    round(&gate, answered).await;
    assert!((lowered..=lowered + 1).contains(&limit(&gate)));
    for _ in 0..3 {
        round(&gate, answered).await;
    }
    assert!((lowered + 1..=lowered + 4).contains(&limit(&gate)), "{lowered} {}", limit(&gate));
    // Not used, not grown.
    let before = limit(&gate);
    for _ in 0..100 {
        gate.admit(&Job::new("m")).await.unwrap().settle(Outcome::answered(None, SECOND));
    }
    assert_eq!(limit(&gate), before);
    for _ in 0..20 {
        round(&gate, |_| Outcome::failed(&REFUSED, SECOND)).await;
    }
    assert_eq!(limit(&gate), 2, "never below its bound");
}

#[tokio::test(start_paused = true)]
async fn the_gradient_follows_the_first_chunk_and_not_the_length_of_answers() {
    let gate = gate(Admission::new().concurrency(Concurrency::gradient(5..=100)));
    assert_eq!(limit(&gate), 20);
    let first = |millis: u64, latency| {
        move |_| Outcome::answered(None, latency).with_first_chunk(Some(Duration::from_millis(millis)))
    };
    for _ in 0..3 {
        round(&gate, first(300, SECOND)).await;
    }
    let grown = limit(&gate);
    assert!(grown > 25, "{grown}");
    for _ in 0..3 {
        round(&gate, first(300, 100 * SECOND)).await;
    }
    let longer = limit(&gate);
    assert!(longer > grown, "long answers are no overload");
    for _ in 0..4 {
        round(&gate, first(3_000, SECOND)).await;
    }
    assert!(limit(&gate) < longer, "{longer} {}", limit(&gate));
    let before = limit(&gate);
    for _ in 0..5 {
        round(&gate, |_| Outcome::answered(None, 100 * SECOND)).await;
    }
    assert_eq!(limit(&gate), before, "calls without a first chunk say nothing");
}

#[tokio::test(start_paused = true)]
async fn a_growing_limit_follows_the_queue() {
    let gate = gate(Admission::new().concurrency(Concurrency::growing(2..=5).waiting_per_place(2)));
    let mut cx = Context::from_waker(Waker::noop());
    let job = Job::new("m");
    let mut permits = vec![gate.admit(&job).await.unwrap(), gate.admit(&job).await.unwrap()];
    let mut asks = Vec::new();
    let mut limits = Vec::new();
    for _ in 0..20 {
        let mut ask = gate.admit(&job);
        match ask.as_mut().poll(&mut cx) {
            Poll::Ready(permit) => permits.push(permit.unwrap()),
            Poll::Pending => asks.push(ask),
        }
        limits.push(limit(&gate));
    }
    assert!(limits.is_sorted() && limits[0] == 2 && limits[19] == 5, "{limits:?}");
    assert_eq!(gate.load().in_flight, 5);
    drop(asks);
    permits.clear();
    assert!(limit(&gate) < 5, "less with every call that ends while nobody waits");
    for _ in 0..5 {
        drop(gate.admit(&job).await.unwrap());
    }
    assert_eq!((gate.load().in_flight, limit(&gate)), (0, 2));
}
