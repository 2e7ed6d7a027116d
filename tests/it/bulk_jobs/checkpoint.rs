//! What a run takes from its checkpoint: all that was recorded, and nothing else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sluicegate::batch::{Bulk, CheckpointSync, jsonl};
use sluicegate::providers::client_fn;
use sluicegate::schedule::Admission;
use sluicegate::testing::{Gate, Reply, Scripted};
use sluicegate::types::{ChatRequest, ChatResponse, Source};
use sluicegate::{ErrorKind, OptimizedClient};

use super::{all, question, questions};

fn settings(upstream: &Arc<Scripted>, file: &Path) -> Bulk {
    Bulk::new(Arc::clone(upstream)).concurrency(4).checkpoint(file)
}

#[tokio::test(start_paused = true)]
async fn what_was_recorded_is_never_asked_again_and_what_was_changed_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run");
    for sync in [CheckpointSync::System, CheckpointSync::EachItem, CheckpointSync::Every(Duration::from_secs(1))] {
        let _ = std::fs::remove_file(&file);
        let failed = Reply::Fail(sluicegate::Error::new(ErrorKind::Server, "test", "down"));
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
        // And so is what it was before it was changed, if it was answered then.
        let first = all(settings(&upstream, &file).ordered(true).run(questions(9)).await.unwrap()).await;
        assert_eq!(upstream.calls(), first.iter().filter(|item| !item.recorded).count());
        assert_eq!((first[7].recorded, first[7].result.as_ref().unwrap().text()), (true, "first"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_shutdown_refused_is_not_recorded_and_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run");
    let gate = Gate::closed();
    let upstream = Arc::new(Scripted::new().gate(&gate).always("answered"));
    let admission = Admission::new().concurrency(1);
    let llm = OptimizedClient::builder(Arc::clone(&upstream)).schedule(admission).build().unwrap();
    let run = llm.bulk().concurrency(4).checkpoint(&file).run(questions(10)).await.unwrap();
    let ending = async {
        // One is admitted, three wait for their turn.
        while upstream.calls() == 0 {
            tokio::task::yield_now().await;
        }
        let closing = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            gate.open();
        };
        tokio::join!(llm.shutdown(), closing);
    };
    let (items, ()) = tokio::join!(all(run), ending);
    let refused: Vec<_> =
        items.iter().filter_map(|item| item.result.as_ref().err()).map(|error| error.kind()).collect();
    assert_eq!((items.len(), refused), (4, vec![ErrorKind::Shutdown; 3]));
    let again = Arc::new(Scripted::new().always("again"));
    let items = all(settings(&again, &file).ordered(true).run(questions(10)).await.unwrap()).await;
    let recorded: Vec<_> = items.iter().filter(|item| item.recorded).collect();
    assert_eq!((recorded.len(), again.calls()), (1, 9));
    assert!(
        items
            .iter()
            .all(|item| item.result.as_ref().unwrap().text() == if item.recorded { "answered" } else { "again" })
    );
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

/// Answers with its question, and keeps what it was asked.
fn echo(asked: &Arc<parking_lot::Mutex<Vec<String>>>) -> impl sluicegate::LlmClient {
    let asked = Arc::clone(asked);
    client_fn(move |request: ChatRequest| {
        let text = request.messages[0].text().to_owned();
        asked.lock().push(text.clone());
        async move { Ok(ChatResponse::from_text(text)) }
    })
}

/// Every cut and every damaged byte costs what stood there, and nothing that did not is taken for an answer.
#[tokio::test(start_paused = true)]
async fn a_file_cut_or_damaged_at_any_byte_gives_only_right_answers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run");
    let run = async || {
        let asked = Arc::default();
        let bulk = Bulk::new(echo(&asked)).concurrency(1).sync(CheckpointSync::System).checkpoint(&file);
        let items = match bulk.run(questions(2)).await {
            Ok(run) => all(run).await,
            Err(error) => return Err(error),
        };
        assert_eq!(items.len(), 2);
        for item in &items {
            assert_eq!(item.result.as_ref().unwrap().text(), format!("question {}", item.index));
        }
        let asked = asked.lock().len();
        assert_eq!(items.iter().filter(|item| !item.recorded).count(), asked);
        Ok(asked)
    };
    assert_eq!(run().await.unwrap(), 2);
    let whole = std::fs::read(&file).unwrap();
    let ends: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
    for cut in 0..=whole.len() {
        std::fs::write(&file, &whole[..cut]).unwrap();
        let complete = ends.iter().filter(|end| **end < cut).count();
        assert_eq!(run().await.unwrap(), 2 - complete.saturating_sub(2), "cut at {cut}");
        assert_eq!(run().await.unwrap(), 0, "cut at {cut}, and whole again");
    }
    for at in 0..whole.len() {
        let other = [whole[at] ^ 1, b'\n', 0][at % 3];
        if other != whole[at] {
            let mut damaged = whole.clone();
            damaged[at] = other;
            std::fs::write(&file, &damaged).unwrap();
            if at <= ends[0] {
                // Nobody can say what it is: it is left as it is.
                assert_eq!(run().await.unwrap_err().kind(), ErrorKind::Config, "{other} at {at}");
                assert_eq!(std::fs::read(&file).unwrap(), damaged);
                continue;
            }
            // A line whose end is damaged takes the next one along.
            let (line, is_end) = (ends.iter().filter(|end| **end < at).count(), ends.contains(&at));
            let lost = [line, line + 1].iter().filter(|line| (2..4).contains(*line)).count();
            let lost = if is_end { lost } else { usize::from(line >= 2) };
            assert_eq!(run().await.unwrap(), lost, "{other} at {at}");
            assert_eq!(run().await.unwrap(), 0, "{other} at {at}, and whole again");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn ids_may_be_any_text() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run");
    let ids = ["line\nend\r\n", "nul\0", "\u{2028}\"}\\", "", &"long".repeat(1 << 18)].map(str::to_owned);
    let requests = || ids.clone().into_iter().zip((0..).map(question));
    let upstream = Arc::new(Scripted::new());
    let first = all(settings(&upstream, &file).ordered(true).run(requests()).await.unwrap()).await;
    let again = all(settings(&upstream, &file).ordered(true).run(requests()).await.unwrap()).await;
    assert_eq!(upstream.calls(), ids.len());
    for ((id, first), again) in ids.iter().zip(first).zip(again) {
        assert!(again.recorded && again.id == *id && first.id == *id);
        let line = jsonl::line(&again);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&line).unwrap()["custom_id"], **id);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn what_is_no_file_is_refused_and_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Arc::new(Scripted::new());
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (path, expected) in [(pipe.as_path(), ErrorKind::Config), (folder.path(), ErrorKind::Other)] {
        let bulk = settings(&upstream, path);
        let opened = tokio::time::timeout(Duration::from_secs(10), bulk.run(questions(1)));
        let refused = opened.await.expect("it does not wait");
        assert_eq!(refused.unwrap_err().kind(), expected);
    }
    assert_eq!(
        settings(&upstream, Path::new("/dev/zero")).run(questions(1)).await.unwrap_err().kind(),
        ErrorKind::Config
    );
}
