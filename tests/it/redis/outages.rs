//! Redis away, silent, cut off, and back.

use std::time::{Duration, Instant};

use sluicegate::cache::CacheTier;
use sluicegate::cache::tier::Redis;
use sluicegate::{ErrorKind, Result};

use super::proxy::{Network, Proxy};
use super::server::{Server, cluster, sentinel};
use super::{HANG, joined, minute, patient, question, standard, text, until};

/// Asks on until `enough`; nothing but the answer, a miss or an error comes back, and none takes long.
async fn asks_on<F: Future<Output = bool>>(tier: &Redis, what: &str, mut enough: impl FnMut(Result<bool>) -> F) {
    let (start, probe) = (Instant::now(), question("kept"));
    loop {
        let asked = Instant::now();
        let found = text(tier, &probe).await;
        // 55 ms are promised; a machine under load may take its time, but not forget a caller.
        assert!(asked.elapsed() < Duration::from_secs(2), "{what}: a get took {:?}", asked.elapsed());
        assert!(matches!(found.as_ref().map(Option::as_deref), Ok(None | Some("kept")) | Err(_)), "{found:?}");
        if enough(found.map(|text| text.is_some())).await {
            return;
        }
        assert!(start.elapsed() < HANG, "{what}: not within {HANG:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn fails(tier: &Redis, what: &str) {
    asks_on(tier, what, |found| async move { found.is_err() }).await;
}

/// From then on calls fail at once: many in the time of one timeout.
async fn fails_at_once(tier: &Redis, what: &str) {
    until(what, || async {
        let start = Instant::now();
        for _ in 0..20 {
            assert!(tier.get(&question("kept")).await.is_err());
        }
        // Twenty timeouts take a second.
        start.elapsed() < Duration::from_millis(200)
    })
    .await;
}

async fn is_back(tier: &Redis, what: &str) -> Duration {
    let start = Instant::now();
    asks_on(tier, what, |found| async move { found.is_ok() }).await;
    start.elapsed()
}

async fn put(tier: &Redis) {
    let probe = question("kept");
    tier.put(&probe, minute(&probe, "kept")).await.unwrap();
}

#[tokio::test]
async fn a_server_killed_and_started_again_is_joined_again() {
    let mut server = Server::start(&[]).await;
    let tier = standard(server.url()).build().unwrap();
    put(&tier).await;
    server.kill();
    fails(&tier, "killed").await;
    fails_at_once(&tier, "killed").await;
    server.run().await;
    let took = is_back(&tier, "started again").await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    put(&tier).await;
    assert_eq!(text(&tier, &question("kept")).await.unwrap().as_deref(), Some("kept"));
}

#[tokio::test]
async fn a_server_that_comes_later_is_joined() {
    let mut server = Server::stopped(&[]);
    let tier = standard(server.url()).build().unwrap();
    fails(&tier, "down").await;
    fails_at_once(&tier, "down").await;
    assert!(tier.put(&question("x"), minute(&question("x"), "x")).await.is_err());
    server.run().await;
    is_back(&tier, "came").await;
    put(&tier).await;
}

#[tokio::test]
async fn a_stopped_server_costs_each_call_its_budget_then_nothing() {
    let server = Server::start(&[]).await;
    let tier = standard(server.url()).build().unwrap();
    put(&tier).await;
    server.signal("STOP");
    fails(&tier, "stopped").await;
    fails_at_once(&tier, "stopped").await;
    server.signal("CONT");
    is_back(&tier, "goes on").await;
    assert_eq!(text(&tier, &question("kept")).await.unwrap().as_deref(), Some("kept"));
}

/// fred's own check looks at the time since the last write, so under load it never fires.
#[tokio::test]
async fn a_connection_that_went_silent_under_load_is_replaced() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::before(server.port).await;
    let tier = standard(proxy.url()).pool(1).build().unwrap();
    put(&tier).await;
    proxy.set(Network::OldOnesSilent);
    fails(&tier, "silent").await;
    asks_on(&tier, "replaced", |found| async move { matches!(found, Ok(true)) }).await;
    assert!(proxy.accepted() >= 2);
}

#[tokio::test]
async fn a_black_hole_is_left_when_it_ends() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::before(server.port).await;
    let tier = standard(proxy.url()).build().unwrap();
    put(&tier).await;
    proxy.set(Network::Silent);
    fails(&tier, "swallowed").await;
    fails_at_once(&tier, "swallowed").await;
    proxy.set(Network::Whole);
    is_back(&tier, "passes").await;
}

#[tokio::test]
async fn a_reply_cut_or_abandoned_reaches_nobody_else() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::before(server.port).await;
    let tier = patient(proxy.url()).pool(1).build().unwrap();
    put(&tier).await;
    let probes: Vec<_> = (0..50).map(|number| question(&format!("number {number}"))).collect();
    for (number, probe) in probes.iter().enumerate() {
        tier.put(probe, minute(probe, &format!("answer {number}"))).await.unwrap();
    }
    for bytes in [1, 20, 150] {
        proxy.set(Network::CutAfter(bytes));
        fails(&tier, "cut").await;
        proxy.set(Network::Whole);
        is_back(&tier, "whole").await;
        for (number, probe) in probes.iter().enumerate() {
            let found = text(&tier, probe).await.unwrap();
            assert_eq!(found, Some(format!("answer {number}")), "after a cut at {bytes}");
        }
    }
    // Half of the callers go away after they have asked.
    for _ in 0..20 {
        for (number, probe) in probes.iter().enumerate() {
            let mut asked = Box::pin(tier.get(probe));
            let _ = futures_util::poll!(asked.as_mut());
            if number % 2 == 0 {
                tokio::task::yield_now().await;
                drop(asked);
                continue;
            }
            let found = asked.await.unwrap().unwrap();
            assert_eq!(found.completion().unwrap().choices[0].message.text(), format!("answer {number}"));
        }
    }
    assert_eq!(tier.refused(), 0);
}

#[tokio::test]
async fn more_than_max_in_flight_fails_at_once_and_abandoned_calls_give_their_place_back() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::before(server.port).await;
    let tier = standard(proxy.url()).max_in_flight(3).build().unwrap();
    joined(&tier).await;
    proxy.set(Network::Silent);
    let probe = question("kept");
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(tier.get(&probe))).collect();
    for call in &mut waiting {
        assert!(futures_util::poll!(call.as_mut()).is_pending());
    }
    assert_eq!(tier.get(&probe).await.unwrap_err().kind(), ErrorKind::Overloaded);
    waiting.pop();
    assert_eq!(tier.get(&probe).await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn the_last_clone_takes_its_connections_along() {
    let server = Server::start(&[]).await;
    let clients = async || server.command(&["CLIENT", "LIST"]).await.lines().count();
    let tier = standard(server.url()).pool(3).build().unwrap();
    let _feed = tier.invalidations().unwrap();
    until("all connect", || async { clients().await == 5 }).await;
    let clone = tier.clone();
    drop(tier);
    assert!(clone.get(&question("x")).await.is_ok());
    drop(clone);
    until("all are closed", || async { clients().await == 1 }).await;

    let tier = standard(server.url()).build().unwrap();
    joined(&tier).await;
    tier.shutdown().await;
    until("all are closed", || async { clients().await == 1 }).await;
    assert_eq!(tier.get(&question("x")).await.unwrap_err().kind(), ErrorKind::Shutdown);
    assert_eq!(tier.invalidations().unwrap_err().kind(), ErrorKind::Shutdown);
}

/// Looking twice and then storing, as a call does, costs one wait, not three.
#[tokio::test]
async fn an_outage_costs_a_caller_one_wait() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::before(server.port).await;
    // So long that the second wait could not be mistaken.
    let wait = Duration::from_secs(2);
    let tier =
        || Redis::builder(proxy.url()).get_timeout(wait).put_timeout(wait).connect_timeout(HANG).build().unwrap();
    let connected = tier();
    put(&connected).await;
    proxy.set(Network::Silent);
    // One that was connected, and one that never was.
    for tier in [connected, tier()] {
        let (start, probe) = (Instant::now(), question("kept"));
        assert!(tier.get(&probe).await.is_err());
        assert!(start.elapsed() >= wait, "it waits for its own answer: {:?}", start.elapsed());
        assert!(tier.get(&probe).await.is_err());
        assert!(tier.put(&probe, minute(&probe, "kept")).await.is_err());
        assert!(start.elapsed() < 2 * wait, "{:?}", start.elapsed());
    }
}

/// One caller that waited in vain is enough, even if it went away before its time.
#[tokio::test]
async fn a_silence_is_found_out_without_anybody_asking() {
    let server = Server::start(&[]).await;
    for leaves_early in [false, true] {
        let proxy = Proxy::before(server.port).await;
        let builder = standard(proxy.url()).pool(1);
        let tier = if leaves_early { builder.get_timeout(HANG / 5) } else { builder }.build().unwrap();
        put(&tier).await;
        proxy.set(Network::OldOnesSilent);
        if leaves_early {
            assert!(tokio::time::timeout(HANG / 40, tier.get(&question("kept"))).await.is_err());
        } else {
            assert!(tier.get(&question("kept")).await.is_err());
        }
        until("a new connection is made", || async { proxy.accepted() >= 2 && tier.is_connected() }).await;
        assert_eq!(text(&tier, &question("kept")).await.unwrap().as_deref(), Some("kept"));
    }
}

/// fred waits for the socket while its own queue runs full: that is no sign of life.
#[tokio::test]
async fn a_full_socket_and_a_full_queue_are_left() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::before(server.port).await;
    let tier = Redis::builder(proxy.url()).pool(1).max_in_flight(4).build().unwrap();
    put(&tier).await;
    proxy.set(Network::OldOnesSilent);
    let mut random = fastrand::Rng::with_seed(1);
    let large: String = (0..3 << 20).map(|_| random.alphanumeric()).collect();
    let probe = question("large");
    let entry = minute(&probe, &large);
    until("a new connection is made", || async {
        let _ = tier.put(&probe, entry.clone()).await;
        proxy.accepted() >= 2
    })
    .await;
    until("it carries", || async { matches!(text(&tier, &question("kept")).await, Ok(Some(_))) }).await;
}

/// A slow reply raises the question whether the server lives; that it does is answered before anything is given up.
#[tokio::test]
async fn a_slow_reply_costs_no_connection() {
    let server = Server::start(&["--enable-debug-command", "yes"]).await;
    let proxy = Proxy::before(server.port).await;
    let tier = standard(proxy.url()).build().unwrap();
    put(&tier).await;
    joined(&tier).await;
    let connections = proxy.accepted();
    let sleeps = server.command(&["DEBUG", "SLEEP", "0.2"]);
    let asks = async {
        until("a get is late", || async { tier.get(&question("kept")).await.is_err() }).await;
        until("it answers", || async { tier.get(&question("kept")).await.is_ok() }).await;
    };
    tokio::join!(sleeps, asks);
    assert_eq!(proxy.accepted(), connections);
}

/// An address that leads elsewhere after a fail-over, while the old master still answers.
#[tokio::test]
async fn a_demoted_master_is_left() {
    let (old, new) = (Server::start(&[]).await, Server::start(&[]).await);
    let proxy = Proxy::before(old.port).await;
    let tier = standard(proxy.url()).build().unwrap();
    put(&tier).await;
    proxy.lead_to(new.port);
    old.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let probe = question("written");
    until("writes arrive", || async { tier.put(&probe, minute(&probe, "written")).await.is_ok() }).await;
    assert_eq!(new.command(&["DBSIZE"]).await, "1");
}

/// The other master's answers are no sign of life of this one.
#[tokio::test]
async fn a_cluster_with_a_master_that_is_stopped_is_left_and_joined_again() {
    let nodes = cluster().await;
    let url = format!("redis-cluster://127.0.0.1:{}", nodes[0].port);
    let tier = standard(url).pool(1).build().unwrap();
    joined(&tier).await;
    nodes[1].signal("STOP");
    let mut number = 0;
    until("it is left", || {
        number += 1;
        let (tier, probe) = (&tier, question(&number.to_string()));
        async move {
            let start = Instant::now();
            let failed = tier.get(&probe).await.is_err();
            failed && !tier.is_connected() && start.elapsed() < Duration::from_millis(40)
        }
    })
    .await;
    nodes[1].signal("CONT");
    joined(&tier).await;
}

#[tokio::test]
async fn hosts_that_are_silent_do_not_hide_those_that_are_not() {
    // Takes connections in, and says nothing. fred asks it first: the URL's own host comes last among sentinels, and the
    // nodes of a cluster are sorted.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("node=127.0.0.1:{}", listener.local_addr().unwrap().port());
    let (master, nodes) = (Server::start(&[]).await, cluster().await);
    let sentinel = sentinel(&master).await;
    for url in [
        format!("redis-sentinel://127.0.0.1:{}?sentinelServiceName=main&{silent}", sentinel.port),
        format!("redis-cluster://localhost:{}?{silent}", nodes[0].port),
    ] {
        let tier = Redis::builder(url).build().unwrap();
        joined(&tier).await;
        until("it carries", || async { tier.get(&question("x")).await.is_ok() }).await;
    }
}

#[tokio::test]
async fn the_new_master_that_the_sentinels_name_is_used() {
    let mut master = Server::start(&[]).await;
    let replica = Server::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]).await;
    let in_step = async || master.command(&["INFO", "replication"]).await.contains("state=online");
    until("the replica follows", in_step).await;
    let sentinel = sentinel(&master).await;
    let known = async || sentinel.command(&["SENTINEL", "REPLICAS", "main"]).await.contains(&replica.port.to_string());
    until("the sentinel knows both", known).await;
    let tier = standard(format!("redis-sentinel://127.0.0.1:{}?sentinelServiceName=main", sentinel.port));
    let tier = tier.build().unwrap();
    put(&tier).await;
    until("it is copied", || async { replica.command(&["DBSIZE"]).await == "1" }).await;

    master.kill();
    let named = async || sentinel.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]).await;
    until("there is a new master", || async { named().await.ends_with(&replica.port.to_string()) }).await;
    until("it serves", || async { matches!(text(&tier, &question("kept")).await, Ok(Some(_))) }).await;
    let probe = question("written");
    until("it is written to", || async { tier.put(&probe, minute(&probe, "written")).await.is_ok() }).await;
    assert_eq!(replica.command(&["DBSIZE"]).await, "2");
}

/// A connection that is not used is not taken for a silent one.
#[tokio::test]
async fn an_idle_connection_stays() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::before(server.port).await;
    let tier = standard(proxy.url()).put_timeout(Duration::from_millis(100)).pool(1).build().unwrap();
    joined(&tier).await;
    // Three times as long as a silent one would have been kept.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(proxy.accepted(), 1);
    assert!(tier.is_connected());
}
