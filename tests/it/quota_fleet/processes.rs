//! Four processes, this test binary again, with a backlog each, and one provider that counts.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sluicegate::redis::RedisServer;
use sluicegate::schedule::{Admission, FleetLimits, Job, Outcome, Scheduler};
use sluicegate::types::Usage;
use sluicegate::{Env, Error, ErrorKind};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::redis::server::Server;
use crate::redis::wait::until;

/// Ten times what the provider of the other tests allows, for a tenth of the time.
const RPM: u32 = 6_000;
const TPM: u32 = 900_000;
const RUN: Duration = Duration::from_secs(8);

/// A bucket of a second and a half: half a second more than the burst, for what the way and a busy machine add.
struct Bucket {
    per_second: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn new(per_minute: u32) -> Self {
        let per_second = f64::from(per_minute) / 60.0;
        Self { per_second, level: 1.5 * per_second, at: Instant::now() }
    }

    fn take(&mut self, amount: f64) -> bool {
        let now = Instant::now();
        let more = now.duration_since(self.at).as_secs_f64() * self.per_second;
        (self.level, self.at) = ((self.level + more).min(1.5 * self.per_second), now);
        let enough = self.level >= amount;
        if enough {
            self.level -= amount;
        }
        enough
    }
}

/// What the provider has seen: requests, tokens, refusals, since the first call.
struct Counted {
    requests: Bucket,
    tokens: Bucket,
    seen: u64,
    used: u64,
    refused: u64,
    first: Option<Instant>,
}

async fn provider() -> (String, Arc<Mutex<Counted>>) {
    let counted =
        Counted { requests: Bucket::new(RPM), tokens: Bucket::new(TPM), seen: 0, used: 0, refused: 0, first: None };
    let counted = Arc::new(Mutex::new(counted));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let counts = Arc::clone(&counted);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counts = Arc::clone(&counts);
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                    let tokens: u64 = line.trim_end().parse().unwrap();
                    let answer = {
                        let mut counts = counts.lock();
                        counts.first.get_or_insert_with(Instant::now);
                        let fits = counts.requests.take(1.0) & counts.tokens.take(tokens as f64);
                        counts.seen += u64::from(fits);
                        counts.used += if fits { tokens } else { 0 };
                        counts.refused += u64::from(!fits);
                        if fits { "200\n" } else { "429\n" }
                    };
                    line.clear();
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, counted)
}

/// What the other processes do; nothing when it runs as one of the tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let (Ok(redis), Ok(model)) = (std::env::var("SLUICEGATE_QUOTA_REDIS"), std::env::var("SLUICEGATE_QUOTA_MODEL"))
    else {
        return;
    };
    let env = Env::new();
    let fleet = FleetLimits::at(RedisServer::at(redis)).name("quota").expected_processes(4);
    let gate = Admission::new().rpm(RPM).tpm(TPM).concurrency(32).shared(fleet).start(&env).unwrap();
    let mut calls = JoinSet::new();
    for lane in 0..24_u64 {
        let (gate, model) = (gate.clone(), model.clone());
        calls.spawn(async move {
            let mut stream = BufReader::new(TcpStream::connect(model).await.unwrap());
            let mut turn = lane + u64::from(std::process::id());
            loop {
                turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let used = 20 + (turn >> 33) % 260;
                let Ok(permit) = gate.admit(&Job::new("m").tokens(used, used / 10)).await else { return };
                stream.write_all(format!("{used}\n").as_bytes()).await.unwrap();
                let mut answer = String::new();
                stream.read_line(&mut answer).await.unwrap();
                let second = Duration::from_secs(1);
                if answer == "429\n" {
                    let error = Error::new(ErrorKind::RateLimited, "test", "");
                    permit.settle(Outcome::failed(&error, second));
                } else {
                    permit.settle(Outcome::answered(Some(&Usage::new(used, 0)), second));
                }
            }
        });
    }
    // Until whoever started it goes away.
    tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await.unwrap().unwrap();
    println!("\n> {:?}", gate.fleet().unwrap());
    std::process::exit(0);
}

struct Process(Child);

impl Process {
    fn start(redis: &str, model: &str) -> Self {
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "quota_fleet::processes::child", "--nocapture"])
            .env("SLUICEGATE_QUOTA_REDIS", redis)
            .env("SLUICEGATE_QUOTA_MODEL", model)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self(process.unwrap())
    }

    /// What it says at its end.
    fn end(&mut self) -> String {
        drop(self.0.stdin.take());
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        said.lines().find(|line| line.starts_with('>')).unwrap_or_default().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_use_all_of_one_limit_and_are_never_refused() {
    let server = Server::start(&[]).await;
    let (model, counted) = provider().await;
    let mut processes: Vec<_> = (0..4).map(|_| Process::start(&server.url(), &model)).collect();
    until("all four are known", || async {
        server.command(&["HLEN", "sluicegate:limits:{quota}:members"]).await == "4"
    })
    .await;
    let read = || {
        let counted = counted.lock();
        (Instant::now(), counted.seen, counted.used, counted.refused)
    };
    let begin = read();
    tokio::time::sleep(RUN).await;
    let end = read();
    let minutes = end.0.duration_since(begin.0).as_secs_f64() / 60.0;
    let requests = (end.1 - begin.1) as f64 / (f64::from(RPM) * minutes);
    let tokens = (end.2 - begin.2) as f64 / (f64::from(TPM) * minutes);
    for process in &mut processes {
        eprintln!("{}", process.end());
    }
    eprintln!("{:.1} % of the requests, {:.1} % of the tokens, {} refused", 100.0 * requests, 100.0 * tokens, end.3);
    assert_eq!(end.3, 0, "refused");
    assert!(requests.max(tokens) >= 0.95, "{requests} of the requests, {tokens} of the tokens");
}
