//! Limits that several processes share through one Redis: used to the last percent, never crossed, whatever Redis does.

mod claims;
mod closed;
mod disturbed;
mod oracle;
mod stated;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oracle::Oracle;
use sluicegate::redis::RedisServer;
use sluicegate::schedule::{Admission, AdmissionGate, FleetLimits, FleetMode, Job, Limit, Outcome, Scheduler};
use sluicegate::types::Usage;
use sluicegate::{Env, ErrorKind};
use tokio::task::JoinSet;

use crate::redis::server::Server;
use crate::redis::wait::{HANG, until};

const SECOND: Duration = Duration::from_secs(1);
/// What each process of these tests is allowed in two seconds, with all others.
const REQUESTS: u64 = 200;
const TOKENS: u64 = 20_000;
const PERIOD: Duration = Duration::from_secs(2);
const BURST: Duration = Duration::from_millis(500);

fn limits() -> Admission {
    Admission::new()
        .limit(Limit::requests(REQUESTS).per(PERIOD).burst(BURST))
        .limit(Limit::tokens(TOKENS).per(PERIOD).burst(BURST))
}

fn shared(server: &Server) -> FleetLimits {
    FleetLimits::at(RedisServer::at(server.url())).name("tests").expected_processes(4)
}

/// As if each were in a process of its own.
fn gate(admission: &Admission, server: &Server) -> (AdmissionGate, Env) {
    let env = Env::new();
    (admission.clone().shared(shared(server)).start(&env).unwrap(), env)
}

async fn in_mode(gates: &[(AdmissionGate, Env)], mode: FleetMode) {
    let all = || async { gates.iter().all(|(gate, _)| gate.fleet().unwrap().mode == mode) };
    until(&format!("all are {mode:?}"), all).await;
}

async fn end(gates: Vec<(AdmissionGate, Env)>) {
    for (gate, env) in gates {
        env.closing().cancel();
        env.tasks().close();
        tokio::time::timeout(HANG, env.tasks().wait()).await.expect("its task ends with the client");
        drop(gate);
    }
}

/// Calls without end on every gate, of mixed size, each told to the oracle when it is let in.
fn backlog(gates: &[(AdmissionGate, Env)], oracle: &Arc<Oracle>) -> JoinSet<()> {
    let mut calls = JoinSet::new();
    for (number, (gate, _)) in gates.iter().enumerate() {
        for lane in 0..8_u64 {
            let (gate, oracle) = (gate.clone(), Arc::clone(oracle));
            calls.spawn(async move {
                let mut turn = lane * 31 + number as u64 * 7;
                loop {
                    turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let used = 20 + (turn >> 33) % 160;
                    let Ok(permit) = gate.admit(&Job::new("m").tokens(used + used / 8, 0)).await else { return };
                    oracle.saw(used);
                    tokio::time::sleep(Duration::from_millis(turn >> 40 & 15)).await;
                    permit.settle(Outcome::answered(Some(&Usage::new(used, 0)), SECOND));
                }
            });
        }
    }
    calls
}

fn four(server: &Server) -> Vec<(AdmissionGate, Env)> {
    (0..4).map(|_| gate(&limits(), server)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn together_they_use_the_limit_once_and_all_of_it() {
    let server = Server::start(&[]).await;
    let (gates, oracle) = (four(&server), Oracle::new());
    let calls = backlog(&gates, &oracle);
    tokio::time::sleep(5 * SECOND).await;
    let seen = oracle.end();
    drop(calls);
    for (gate, _) in &gates {
        let status = gate.fleet().unwrap();
        assert_eq!((status.mode, status.processes, status.differing), (FleetMode::Shared, 4, 0), "{status:?}");
    }
    seen.assert_within(1.0, "shared");
    assert!(seen.share_used() >= 0.95, "{}", seen.share_used());
    end(gates).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stops_dies_or_forgets_never_lets_more_through() {
    let mut server = Server::start(&[]).await;
    let (gates, oracle) = (four(&server), Oracle::new());
    let calls = backlog(&gates, &oracle);
    in_mode(&gates, FleetMode::Shared).await;
    tokio::time::sleep(SECOND).await;

    server.signal("STOP");
    in_mode(&gates, FleetMode::Alone).await;
    let alone = oracle.count();
    until("each goes on with its share", || async { oracle.count() > alone + 40 }).await;
    server.signal("CONT");
    in_mode(&gates, FleetMode::Shared).await;
    tokio::time::sleep(SECOND).await;

    server.command(&["FLUSHALL"]).await;
    let flushed = oracle.count();
    until("a new state is made", || async { oracle.count() > flushed + 100 }).await;

    server.kill();
    in_mode(&gates, FleetMode::Alone).await;
    let alone = oracle.count();
    until("each goes on with its share", || async { oracle.count() > alone + 40 }).await;
    server.run().await;
    in_mode(&gates, FleetMode::Shared).await;
    let back = oracle.count();
    until("they share again", || async { oracle.count() > back + 100 }).await;
    let seen = oracle.end();
    drop(calls);
    seen.assert_within(1.0, "disturbed");
    assert!(gates.iter().all(|(gate, _)| gate.fleet().unwrap().failed > 0));
    end(gates).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_from_the_start_each_has_its_share() {
    let server = Server::stopped(&[]);
    let (gates, oracle) = (four(&server), Oracle::new());
    let calls = backlog(&gates[..2], &oracle);
    in_mode(&gates[..2], FleetMode::Alone).await;
    tokio::time::sleep(3 * SECOND).await;
    let seen = oracle.end();
    drop(calls);
    // Two of four expected ones use half of it.
    assert!((0.35..0.55).contains(&seen.share_used()), "{}", seen.share_used());
    seen.assert_within(1.0, "alone");
    let status = gates[0].0.fleet().unwrap();
    assert_eq!(status.last_error, Some(ErrorKind::Network), "{status:?}");
    end(gates).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_process_holds_nothing_and_a_busy_one_makes_few_trips() {
    let server = Server::start(&[]).await;
    let limits = Admission::new().rpm(600_000).tpm(60_000_000);
    let gates = vec![gate(&limits, &server), gate(&limits, &server)];
    drop(gates[1].0.admit(&Job::new("m").tokens(10, 0)).await.unwrap());
    let mut calls = 0;
    let start = std::time::Instant::now();
    while start.elapsed() < 2 * SECOND {
        let permit = gates[0].0.admit(&Job::new("m").tokens(10, 0)).await.unwrap();
        permit.settle(Outcome::answered(Some(&Usage::new(9, 0)), SECOND));
        calls += 1;
        tokio::task::yield_now().await;
    }
    let trips = gates[0].0.fleet().unwrap().trips;
    eprintln!("{trips} trips for {calls} calls");
    assert!(trips * 20 < calls, "{trips} trips for {calls} calls");
    let stats = server.command(&["INFO", "commandstats"]).await;
    assert!(stats.contains("cmdstat_evalsha:") && !stats.contains("cmdstat_eval:"), "the script goes by its hash");
    let holding = || async {
        let keys = server.command(&["KEYS", "sluicegate:limits:*"]).await;
        let mut held = 0;
        for key in keys.lines().filter(|key| !key.ends_with("members")) {
            let fields = server.command(&["HGETALL", key]).await;
            let fields: Vec<_> = fields.lines().collect();
            let leases = fields.chunks(2).filter(|pair| pair[1].contains(' '));
            held += leases.map(|pair| pair[1].split(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>();
        }
        held == 0
    };
    until("all is given back", holding).await;
    end(gates).await;
    let members = server.command(&["KEYS", "*members"]).await;
    assert_eq!(members, "", "who leaves is not known any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_differ_are_told_and_the_lowest_holds() {
    let server = Server::start(&[]).await;
    let per_second = |most| Admission::new().limit(Limit::requests(most).per(PERIOD).burst(BURST));
    let gates = vec![gate(&per_second(REQUESTS), &server), gate(&per_second(10 * REQUESTS), &server)];
    for (gate, _) in &gates {
        drop(gate.admit(&Job::new("m")).await.unwrap());
    }
    let differing = || async { gates.iter().all(|(gate, _)| gate.fleet().unwrap().differing == 1) };
    until("both know", differing).await;
    let oracle = Oracle::new();
    let calls = backlog(&gates, &oracle);
    tokio::time::sleep(3 * SECOND).await;
    let seen = oracle.end();
    drop(calls);
    seen.assert_within(1.0, "the lower limit");
    end(gates).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_limit_is_one_in_all_processes() {
    let server = Server::start(&[]).await;
    let limits = Admission::new().limit(Limit::requests(40).per(4 * SECOND).burst(SECOND).by_tenant());
    let gates = vec![gate(&limits, &server), gate(&limits, &server)];
    let counts = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let start = std::time::Instant::now();
    let mut calls = JoinSet::new();
    for (gate, _) in &gates {
        for (place, tenant) in ["one", "two"].into_iter().enumerate() {
            let (gate, counts) = (gate.clone(), Arc::clone(&counts));
            calls.spawn(async move {
                while let Ok(permit) = gate.admit(&Job::new("m").tenant(Some(tenant))).await {
                    counts[place].fetch_add(1, Ordering::Relaxed);
                    permit.settle(Outcome::answered(None, SECOND));
                }
            });
        }
    }
    tokio::time::sleep(2 * SECOND).await;
    let counted: Vec<_> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    let most = 10.0 + 10.0 * start.elapsed().as_secs_f64();
    drop(calls);
    assert!(counted.iter().all(|count| (20..=most as u64).contains(count)), "{counted:?} of {most}");
    end(gates).await;
}

#[tokio::test]
async fn refuses_settings_that_cannot_work() {
    let server = Server::stopped(&[]);
    let start = |fleet: FleetLimits| limits().shared(fleet).start(&Env::new()).unwrap_err();
    for (fleet, told) in [
        (shared(&server).name(""), "fleet name"),
        (shared(&server).name("a{b"), "fleet name"),
        (shared(&server).expected_processes(0), "expected_processes"),
        (shared(&server).patience(2 * SECOND), "fleet patience"),
    ] {
        let error = start(fleet);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(told), "{error}");
    }
    let dollars = Admission::new().limit(Limit::dollars(100_000.0)).shared(shared(&server));
    assert!(dollars.start(&Env::new()).unwrap_err().to_string().contains("shared limit amount"));
    assert!(limits().shared(shared(&server)).to_string().contains("shared as tests by at least 4"));
}
