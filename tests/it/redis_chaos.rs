//! Redis fails while two hundred callers ask through the whole stack: none of them hears of it.
//!
//! What a call loses and how soon Redis is back is measured by `benches/redis.rs`; here stand bounds that only a real
//! defect crosses, on however busy a machine.

use std::time::{Duration, Instant};

use sluicegate::cache::Cache;
use sluicegate::cache::tier::Redis;

use crate::redis::crowd::Crowd;
use crate::redis::proxy::{Network, Proxy};
use crate::redis::server::Server;
use crate::redis::wait::{HANG, until};

const CALLERS: usize = 200;
/// The tier's timeout, and seconds on top.
const STUCK: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy)]
enum Stack {
    /// A memory that holds a few of the answers, Redis behind it.
    MemoryFirst,
    /// Every call goes to Redis.
    RedisAlone,
    /// As the first, and each miss takes a lease.
    Fleet,
}

const STACKS: [Stack; 3] = [Stack::MemoryFirst, Stack::RedisAlone, Stack::Fleet];

impl Stack {
    fn cache(self, url: &str) -> Cache {
        let redis = Redis::builder(url).build().unwrap();
        match self {
            Self::MemoryFirst => Cache::memory(20).tier(redis),
            Self::RedisAlone => Cache::on(redis),
            Self::Fleet => Cache::memory(20).fleet(redis),
        }
    }
}

/// Callers to whom Redis has begun to give hits.
async fn crowd(stack: Stack, url: &str) -> Crowd {
    let crowd = Crowd::of(CALLERS, stack.cache(url));
    crowd.served_after(Instant::now()).await;
    crowd
}

/// Redis is away when the crowd's tier has failed so often that it is left alone.
async fn given_up(crowd: &Crowd) {
    let before = crowd.layer.tier_errors();
    until("the tier is given up", || async { crowd.layer.tier_errors() >= before + 5 }).await;
}

/// Nobody got an error or another's answer, nobody was stuck, and Redis is in use again.
async fn nobody_noticed(stack: Stack, crowd: Crowd, fault: Instant, healed: Instant) {
    let back = crowd.served_after(healed).await - healed;
    let calls = crowd.end().await;
    let wrong: Vec<_> = calls.iter().filter_map(|call| call.outcome.as_ref().err()).collect();
    assert!(wrong.is_empty(), "{stack:?}: {} of {}: {:?}", wrong.len(), calls.len(), &wrong[..wrong.len().min(3)]);
    let longest = calls.iter().map(|call| call.took()).max().unwrap();
    assert!(longest < STUCK, "{stack:?}: a call took {longest:?}");
    assert!(back < HANG / 2, "{stack:?}: back in use after {back:?}");
    let meanwhile = calls.iter().filter(|call| (fault..healed).contains(&call.ended)).count();
    assert!(meanwhile >= CALLERS || healed - fault < STUCK / 30, "{stack:?}: only {meanwhile} calls meanwhile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_again() {
    for stack in STACKS {
        let mut server = Server::start(&[]).await;
        let crowd = crowd(stack, &server.url()).await;
        let fault = Instant::now();
        server.kill();
        given_up(&crowd).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.run().await;
        nobody_noticed(stack, crowd, fault, Instant::now()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_for_three_seconds() {
    for stack in STACKS {
        let server = Server::start(&[]).await;
        let crowd = crowd(stack, &server.url()).await;
        let fault = Instant::now();
        server.signal("STOP");
        given_up(&crowd).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        server.signal("CONT");
        nobody_noticed(stack, crowd, fault, Instant::now()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed() {
    for stack in STACKS {
        let server = Server::start(&[]).await;
        let crowd = crowd(stack, &server.url()).await;
        let fault = Instant::now();
        assert_eq!(server.command(&["FLUSHALL"]).await, "OK");
        nobody_noticed(stack, crowd, fault, Instant::now()).await;
    }
}

/// Connections are closed in the middle of replies, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut() {
    for stack in STACKS {
        let server = Server::start(&[]).await;
        let proxy = Proxy::before(server.port).await;
        let crowd = crowd(stack, &proxy.url()).await;
        let fault = Instant::now();
        for bytes in [1, 30, 200] {
            proxy.set(Network::CutAfter(bytes));
            given_up(&crowd).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        proxy.set(Network::Whole);
        nobody_noticed(stack, crowd, fault, Instant::now()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn black_holed() {
    for stack in STACKS {
        let server = Server::start(&[]).await;
        let proxy = Proxy::before(server.port).await;
        let crowd = crowd(stack, &proxy.url()).await;
        let fault = Instant::now();
        proxy.set(Network::Silent);
        given_up(&crowd).await;
        // Longer than a breaker that only ever doubles its pause would need to miss the recovery by seconds.
        tokio::time::sleep(Duration::from_secs(8)).await;
        proxy.set(Network::Whole);
        nobody_noticed(stack, crowd, fault, Instant::now()).await;
    }
}
