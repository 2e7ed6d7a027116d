//! Ten thousand requests over HTTP in a process that is killed twice.
//!
//! The process is this test binary again. What it asks is a server of the test's, which knows each request by its
//! question, holds answers back when it is told to, and counts what it was asked and what it answered.
//!
//! What holds, with a checkpoint and a cache on disk:
//! 1. What is recorded is never asked again. An answer is recorded before its call makes room for the next one, so all
//!    answers are but those of the calls under way, of which there are never more than the concurrency.
//! 2. So at most the calls under way at a kill are asked again, each once per kill. Where their answers had not been sent,
//!    each request is answered exactly once upstream.
//! 3. What was answered and is missing in the checkpoint is in the cache on disk: it is not asked again either.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Json;
use axum::routing::post;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sluicegate::OptimizedClient;
use sluicegate::cache::Cache;
use sluicegate::cache::tier::Disk;
use sluicegate::providers::OpenAi;
use tokio::net::TcpListener;
use tokio::sync::watch;

const REQUESTS: usize = 10_000;
const CONCURRENCY: usize = 48;
/// Only to end a test that hangs.
const HANG: Duration = Duration::from_secs(300);

#[derive(Debug, Default, Clone)]
struct Counts {
    asked: BTreeMap<String, u32>,
    answered: BTreeMap<String, u32>,
    calls: usize,
    held: usize,
    cut: usize,
}

struct Model {
    base: String,
    counts: Arc<Mutex<Counts>>,
    changed: watch::Sender<()>,
    /// From this call on, answers are held back.
    hold: watch::Sender<usize>,
}

type Shared = (Arc<Mutex<Counts>>, watch::Sender<()>, watch::Sender<usize>);

/// Counts a call that is held, and that was cut if it never got its answer.
struct Held<'a>(&'a Shared, bool);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock();
        counts.held -= 1;
        counts.cut += usize::from(!self.1);
        drop(counts);
        self.0.1.send_replace(());
    }
}

async fn chat(State(shared): State<Shared>, body: Bytes) -> Json<Value> {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let question = body["messages"][0]["content"].as_str().unwrap().to_owned();
    let number = {
        let mut counts = shared.0.lock();
        *counts.asked.entry(question.clone()).or_default() += 1;
        counts.calls += 1;
        counts.calls
    };
    shared.1.send_replace(());
    let mut hold = shared.2.subscribe();
    if number > *hold.borrow() {
        shared.0.lock().held += 1;
        let mut held = Held(&shared, false);
        shared.1.send_replace(());
        hold.wait_for(|from| number <= *from).await.unwrap();
        held.1 = true;
    }
    *shared.0.lock().answered.entry(question.clone()).or_default() += 1;
    let message = json!({"role": "assistant", "content": format!("answer to {question}")});
    Json(json!({
        "id": "r", "object": "chat.completion", "model": "gpt-5-mini",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
    }))
}

impl Model {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/v1", listener.local_addr().unwrap());
        let (counts, changed) = (Arc::default(), watch::Sender::new(()));
        let hold = watch::Sender::new(usize::MAX);
        let shared: Shared = (Arc::clone(&counts), changed.clone(), hold.clone());
        let routes = Router::new().route("/v1/chat/completions", post(chat)).with_state(shared);
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { base, counts, changed, hold }
    }

    fn counts(&self) -> Counts {
        self.counts.lock().clone()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Counts) -> bool) {
        let mut changed = self.changed.subscribe();
        let waited = tokio::time::timeout(HANG, changed.wait_for(|()| is_so(&self.counts.lock()))).await;
        assert!(waited.is_ok(), "{what}: {:?}", self.counts().calls);
    }
}

/// What the process does; nothing when it runs as one of the tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let (Ok(base), Some(folder)) = (std::env::var("SLUICEGATE_BULK_MODEL"), std::env::var_os("SLUICEGATE_BULK_FOLDER"))
    else {
        return;
    };
    let folder = PathBuf::from(folder);
    let disk = Disk::open(folder.join("cache")).build().unwrap();
    let client = OpenAi::builder(&base).build().unwrap();
    let llm = OptimizedClient::builder(client).cache(Cache::memory(100).tier(disk)).build().unwrap();
    let input = tokio::fs::File::open(folder.join("input")).await.unwrap();
    let output = tokio::fs::File::create(folder.join("output")).await.unwrap();
    let bulk = llm.bulk().concurrency(CONCURRENCY).checkpoint(folder.join("checkpoint"));
    let run = bulk.run_lines(input).await.unwrap();
    let end = run.write_to(tokio::io::BufWriter::new(output)).await.unwrap();
    println!("\n> {} {} {} {}", end.done, end.failed, end.recorded, end.cached);
}

fn start(model: &Model, folder: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["bulk_jobs::killed::child", "--exact", "--nocapture", "--test-threads=1"]);
    command.env("SLUICEGATE_BULK_MODEL", &model.base).env("SLUICEGATE_BULK_FOLDER", folder);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

/// Done, failed, recorded, cached.
async fn finish(child: Child) -> Vec<usize> {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    let line = said.lines().find_map(|line| line.strip_prefix("> ")).unwrap();
    line.split(' ').map(|number| number.parse().unwrap()).collect()
}

fn question(n: usize) -> String {
    format!("question {n}")
}

/// The questions whose answers the checkpoint has.
fn recorded(folder: &Path) -> BTreeSet<String> {
    let text = std::fs::read(folder.join("checkpoint")).unwrap();
    let lines = text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let ids = lines.filter_map(|line| {
        let line: Value = serde_json::from_slice(line).unwrap();
        line["item"]["response"].is_object().then(|| line["item"]["id"].as_str().unwrap().to_owned())
    });
    ids.map(|id| question(id.strip_prefix("job-").unwrap().parse().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_killed_twice_are_answered_once_each() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let lines: String = (0..REQUESTS)
        .map(|n| {
            let body = json!({"model": "gpt-5-mini", "messages": [{"role": "user", "content": question(n)}]});
            let line =
                json!({"custom_id": format!("job-{n}"), "method": "POST", "url": "/v1/chat/completions", "body": body});
            format!("{line}\n")
        })
        .collect();
    std::fs::write(folder.join("input"), lines).unwrap();
    let model = Model::start().await;

    // The first kill: all calls under way have had no answer.
    model.hold.send_replace(3_000);
    let mut child = start(&model, folder);
    model.until("all under way are held", |counts| counts.held == CONCURRENCY).await;
    child.kill().unwrap();
    child.wait().unwrap();
    model.until("their connections break", |counts| counts.cut == CONCURRENCY).await;
    let first = model.counts();
    let kept = recorded(folder);
    assert_eq!((first.calls, first.answered.len(), kept.len()), (3_000 + CONCURRENCY, 3_000, 3_000));
    assert!(kept.iter().eq(first.answered.keys()), "all that was answered is recorded");
    assert!(first.asked.values().all(|times| *times == 1));

    // As after the loss of some records, and with a half-written one at the end.
    let text = std::fs::read_to_string(folder.join("checkpoint")).unwrap();
    let (mut left, mut missing) = (String::new(), Vec::new());
    for (n, line) in text.split_inclusive('\n').enumerate() {
        if (10..20).contains(&n) {
            let line: Value = serde_json::from_str(line).unwrap();
            missing.push(question(line["item"]["id"].as_str().unwrap()[4..].parse().unwrap()));
        } else {
            left += line;
        }
    }
    let half = left[left.len() - 100..left.len() - 20].to_owned();
    left += &half;
    std::fs::write(folder.join("checkpoint"), left).unwrap();

    // The second kill: in the midst of traffic.
    model.hold.send_replace(usize::MAX);
    let mut child = start(&model, folder);
    model.until("it goes on", |counts| counts.calls >= 7_000).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = recorded(folder);

    // A call that was sent before the kill may be counted after it: those of the last process are told by the hold.
    let second = model.counts();
    let end = finish(start(&model, folder)).await;
    let last = model.counts();
    let again: BTreeSet<_> =
        last.asked.iter().filter(|(_, times)| **times > 1).map(|(question, _)| question.clone()).collect();
    let held: BTreeSet<_> =
        first.asked.keys().filter(|question| !first.answered.contains_key(*question)).cloned().collect();

    assert_eq!(last.asked.len(), REQUESTS);
    assert!((0..REQUESTS).all(|n| last.answered.contains_key(&question(n))));
    for question in &kept {
        let before = second.asked.get(question).copied().unwrap_or_default();
        assert_eq!(last.asked[question], before, "{question} was recorded");
        assert_eq!(last.answered[question], 1, "{question} was recorded");
    }
    let twice: Vec<_> = again.difference(&held).collect();
    assert!(twice.len() <= CONCURRENCY, "{} were asked again after the second kill", twice.len());
    assert!(twice.iter().all(|question| !kept.contains(*question)));
    let times: usize = last.asked.values().map(|times| *times as usize).sum();
    assert!(last.asked.values().all(|times| *times <= 3), "once, and once more per kill");
    assert!((REQUESTS + CONCURRENCY..=REQUESTS + 2 * CONCURRENCY).contains(&times), "{times}");
    // Once each, but for answers that were on their way when the process was killed.
    let extra: u32 = last.answered.values().map(|times| times - 1).sum();
    assert!(extra as usize <= CONCURRENCY && last.answered.values().all(|times| *times <= 2), "{extra}");
    for question in &missing {
        assert_eq!((last.asked[question], last.answered[question]), (1, 1), "the disk had {question}");
    }
    assert_eq!((end[0], end[1], end[2]), (REQUESTS, 0, kept.len()), "the end is whole");

    // All results are written, each to its request.
    let output = std::fs::read_to_string(folder.join("output")).unwrap();
    let mut results: BTreeMap<String, String> = BTreeMap::new();
    for line in output.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = line["response"]["body"]["choices"][0]["message"]["content"].as_str().unwrap();
        results.insert(line["custom_id"].as_str().unwrap().to_owned(), text.to_owned());
    }
    assert_eq!((output.lines().count(), results.len()), (REQUESTS, REQUESTS));
    assert!(results.iter().all(|(id, text)| text[..] == format!("answer to question {}", &id[4..])));

    // Once more: the checkpoint has it all. Without it, the disk.
    assert_eq!(finish(start(&model, folder)).await, [REQUESTS, 0, REQUESTS, 0]);
    assert_eq!(model.counts().calls, last.calls);
    println!("{} calls for {REQUESTS} requests, {extra} of them answered in vain", last.calls);
}
