//! More comes than can go: ageing, who is sent away, newest first, and calls that cannot make it.

use super::*;
use futures_util::FutureExt;
use sluicegate::schedule::Shed;
use std::task::{Context, Poll, Waker};

/// Asks, polled once: it waits.
fn queue<'a>(gate: &'a AdmissionGate, job: &'a Job<'a>) -> futures_util::future::BoxFuture<'a, Result<Permit>> {
    let mut ask = gate.admit(job);
    assert!(ask.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    ask
}

fn is_ready(ask: &mut futures_util::future::BoxFuture<'_, Result<Permit>>) -> Option<Result<Permit>> {
    match ask.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(permit) => Some(permit),
        Poll::Pending => None,
    }
}

/// Which of ten turns went to the lower class, after this wait, while higher ones keep coming.
async fn turns_of_the_lower(admission: Admission, wait: Duration) -> Vec<usize> {
    let gate = gate(admission.concurrency(1));
    let mut running = gate.admit(&Job::new("m")).await.unwrap();
    let (low, high) = (Job::new("m").priority(Priority::Low), Job::new("m").priority(Priority::High));
    let mut lows: Vec<_> = (0..40).map(|_| queue(&gate, &low)).collect();
    sleep(wait).await;
    let mut highs: Vec<_> = (0..40).map(|_| queue(&gate, &high)).collect();
    let mut turns = Vec::new();
    for turn in 1..=30 {
        running.settle(Outcome::answered(None, SECOND));
        let mut low = lows.iter_mut().enumerate();
        if let Some((at, permit)) = low.find_map(|(at, ask)| Some((at, is_ready(ask)?))) {
            drop(lows.remove(at));
            (running, _) = (permit.unwrap(), turns.push(turn));
            assert_eq!(at, 0, "oldest first");
        } else {
            let permit = highs.iter_mut().enumerate().find_map(|(at, ask)| Some((at, is_ready(ask)?)));
            let (at, permit) = permit.expect("somebody's turn");
            drop(highs.remove(at));
            running = permit.unwrap();
        }
    }
    turns
}

#[tokio::test(start_paused = true)]
async fn one_of_ten_turns_goes_to_a_class_that_has_aged() {
    assert_eq!(turns_of_the_lower(Admission::new(), 31 * SECOND).await, [10, 20, 30]);
    assert_eq!(turns_of_the_lower(Admission::new(), 29 * SECOND).await, [0; 0]);
    assert_eq!(turns_of_the_lower(Admission::new().ageing(SECOND), 2 * SECOND).await, [10, 20, 30]);
    assert_eq!(turns_of_the_lower(Admission::new().ageing(Duration::MAX), 1_000_000 * SECOND).await, [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_class_that_has_waited_longest_ages_first_and_both_do() {
    let gate = gate(Admission::new().concurrency(1));
    let mut running = gate.admit(&Job::new("m")).await.unwrap();
    let jobs = [Priority::Normal, Priority::Low, Priority::High].map(|priority| Job::new("m").priority(priority));
    let mut normal: Vec<_> = (0..3).map(|_| queue(&gate, &jobs[0])).collect();
    sleep(SECOND).await;
    let mut low: Vec<_> = (0..3).map(|_| queue(&gate, &jobs[1])).collect();
    sleep(40 * SECOND).await;
    let mut high: Vec<_> = (0..60).map(|_| queue(&gate, &jobs[2])).collect();
    let mut aged = Vec::new();
    for _ in 0..40 {
        running.settle(Outcome::answered(None, SECOND));
        let mut turn = |class: &'static str, asks: &mut Vec<_>| {
            let (at, permit) = asks.iter_mut().enumerate().find_map(|(at, ask)| Some((at, is_ready(ask)?)))?;
            drop(asks.remove(at));
            (class != "high").then(|| aged.push(class));
            Some(permit.unwrap())
        };
        let permit = turn("normal", &mut normal).or_else(|| turn("low", &mut low)).or_else(|| turn("high", &mut high));
        running = permit.expect("somebody's turn");
    }
    assert_eq!(aged, ["normal", "normal", "normal", "low"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_sends_the_lowest_class_away_for_a_higher_one() {
    let gate = gate(Admission::new().concurrency(1).queue(3).shed(Shed::LowestPriority));
    let _running = gate.admit(&Job::new("m")).await.unwrap();
    let (low, normal) = (Job::new("m").priority(Priority::Low), Job::new("m"));
    let mut old = queue(&gate, &low);
    let mut new = queue(&gate, &low);
    let _kept = queue(&gate, &normal);
    assert_eq!(gate.admit(&low).await.unwrap_err().kind(), ErrorKind::Overloaded, "none is below it");
    let high = Job::new("m").priority(Priority::High);
    let _first = queue(&gate, &high);
    let shed = is_ready(&mut new).expect("the newest of the lowest").unwrap_err();
    assert_eq!((shed.kind(), shed.origin()), (ErrorKind::Overloaded, "schedule"));
    assert!(is_ready(&mut old).is_none());
    let _second = queue(&gate, &high);
    assert!(is_ready(&mut old).is_some_and(|answer| answer.is_err()));
    let status = gate.status();
    assert_eq!((status.queued, status.totals.shed, status.totals.refused), (3, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn under_lasting_load_the_newest_goes_first_and_the_oldest_away() {
    let gate = gate(Admission::new().concurrency(1).queue(3).shed(Shed::OldestUnderLoad(5 * SECOND)));
    let running = gate.admit(&Job::new("m")).await.unwrap();
    let job = Job::new("m");
    let mut asks: Vec<_> = (0..3).map(|_| queue(&gate, &job)).collect();
    running.settle(Outcome::answered(None, SECOND));
    let running = is_ready(&mut asks[0]).expect("in order at first").unwrap();
    asks.push(queue(&gate, &job));
    sleep(6 * SECOND).await;
    asks.push(queue(&gate, &job));
    assert!(is_ready(&mut asks[1]).is_some_and(|answer| answer.is_err()), "the oldest made room");
    running.settle(Outcome::answered(None, SECOND));
    let running = is_ready(&mut asks[4]).expect("the newest").unwrap();
    running.settle(Outcome::answered(None, SECOND));
    let running = is_ready(&mut asks[3]).expect("the next newest").unwrap();
    running.settle(Outcome::answered(None, SECOND));
    assert!(is_ready(&mut asks[2]).is_some());
}

#[tokio::test(start_paused = true)]
async fn who_cannot_make_it_at_half_the_measured_pace_is_refused_at_once() {
    let gate = gate(Admission::new().concurrency(1));
    let mut running = gate.admit(&Job::new("m")).await.unwrap();
    let job = Job::new("m");
    let mut asks: Vec<_> = (0..60).map(|_| queue(&gate, &job)).collect();
    let due = |seconds: u32| Some(now() + seconds * SECOND);
    let late = Job::new("m").deadline(due(5));
    drop(queue(&gate, &late));
    for _ in 0..32 {
        sleep(SECOND).await;
        running.settle(Outcome::answered(None, SECOND));
        running = is_ready(&mut asks.remove(0)).expect("in order").unwrap();
    }
    // 28 wait, a second each.
    let late = Job::new("m").deadline(due(14));
    let refused = gate.admit(&late).now_or_never().expect("at once").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Deadline);
    assert!(refused.to_string().contains("28 calls go before it"), "{refused}");
    let hopeful = Job::new("m").deadline(due(15));
    drop(queue(&gate, &hopeful));
    let first = Job::new("m").deadline(due(1)).priority(Priority::High);
    drop(queue(&gate, &first));
    let alone = Job::new("m").deadline(due(1)).tenant(Some("alone"));
    drop(queue(&gate, &alone));
}
