//! Every layer keeps the layers' laws, every tier the tiers'.

use std::sync::Arc;
use std::time::Duration;

use sluicegate::cache::tier::Memory;
use sluicegate::cache::{Cache, CacheLayer, Negative};
use sluicegate::history::{HistoryLayer, Normalize, Window};
use sluicegate::observe::{AttemptLayer, ObserveLayer, Stats};
use sluicegate::resilience::{DeadlineLayer, RetryLayer, TimeoutLayer};
use sluicegate::schedule::ScheduleLayer;
use sluicegate::testing::laws::{layer_laws, tier_laws};
use sluicegate::{Admission, Chain, Env, ErrorKind, Retry, Timeouts};

#[tokio::test(start_paused = true)]
async fn every_layer() {
    let stats = || Arc::new(Stats::new());
    layer_laws(|| Box::new(ObserveLayer::new(stats()))).await;
    layer_laws(|| Box::new(AttemptLayer::new(stats()))).await;
    layer_laws(|| Box::new(DeadlineLayer::new(Duration::from_secs(600)))).await;
    layer_laws(|| Box::new(HistoryLayer::from(Window::tokens(100)).with_normalize(Normalize::safe()))).await;
    layer_laws(|| Box::new(CacheLayer::from(Cache::memory(100)))).await;
    let lasting = || Negative::new([ErrorKind::NotFound]);
    let stale = |window| Cache::memory(100).stale_while_revalidate(window).stale_if_error(window);
    let fresh = || stale(Duration::from_secs(60)).early_refresh(1.0).predict(10).negative(lasting());
    layer_laws(|| Box::new(CacheLayer::from(fresh()))).await;
    layer_laws(|| Box::new(RetryLayer::from(Retry::standard()))).await;
    layer_laws(|| Box::new(ScheduleLayer::from(Admission::new().concurrency(2).rpm(6_000).tpm(600_000)))).await;
    layer_laws(|| Box::new(TimeoutLayer::from(Timeouts::standard()))).await;
    let both = || Chain::new().then(RetryLayer::from(Retry::standard())).then(ObserveLayer::new(stats()));
    layer_laws(|| Box::new(both())).await;
}

#[tokio::test(start_paused = true)]
async fn every_tier() {
    tier_laws(&Memory::new(100, 1 << 20).unwrap(), Env::new().now()).await;
}

#[cfg(feature = "disk")]
#[tokio::test(start_paused = true)]
async fn the_disk_tier() {
    let folder = tempfile::tempdir().unwrap();
    let disk = sluicegate::cache::tier::Disk::open(folder.path()).build().unwrap();
    tier_laws(&disk, Env::new().now()).await;
}
