//! What shared limits cost: trips to Redis per call and time per admission, busy below the limit and at it, with 1 and 4
//! processes' worth of gates on one `redis-server` of its own.
//!
//! `cargo bench --bench quota_fleet --features redis` prints the table.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sluicegate::Env;
use sluicegate::redis::RedisServer;
use sluicegate::schedule::{Admission, AdmissionGate, FleetLimits, FleetMode, Job, Outcome, Scheduler};
use tokio::task::JoinSet;

const RUN: Duration = Duration::from_secs(3);

struct Server(Child, u16);

impl Server {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("redis-server");
        command.args(["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--port", &port.to_string()]);
        let server = Self(command.stdout(Stdio::null()).spawn().unwrap(), port);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Calls as fast as they are let in, or with a pause after each; calls, and the time they took to be let in.
async fn calls(gate: AdmissionGate, pause: Option<Duration>) -> (u64, Duration) {
    let (start, mut calls, mut waited) = (Instant::now(), 0, Duration::ZERO);
    while start.elapsed() < RUN {
        let asked = Instant::now();
        let permit = gate.admit(&Job::new("m").tokens(100, 50)).await.unwrap();
        waited += asked.elapsed();
        calls += 1;
        permit.settle(Outcome::answered(None, Duration::ZERO));
        match pause {
            Some(pause) => tokio::time::sleep(pause).await,
            None if calls % 64 == 0 => tokio::task::yield_now().await,
            None => {}
        }
    }
    (calls, waited)
}

async fn row(name: &str, url: &str, admission: &Admission, processes: usize, pause: Option<Duration>) {
    let fleet = FleetLimits::at(RedisServer::at(url)).name(name.replace(' ', "-")).expected_processes(processes);
    let start = || admission.clone().shared(fleet.clone()).start(&Env::new()).unwrap();
    let gates: Vec<_> = (0..processes).map(|_| start()).collect();
    for gate in &gates {
        drop(gate.admit(&Job::new("m").tokens(1, 0)).await.unwrap());
    }
    let before: u64 = gates.iter().map(|gate| gate.fleet().unwrap().trips).sum();
    let mut running = JoinSet::new();
    gates.iter().for_each(|gate| drop(running.spawn(calls(gate.clone(), pause))));
    let ended = running.join_all().await;
    let (count, waited) =
        ended.iter().fold((0, Duration::ZERO), |(count, sum), (calls, time)| (count + calls, sum + *time));
    let trips = gates.iter().map(|gate| gate.fleet().unwrap().trips).sum::<u64>() - before;
    assert!(gates.iter().all(|gate| gate.fleet().unwrap().mode == FleetMode::Shared));
    println!(
        "{name:<44}{count:>10}{:>14.5}{:>16.1}{:>18.2}",
        trips as f64 / count as f64,
        trips as f64 / RUN.as_secs_f64() / processes as f64,
        waited.as_secs_f64() * 1e6 / count as f64,
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let server = Server::start();
    let url = format!("redis://127.0.0.1:{}", server.1);
    println!("{:<44}{:>10}{:>14}{:>16}{:>18}", "", "calls", "trips a call", "trips a second", "microseconds each");
    let ample = Admission::new().rpm(4_000_000_000).tpm(4_000_000_000);
    let scarce = Admission::new().rpm(60_000).tpm(60_000_000);
    let pause = Some(Duration::from_millis(1));
    row("1 process below the limit", &url, &ample, 1, None).await;
    row("4 processes below the limit", &url, &ample, 4, None).await;
    row("4 processes of some 400 calls a second", &url, &ample, 4, pause).await;
    row("1 process at 1000 requests a second", &url, &scarce, 1, None).await;
    row("4 processes at 1000 requests a second", &url, &scarce, 4, None).await;
}
