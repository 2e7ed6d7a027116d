//! Runs over a client whose own queue is full.

use std::sync::Arc;
use std::time::Duration;

use sluicegate::schedule::{Admission, AdmissionGate, Shed};
use sluicegate::testing::{Reply, Scripted};
use sluicegate::types::{ChatRequest, Priority};
use sluicegate::{Env, Error, ErrorKind, OptimizedClient, Retry};
use tokio::task::JoinSet;

use super::{all, questions};

const LATENCY: Duration = Duration::from_millis(100);

/// One call at a time, and two that wait.
fn narrow(shed: Shed, upstream: &Arc<Scripted>) -> (OptimizedClient, AdmissionGate) {
    let gate = Admission::new().concurrency(1).queue(2).shed(shed).start(&Env::new()).unwrap();
    (OptimizedClient::builder(Arc::clone(upstream)).schedule(gate.clone()).build().unwrap(), gate)
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_wider_than_the_queue_waits_for_room() {
    for retries in [false, true] {
        let upstream = Arc::new(Scripted::new().latency(LATENCY));
        let (mut llm, _) = narrow(Shed::Newest, &upstream);
        if retries {
            llm = OptimizedClient::builder(llm).retry(Retry::standard()).build().unwrap();
        }
        let end = llm.bulk().concurrency(20).run(questions(60)).await.unwrap().finish().await.unwrap();
        assert_eq!((end.done, end.failed, upstream.calls()), (60, 0, 60));
    }
}

#[tokio::test(start_paused = true)]
async fn what_matters_more_pushes_its_items_out_and_they_come_back() {
    let upstream = Arc::new(Scripted::new().latency(LATENCY));
    let (llm, gate) = narrow(Shed::LowestPriority, &upstream);
    let mut people = JoinSet::new();
    for n in 0..10 {
        let llm = llm.clone();
        people.spawn(async move {
            tokio::time::sleep(n * LATENCY).await;
            llm.chat(ChatRequest::new("m").user(n.to_string()).with(Priority::High)).await
        });
    }
    let items = all(llm.bulk().concurrency(3).run(questions(20)).await.unwrap()).await;
    assert!(items.iter().all(|item| item.result.is_ok()), "{items:?}");
    assert!(people.join_all().await.iter().all(Result::is_ok));
    assert!(gate.status().totals.shed > 0, "{:?}", gate.status());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_room_ends_with_the_run_and_when_the_queue_is_cleared() {
    let upstream = Arc::new(Scripted::new());
    let (llm, gate) = narrow(Shed::Newest, &upstream);
    gate.pause();
    let run = llm.bulk().concurrency(5).run(questions(9)).await.unwrap();
    let (drain, progress) = (run.drain(), run.progress());
    let ended = tokio::spawn(all(run));
    tokio::time::sleep(10 * LATENCY).await;
    assert_eq!((progress.borrow().under_way, progress.borrow().finished()), (5, 0));
    drain.drain();
    tokio::time::sleep(LATENCY).await;
    assert_eq!((progress.borrow().under_way, progress.borrow().failed), (2, 3), "two wait in the queue itself");
    assert_eq!(gate.clear(), 2);
    let items = ended.await.unwrap();
    let kinds: Vec<_> = items.into_iter().map(|item| item.result.unwrap_err().kind()).collect();
    assert_eq!(kinds, [ErrorKind::Overloaded; 5]);
    assert_eq!(upstream.calls(), 0);
}

/// What the provider says is for the client's own retries.
#[tokio::test(start_paused = true)]
async fn a_provider_that_is_overloaded_is_not_asked_for_ever() {
    let busy = Reply::Fail(Error::new(ErrorKind::Overloaded, "provider", "busy"));
    let upstream = Arc::new(Scripted::new().always_reply(busy));
    let (llm, _) = narrow(Shed::Newest, &upstream);
    let end = llm.bulk().concurrency(1).run(questions(3)).await.unwrap().finish().await.unwrap();
    assert_eq!((end.failed, upstream.calls()), (3, 3));
}
