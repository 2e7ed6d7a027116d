//! A fleet whose limits are set wrong, and headers that say what is right.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sluicegate::providers::Simulated;
use sluicegate::redis::RedisServer;
use sluicegate::schedule::{Admission, AdmissionGate, FleetLimits, ScheduleLayer};
use sluicegate::{Env, Layer, LlmClient};
use tokio::task::JoinSet;

use super::{RPM, TPM, call, careful, request};
use crate::redis::server::Server;
use crate::redis::wait::until;

/// A tenfold provider in real time.
const FACTOR: u32 = 10;
/// So long it is counted.
const RUN: Duration = Duration::from_secs(8);

fn start(server: &Server, rpm: u32, tpm: u32) -> (AdmissionGate, Env) {
    let env = Env::new();
    let fleet = FleetLimits::at(RedisServer::at(server.url())).name("wrong").expected_processes(2);
    let fleet = fleet.patience(Duration::from_secs(1));
    (careful(Admission::new().rpm(rpm).tpm(tpm)).shared(fleet).start(&env).unwrap(), env)
}

/// Whether all know by now what the provider states.
async fn is_stated(server: &Server, rpm: u32, tpm: u32) -> bool {
    let keys = server.command(&["KEYS", "sluicegate:limits:*us:*"]).await;
    let mut stated = Vec::new();
    for key in keys.lines() {
        stated.push(server.command(&["HGET", key, "stated"]).await);
    }
    [rpm, tpm].iter().all(|limit| stated.contains(&limit.to_string()))
}

async fn are_corrected(rpm: u32, tpm: u32) {
    let server = Server::start(&[]).await;
    let (right_rpm, right_tpm) = (FACTOR * RPM, FACTOR * TPM);
    let builder = Simulated::builder().rpm(right_rpm).tpm(right_tpm).first_chunk(Duration::from_millis(30), 0.3);
    let provider = builder.tokens_per_second(2_000.0).build().unwrap();
    let gates: Vec<_> = (0..2).map(|_| start(&server, rpm, tpm)).collect();
    let mut calls = JoinSet::new();
    for (number, (gate, env)) in gates.iter().enumerate() {
        let layer = ScheduleLayer::from(gate.clone());
        let llm: Arc<dyn LlmClient> = layer.wrap(Arc::new(provider.clone()), env).unwrap();
        for lane in 0..60_usize {
            let llm = Arc::clone(&llm);
            calls.spawn(async move {
                for number in (2 * lane + number..).step_by(120) {
                    // A refused one is seen by the provider, which counts it.
                    let _ = call(&*llm, request(number, false)).await;
                }
            });
        }
    }
    until("the limits are corrected", || is_stated(&server, right_rpm, right_tpm)).await;
    // What was let in before is answered, and its debt is paid.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (begin, before) = (Instant::now(), provider.stats());
    tokio::time::sleep(RUN).await;
    let (time, after) = (begin.elapsed(), provider.stats());
    drop(calls);
    let tokens = |stats: &sluicegate::providers::simulated::SimulatedStats| stats.input_tokens + stats.output_tokens;
    let minutes = time.as_secs_f64() / 60.0;
    let requests = (after.accepted - before.accepted) as f64 / f64::from(right_rpm) / minutes;
    let used = requests.max((tokens(&after) - tokens(&before)) as f64 / f64::from(right_tpm) / minutes);
    assert_eq!(after.rejected_429, before.rejected_429, "refused once it was corrected");
    assert!((0.9..1.05).contains(&used), "{used:.3} of the quota with {rpm} rpm, {tpm} tpm");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_twice_too_high_are_lowered_for_the_fleet() {
    are_corrected(2 * FACTOR * RPM, 2 * FACTOR * TPM).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_half_too_low_are_raised_for_the_fleet() {
    are_corrected(FACTOR * RPM / 2, FACTOR * TPM / 2).await;
}
