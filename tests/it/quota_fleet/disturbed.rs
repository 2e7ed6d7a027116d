//! What is wrong in Redis, or on the way there, passes: nobody is held up for good.

use super::*;
use crate::redis::proxy::{Network, Proxy};

const HOUR: i64 = 3_600_000_000;

async fn calls(gate: &AdmissionGate, count: usize) {
    let all = async {
        for _ in 0..count {
            drop(gate.admit(&Job::new("m").tokens(10, 0)).await.unwrap());
        }
    };
    tokio::time::timeout(HANG, all).await.expect("they are let in");
}

/// One that has made its first trip.
async fn joined(server: &Server) -> Vec<(AdmissionGate, Env)> {
    let gates = vec![gate(&limits(), server)];
    calls(&gates[0].0, 1).await;
    gates
}

/// By the server's clock, in microseconds.
async fn now(server: &Server) -> i64 {
    let time = server.command(&["TIME"]).await;
    let (seconds, micros) = time.split_once('\n').unwrap();
    seconds.parse::<i64>().unwrap() * 1_000_000 + micros.parse::<i64>().unwrap()
}

/// Where the limits are kept.
async fn kept(server: &Server) -> Vec<String> {
    let keys = server.command(&["KEYS", "sluicegate:limits:*us:*"]).await;
    keys.lines().map(str::to_owned).collect()
}

async fn set(server: &Server, key: &str, field: &str, value: impl ToString) {
    server.command(&["HSET", key, field, &value.to_string()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_stays_closed_for_as_long_as_was_said_when_the_clock_goes_back() {
    let server = Server::start(&[]).await;
    let gates = joined(&server).await;
    let opens = now(&server).await + HOUR;
    set(&server, "sluicegate:limits:{tests}:closed", "m", format!("{opens} 2500000 0 another")).await;
    until("it is closed", || closed::is_closed(&gates[0].0, "m")).await;
    calls(&gates[0].0, 1).await;
    // Nor for ever, if that is what was said.
    set(&server, "sluicegate:limits:{tests}:closed", "m", format!("{0} {0} 0 another", i64::MAX)).await;
    let told = || async { server.command(&["HGET", "sluicegate:limits:{tests}:closed", "m"]).await };
    let day = now(&server).await + 25 * HOUR;
    until("a day at most", || async {
        told().await.split(' ').next().unwrap().parse::<i64>().is_ok_and(|opens| opens < day)
    })
    .await;
    end(gates).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_died_before_the_clock_went_back_is_gone() {
    let server = Server::start(&[]).await;
    let gates = joined(&server).await;
    let seen = now(&server).await + HOUR;
    set(&server, "sluicegate:limits:{tests}:members", "dead", format!("{seen} settings")).await;
    for key in kept(&server).await {
        // It held all and was the first in turn.
        let dead = format!("50000 {seen} {seen} 1 100 20000 500000 1 0 0");
        set(&server, &key, "dead", dead).await;
    }
    calls(&gates[0].0, 60).await;
    until("it is not counted", || async { gates[0].0.fleet().unwrap().processes == 1 }).await;
    end(gates).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_a_debt_nor_a_doubt_is_for_ever() {
    let server = Server::start(&[]).await;
    let gates = joined(&server).await;
    let keys = kept(&server).await;
    for key in &keys {
        set(&server, key, "level", -1_000_000_000_000_i64).await;
        set(&server, key, "word_at", 1).await;
        set(&server, key, "doubted", now(&server).await + HOUR).await;
    }
    calls(&gates[0].0, 60).await;
    for key in &keys {
        let doubted = server.command(&["HGET", key, "doubted"]).await.parse::<i64>().unwrap();
        assert!(doubted <= now(&server).await + 60_000_000, "{doubted}");
    }
    end(gates).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_again_because_the_reply_was_late_counts_once() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::before(server.port).await;
    let env = Env::new();
    let limits = Admission::new().limit(Limit::requests(40).per(4 * SECOND).burst(4 * SECOND));
    let fleet = FleetLimits::at(RedisServer::at(proxy.url())).name("tests");
    let gates = vec![(limits.shared(fleet).start(&env).unwrap(), env)];
    calls(&gates[0].0, 1).await;
    let late = Duration::from_millis(150);
    proxy.set(Network::Late(late));
    let trips = gates[0].0.fleet().unwrap().failed;
    let mut made = 1;
    while gates[0].0.fleet().unwrap().failed < trips + 10 {
        calls(&gates[0].0, 1).await;
        made += 1;
    }
    proxy.set(Network::Whole);
    in_mode(&gates, FleetMode::Shared).await;
    let key = kept(&server).await.remove(0);
    let taken: i64 = server.command(&["HGET", &key, "taken"]).await.parse().unwrap();
    assert!((made - 2..=made).contains(&taken), "{taken} for {made} calls");
    end(gates).await;
}
