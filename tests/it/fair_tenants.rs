//! Tenants that share a gate: one that floods it does not keep the others out.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;
use sluicegate::Env;
use sluicegate::env::{Random, SeededRandom};
use sluicegate::schedule::{Admission, AdmissionGate, Job, Outcome, Permit, Scheduler};
use sluicegate::types::Priority;

const SECOND: Duration = Duration::from_secs(1);

fn gate(admission: Admission) -> AdmissionGate {
    admission.start(&Env::new()).unwrap()
}

/// Calls that wait, each polled by hand; `next` says whose turn it was.
struct Waiters {
    gate: AdmissionGate,
    waiting: Vec<(&'static str, futures_util::future::BoxFuture<'static, Permit>)>,
}

impl Waiters {
    fn new(gate: &AdmissionGate) -> Self {
        Self { gate: gate.clone(), waiting: Vec::new() }
    }

    fn ask(&mut self, tenant: &'static str, tokens: u64, priority: Priority) {
        let gate = self.gate.clone();
        let mut ask: futures_util::future::BoxFuture<'static, Permit> = Box::pin(async move {
            gate.admit(&Job::new("m").tokens(tokens, 0).tenant(Some(tenant)).priority(priority)).await.unwrap()
        });
        assert!(ask.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        self.waiting.push((tenant, ask));
    }

    /// Ends the call that runs; whose turn comes with that.
    fn next(&mut self, running: Permit) -> (&'static str, Permit) {
        running.settle(Outcome::answered(None, SECOND));
        let mut cx = Context::from_waker(Waker::noop());
        let next = self.waiting.iter_mut().enumerate().find_map(|(at, (_, ask))| match ask.as_mut().poll(&mut cx) {
            Poll::Ready(permit) => Some((at, permit)),
            Poll::Pending => None,
        });
        let (at, permit) = next.expect("somebody's turn");
        (self.waiting.remove(at).0, permit)
    }
}

/// Shows 3.
#[tokio::test(start_paused = true)]
async fn a_flood_of_one_delays_another_by_no_more_than_one_round() {
    const PLACES: usize = 4;
    let gate = gate(Admission::new().concurrency(PLACES).queue(20_000));
    let env = Env::new();
    let flood: Vec<_> = (0..10_000)
        .map(|_| {
            let (gate, env) = (gate.clone(), env.clone());
            tokio::spawn(async move {
                let permit = gate.admit(&Job::new("m").tokens(100, 0).tenant(Some("flood"))).await.unwrap();
                env.sleep(SECOND).await;
                permit.settle(Outcome::answered(None, SECOND));
            })
        })
        .collect();
    while gate.load().queued < 10_000 - PLACES {
        tokio::task::yield_now().await;
    }
    let waits = Arc::new(Mutex::new(Vec::new()));
    let others: Vec<_> = (0..100)
        .map(|number| {
            let (gate, env, waits) = (gate.clone(), env.clone(), Arc::clone(&waits));
            tokio::spawn(async move {
                // One at a time, at odd moments of the flood's turns.
                env.sleep(Duration::from_millis(2_370 * number)).await;
                let permit = gate.admit(&Job::new("m").tokens(100, 0).tenant(Some("other"))).await.unwrap();
                waits.lock().push(permit.queued());
                env.sleep(SECOND).await;
                permit.settle(Outcome::answered(None, SECOND));
            })
        })
        .collect();
    for other in others {
        other.await.unwrap();
    }
    assert!(gate.status().queued > 8_000, "the flood goes on");
    let longest = waits.lock().iter().max().copied().unwrap();
    // A round is one call of each of the two tenants; all places are taken for a second at most before one is free.
    assert!(longest <= SECOND, "{longest:?}");
    flood.iter().for_each(|call| call.abort());
}

#[tokio::test(start_paused = true)]
async fn tokens_count_and_not_calls() {
    let gate = gate(Admission::new().concurrency(1));
    let mut running = gate.admit(&Job::new("m")).await.unwrap();
    let mut waiters = Waiters::new(&gate);
    for _ in 0..400 {
        waiters.ask("long", 300, Priority::Normal);
        waiters.ask("short", 100, Priority::Normal);
    }
    let mut turns = Vec::new();
    for _ in 0..100 {
        let (tenant, permit) = waiters.next(running);
        (running, _) = (permit, turns.push(tenant));
    }
    assert_eq!(turns.iter().filter(|tenant| **tenant == "long").count(), 25);
}

#[tokio::test(start_paused = true)]
async fn weights_are_shares() {
    let gate = gate(Admission::new().concurrency(1).tenant_weight("paying", 3));
    let mut running = gate.admit(&Job::new("m")).await.unwrap();
    let mut waiters = Waiters::new(&gate);
    for _ in 0..100 {
        waiters.ask("free", 100, Priority::Normal);
        waiters.ask("paying", 100, Priority::Normal);
    }
    let mut paying = 0;
    for _ in 0..80 {
        let (tenant, permit) = waiters.next(running);
        paying += usize::from(tenant == "paying");
        running = permit;
    }
    assert_eq!(paying, 60);
}

#[tokio::test(start_paused = true)]
async fn coming_back_pays_no_debt_and_ever_new_tenants_keep_nobody_out() {
    let gate = gate(Admission::new().concurrency(1));
    let mut running = gate.admit(&Job::new("m")).await.unwrap();
    let mut waiters = Waiters::new(&gate);
    (0..200).for_each(|_| waiters.ask("steady", 100, Priority::Normal));
    // One call at a time, each nine times as dear: its queue is empty whenever it is served.
    waiters.ask("dear", 900, Priority::Normal);
    let mut dear = 0;
    for _ in 0..100 {
        let (tenant, permit) = waiters.next(running);
        running = permit;
        if tenant == "dear" {
            dear += 1;
            waiters.ask("dear", 900, Priority::Normal);
        }
    }
    assert!((10..=11).contains(&dear), "{dear} of 100 turns, where a tenth is fair");

    let names: Vec<&'static str> = (0..100).map(|n| &*Box::leak(format!("new {n}").into_boxed_str())).collect();
    let mut steady = 0;
    for name in names {
        waiters.ask(name, 100, Priority::Normal);
        let (tenant, permit) = waiters.next(running);
        running = permit;
        steady += usize::from(tenant == "steady");
    }
    assert!(steady >= 8, "{steady} of 100 turns against one new tenant a turn");
}

#[tokio::test(start_paused = true)]
async fn classes_come_before_tenants() {
    let gate = gate(Admission::new().concurrency(1));
    let running = gate.admit(&Job::new("m")).await.unwrap();
    let mut waiters = Waiters::new(&gate);
    waiters.ask("a", 1, Priority::Low);
    waiters.ask("b", 9_000, Priority::Normal);
    waiters.ask("b", 9_000, Priority::Normal);
    waiters.ask("c", 1, Priority::High);
    let (first, running) = waiters.next(running);
    let (second, running) = waiters.next(running);
    let (third, running) = waiters.next(running);
    let (fourth, _running) = waiters.next(running);
    assert_eq!([first, second, third, fourth], ["c", "b", "b", "a"]);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_cannot_fill_the_queue_of_all() {
    let gate = gate(Admission::new().concurrency(1).queue(10).tenant_queue(3));
    let _running = gate.admit(&Job::new("m")).await.unwrap();
    let mut waiters = Waiters::new(&gate);
    (0..3).for_each(|_| waiters.ask("a", 1, Priority::Normal));
    let refused = gate.admit(&Job::new("m").tenant(Some("a"))).await.unwrap_err();
    assert!(refused.to_string().contains("3 calls of its tenant") && refused.to_string().contains("tenant_queue"));
    waiters.ask("b", 1, Priority::Normal);
    assert_eq!((gate.status().queued, gate.status().tenants), (4, 2));
}

proptest! {
    /// While two tenants have calls waiting, their shares never differ by more than one of the largest calls of each.
    #[test]
    fn shares_never_differ_by_more_than_a_call_of_each(seed in any::<u64>(), weight in 1_u32..5) {
        let gate = gate(Admission::new().concurrency(1).tenant_weight("a", weight));
        let random = SeededRandom::new(seed);
        let mut running = futures_util::FutureExt::now_or_never(gate.admit(&Job::new("m"))).unwrap().unwrap();
        let mut costs = std::collections::HashMap::from([("a", Vec::new()), ("b", Vec::new()), ("c", Vec::new())]);
        let mut waiters = Waiters::new(&gate);
        for _ in 0..120 {
            for tenant in ["a", "b", "c"] {
                let cost = 1 + random.next() % 1_000;
                waiters.ask(tenant, cost, Priority::Normal);
                costs.get_mut(tenant).unwrap().push(cost);
            }
        }
        let mut served = std::collections::HashMap::from([("a", 0.0), ("b", 0.0), ("c", 0.0)]);
        for _ in 0..60 {
            let (tenant, permit) = waiters.next(running);
            running = permit;
            let share = if tenant == "a" { f64::from(weight) } else { 1.0 };
            *served.get_mut(tenant).unwrap() += costs.get_mut(tenant).unwrap().remove(0) as f64 / share;
            let (a, b, c) = (served["a"], served["b"], served["c"]);
            prop_assert!((a - b).abs() <= 2_000.0 && (b - c).abs() <= 2_000.0 && (a - c).abs() <= 2_000.0);
        }
    }
}
