//! Bulk runs: bounded, in order or not, each item on its own; drained, dropped, killed and gone on with.

mod checkpoint;
#[cfg(unix)]
mod full;
#[cfg(feature = "disk")]
mod killed;
mod lines;
mod room;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use sluicegate::batch::{Bulk, BulkItem, BulkRequest, BulkRun, CheckpointSync};
use sluicegate::cache::Cache;
use sluicegate::providers::client_fn;
use sluicegate::testing::{Gate, Reply, Scripted};
use sluicegate::types::{ChatRequest, ChatResponse, Priority, Source, Usage};
use sluicegate::{Error, ErrorKind, OptimizedClient};

fn question(n: usize) -> ChatRequest {
    ChatRequest::new("gpt-5-mini").user(format!("question {n}"))
}

fn questions(count: usize) -> impl Iterator<Item = (String, ChatRequest)> + Send + 'static {
    (0..count).map(|n| (format!("q{n}"), question(n)))
}

async fn all(mut run: BulkRun) -> Vec<BulkItem> {
    let mut items = Vec::new();
    while let Some(item) = run.next().await {
        items.push(item.unwrap());
    }
    assert!(run.next().await.is_none(), "it stays at its end");
    items
}

fn ids(items: &[BulkItem]) -> Vec<&str> {
    items.iter().map(|item| item.id.as_str()).collect()
}

/// Answers with the question, the later ones sooner.
fn backwards() -> impl sluicegate::LlmClient {
    client_fn(|request: ChatRequest| async move {
        let text = request.messages[0].text().to_owned();
        let n: u64 = text.rsplit(' ').next().unwrap().parse().unwrap();
        tokio::time::sleep(Duration::from_millis(1_000 - 10 * (n % 100))).await;
        Ok(ChatResponse::from_text(text))
    })
}

#[tokio::test(start_paused = true)]
async fn results_come_in_order_or_as_they_come_and_belong_to_their_items() {
    for ordered in [true, false] {
        let bulk = Bulk::new(backwards()).concurrency(10).ordered(ordered);
        let items = all(bulk.run(questions(100)).await.unwrap()).await;
        let places: Vec<u64> = items.iter().map(|item| item.index).collect();
        assert_eq!(places.is_sorted(), ordered, "{places:?}");
        assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), 100);
        for item in items {
            let index = item.index;
            assert_eq!((item.id, item.line), (format!("q{index}"), None));
            assert_eq!(item.result.unwrap().text(), format!("question {index}"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_is_under_way_or_taken_than_was_said_however_slow_the_reader() {
    for (ordered, window) in [(false, 8), (true, 32)] {
        let upstream = Arc::new(Scripted::new().latency(Duration::from_millis(10)));
        let taken = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&taken);
        let source = questions(500).inspect(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        let bulk = Bulk::new(Arc::clone(&upstream)).concurrency(8).ordered(ordered);
        let mut run = bulk.run(source).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((taken.load(Ordering::SeqCst), upstream.calls()), (0, 0), "nobody has polled");
        for yielded in 1..=500 {
            run.next().await.unwrap().unwrap();
            let ahead = taken.load(Ordering::SeqCst) - yielded;
            assert!(ahead <= window, "{ahead} ahead of {yielded}");
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(taken.load(Ordering::SeqCst) - yielded, ahead, "nothing is taken while the reader is away");
        }
        assert!(run.next().await.is_none());
        assert_eq!((upstream.peak(), upstream.calls()), (8, 500));
    }
}

#[tokio::test(start_paused = true)]
async fn one_slow_call_at_the_head_of_an_ordered_run_does_not_idle_the_rest() {
    let gate = Gate::closed();
    let first = Arc::new(Scripted::new().gate(&gate));
    let (others, held) = (Arc::new(Scripted::new()), Arc::clone(&first));
    let counted = Arc::clone(&others);
    let client = client_fn(move |request: ChatRequest| {
        let client = if request.messages[0].text() == "question 0" { Arc::clone(&held) } else { Arc::clone(&others) };
        async move { sluicegate::LlmClient::chat(&client, request).await }
    });
    let mut run = Bulk::new(client).concurrency(4).ordered(true).run(questions(100)).await.unwrap();
    let waits = tokio::time::timeout(Duration::from_secs(1), run.next()).await;
    assert!(waits.is_err(), "the first is not answered");
    assert_eq!(counted.calls(), 15, "four times four are taken");
    gate.open();
    let items = all(run).await;
    assert!(items.iter().map(|item| item.index).eq(0..100));
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_its_items_alone() {
    let failed = || Reply::Fail(Error::new(ErrorKind::Server, "test", "down").with_usage(Usage::new(3, 1)));
    let upstream = Scripted::new().then(Reply::text("a")).then(failed()).then(Reply::Panic).then(failed());
    let requests: Vec<BulkRequest> = vec![
        question(0).into(),
        question(1).into(),
        question(2).into(),
        BulkRequest::new("mine", question(3)),
        ChatRequest::new("no-messages").into(),
        BulkRequest::unreadable(Error::new(ErrorKind::Decode, "test", "not a request")),
        BulkRequest::new("mine", question(4)),
        question(5).into(),
    ];
    let run = Bulk::new(upstream).concurrency(1).run(requests).await.unwrap();
    let progress = run.progress();
    let items = all(run).await;
    let kinds: Vec<_> = items.iter().map(|item| item.result.as_ref().err().map(Error::kind)).collect();
    use ErrorKind::{Decode, InvalidRequest, Panicked, Server};
    let expected = [
        None,
        Some(Server),
        Some(Panicked),
        Some(Server),
        Some(InvalidRequest),
        Some(Decode),
        Some(InvalidRequest),
        None,
    ];
    assert_eq!(kinds, expected);
    assert_eq!(ids(&items), ["item-0", "item-1", "item-2", "mine", "item-4", "item-5", "mine", "item-7"]);
    let progress = *progress.borrow();
    assert_eq!((progress.done, progress.failed, progress.tokens_in, progress.tokens_out), (2, 6, 26, 12));
    assert!(progress.ended && !progress.stopped);
}

#[tokio::test(start_paused = true)]
async fn the_numbers_add_up() {
    let upstream = Arc::new(
        Scripted::new()
            .usage(Some(Usage::new(1_000, 100)))
            .latency(Duration::from_millis(100))
            .then(Reply::Fail(Error::new(ErrorKind::Auth, "test", "no"))),
    );
    let llm = OptimizedClient::builder(Arc::clone(&upstream)).cache(Cache::memory(1_000)).build().unwrap();
    // Each question three times.
    let requests = (0..300).map(|n| (format!("q{n}"), question(n % 100)));
    let mut run = llm.bulk().concurrency(10).run(requests).await.unwrap();
    let progress = run.progress();
    assert_eq!((progress.borrow().total, progress.borrow().eta), (Some(300), None));
    let (mut answered, mut cost, mut paid) = (0, sluicegate::types::Cost::ZERO, 0);
    while let Some(item) = run.next().await {
        let item = item.unwrap();
        if let Ok(answer) = &item.result {
            answered += 1;
            paid += u64::from(answer.trace().source == Source::Upstream);
            cost += item.cost.unwrap();
        }
        let now = *progress.borrow();
        assert!(now.finished() + now.under_way <= 300 && now.recorded + now.cached <= now.done, "{now}");
    }
    let end = *progress.borrow();
    assert_eq!((end.done, end.failed, end.recorded), (299, 1, 0));
    assert_eq!((end.done, end.done - end.cached, end.cost), (answered, paid, cost));
    assert_eq!((end.tokens_in, end.tokens_out, end.unpriced), (1_000 * paid, 100 * paid, 0));
    assert_eq!(upstream.calls() as u64, paid + end.failed);
    assert_eq!((end.total, end.under_way, end.eta, end.ended), (Some(300), 0, Some(Duration::ZERO), true));
    assert!(end.rate > 10.0 && end.elapsed >= Duration::from_secs(1), "{end}");
}

#[tokio::test(start_paused = true)]
async fn requests_of_a_run_let_others_go_first_unless_they_say_otherwise() {
    let upstream = Arc::new(Scripted::new());
    let own = question(1).with(Priority::High);
    all(Bulk::new(Arc::clone(&upstream)).concurrency(1).run([question(0), own]).await.unwrap()).await;
    let found: Vec<_> = upstream.requests().iter().map(|request| request.extensions.get().copied()).collect();
    assert_eq!(found, [Some(Priority::Low), Some(Priority::High)]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_takes_nothing_more_and_ends_what_is_under_way() {
    for ordered in [true, false] {
        let gate = Gate::closed();
        let upstream = Arc::new(Scripted::new().gate(&gate));
        let llm = OptimizedClient::builder(Arc::clone(&upstream)).build().unwrap();
        let mut run = llm.bulk().concurrency(5).ordered(ordered).run(questions(100)).await.unwrap();
        let (drain, progress) = (run.drain(), run.progress());
        gate.let_through(7);
        for _ in 0..7 {
            run.next().await.unwrap().unwrap();
        }
        drain.drain();
        let waits = tokio::time::timeout(Duration::from_secs(1), run.next()).await;
        assert!(waits.is_err(), "four are under way");
        // Room for the next is found when the one after is asked for.
        assert_eq!((upstream.calls(), upstream.active()), (11, 4));
        gate.open();
        let taken = upstream.calls();
        assert_eq!(all(run).await.len(), taken - 7);
        assert_eq!(upstream.calls(), taken);
        let end = *progress.borrow();
        assert!(end.ended && end.stopped && end.done == taken as u64, "{end}");
    }
    // A source that never comes to an end, and a client that is shut down.
    let llm = OptimizedClient::builder(Scripted::new()).build().unwrap();
    let endless = stream::iter(questions(3)).chain(stream::pending());
    let run = llm.bulk().run_stream(endless).await.unwrap();
    let reading = tokio::spawn(all(run));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!reading.is_finished());
    llm.shutdown().await;
    assert_eq!(reading.await.unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_run_cancels_what_is_under_way() {
    let upstream = Arc::new(Scripted::new().gate(&Gate::closed()));
    let mut run = Bulk::new(Arc::clone(&upstream)).concurrency(5).run(questions(100)).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(1), run.next()).await.is_err());
    assert_eq!((upstream.calls(), upstream.active()), (5, 5));
    drop(run);
    assert_eq!((upstream.calls(), upstream.active()), (5, 0));
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused() {
    let bulk = || Bulk::new(Scripted::new());
    for bulk in [
        bulk().concurrency(0),
        bulk().concurrency(1 << 20),
        bulk().sync(CheckpointSync::Every(Duration::ZERO)),
        bulk().sync(CheckpointSync::Every(Duration::from_secs(7200))),
    ] {
        assert_eq!(bulk.run(questions(1)).await.unwrap_err().kind(), ErrorKind::Config);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_finished_is_handed_out_while_the_source_is_silent_and_what_is_under_way_is_told_at_once() {
    for ordered in [true, false] {
        let (gate, (send, source)) = (Gate::closed(), tokio::sync::mpsc::unbounded_channel::<ChatRequest>());
        let upstream = Arc::new(Scripted::new().gate(&gate));
        let source = stream::unfold(source, async |mut source| Some((source.recv().await?, source)));
        let bulk = Bulk::new(Arc::clone(&upstream)).concurrency(3).ordered(ordered);
        let mut run = bulk.run_stream(source).await.unwrap();
        let (progress, drain) = (run.progress(), run.drain());
        for n in 0..5 {
            send.send(question(n)).unwrap();
        }
        let silent = async |run: &mut BulkRun| tokio::time::timeout(Duration::from_secs(1), run.next()).await.is_err();
        assert!(silent(&mut run).await);
        assert_eq!((progress.borrow().under_way, upstream.active()), (3, 3));
        gate.open();
        for finished in 1..=5 {
            run.next().await.unwrap().unwrap();
            assert!(progress.borrow().finished() >= finished);
        }
        assert!(silent(&mut run).await);
        assert_eq!((progress.borrow().done, progress.borrow().under_way), (5, 0));
        send.send(question(5)).unwrap();
        run.next().await.unwrap().unwrap();
        drain.drain();
        assert!(run.next().await.is_none() && progress.borrow().stopped);
    }
}

/// A client that panics before there is anything to wait for.
#[derive(Debug, Default)]
struct Eager(sluicegate::ClientInfo);

impl sluicegate::LlmClient for Eager {
    fn info(&self) -> &sluicegate::ClientInfo {
        &self.0
    }

    fn chat<'s, 'f>(&'s self, _: ChatRequest) -> Answering<'f, ChatResponse>
    where
        's: 'f,
    {
        panic!("told to")
    }

    fn chat_stream<'s, 'f>(&'s self, _: ChatRequest) -> Answering<'f, sluicegate::types::ChatStream>
    where
        's: 'f,
    {
        panic!("told to")
    }

    fn embed<'s, 'f>(&'s self, _: sluicegate::types::EmbedRequest) -> Answering<'f, sluicegate::types::EmbedResponse>
    where
        's: 'f,
    {
        panic!("told to")
    }
}

type Answering<'f, T> = std::pin::Pin<Box<dyn Future<Output = sluicegate::Result<T>> + Send + 'f>>;

#[tokio::test(start_paused = true)]
async fn a_client_that_panics_at_once_fails_its_item() {
    let items = all(Bulk::new(Eager::default()).run(questions(2)).await.unwrap()).await;
    assert!(items.iter().all(|item| item.result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Panicked)));
}
