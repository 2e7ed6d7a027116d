//! Full queues, shutdown, settings.

use std::ops::RangeInclusive;

use super::*;
use sluicegate::schedule::Concurrency;
use sluicegate::testing::Gate;

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
async fn settings_are_checked_where_they_are_used() {
    let inner: Arc<dyn LlmClient> = Arc::new(Scripted::new());
    let refused = [
        ("concurrency = 0", Admission::new().concurrency(0)),
        ("rpm = 0", Admission::new().rpm(0)),
        ("tpm = 0", Admission::new().tpm(0)),
        ("queue = 0", Admission::new().queue(0)),
        ("tenant_queue = 0", Admission::new().tenant_queue(0)),
        ("tenant_weight = 0", Admission::new().tenant_weight("a", 0)),
        ("concurrency = 0..=4", Admission::new().concurrency(Concurrency::aimd(0..=4))),
        ("concurrency = 5..=4", Admission::new().concurrency(Concurrency::gradient(RangeInclusive::new(5, 4)))),
        ("waiting_per_place = 0", Admission::new().concurrency(Concurrency::growing(1..=2).waiting_per_place(0))),
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
