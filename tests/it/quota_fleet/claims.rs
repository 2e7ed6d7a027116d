//! Whose turn it is at a shared limit that not all calls share.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_call_is_not_kept_out_by_small_ones_of_its_group() {
    let server = Server::start(&[]).await;
    let limit = || Admission::new().limit(Limit::tokens(TOKENS).per(PERIOD).burst(BURST).models(["m*"]));
    let (one, env) = gate(&limit(), &server);
    let small = Arc::new(AtomicU64::new(0));
    let mut calls = JoinSet::new();
    for lane in ["a", "b", "c", "d"] {
        let (gate, small) = (one.clone(), Arc::clone(&small));
        calls.spawn(async move {
            // As many as the limit allows, without a pause.
            while let Ok(permit) = gate.admit(&Job::new("m2").tokens(100, 0).tenant(Some(lane))).await {
                small.fetch_add(1, Ordering::Relaxed);
                permit.settle(Outcome::answered(Some(&Usage::new(100, 0)), SECOND));
            }
        });
    }
    until("the small ones use it up", || async { small.load(Ordering::Relaxed) > 100 }).await;
    let before = small.load(Ordering::Relaxed);
    // All that the bucket ever holds.
    let large = Job::new("m").tokens(5_000, 0).tenant(Some("large"));
    let permit = tokio::time::timeout(HANG, one.admit(&large)).await.expect("it is let in").unwrap();
    let overtaken = small.load(Ordering::Relaxed) - before;
    // What it gives back is for the small ones.
    drop(permit);
    assert!(overtaken <= 20, "{overtaken} small ones went before it");
    drop(calls);
    end(vec![(one, env)]).await;
}
