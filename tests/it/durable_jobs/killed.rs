//! Two worker processes, one killed in the midst of its jobs: all jobs are done, and what the dead one had been answered is
//! not asked again.
//!
//! The processes are this test binary again. They share a `redis-server`, which holds the jobs and the answers, and ask a
//! server of the test's, which counts. Of the eight jobs of the one that is killed, four wait for their answer and four
//! have it, in the shared cache, but the job is not over.

use std::collections::BTreeMap;
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
use sluicegate::LlmClient;
use sluicegate::OptimizedClient;
use sluicegate::batch::{ChatJob, Job, JobQueue, JobState};
use sluicegate::cache::Cache;
use sluicegate::cache::tier::Redis;
use sluicegate::providers::OpenAi;
use sluicegate::redis::RedisServer;
use sluicegate::types::{ChatCompletion, ChatRequest};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::redis::server::Server;
use crate::redis::wait::{HANG, until};

/// The jobs of the process that is killed, and those that come later.
const FIRST: usize = 8;
const JOBS: usize = 68;

type Jobs = JobQueue<ChatJob, ChatCompletion>;

fn jobs(url: &str) -> Jobs {
    JobQueue::at(RedisServer::at(url).connect_timeout(HANG / 2)).timeout(HANG / 2).build().unwrap()
}

fn question(n: usize) -> String {
    format!("question {n}")
}

/// Whether this one's answer is held back until the first process is dead.
fn is_held(question: &str) -> bool {
    (0..FIRST / 2).any(|n| question == self::question(n))
}

#[derive(Default)]
struct Counts {
    asked: BTreeMap<String, u32>,
    answered: BTreeMap<String, u32>,
    /// Have their answer, and go no further.
    stalled: usize,
}

#[derive(Clone)]
struct Model {
    counts: Arc<Mutex<Counts>>,
    holds: watch::Sender<bool>,
}

async fn chat(State(model): State<Model>, body: Bytes) -> Json<Value> {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let question = body["messages"][0]["content"].as_str().unwrap().to_owned();
    *model.counts.lock().asked.entry(question.clone()).or_default() += 1;
    if is_held(&question) {
        model.holds.subscribe().wait_for(|holds| !holds).await.unwrap();
    }
    *model.counts.lock().answered.entry(question.clone()).or_default() += 1;
    let message = json!({"role": "assistant", "content": format!("answer to {question}")});
    Json(json!({
        "id": "r", "object": "chat.completion", "model": "gpt-5-mini",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
    }))
}

async fn stalled(State(model): State<Model>) {
    model.counts.lock().stalled += 1;
}

/// What the processes do; nothing when it runs as one of the tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let (Ok(redis), Ok(model)) = (std::env::var("SLUICEGATE_JOBS_REDIS"), std::env::var("SLUICEGATE_JOBS_MODEL"))
    else {
        return;
    };
    let stalls = std::env::var("SLUICEGATE_JOBS_STALL").is_ok();
    let tier = Redis::builder(&redis).get_timeout(HANG / 2).put_timeout(HANG / 2).connect_timeout(HANG / 2).build();
    let client = OpenAi::builder(&format!("{model}/v1")).build().unwrap();
    let cache = Cache::memory(100).tier(tier.unwrap()).tier_timeout(HANG / 2);
    let llm = Arc::new(OptimizedClient::builder(client).cache(cache).build().unwrap());
    let worker = jobs(&redis).worker().concurrency(FIRST).hold(Duration::from_secs(3));
    let drain = worker.drain();
    // Drains when its standard input ends.
    tokio::spawn(async move {
        let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
        drain.drain();
    });
    let stall = format!("{model}/stalled");
    let work = |job: Job<ChatJob>| {
        let (llm, stall) = (Arc::clone(&llm), stall.clone());
        async move {
            let answer = llm.chat(job.payload.into_request()).await?;
            if stalls {
                reqwest::Client::new().post(stall).send().await.unwrap();
                std::future::pending::<()>().await;
            }
            Ok(answer.completion().as_ref().clone())
        }
    };
    let report = worker.run(work).await.unwrap();
    assert_eq!((report.dead, report.lost), (0, 0), "{report:?}");
}

fn start(server: &Server, model: &str, stalls: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "durable_jobs::killed::child", "--nocapture"]);
    command.env("SLUICEGATE_JOBS_REDIS", server.url()).env("SLUICEGATE_JOBS_MODEL", model);
    if stalls {
        command.env("SLUICEGATE_JOBS_STALL", "yes");
    }
    command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

/// Killed with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_workers_killed() {
    let server = Server::start(&[]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let model = Model { counts: Arc::default(), holds: watch::Sender::new(true) };
    let routes = Router::new().route("/v1/chat/completions", post(chat)).route("/stalled", post(stalled));
    let routes = routes.with_state(model.clone());
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });

    let queue = jobs(&server.url());
    let enqueue = async |range: std::ops::Range<usize>| {
        let chats = range.map(|n| ChatJob::new(ChatRequest::new("gpt-5-mini").user(question(n))).unwrap());
        queue.enqueue_all(chats).await.into_iter().map(|one| one.unwrap().id).collect::<Vec<_>>()
    };
    let mut ids = enqueue(0..FIRST).await;
    let first = Process(start(&server, &base, true));
    until("the first has its hands full", || async {
        let counts = model.counts.lock();
        counts.asked.len() == FIRST && counts.stalled == FIRST / 2
    })
    .await;
    let mut second = Process(start(&server, &base, false));
    ids.extend(enqueue(FIRST..JOBS).await);
    for id in &ids[FIRST..] {
        assert!(matches!(queue.wait(id, HANG).await.unwrap(), JobState::Done(_)));
    }
    assert_eq!(queue.stats().await.unwrap().pending, FIRST as u64);

    // `kill -9`, in the midst of eight jobs.
    drop(first);
    model.holds.send_replace(false);
    for (n, id) in ids.iter().enumerate() {
        let JobState::Done(answer) = queue.wait(id, HANG).await.unwrap() else { panic!("job {n} is not done") };
        assert_eq!(answer.choices[0].message.text(), format!("answer to {}", question(n)));
    }
    {
        let counts = model.counts.lock();
        for n in 0..JOBS {
            let asked = if is_held(&question(n)) { 2 } else { 1 };
            assert_eq!(counts.asked[&question(n)], asked, "question {n}: what was answered is not asked again");
        }
    }
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.ready, stats.delayed, stats.pending, stats.dead), (0, 0, 0, 0));
    drop(second.0.stdin.take());
    let ended = tokio::task::spawn_blocking(move || second.0.wait().unwrap()).await.unwrap();
    assert!(ended.success(), "it drains and has lost nothing");
}
