//! What is stored, found, refused and removed.

use std::time::Duration;

use sluicegate::cache::tier::Redis;
use sluicegate::cache::{CacheTier, MacKey, Selector};
use sluicegate::testing::laws::tier_laws;
use sluicegate::{Env, ErrorKind};

use super::proxy::{Network, Proxy};
use super::server::{Server, cluster};
use super::{minute, patient, question, text};

#[tokio::test]
async fn keeps_the_laws() {
    let server = Server::start(&[]).await;
    tier_laws(&patient(server.url()).build().unwrap(), Env::new().now()).await;
}

#[tokio::test]
async fn keeps_the_laws_in_a_cluster() {
    let nodes = cluster().await;
    let tier = patient(format!("redis-cluster://127.0.0.1:{}", nodes[0].port)).build().unwrap();
    tier_laws(&tier, Env::new().now()).await;
    for number in 0..100 {
        let probe = question(&number.to_string());
        tier.put(&probe, minute(&probe, "x")).await.unwrap();
    }
    for node in &nodes {
        assert_ne!(node.command(&["DBSIZE"]).await, "0");
    }
    assert_eq!(tier.remove(&Selector::All).await.unwrap(), 100);
    for node in &nodes {
        assert_eq!(node.command(&["DBSIZE"]).await, "0");
    }
}

#[tokio::test]
async fn signs_on_with_password_and_user() {
    let server =
        Server::start(&["--requirepass", "s3cret:/@", "--user", "app", "on", ">p4ss", "~*", "&*", "+@all"]).await;
    let url = format!("127.0.0.1:{}", server.port);
    for tier in [
        patient(format!("redis://:s3cret%3A%2F%40@{url}")),
        patient(format!("redis://{url}")).password("s3cret:/@"),
        patient(format!("redis://app:p4ss@{url}/1")),
        patient(format!("redis://nobody:wrong@{url}")).username("app").password("p4ss"),
    ] {
        let tier = tier.build().unwrap();
        let probe = question("signed on");
        tier.put(&probe, minute(&probe, "yes")).await.unwrap();
        assert_eq!(text(&tier, &probe).await.unwrap().as_deref(), Some("yes"));
    }
    for tier in [patient(server.url()), patient(format!("redis://app:wr0ng@{url}"))] {
        let tier = tier.build().unwrap();
        let error = tier.get(&question("refused")).await.unwrap_err();
        let shown = format!("{tier:?} {error} {error:?}");
        assert!(!shown.contains("wr0ng") && !shown.contains(&server.port.to_string()), "{shown}");
    }
}

#[tokio::test]
async fn the_life_left_is_the_expiry_in_redis() {
    let server = Server::start(&[]).await;
    let tier = patient(server.url()).prefix("life:").build().unwrap();
    let probe = question("how long");
    tier.put(&probe, minute(&probe, "a minute")).await.unwrap();
    let name = format!("life:{{{}}}", probe.key().to_hex());
    let left: i64 = server.command(&["PTTL", &name]).await.parse().unwrap();
    assert!((50_000..=60_000).contains(&left), "{left}");
    // Nothing is kept that has no life left.
    let late = question("too late");
    tier.put(&late, super::answer(&late, "late", Duration::ZERO)).await.unwrap();
    assert_eq!(server.command(&["DBSIZE"]).await, "1");
}

#[tokio::test]
async fn what_is_not_the_entry_is_a_miss_and_goes() {
    let server = Server::start(&[]).await;
    let tier = patient(server.url()).prefix("p:").build().unwrap();
    let (mine, other) = (question("mine"), question("other"));
    tier.put(&mine, minute(&mine, "my answer")).await.unwrap();
    let (mine_name, other_name) = (format!("p:{{{}}}", mine.key().to_hex()), format!("p:{{{}}}", other.key().to_hex()));
    // Another question's entry under this name: what a swapped reply looks like.
    assert_eq!(server.command(&["COPY", &mine_name, &other_name]).await, "1");
    assert_eq!(text(&tier, &other).await.unwrap(), None);
    assert_eq!((tier.refused(), server.command(&["EXISTS", &other_name]).await), (1, "0".to_owned()));
    // Cut, damaged, foreign.
    assert_ne!(server.command(&["SETRANGE", &mine_name, "40", "#######"]).await, "");
    assert_eq!(text(&tier, &mine).await.unwrap(), None);
    let huge = "x".repeat(20 << 20);
    for foreign in ["{}", "\0\0\0\0", "hello", &huge] {
        server.command(&["SET", &mine_name, foreign]).await;
        assert_eq!(text(&tier, &mine).await.unwrap(), None);
        assert_eq!(server.command(&["EXISTS", &mine_name]).await, "0", "{} bytes", foreign.len());
    }
    assert_eq!(tier.refused(), 6);
    // The tier takes the place again.
    tier.put(&mine, minute(&mine, "again")).await.unwrap();
    assert_eq!(text(&tier, &mine).await.unwrap().as_deref(), Some("again"));
}

#[tokio::test]
async fn with_a_secret_only_entries_of_the_fleet_are_served() {
    let server = Server::start(&[]).await;
    let (fleet, stranger) = (MacKey::new(1, [7; 32]), MacKey::new(1, [8; 32]));
    let tier = |key: &MacKey| patient(server.url()).mac(key.clone()).build().unwrap();
    let (one, other, forger) = (tier(&fleet), tier(&fleet), tier(&stranger));
    let probe = question("forged?");
    forger.put(&probe, minute(&probe, "forged")).await.unwrap();
    assert_eq!((text(&one, &probe).await.unwrap(), one.refused()), (None, 1));
    one.put(&probe, minute(&probe, "true")).await.unwrap();
    assert_eq!(text(&other, &probe).await.unwrap().as_deref(), Some("true"));
}

#[tokio::test]
async fn removing_all_leaves_what_is_not_ours() {
    let server = Server::start(&[]).await;
    let tier = |prefix: &str| patient(server.url()).prefix(prefix).build().unwrap();
    let (ours, theirs) = (tier("a*"), tier("ab"));
    for number in 0..1_200 {
        let probe = question(&number.to_string());
        ours.put(&probe, minute(&probe, "x")).await.unwrap();
    }
    let probe = question("0");
    theirs.put(&probe, minute(&probe, "theirs")).await.unwrap();
    server.command(&["MSET", "a*lease", "1", "a", "2", "a*", "3"]).await;
    assert_eq!(ours.remove(&Selector::All).await.unwrap(), 1_200);
    assert_eq!(text(&theirs, &probe).await.unwrap().as_deref(), Some("theirs"));
    assert_eq!(server.command(&["DBSIZE"]).await, "4");
    let stats = server.command(&["INFO", "commandstats"]).await;
    assert!(!stats.contains("cmdstat_keys") && stats.contains("cmdstat_unlink"), "{stats}");
}

#[tokio::test]
async fn a_server_that_refuses_is_an_error_not_a_panic() {
    let server = Server::start(&[]).await;
    let tier = patient(server.url()).prefix("p:").build().unwrap();
    let probe = question("refused");
    let name = format!("p:{{{}}}", probe.key().to_hex());
    server.command(&["LPUSH", &name, "x"]).await;
    assert_eq!(tier.get(&probe).await.unwrap_err().code(), Some("WRONGTYPE"));
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_eq!(tier.put(&probe, minute(&probe, "x")).await.unwrap_err().code(), Some("OOM"));
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let refused = tier.put(&probe, minute(&probe, "x")).await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Server, Some("READONLY")));
    server.command(&["REPLICAOF", "NO", "ONE"]).await;
    tier.put(&probe, minute(&probe, "back")).await.unwrap();
    assert_eq!(text(&tier, &probe).await.unwrap().as_deref(), Some("back"));
    // A password that is asked for from now on.
    server.command(&["CONFIG", "SET", "requirepass", "x"]).await;
    let fresh = patient(server.url()).build().unwrap();
    assert!(fresh.get(&probe).await.is_err());
}

#[tokio::test]
async fn an_answer_larger_than_a_segment_arrives_whole() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::before(server.port).await;
    proxy.set(Network::Sliced);
    let tier = patient(proxy.url()).build().unwrap();
    let long: String = (0..20_000).map(|number| char::from(b'a' + (number % 26) as u8)).collect();
    let probe = question("long");
    tier.put(&probe, minute(&probe, &long)).await.unwrap();
    assert_eq!(text(&tier, &probe).await.unwrap(), Some(long));
}

#[test]
fn settings_are_checked_and_never_shown() {
    let url = "redis://user:hunter2@secret.host:6379";
    let ms = Duration::from_millis;
    for (setting, builder) in [
        ("url", Redis::builder("hunter2")),
        ("url", Redis::builder("http://user:hunter2@secret.host")),
        ("url", Redis::builder("redis://user:hunter2@secret.host:99999")),
        ("url", Redis::builder("redis-sentinel://:hunter2@secret.host")),
        ("prefix", Redis::builder(url).prefix("")),
        ("prefix", Redis::builder(url).prefix("a b")),
        ("prefix", Redis::builder(url).prefix("x".repeat(129))),
        ("pool", Redis::builder(url).pool(0)),
        ("pool", Redis::builder(url).pool(65)),
        ("get_timeout", Redis::builder(url).get_timeout(ms(0))),
        ("put_timeout", Redis::builder(url).put_timeout(ms(60_001))),
        ("connect_timeout", Redis::builder(url).connect_timeout(ms(1))),
        ("max_in_flight", Redis::builder(url).max_in_flight(0)),
    ] {
        let shown = format!("{builder:?}");
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.message().starts_with(setting), "{setting}: {error}");
        let shown = format!("{shown} {error} {error:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("secret"), "{shown}");
    }
    for url in [
        url,
        "rediss://user:hunter2@secret.host:6379/1",
        "redis-sentinel://secret.host?sentinelServiceName=main&node=b:26379",
        "rediss-cluster://user:hunter2@secret.host:6379?node=b:6379",
    ] {
        // Outside of a runtime: it waits for its first use.
        let tier = Redis::builder(url).password("hunter3").build().unwrap();
        let shown = format!("{tier:?}");
        assert!(!shown.contains("hunter") && !shown.contains("secret"), "{shown}");
    }
}
