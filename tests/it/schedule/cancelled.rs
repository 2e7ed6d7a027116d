//! What a dropped call leaves behind: nothing.

use super::*;
use sluicegate::env::{Random, SeededRandom};
use sluicegate::schedule::Concurrency;
use sluicegate::testing::drop_at_every_await;
use sluicegate::types::Tenant;
use sluicegate::types::{EmbedRequest, Usage};
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

#[tokio::test(start_paused = true)]
async fn a_drop_at_any_await_leaves_nothing_behind() {
    let limits = [
        Admission::new().concurrency(1),
        Admission::new().concurrency(1).rpm(60),
        Admission::new().concurrency(2).tpm(6_000).burst(SECOND),
        Admission::new().concurrency(1).ageing(Duration::ZERO).tenant_weight("a", 2),
        Admission::new().concurrency(Concurrency::growing(1..=2)),
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
                answer = llm.chat(request().with(Tenant("a".to_owned()))) => { answer.unwrap(); }
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
    let admission = Admission::new().concurrency(concurrency).queue(TASKS as usize).ageing(Duration::ZERO);
    // Without limits, time matters only while somebody waits.
    let gate = gate(if round % 4 < 2 { admission.rpm(u32::MAX).tpm(u32::MAX) } else { admission });
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
                    let tenant = [None, Some("a"), Some("b")][(draw >> 44) as usize % 3];
                    let job =
                        Job::new("m").tokens(draw >> 8 & 0xfff, draw >> 20 & 0xfff).priority(priority).tenant(tenant);
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
