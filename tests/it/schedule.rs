//! Admission: limits, order, hand-over, and what a dropped call leaves behind.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use parking_lot::Mutex;
use proptest::prelude::*;
use sluicegate::env::{Random, SeededRandom};
use sluicegate::schedule::{Admission, AdmissionGate, Job, Load, Outcome, Permit, ScheduleLayer, Scheduler};
use sluicegate::testing::{Gate, Reply, Scripted, drop_at_every_await};
use sluicegate::types::{ChatRequest, Deadline, EmbedRequest, Priority, StreamEvent, Usage};
use sluicegate::{Env, Error, ErrorKind, Layer, LlmClient, Result};

const SECOND: Duration = Duration::from_secs(1);

fn gate(admission: Admission) -> AdmissionGate {
    admission.start(&Env::new()).unwrap()
}

fn wrap(client: &Arc<Scripted>, gate: &AdmissionGate) -> Arc<dyn LlmClient> {
    let inner: Arc<dyn LlmClient> = client.clone();
    ScheduleLayer::from(gate.clone()).wrap(inner, &Env::new()).unwrap()
}

fn request() -> ChatRequest {
    ChatRequest::new("m").user("hello").max_tokens(10)
}

fn now() -> Instant {
    Env::new().now()
}

async fn sleep(wait: Duration) {
    Env::new().sleep(wait).await;
}

/// What the task answers; a lost wake-up fails the test instead of hanging it.
async fn soon<T>(task: tokio::task::JoinHandle<T>) -> T {
    tokio::select! {
        answer = task => answer.unwrap(),
        () = sleep(1_000_000 * SECOND) => panic!("a task hangs"),
    }
}

/// Lets every task that can run do so, without moving time.
async fn settle_down() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Asks in a task of its own, and notes the name once it is admitted; the permit is the task's answer.
fn ask(
    gate: &AdmissionGate,
    order: &Arc<Mutex<Vec<u32>>>,
    name: u32,
    priority: Priority,
) -> tokio::task::JoinHandle<Result<Permit>> {
    let (gate, order) = (gate.clone(), Arc::clone(order));
    tokio::spawn(async move {
        let permit = gate.admit(&Job::new("m").tokens(1, 0).priority(priority)).await?;
        order.lock().push(name);
        Ok(permit)
    })
}

#[tokio::test(start_paused = true)]
async fn concurrency_is_never_exceeded() {
    let client = Arc::new(Scripted::new().latency(Duration::from_millis(20)));
    let gate = gate(Admission::new().concurrency(8));
    let idle = gate.load();
    let llm = wrap(&client, &gate);
    let random = Arc::new(SeededRandom::new(7));
    let tasks: Vec<_> = (0..1_000)
        .map(|_| {
            let (llm, random) = (Arc::clone(&llm), Arc::clone(&random));
            tokio::spawn(async move {
                let patience = Duration::from_millis(random.next() % 3_000);
                tokio::select! {
                    biased;
                    () = sleep(patience) => {}
                    answer = llm.chat(request()) => assert!(answer.is_ok()),
                }
            })
        })
        .collect();
    for task in tasks {
        soon(task).await;
    }
    assert_eq!(client.peak(), 8);
    assert!(client.calls() > 300);
    assert_eq!(gate.load(), idle);
}

#[tokio::test(start_paused = true)]
async fn higher_goes_first_and_equals_in_order_of_arrival() {
    for admission in [Admission::new().concurrency(1), Admission::new().rpm(60), Admission::new().tpm(60)] {
        let gate = gate(admission);
        let order = Arc::default();
        let first = gate.admit(&Job::new("m").tokens(1, 0)).await.unwrap();
        let mut tasks = Vec::new();
        let classes =
            [Priority::Low, Priority::Normal, Priority::High, Priority::Normal, Priority::High, Priority::Low];
        for (name, priority) in (0..).zip(classes) {
            tasks.push(ask(&gate, &order, name, priority));
            settle_down().await;
        }
        assert_eq!(gate.load().queued, 6);
        first.settle(Outcome::answered(None, SECOND));
        for expected in 1..=6 {
            while order.lock().len() < expected {
                sleep(Duration::from_millis(100)).await;
            }
            let newest = order.lock()[expected - 1] as usize;
            let task = std::mem::replace(
                &mut tasks[newest],
                tokio::spawn(async { Err(Error::new(ErrorKind::Other, "", "")) }),
            );
            soon(task).await.unwrap().settle(Outcome::answered(None, SECOND));
        }
        assert_eq!(*order.lock(), [2, 4, 1, 3, 0, 5]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_and_says_what_to_do() {
    let gate = gate(Admission::new().concurrency(1).queue(1));
    let _first = gate.admit(&Job::new("m")).await.unwrap();
    let waiter = ask(&gate, &Arc::default(), 0, Priority::Low);
    settle_down().await;
    let refused = gate.admit(&Job::new("m").priority(Priority::High)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    assert!(refused.to_string().contains("1 calls wait already") && refused.to_string().contains("Admission::queue"));
    waiter.abort();
    settle_down().await;
    assert_eq!(gate.load().queued, 0);
}

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
async fn a_cancelled_head_hands_over_its_timer() {
    let gate = gate(Admission::new().rpm(60));
    gate.admit(&Job::new("m")).await.unwrap().settle(Outcome::answered(None, SECOND));
    let order = Arc::default();
    let head = ask(&gate, &order, 0, Priority::Normal);
    settle_down().await;
    let next = ask(&gate, &order, 1, Priority::Normal);
    settle_down().await;
    let before = now();
    head.abort();
    soon(next).await.unwrap().settle(Outcome::answered(None, SECOND));
    assert_eq!((order.lock().as_slice(), now() - before), (&[1][..], SECOND));

    // A higher one takes the timer over, and gives it back when it leaves.
    let low = ask(&gate, &order, 2, Priority::Low);
    settle_down().await;
    let high = ask(&gate, &order, 3, Priority::High);
    settle_down().await;
    sleep(SECOND / 2).await;
    high.abort();
    soon(low).await.unwrap().settle(Outcome::answered(None, SECOND));
    assert_eq!((order.lock().as_slice(), now() - before), (&[1, 2][..], 2 * SECOND));
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
async fn a_grant_that_is_not_taken_goes_to_the_next_with_its_request() {
    let gate = gate(Admission::new().concurrency(1).rpm(60).burst(2 * SECOND));
    let first = gate.admit(&Job::new("m")).await.unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let job = Job::new("m");
    let mut second = Box::pin(gate.admit(&job));
    let mut third = Box::pin(gate.admit(&job));
    assert!(second.as_mut().poll(&mut cx).is_pending() && third.as_mut().poll(&mut cx).is_pending());
    drop(first);
    assert_eq!((gate.load().in_flight, gate.load().queued), (1, 1));
    drop(second);
    assert_eq!((gate.load().in_flight, gate.load().queued), (1, 0));
    assert!(third.as_mut().poll(&mut cx).is_ready(), "both requests of the burst are used, none is lost");
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
async fn shutdown_reaches_every_waiter() {
    let env = Env::new();
    let gate = Admission::new().concurrency(1).start(&env).unwrap();
    let first = gate.admit(&Job::new("m")).await.unwrap();
    let waiters: Vec<_> = (0..3).map(|name| ask(&gate, &Arc::default(), name, Priority::Normal)).collect();
    settle_down().await;
    env.closing().cancel();
    for waiter in waiters {
        assert_eq!(soon(waiter).await.unwrap_err().kind(), ErrorKind::Shutdown);
    }
    assert_eq!(gate.admit(&Job::new("m")).await.unwrap_err().kind(), ErrorKind::Shutdown);
    first.settle(Outcome::answered(None, SECOND));
    assert_eq!((gate.load().in_flight, gate.load().queued), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn shutdown_reaches_those_who_wait_on_a_scheduler_that_does_not_know_of_it() {
    let env = Env::new();
    let gate = gate(Admission::new().concurrency(1));
    let _first = gate.admit(&Job::new("m")).await.unwrap();
    let llm = ScheduleLayer::from(gate.clone()).wrap(Arc::new(Scripted::new()), &env).unwrap();
    let waiter = tokio::spawn(async move { llm.chat(request()).await });
    settle_down().await;
    env.closing().cancel();
    assert_eq!(soon(waiter).await.unwrap_err().kind(), ErrorKind::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn a_stream_holds_its_permit_to_its_end() {
    let client = Arc::new(Scripted::new().always_reply(Reply::words(["a ", "b "])).chunk_gap(SECOND));
    let gate = gate(Admission::new().concurrency(1));
    let llm = wrap(&client, &gate);
    let mut stream = llm.chat_stream(request()).await.unwrap();
    let queued = tokio::spawn({
        let llm = Arc::clone(&llm);
        async move { llm.chat_stream(request()).await.unwrap().trace().queued }
    });
    while let Some(event) = stream.next().await {
        let held = usize::from(!matches!(event.unwrap(), StreamEvent::Finish(_)));
        assert_eq!(gate.load().queued, held, "the next one is let in with the finish");
    }
    assert_eq!(soon(queued).await, 4 * SECOND);
    assert_eq!(gate.load().in_flight, 0, "a dropped stream frees its permit");
    let broken = Error::new(ErrorKind::Server, "t", "");
    let client = Arc::new(Scripted::new().then(Reply::Break(Vec::new(), broken)).then(Reply::Cut(Vec::new())));
    let llm = wrap(&client, &gate);
    for _ in 0..2 {
        let mut stream = llm.chat_stream(request()).await.unwrap();
        assert_eq!(gate.load().in_flight, 1);
        assert!(stream.next().await.unwrap().is_err());
        assert_eq!(gate.load().in_flight, 0, "an error frees the permit, before the stream is dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_tell_how_long_they_were_queued() {
    let client = Arc::new(Scripted::new().latency(SECOND));
    let llm = wrap(&client, &gate(Admission::new().concurrency(1)));
    let embed = EmbedRequest::new("e", ["text"]);
    let stream = async { llm.chat_stream(request()).await.unwrap().collect().await };
    let (chat, stream, vectors) = tokio::join!(llm.chat(request()), stream, llm.embed(embed));
    let queued = [*chat.unwrap().trace(), *stream.unwrap().trace(), vectors.unwrap().trace].map(|trace| trace.queued);
    assert_eq!(queued, [Duration::ZERO, SECOND, 2 * SECOND]);
}

#[tokio::test(start_paused = true)]
async fn controls_of_the_request_are_obeyed() {
    let gate = gate(Admission::new().concurrency(1));
    let llm = wrap(&Arc::new(Scripted::new()), &gate);
    let _held = gate.admit(&Job::new("m")).await.unwrap();
    let late = llm.chat(request().with(Deadline(now() + SECOND))).await.unwrap_err();
    assert_eq!((late.kind(), late.origin()), (ErrorKind::Deadline, "schedule"));
}

#[tokio::test(start_paused = true)]
async fn refusals_of_the_provider_cost_no_tokens() {
    let limited = Error::new(ErrorKind::RateLimited, "t", "");
    let client = Arc::new(Scripted::new().then(Reply::Fail(limited)).always_reply(Reply::text("x")));
    let gate = gate(Admission::new().tpm(60_000));
    let llm = wrap(&client, &gate);
    assert!(llm.chat(request().max_tokens(990)).await.is_err());
    // Of another model: the refusal closes the gate for its own.
    let whole = Job::new("other").tokens(1_000, 0);
    assert!(gate.admit(&whole).now_or_never().is_some_and(|permit| permit.is_ok()));
}

#[tokio::test(start_paused = true)]
async fn a_stream_settles_with_its_usage_and_refunds_when_dropped() {
    let gate = gate(Admission::new().tpm(60_000));
    let llm = wrap(&Arc::new(Scripted::new().usage(Some(Usage::new(10, 5)))), &gate);
    let at_once = |tokens| gate.admit(&Job::new("m").tokens(tokens, 0)).now_or_never().is_some();
    let mut dropped = llm.chat_stream(request().max_tokens(900)).await.unwrap();
    assert!(dropped.next().await.is_some() && !at_once(1_000));
    drop(dropped);
    assert!(at_once(1_000));
    llm.chat_stream(request().max_tokens(900)).await.unwrap().collect().await.unwrap();
    assert!(!at_once(986) && at_once(985));
}

#[tokio::test(start_paused = true)]
async fn a_drop_at_any_await_leaves_nothing_behind() {
    let limits = [
        Admission::new().concurrency(1),
        Admission::new().concurrency(1).rpm(60),
        Admission::new().concurrency(2).tpm(6_000),
    ];
    for admission in limits {
        let gate = gate(admission);
        let idle = gate.load();
        let client = Arc::new(Scripted::new().latency(SECOND).chunk_gap(SECOND));
        let llm = wrap(&client, &gate);
        // Somebody is before it, and rates are used up, so that it waits at the head.
        let busy = || async {
            let first = gate.admit(&Job::new("m").tokens(100, 0)).await;
            tokio::select! {
                biased;
                () = async { sleep(SECOND).await; drop(first); std::future::pending().await } => {}
                answer = llm.chat(request()) => { answer.unwrap(); }
            }
        };
        let polls = drop_at_every_await(busy, async || {
            assert_eq!(gate.load(), idle);
            gate.admit(&Job::new("m")).await.unwrap().settle(Outcome::answered(None, SECOND));
        })
        .await;
        assert!(polls > 2, "{polls}");
        let stream = || async { llm.chat_stream(request()).await.unwrap().collect().await };
        drop_at_every_await(stream, async || assert_eq!(gate.load(), idle)).await;
        let embed = || async { llm.embed(EmbedRequest::new("e", ["text"])).await };
        drop_at_every_await(embed, async || assert_eq!(gate.load(), idle)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_dropped_on_its_timer_lets_the_next_one_in() {
    let gate = gate(Admission::new().rpm(60));
    let order = Arc::new(Mutex::new(Vec::new()));
    gate.admit(&Job::new("m")).await.unwrap().settle(Outcome::answered(None, SECOND));
    let mut name = 0;
    let waits = Arc::new(Mutex::new(Vec::new()));
    drop_at_every_await(
        || {
            let gate = &gate;
            async move { gate.admit(&Job::new("m").priority(Priority::High)).await.map(drop) }
        },
        async || {
            name += 1;
            let before = now();
            let next = ask(&gate, &order, name, Priority::Normal);
            let permit = soon(next).await.unwrap();
            permit.settle(Outcome::answered(None, SECOND));
            waits.lock().push(now() - before);
        },
    )
    .await;
    assert!(waits.lock().iter().all(|wait| *wait <= SECOND), "{:?}", waits.lock());
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

/// Real threads, real time: what is asserted does not depend on how they interleave.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_that_admit_settle_and_give_up_leave_nothing_behind() {
    // Many short rounds: a hand-over that is lost shows when nobody else comes.
    for round in 0..400 {
        play_a_round(round).await;
    }
}

async fn play_a_round(round: u64) {
    const TASKS: u64 = 6;
    let concurrency = 1 + (round % 2) as usize;
    let gate = gate(Admission::new().concurrency(concurrency).rpm(u32::MAX).tpm(u32::MAX).queue(TASKS as usize));
    let idle = gate.load();
    let admitted = Arc::new(AtomicUsize::new(0));
    let peak = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..TASKS)
        .map(|seed| {
            let (gate, admitted, peak) = (gate.clone(), Arc::clone(&admitted), Arc::clone(&peak));
            tokio::spawn(async move {
                let random = SeededRandom::new(round * TASKS + seed);
                for _ in 0..6 {
                    let draw = random.next();
                    let priority = [Priority::Low, Priority::Normal, Priority::High][(draw % 3) as usize];
                    let job = Job::new("m").tokens(draw >> 8 & 0xfff, draw >> 20 & 0xfff).priority(priority);
                    let mut turn = gate.admit(&job);
                    // Half of them give up after a few polls, granted or not.
                    let patience = if draw >> 32 & 1 == 0 { draw >> 34 & 7 } else { u64::MAX };
                    let mut polls = 0;
                    let permit = poll_fn(|cx| {
                        if polls > patience {
                            return Poll::Ready(None);
                        }
                        polls += 1;
                        let permit = turn.as_mut().poll(cx).map(|permit| Some(permit.unwrap()));
                        if permit.is_pending() && patience < u64::MAX {
                            cx.waker().wake_by_ref();
                        }
                        permit
                    })
                    .await;
                    drop(turn);
                    let Some(permit) = permit else { continue };
                    peak.fetch_max(admitted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    if draw >> 40 & 1 == 0 {
                        tokio::task::yield_now().await;
                    }
                    admitted.fetch_sub(1, Ordering::SeqCst);
                    match draw >> 41 & 3 {
                        0 => drop(permit),
                        1 => permit.settle(Outcome::answered(None, SECOND)),
                        _ => permit.settle(Outcome::answered(Some(&Usage::new(draw >> 50, 3)), SECOND)),
                    }
                }
            })
        })
        .collect();
    let all = async {
        for task in tasks {
            task.await.unwrap();
        }
    };
    // Far above what it takes, so that only a lost wake-up gets there.
    tokio::time::timeout(60 * SECOND, all).await.expect("a task hangs");
    assert!(peak.load(Ordering::SeqCst) <= concurrency);
    assert_eq!(gate.load(), idle);
}

#[tokio::test(start_paused = true)]
async fn settings_are_checked_where_they_are_used() {
    let inner: Arc<dyn LlmClient> = Arc::new(Scripted::new());
    let refused = [
        ("concurrency = 0", Admission::new().concurrency(0)),
        ("rpm = 0", Admission::new().rpm(0)),
        ("tpm = 0", Admission::new().tpm(0)),
        ("queue = 0", Admission::new().queue(0)),
        ("reply_tokens = 0", Admission::new().reply_tokens(0)),
        ("burst = 0ns", Admission::new().burst(Duration::ZERO)),
        ("burst = 61s", Admission::new().burst(61 * SECOND)),
    ];
    for (text, admission) in refused {
        let error = ScheduleLayer::from(admission).wrap(Arc::clone(&inner), &Env::new()).unwrap_err();
        assert_eq!((error.kind(), error.origin()), (ErrorKind::Config, "schedule"));
        assert!(error.to_string().contains(text), "{error}");
    }
    assert_eq!(ScheduleLayer::from(Admission::new()).settings(), "unlimited");
}

#[tokio::test(start_paused = true)]
async fn without_limits_everything_is_admitted() {
    let client = Arc::new(Scripted::new().gate(&Gate::closed()));
    let llm = wrap(&client, &gate(Admission::new()));
    let calls: Vec<_> = (0..100)
        .map(|_| {
            tokio::spawn({
                let llm = Arc::clone(&llm);
                async move { llm.chat(request()).await }
            })
        })
        .collect();
    settle_down().await;
    assert_eq!(client.active(), 100);
    calls.iter().for_each(|call| call.abort());
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Ask(Priority),
    Cancel(usize),
    Release(usize),
    Poll(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let priority = prop_oneof![Just(Priority::Low), Just(Priority::Normal), Just(Priority::High)];
    prop_oneof![
        priority.prop_map(Step::Ask),
        (0_usize..40).prop_map(Step::Cancel),
        (0_usize..40).prop_map(Step::Release),
        (0_usize..40).prop_map(Step::Poll),
    ]
}

proptest! {
    /// Against a list that is searched for the next one each time.
    #[test]
    fn random_orders_match_a_simple_oracle(concurrency in 1_usize..4, steps in prop::collection::vec(step(), 1..200)) {
        let gate = gate(Admission::new().concurrency(concurrency));
        let mut cx = Context::from_waker(Waker::noop());
        let mut asked = Vec::new();
        let mut held: Vec<(usize, Permit)> = Vec::new();
        // The oracle: (name, class) in order of arrival, and who is admitted.
        let mut waiting: Vec<(usize, Priority)> = Vec::new();
        let mut admitted: Vec<usize> = Vec::new();
        for (name, step) in steps.into_iter().enumerate() {
            match step {
                Step::Ask(priority) => {
                    let gate = gate.clone();
                    let ask = async move { gate.admit(&Job::new("m").priority(priority)).await };
                    asked.push((name, Box::pin(ask)));
                    waiting.push((name, priority));
                    if let Some((_, ask)) = asked.last_mut()
                        && let std::task::Poll::Ready(permit) = ask.as_mut().poll(&mut cx)
                    {
                        held.push((name, permit.unwrap()));
                        asked.pop();
                    }
                }
                Step::Cancel(i) if i < asked.len() => {
                    let (name, ask) = asked.remove(i);
                    drop(ask);
                    waiting.retain(|(who, _)| *who != name);
                    admitted.retain(|who| *who != name);
                }
                Step::Release(i) if i < held.len() => {
                    let (name, permit) = held.remove(i);
                    drop(permit);
                    admitted.retain(|who| *who != name);
                }
                Step::Poll(i) if i < asked.len() => {
                    let ready = asked[i].1.as_mut().poll(&mut cx);
                    prop_assert_eq!(ready.is_ready(), admitted.contains(&asked[i].0));
                    if let std::task::Poll::Ready(permit) = ready {
                        held.push((asked.remove(i).0, permit.unwrap()));
                    }
                }
                _ => {}
            }
            while admitted.len() < concurrency && !waiting.is_empty() {
                let best = (0..waiting.len()).max_by_key(|i| (waiting[*i].1, std::cmp::Reverse(*i))).unwrap();
                admitted.push(waiting.remove(best).0);
            }
            prop_assert_eq!((gate.load().in_flight, gate.load().queued), (admitted.len(), waiting.len()));
            prop_assert!(held.iter().all(|(name, _)| admitted.contains(name)));
        }
        drop((held, asked));
        prop_assert_eq!((gate.load().in_flight, gate.load().queued), (0, 0));
    }
}
