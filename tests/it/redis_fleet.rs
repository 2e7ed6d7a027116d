//! Processes that share one Redis: one upstream call for what all miss, removals that all have heard of, a holder that dies.
//!
//! The processes are this test binary again. Each is told what to do over its standard input, a line for a line of answer;
//! the model they ask is a socket of the test's, which counts the calls and answers when it is told to.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sluicegate::cache::tier::Redis;
use sluicegate::cache::{Cache, CacheLayer, Probe, Selector};
use sluicegate::providers::client_fn;
use sluicegate::types::{CacheControl, ChatRequest, ChatResponse};
use sluicegate::{Error, ErrorKind, LlmClient, OptimizedClient};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::redis::proxy::{Network, Proxy};
use crate::redis::server::Server;
use crate::redis::wait::{HANG, until};

/// Shorter than the standard one, to wait less for the dead.
const TERM: Duration = Duration::from_millis(900);

fn request(question: &str) -> ChatRequest {
    ChatRequest::new("m").user(question).with(CacheControl::new().tag("about-everything"))
}

/// What the other processes do; nothing when it runs as one of the tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let (Ok(redis), Ok(model)) = (std::env::var("SLUICEGATE_FLEET_REDIS"), std::env::var("SLUICEGATE_FLEET_MODEL"))
    else {
        return;
    };
    let tier = Redis::builder(redis).get_timeout(HANG / 2).put_timeout(HANG / 2).build().unwrap();
    // Only who listens is told: the first flush says that Redis pushes.
    let mut feed = tier.invalidations().unwrap();
    let cache = Cache::memory(1_000).fleet(tier.clone()).lease_term(TERM).tier_timeout(HANG / 2);
    let layer = CacheLayer::from(cache);
    let asked = model.clone();
    let upstream = client_fn(move |request: ChatRequest| {
        let model = asked.clone();
        async move { ask_model(&model, &request.messages[0].text()).await }
    });
    let client = OptimizedClient::builder(upstream).cache(layer.clone()).build().unwrap();
    until("the tier joins", || async { tier.is_connected() }).await;
    tokio::time::timeout(HANG, feed.recv()).await.unwrap();
    say("ready");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (task, rest) = line.split_once(' ').unwrap();
        match task {
            "ask" => {
                let (times, question) = rest.split_once(' ').unwrap();
                let calls = (0..times.parse::<usize>().unwrap()).map(|_| client.chat(request(question)));
                let mut answers: Vec<_> = join_all(calls).await.into_iter().map(shown).collect();
                answers.sort();
                answers.dedup();
                say(&answers.join(" | "));
            }
            "fetch" => {
                let (times, key) = rest.split_once(' ').unwrap();
                let values = layer.namespace("retrieval").unwrap();
                let fetches = (0..times.parse::<usize>().unwrap()).map(|_| {
                    let (model, key) = (model.clone(), key.to_owned());
                    let fetch = async move { ask_model(&model, &key).await.map(|answer| answer.text().to_owned()) };
                    values.get_or_fetch::<String, _, _>(rest, fetch)
                });
                let mut found: Vec<_> = join_all(fetches).await.into_iter().map(|found| found.unwrap()).collect();
                found.dedup();
                say(&found.iter().map(|found| found.as_str()).collect::<Vec<_>>().join(" | "));
            }
            "remove" => {
                let selector = match rest.split_once(' ').unwrap() {
                    ("key", question) => {
                        let now = sluicegate::Env::new().now();
                        Selector::Key(Probe::chat(client.info(), &request(question), now).key())
                    }
                    ("tag", tag) => Selector::Tag(tag.to_owned()),
                    (other, _) => panic!("{other}"),
                };
                say(&layer.remove(&selector).await.map_or_else(|error| error.to_string(), |_| "removed".to_owned()));
            }
            other => panic!("{other}"),
        }
    }
}

fn shown(answer: sluicegate::Result<ChatResponse>) -> String {
    answer.map_or_else(|error| error.to_string(), |answer| answer.text().to_owned())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n> {line}").unwrap();
    out.flush().unwrap();
}

async fn ask_model(address: &str, question: &str) -> sluicegate::Result<ChatResponse> {
    let failed = |error: std::io::Error| Error::new(ErrorKind::Network, "test", error.to_string());
    let mut stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.write_all(format!("{question}\n").as_bytes()).await.map_err(failed)?;
    let mut line = String::new();
    tokio::io::BufReader::new(stream).read_line(&mut line).await.map_err(failed)?;
    if line.is_empty() {
        return Err(Error::new(ErrorKind::Server, "test", "the model failed"));
    }
    Ok(ChatResponse::from_text(line.trim_end()))
}

/// The model: counts its calls and answers while its gate is open.
struct Model {
    address: String,
    calls: Arc<AtomicUsize>,
    gate: watch::Sender<bool>,
}

impl Model {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (calls, gate) = (Arc::new(AtomicUsize::new(0)), watch::Sender::new(true));
        let (counted, opened) = (Arc::clone(&calls), gate.subscribe());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (counted, mut opened) = (Arc::clone(&counted), opened.clone());
                tokio::spawn(async move {
                    let mut stream = tokio::io::BufReader::new(stream);
                    let mut question = String::new();
                    stream.read_line(&mut question).await.unwrap();
                    let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
                    opened.wait_for(|open| *open).await.unwrap();
                    // Who has been killed does not read it.
                    let _ = stream.write_all(format!("{} #{number}\n", question.trim_end()).as_bytes()).await;
                });
            }
        });
        Self { address, calls, gate }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn called(&self, times: usize) {
        until("the model is asked", || async { self.calls() >= times }).await;
    }
}

struct Process {
    child: Child,
    input: ChildStdin,
    output: Option<BufReader<ChildStdout>>,
}

impl Process {
    async fn start(redis: &str, model: &Model) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["redis_fleet::child", "--exact", "--nocapture", "--test-threads=1"]);
        command.env("SLUICEGATE_FLEET_REDIS", redis).env("SLUICEGATE_FLEET_MODEL", &model.address);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut this = Self { child, input, output: Some(BufReader::new(output)) };
        assert_eq!(this.answer().await, "ready");
        this
    }

    fn tell(&mut self, task: &str) {
        writeln!(self.input, "{task}").unwrap();
    }

    async fn answer(&mut self) -> String {
        let mut output = self.output.take().unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            while !line.starts_with("> ") {
                line.clear();
                assert_ne!(output.read_line(&mut line).unwrap(), 0, "the process has ended");
            }
            (line[2..].trim_end().to_owned(), output)
        });
        let (line, output) = tokio::time::timeout(3 * HANG, read).await.unwrap().unwrap();
        self.output = Some(output);
        line
    }

    async fn does(&mut self, task: &str) -> String {
        self.tell(task);
        self.answer().await
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn fleet(server: &Server, model: &Model) -> [Process; 3] {
    let url = server.url();
    let start = || Process::start(&url, model);
    let (a, b, c) = tokio::join!(start(), start(), start());
    [a, b, c]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_equal_misses_of_three_processes_make_one_upstream_call() {
    let (server, model) = (Server::start(&[]).await, Model::start().await);
    let mut fleet = fleet(&server, &model).await;
    for round in 1..=5 {
        model.gate.send_replace(false);
        fleet.iter_mut().for_each(|process| process.tell(&format!("ask 100 question {round}")));
        model.called(round).await;
        model.gate.send_replace(true);
        for process in &mut fleet {
            assert_eq!(process.answer().await, format!("question {round} #{round}"));
        }
        assert_eq!(model.calls(), round, "one call for three hundred");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_all_lack_is_fetched_once() {
    let (server, model) = (Server::start(&[]).await, Model::start().await);
    let mut fleet = fleet(&server, &model).await;
    model.gate.send_replace(false);
    fleet.iter_mut().for_each(|process| process.tell("fetch 20 doc:42"));
    model.called(1).await;
    model.gate.send_replace(true);
    for process in &mut fleet {
        assert_eq!(process.answer().await, "doc:42 #1");
    }
    assert_eq!(model.calls(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_a_removal_has_returned_nobody_serves_what_was_removed() {
    let (server, model) = (Server::start(&[]).await, Model::start().await);
    let mut fleet = fleet(&server, &model).await;
    for round in 1..=20 {
        for process in &mut fleet {
            assert_eq!(process.does("ask 1 question").await, format!("question #{round}"), "round {round}");
        }
        let how = if round % 2 == 0 { "remove key question" } else { "remove tag about-everything" };
        assert_eq!(fleet[round % 3].does(how).await, "removed");
    }
    assert_eq!(model.calls(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_asked_for_before_a_removal_is_not_kept_after_it() {
    let (server, model) = (Server::start(&[]).await, Model::start().await);
    let [mut a, mut b, _c] = fleet(&server, &model).await;
    model.gate.send_replace(false);
    a.tell("ask 1 question");
    model.called(1).await;
    assert_eq!(b.does("remove key question").await, "removed");
    // Nor does who asks now wait for it.
    b.tell("ask 1 question");
    model.called(2).await;
    model.gate.send_replace(true);
    assert_eq!(a.answer().await, "question #1");
    assert_eq!(b.answer().await, "question #2");
    assert_eq!(a.does("ask 1 question").await, "question #2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_holder_of_a_lease_is_killed_another_asks() {
    let (server, model) = (Server::start(&[]).await, Model::start().await);
    let [mut a, mut b, mut c] = fleet(&server, &model).await;
    model.gate.send_replace(false);
    a.tell("ask 10 question");
    model.called(1).await;
    b.tell("ask 10 question");
    c.tell("ask 10 question");
    // The lease outlives its term by far while its holder lives.
    tokio::time::sleep(3 * TERM).await;
    assert_eq!(model.calls(), 1, "the others wait");
    let killed = Instant::now();
    a.signal("KILL");
    model.called(2).await;
    let took = killed.elapsed();
    assert!(took < TERM + Duration::from_secs(3), "{took:?} for a term of {TERM:?}");
    model.gate.send_replace(true);
    assert_eq!(b.answer().await, "question #2");
    assert_eq!(c.answer().await, "question #2");
    assert_eq!(model.calls(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_was_away_too_long_does_not_overwrite_its_successor() {
    let (server, model) = (Server::start(&[]).await, Model::start().await);
    let [mut a, mut b, mut c] = fleet(&server, &model).await;
    model.gate.send_replace(false);
    a.tell("ask 1 question");
    model.called(1).await;
    a.signal("STOP");
    b.tell("ask 1 question");
    model.called(2).await;
    model.gate.send_replace(true);
    assert_eq!(b.answer().await, "question #2");
    a.signal("CONT");
    assert_eq!(a.answer().await, "question #1", "its own caller gets what it asked for");
    assert_eq!(c.does("ask 1 question").await, "question #2");
    assert_eq!(a.does("ask 1 question").await, "question #2", "and it keeps the successor's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_cut_off_goes_on_alone_and_drops_what_it_has_when_it_is_back() {
    let (server, model) = (Server::start(&[]).await, Model::start().await);
    let proxy = Proxy::before(server.port).await;
    let mut near = Process::start(&server.url(), &model).await;
    let mut cut = Process::start(&format!("redis://127.0.0.1:{}", proxy.port), &model).await;
    assert_eq!(near.does("ask 1 question").await, "question #1");
    assert_eq!(cut.does("ask 1 question").await, "question #1");
    proxy.set(Network::Silent);
    // It serves what it has; what it does not have it asks for itself.
    assert_eq!(cut.does("ask 1 question").await, "question #1");
    assert_eq!(cut.does("ask 1 other").await, "other #2");
    // As long as Redis takes the dead connection for a listener, a removal says that one has not confirmed it.
    assert!(near.does("remove key question").await.contains("1 of 2 processes have not confirmed"));
    assert_eq!(near.does("ask 1 question").await, "question #3");
    proxy.set(Network::Whole);
    // Joined again, it drops what it has; whether it takes the others' answer or asks once more depends on how soon it
    // trusts Redis again.
    let start = Instant::now();
    while cut.does("ask 1 question").await == "question #1" {
        assert!(start.elapsed() < HANG, "not joined again");
    }
}
