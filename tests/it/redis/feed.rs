//! What one process changes, the others hear.

use sluicegate::cache::Invalidation;
use sluicegate::cache::tier::Redis;
use sluicegate::cache::tier::redis::Invalidations;
use sluicegate::cache::{CacheTier, Selector};

use super::proxy::{Network, Proxy};
use super::server::{Server, cluster};
use super::{HANG, minute, patient, question};

async fn next(feed: &mut Invalidations) -> Invalidation {
    tokio::time::timeout(HANG, feed.recv()).await.expect("an invalidation comes").expect("the tier is open")
}

async fn begun(tier: &Redis) -> Invalidations {
    let mut feed = tier.invalidations().unwrap();
    assert_eq!(next(&mut feed).await, Invalidation::Flush);
    feed
}

fn tier(url: String) -> Redis {
    patient(url).prefix("fleet:").build().unwrap()
}

#[tokio::test]
async fn puts_and_removals_of_one_reach_the_other() {
    let server = Server::start(&[]).await;
    let (one, other) = (tier(server.url()), tier(server.url()));
    let mut feed = begun(&other).await;
    let (first, second) = (question("first"), question("second"));
    one.put(&first, minute(&first, "a")).await.unwrap();
    assert_eq!(next(&mut feed).await, Invalidation::Key(first.key()));
    // Other names under the prefix, and other prefixes, are nobody's business.
    server.command(&["MSET", "fleet:lease", "1", "foreign", "2"]).await;
    one.put(&second, minute(&second, "b")).await.unwrap();
    assert_eq!(next(&mut feed).await, Invalidation::Key(second.key()));
    one.remove(&Selector::Key(first.key())).await.unwrap();
    assert_eq!(next(&mut feed).await, Invalidation::Key(first.key()));
    one.remove(&Selector::All).await.unwrap();
    assert_eq!(next(&mut feed).await, Invalidation::Key(second.key()));
}

#[tokio::test]
async fn a_flush_of_the_server_and_a_new_connection_flush() {
    let mut server = Server::start(&[]).await;
    let tier = tier(server.url());
    let mut feed = begun(&tier).await;
    let probe = question("x");
    tier.put(&probe, minute(&probe, "x")).await.unwrap();
    assert_eq!(next(&mut feed).await, Invalidation::Key(probe.key()));
    server.command(&["FLUSHALL"]).await;
    assert_eq!(next(&mut feed).await, Invalidation::Flush);
    server.kill();
    server.run().await;
    assert_eq!(next(&mut feed).await, Invalidation::Flush);
    // It follows again.
    super::joined(&tier).await;
    tier.put(&probe, minute(&probe, "x")).await.unwrap();
    assert_eq!(next(&mut feed).await, Invalidation::Key(probe.key()));
}

#[tokio::test]
async fn a_feed_that_is_cut_off_in_silence_notices() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::before(server.port).await;
    let tier = tier(proxy.url());
    let mut feed = begun(&tier).await;
    proxy.set(Network::OldOnesSilent);
    // The new beginning.
    assert_eq!(next(&mut feed).await, Invalidation::Flush);
}

#[tokio::test]
async fn a_listener_that_falls_behind_hears_a_flush() {
    let server = Server::start(&[]).await;
    let tier = tier(server.url());
    let (mut slow, mut quick) = (begun(&tier).await, tier.invalidations().unwrap());
    for number in 0..1_100 {
        let probe = question(&number.to_string());
        tier.put(&probe, minute(&probe, "x")).await.unwrap();
        assert_eq!(next(&mut quick).await, Invalidation::Key(probe.key()));
    }
    assert_eq!(next(&mut slow).await, Invalidation::Flush);
    let probe = question("after");
    tier.put(&probe, minute(&probe, "x")).await.unwrap();
    assert_eq!(next(&mut slow).await, Invalidation::Key(probe.key()));
}

#[tokio::test]
async fn every_master_of_a_cluster_pushes() {
    let nodes = cluster().await;
    let tier = tier(format!("redis-cluster://127.0.0.1:{}", nodes[0].port));
    let mut feed = begun(&tier).await;
    for number in 0..20 {
        let probe = question(&number.to_string());
        tier.put(&probe, minute(&probe, "x")).await.unwrap();
        assert_eq!(next(&mut feed).await, Invalidation::Key(probe.key()));
    }
    for node in &nodes {
        assert_ne!(node.command(&["DBSIZE"]).await, "0");
        node.command(&["FLUSHALL"]).await;
        assert_eq!(next(&mut feed).await, Invalidation::Flush);
    }
}

#[tokio::test]
async fn the_feed_ends_with_the_tier() {
    let server = Server::start(&[]).await;
    let tier = tier(server.url());
    let mut feed = begun(&tier).await;
    drop(tier);
    assert_eq!(tokio::time::timeout(HANG, feed.recv()).await.expect("it ends"), None);
}
