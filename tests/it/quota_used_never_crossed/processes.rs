//! Four processes, this test binary again, with a backlog each, one Redis, and one provider that counts.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluicegate::Env;
use sluicegate::providers::{OpenAi, Simulated};
use sluicegate::redis::RedisServer;
use sluicegate::schedule::{Admission, FleetLimits, ScheduleLayer};
use sluicegate::{Layer, LlmClient};
use tokio::task::JoinSet;

use super::{RPM, TPM, call, careful, request, share};
use crate::redis::server::Server;
use crate::redis::wait::until;
use crate::simulated::simulated_server::SimulatedServer;

/// So long it is counted.
const RUN: Duration = Duration::from_secs(12);

/// What the other processes do; nothing when it runs as one of the tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let (Ok(redis), Ok(model)) = (std::env::var("SLUICEGATE_QUOTA_REDIS"), std::env::var("SLUICEGATE_QUOTA_MODEL"))
    else {
        return;
    };
    let env = Env::new();
    let fleet = FleetLimits::at(RedisServer::at(redis)).name("quota").expected_processes(4);
    // A busy machine is no outage.
    let fleet = fleet.patience(Duration::from_secs(1));
    let gate = careful(Admission::new().rpm(RPM).tpm(TPM)).shared(fleet).start(&env).unwrap();
    let client = OpenAi::builder(&model).build().unwrap();
    let llm = ScheduleLayer::from(gate.clone()).wrap(Arc::new(client), &env).unwrap();
    let mut calls = JoinSet::new();
    for lane in 0..24_usize {
        let llm: Arc<dyn LlmClient> = Arc::clone(&llm);
        calls.spawn(async move {
            // A refused one is seen by the provider, which counts it.
            for number in (lane..).step_by(24) {
                let _ = call(&*llm, request(number, false)).await;
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
            .args(["--exact", "quota_used_never_crossed::processes::child", "--nocapture"])
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
async fn as_four_processes_that_share_redis() {
    let server = Server::start(&[]).await;
    // Quick, so that what is under way at both ends is little.
    let builder = Simulated::builder().rpm(RPM).tpm(TPM).first_chunk(Duration::from_millis(30), 0.3);
    let provider = builder.tokens_per_second(2_000.0).build().unwrap();
    let model = SimulatedServer::start(provider.clone()).await.unwrap();
    let mut processes: Vec<_> = (0..4).map(|_| Process::start(&server.url(), &model.base_url())).collect();
    until("all four are known", || async {
        server.command(&["HLEN", "sluicegate:limits:{quota}:members"]).await == "4"
    })
    .await;
    until("they are under way", || async { provider.stats().accepted >= 20 }).await;
    let read = || (Instant::now(), provider.stats());
    let (begin, before) = read();
    tokio::time::sleep(RUN).await;
    let (end, after) = read();
    let tokens = |stats: &sluicegate::providers::simulated::SimulatedStats| stats.input_tokens + stats.output_tokens;
    let used = share(after.accepted - before.accepted, tokens(&after) - tokens(&before), end - begin);
    for process in &mut processes {
        eprintln!("{}", process.end());
    }
    eprintln!("{:.1} % of the quota, {} refused", 100.0 * used, after.rejected_429);
    assert_eq!(after.rejected_429, 0, "refused");
    assert!(used >= 0.95, "{used:.3} of the quota");
    model.stop().await;
}
