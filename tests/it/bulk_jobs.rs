//! Bulk runs: bounded, in order or not, each item on its own; drained, dropped, killed and gone on with.

#[cfg(feature = "disk")]
mod killed;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use sluicegate::batch::{Bulk, BulkItem, BulkRequest, BulkRun, CheckpointSync, jsonl};
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

#[tokio::test(start_paused = true)]
async fn lines_in_and_lines_out() {
    let mut input = String::new();
    for n in 0..20 {
        let body = serde_json::to_string(question(n).body()).unwrap();
        input += &match n % 4 {
            0 => format!(r#"{{"custom_id":"c{n}","method":"POST","url":"/v1/chat/completions","body":{body}}}"#),
            1 => body,
            2 => format!("{body} trailing"),
            _ => format!(r#"{{"custom_id":"c0","body":{body}}}"#),
        };
        input += "\n";
    }
    let llm = OptimizedClient::builder(Scripted::new()).build().unwrap();
    let run = llm.bulk().ordered(true).run_lines(std::io::Cursor::new(input)).await.unwrap();
    let mut output = Vec::new();
    let progress = run.write_to(&mut output).await.unwrap();
    assert_eq!((progress.done, progress.failed), (10, 10));
    let lines: Vec<serde_json::Value> =
        String::from_utf8(output).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 20);
    for (n, line) in lines.iter().enumerate() {
        let (id, good) = match n % 4 {
            0 => (format!("c{n}"), true),
            1 => (format!("line-{}", n + 1), true),
            2 => (format!("line-{}", n + 1), false),
            _ => ("c0".to_owned(), false),
        };
        assert_eq!(line["custom_id"], id);
        if good {
            assert_eq!(line["response"]["body"]["choices"][0]["message"]["content"], "ok");
            assert_eq!((&line["response"]["status_code"], &line["error"]), (&200.into(), &serde_json::Value::Null));
            assert!(line["cost"].as_f64().unwrap() > 0.0 && line["usage"]["prompt_tokens"] == 10, "{line}");
        } else {
            assert_eq!((&line["error"]["code"], &line["error"]["line"]), (&"invalid_request".into(), &(n + 1).into()));
            assert!(line["response"].is_null() && line["cost"].is_null());
        }
    }
}

fn settings(upstream: &Arc<Scripted>, file: &Path) -> Bulk {
    Bulk::new(Arc::clone(upstream)).concurrency(4).checkpoint(file)
}

#[tokio::test(start_paused = true)]
async fn what_was_recorded_is_never_asked_again_and_what_was_changed_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run");
    for sync in [CheckpointSync::System, CheckpointSync::EachItem, CheckpointSync::Every(Duration::from_secs(1))] {
        let _ = std::fs::remove_file(&file);
        let failed = Reply::Fail(Error::new(ErrorKind::Server, "test", "down"));
        let upstream = Arc::new(Scripted::new().then(failed).always("first"));
        let mut run = settings(&upstream, &file).sync(sync).run(questions(100)).await.unwrap();
        // Somebody else's run of the same file.
        let refused = settings(&upstream, &file).run(questions(100)).await.unwrap_err();
        assert!(refused.kind() == ErrorKind::Config && refused.to_string().contains("another run"), "{refused}");
        for _ in 0..30 {
            run.next().await.unwrap().unwrap();
        }
        drop(run);
        let asked = upstream.calls();
        let upstream = Arc::new(Scripted::new().always("second"));
        let changed = questions(100).map(|(id, request)| match id.as_str() {
            "q7" => (id, request.temperature(0.5)),
            "q8" => ("renamed".to_owned(), request),
            _ => (id, request),
        });
        let run = settings(&upstream, &file).sync(sync).ordered(true).run(changed).await.unwrap();
        let progress = run.progress();
        let items = all(run).await;
        let recorded: Vec<_> = items.iter().filter(|item| item.recorded).map(|item| item.index).collect();
        // One of those asked failed, two were changed; those under way were dropped with the run.
        assert!((27..=asked - 3).contains(&recorded.len()), "{recorded:?} of {asked}");
        assert_eq!(upstream.calls(), 100 - recorded.len());
        for item in &items {
            let answer = item.result.as_ref().unwrap();
            assert_eq!(answer.text(), if item.recorded { "first" } else { "second" }, "{}", item.id);
            let source = if item.recorded { Source::Cache("checkpoint") } else { Source::Upstream };
            assert_eq!((answer.trace().source, answer.usage.as_ref().unwrap().prompt_tokens), (source, 10));
        }
        assert!([7, 8].iter().all(|changed| !recorded.contains(changed)));
        let end = *progress.borrow();
        assert_eq!((end.done, end.recorded, end.failed), (100, recorded.len() as u64, 0));
        // Once more: all is there, and the results are those of the run before.
        let upstream = Arc::new(Scripted::new());
        let changed =
            questions(100).map(|(id, request)| if id == "q7" { (id, request.temperature(0.5)) } else { (id, request) });
        let again = all(settings(&upstream, &file).ordered(true).run(changed).await.unwrap()).await;
        assert_eq!(upstream.calls(), 0, "what was changed and is as it was, is known as well");
        assert_eq!(jsonl::line(&items[20]), jsonl::line(&again[20]));
    }
}

#[tokio::test(start_paused = true)]
async fn damage_to_a_checkpoint_costs_a_call_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run");
    let upstream = Arc::new(Scripted::new());
    settings(&upstream, &file).run(questions(50)).await.unwrap().finish().await.unwrap();
    let whole = std::fs::read(&file).unwrap();
    let ends: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
    assert_eq!(ends.len(), 52, "the head, the first item, and the answers");
    let asked_after = async |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let upstream = Arc::new(Scripted::new());
        let end = settings(&upstream, &file).run(questions(50)).await.unwrap().finish().await.unwrap();
        assert_eq!((end.done, end.recorded), (50, 50 - upstream.calls() as u64));
        let again = Arc::new(Scripted::new());
        settings(&again, &file).run(questions(50)).await.unwrap().finish().await.unwrap();
        assert_eq!(again.calls(), 0, "it is whole again");
        upstream.calls()
    };
    // Cut anywhere, as a kill in the midst of writing does.
    for cut in
        [0, 1, 20, ends[0], ends[0] + 1, ends[1] - 1, ends[1] + 1, ends[20] - 3, ends[20], ends[20] + 1, ends[51]]
    {
        let complete = ends.iter().filter(|end| **end < cut).count();
        assert_eq!(asked_after(&whole[..cut]).await, 50 - complete.saturating_sub(2), "cut at {cut}");
    }
    for at in [ends[10] - 5, ends[10] - 200, ends[30] + 3] {
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        assert_eq!(asked_after(&damaged).await, 1, "damaged at {at}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_of_another_input_and_a_file_of_another_kind_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run");
    let upstream = Arc::new(Scripted::new());
    settings(&upstream, &file).run(questions(10)).await.unwrap().finish().await.unwrap();
    let before = std::fs::read(&file).unwrap();
    let others = (0..10).map(|n| ChatRequest::new("m").user(format!("other {n}")));
    let mut run = settings(&upstream, &file).run(others).await.unwrap();
    let refused = run.next().await.unwrap().unwrap_err();
    assert!(refused.kind() == ErrorKind::Config && refused.to_string().contains("another input"), "{refused}");
    assert!(run.next().await.is_none() && run.progress().borrow().stopped);
    assert_eq!((upstream.calls(), std::fs::read(&file).unwrap()), (10, before.clone()));
    drop(run);
    // The same input from another place on, or with its first body changed, is the same input.
    let rest = settings(&upstream, &file).run(questions(10).skip(5)).await.unwrap().finish().await.unwrap();
    assert_eq!((rest.recorded, upstream.calls()), (5, 10));
    let changed = questions(10).map(|(id, request)| (id, request.temperature(0.1)));
    settings(&upstream, &file).run(changed).await.unwrap().finish().await.unwrap();
    assert_eq!(upstream.calls(), 20);

    for content in ["{\"my\":\"results\"}\n", "notes", "{\"sluicegate\":\"bulk checkpoint\",\"version\":2}\n"] {
        std::fs::write(&file, content).unwrap();
        let refused = settings(&upstream, &file).run(questions(10)).await.unwrap_err();
        assert!(refused.to_string().contains("no checkpoint of this version"), "{refused}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), content);
    }
    let nowhere = folder.path().join("nowhere").join("run");
    assert_eq!(settings(&upstream, &nowhere).run(questions(1)).await.unwrap_err().kind(), ErrorKind::Other);
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
