//! Limits that hold some back and not others.

use sluicegate::schedule::Limit;
use sluicegate::types::Usage;

use super::*;

/// Asks in a task of its own; the time it was admitted at is the answer.
fn at(
    gate: &AdmissionGate,
    tenant: &'static str,
    model: &'static str,
    tokens: u64,
) -> tokio::task::JoinHandle<Duration> {
    job(gate, Job::new(model).tokens(tokens, 0).tenant(Some(tenant)))
}

fn job(gate: &AdmissionGate, job: Job<'static>) -> tokio::task::JoinHandle<Duration> {
    let (gate, started) = (gate.clone(), now());
    tokio::spawn(async move {
        let permit = gate.admit(&job).await.unwrap();
        let waited = now() - started;
        permit.settle(Outcome::answered(None, Duration::ZERO));
        waited
    })
}

#[tokio::test(start_paused = true)]
async fn a_tenant_at_its_limit_lets_others_by_and_wakes_at_its_times() {
    let gate = gate(Admission::new().limit(Limit::requests(60).by_tenant()));
    let full: Vec<_> = (0..20).map(|_| at(&gate, "full", "m", 1)).collect();
    settle_down().await;
    assert_eq!(gate.status().queued, 19);
    let others: Vec<_> = ["a", "b", "c"].map(|tenant| at(&gate, tenant, "m", 1)).into();
    for other in others {
        assert_eq!(soon(other).await, Duration::ZERO);
    }
    for (turn, call) in (0..).zip(full) {
        assert_eq!(soon(call).await.as_secs(), turn);
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_at_its_limit_lets_others_by_whoever_leaves() {
    let gate = gate(Admission::new().concurrency(8).limit(Limit::requests(60).by_model()));
    let full: Vec<_> = (0..20).map(|number| at(&gate, ["a", "b"][number % 2], "slow", 1)).collect();
    settle_down().await;
    // Among them is the one who looks after the time.
    full[1].abort();
    full[2].abort();
    assert_eq!(soon(at(&gate, "a", "fast", 1)).await, Duration::ZERO);
    let mut waits = Vec::new();
    for (number, call) in full.into_iter().enumerate().filter(|(number, _)| !(1..=2).contains(number)) {
        waits.push((soon(call).await.as_secs(), number));
    }
    waits.sort_unstable();
    assert!((0..18).eq(waits.iter().map(|(waited, _)| *waited)), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_large_call_is_not_kept_out_by_small_ones_of_its_group() {
    let gate = gate(Admission::new().limit(Limit::tokens(60_000).models(["m*"]).burst(SECOND)));
    soon(at(&gate, "first", "m", 1_000)).await;
    let large = at(&gate, "large", "m", 1_000);
    settle_down().await;
    // Twice what the limit allows, for a minute.
    let small: Vec<_> = (0..600)
        .map(|number| {
            let gate = gate.clone();
            tokio::spawn(async move {
                sleep(SECOND / 10 * number).await;
                let permit = gate.admit(&Job::new("m2").tokens(200, 0).tenant(Some("small"))).await.unwrap();
                permit.settle(Outcome::answered(None, Duration::ZERO));
            })
        })
        .collect();
    let waited = soon(large).await;
    assert!(!waited.is_zero() && waited <= 2 * SECOND, "{waited:?}");
    for call in small {
        soon(call).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_takes_its_claim_along() {
    let gate = gate(Admission::new().limit(Limit::tokens(1_000).per_day().by_tenant()));
    soon(at(&gate, "a", "m", 900)).await;
    let large = at(&gate, "a", "m", 500);
    settle_down().await;
    let (behind, other) = (at(&gate, "a", "m", 50), at(&gate, "a", "m2", 50));
    settle_down().await;
    assert_eq!(gate.status().queued, 3);
    large.abort();
    assert_eq!((soon(behind).await, soon(other).await), (Duration::ZERO, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn those_held_back_by_their_own_limit_are_not_ahead_of_a_deadline() {
    let gate = gate(Admission::new().limit(Limit::requests(60).by_tenant()));
    let flood: Vec<_> =
        (0..100).map(|_| job(&gate, Job::new("m").tenant(Some("flood")).priority(Priority::High))).collect();
    sleep(50 * SECOND).await;
    let deadline = Some(now() + 5 * SECOND);
    assert_eq!(soon(job(&gate, Job::new("m").tenant(Some("b")).deadline(deadline))).await, Duration::ZERO);
    for call in flood {
        soon(call).await;
    }
}

/// What comes back is too little for the large one: as long as it waits it is for it, and not for those behind it.
#[tokio::test(start_paused = true)]
async fn what_comes_back_is_kept_for_who_waits_for_more() {
    let limit = Limit::tokens(600).models(["m*"]).burst(10 * SECOND);
    let gate = gate(Admission::new().limit(limit));
    let unused = Usage::new(0, 0);
    let [first, second] = [40, 60].map(|tokens| Job::new("m").tokens(tokens, 0));
    let (first, second) = (gate.admit(&first).await.unwrap(), gate.admit(&second).await.unwrap());
    let before: Vec<_> = ["a", "b", "c"].map(|tenant| at(&gate, tenant, "m1", 90)).into();
    settle_down().await;
    let large = at(&gate, "large", "m2", 100);
    settle_down().await;
    for call in &before {
        call.abort();
    }
    settle_down().await;
    // They are listed where the others were, before the large one.
    let behind: Vec<_> = ["d", "e", "f"].map(|tenant| at(&gate, tenant, "m3", 10)).into();
    settle_down().await;
    assert_eq!(gate.status().queued, 4);
    first.settle(Outcome::answered(Some(&unused), Duration::ZERO));
    settle_down().await;
    assert_eq!(gate.status().queued, 4, "40 are not for those who ask for 10");
    second.settle(Outcome::answered(Some(&unused), Duration::ZERO));
    assert_eq!(soon(large).await, Duration::ZERO);
    for call in behind {
        assert!(!soon(call).await.is_zero());
    }
}
