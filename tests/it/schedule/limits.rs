//! Limits per minute, refunds and deadlines.

use super::*;
use futures_util::FutureExt;
use sluicegate::schedule::Load;
use sluicegate::types::Usage;

#[tokio::test(start_paused = true)]
async fn no_minute_holds_more_requests_than_limit_and_burst_and_a_backlog_uses_them() {
    let gate = gate(Admission::new().rpm(120).burst(5 * SECOND));
    let started = now();
    let starts = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..600)
        .map(|i| {
            let (gate, starts) = (gate.clone(), Arc::clone(&starts));
            tokio::spawn(async move {
                // Every third gives up, some while at the head.
                let patience = if i % 3 == 0 { Duration::from_millis(i * 700) } else { 100_000 * SECOND };
                if let Ok(permit) = gate.admit(&Job::new("m").deadline(Some(started + patience + SECOND))).await {
                    starts.lock().push(now());
                    permit.settle(Outcome::answered(None, SECOND));
                }
            })
        })
        .collect();
    for task in tasks {
        soon(task).await;
    }
    let starts = starts.lock();
    assert!(starts.len() >= 400);
    for (i, from) in starts.iter().enumerate() {
        assert!(starts[i..].iter().take_while(|at| **at <= *from + 60 * SECOND).count() <= 120 + 10);
    }
    let minutes = starts[starts.len() - 1].duration_since(started).as_secs_f64() / 60.0;
    assert!(starts.len() as f64 >= 0.95 * 120.0 * minutes, "{} in {minutes} minutes", starts.len());
    assert_eq!(gate.load(), Load::default());
}

#[tokio::test(start_paused = true)]
async fn tokens_are_reserved_then_put_right() {
    let gate = gate(Admission::new().tpm(60_000).burst(SECOND));
    let job = Job::new("m").tokens(600, 400);
    let permit = gate.admit(&job).await.unwrap();
    assert_eq!(gate.load().reserved_tokens, 1_000);
    permit.settle(Outcome::answered(Some(&Usage::new(150, 50).with_cached(128)), SECOND));
    assert_eq!(gate.load().reserved_tokens, 0);
    // 200 were used, cached or not, so 800 are there at once; the next thousand need the 200 more, and then those themselves.
    let permit = gate.admit(&Job::new("m").tokens(800, 0)).now_or_never().unwrap().unwrap();
    assert!(gate.admit(&job).now_or_never().is_none());
    drop(permit);
    drop(gate.admit(&Job::new("m").tokens(800, 0)).now_or_never().unwrap().unwrap());
    let before = now();
    let permit = gate.admit(&job).await.unwrap();
    assert_eq!(now() - before, Duration::from_millis(200));
    assert_eq!(permit.queued(), Duration::from_millis(200));
    assert_eq!(gate.load().queued, 0);
}

#[tokio::test(start_paused = true)]
async fn a_job_above_the_limit_fails_and_one_above_the_burst_is_served() {
    let gate = gate(Admission::new().tpm(6_000));
    let refused = gate.admit(&Job::new("m").tokens(6_000, 1)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidRequest);
    assert!(refused.to_string().contains("tokens = 6001: above the limit of 6000 tokens per minute"), "{refused}");
    let large = Job::new("m").tokens(6_000, 0);
    let before = now();
    for _ in 0..3 {
        gate.admit(&large).await.unwrap().settle(Outcome::answered(None, SECOND));
    }
    assert_eq!(now() - before, 120 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_refund_lets_the_head_in_before_its_timer() {
    let gate = gate(Admission::new().tpm(60_000).burst(10 * SECOND));
    let holder = gate.admit(&Job::new("m").tokens(10_000, 0)).await.unwrap();
    let before = now();
    let head = tokio::spawn({
        let gate = gate.clone();
        async move { gate.admit(&Job::new("m").tokens(9_000, 0)).await }
    });
    sleep(SECOND).await;
    holder.settle(Outcome::answered(Some(&Usage::new(4_000, 0)), SECOND));
    assert_eq!(gate.load().queued, 1);
    let permit = soon(head).await.unwrap();
    // 6,000 came back and 1,000 came in: 2,000 were missing.
    assert_eq!((now() - before, permit.queued()), (3 * SECOND, 3 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn deadlines() {
    let gate = gate(Admission::new().concurrency(1).rpm(6));
    let kind = |result: Result<Permit>| result.unwrap_err().kind();
    let expired = Job::new("m").deadline(Some(now()));
    assert_eq!(kind(gate.admit(&expired).await), ErrorKind::Deadline);
    let first = gate.admit(&Job::new("m")).await.unwrap();
    let before = now();
    let busy = Job::new("m").deadline(Some(before + 12 * SECOND));
    assert_eq!(kind(gate.admit(&busy).await), ErrorKind::Deadline);
    assert_eq!(now() - before, 12 * SECOND);
    drop(first);
    drop(gate.admit(&Job::new("m")).await.unwrap());
    let before = now();
    let too_early = Job::new("m").deadline(Some(before + 9 * SECOND));
    assert_eq!(kind(gate.admit(&too_early).await), ErrorKind::Deadline);
    assert_eq!(now(), before, "refused at once");
    assert_eq!((gate.load().in_flight, gate.load().queued), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_a_refund_can_still_meet_is_not_refused() {
    let gate = gate(Admission::new().tpm(60_000));
    let early = gate.admit(&Job::new("m").tokens(1_000, 29_000)).await.unwrap();
    let deadline = Some(now() + 10 * SECOND);
    let waiter = tokio::spawn({
        let gate = gate.clone();
        async move { gate.admit(&Job::new("m").tokens(100, 0).deadline(deadline)).await }
    });
    sleep(SECOND).await;
    early.settle(Outcome::answered(Some(&Usage::new(1_000, 10)), SECOND));
    assert_eq!(soon(waiter).await.unwrap().queued(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn long_answers_never_lock_a_client_out() {
    let long = Usage::new(20, 1_000_000);
    let client = Arc::new(Scripted::new().usage(Some(long)));
    let layer = ScheduleLayer::from(Admission::new().tpm(30_000));
    let llm = layer.wrap(client.clone(), &Env::new()).unwrap();
    for call in 1..=5 {
        llm.chat(ChatRequest::new("m").user("hello")).await.unwrap();
        assert_eq!(client.calls(), call);
    }
}
