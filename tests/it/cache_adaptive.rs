//! What is asked for often lives longer, what is not asked for again shorter.

use std::sync::Arc;
use std::time::Duration;

use sluicegate::OptimizedClient;
use sluicegate::cache::Cache;
use sluicegate::testing::Scripted;
use sluicegate::types::{CacheControl, ChatRequest, Source};

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn adaptive() -> Cache {
    Cache::memory(100).ttl(seconds(100)).jitter(0.0).adaptive_ttl(seconds(30), seconds(350))
}

/// Has it stored anew, then hit so often; the life the first hit tells.
async fn live(client: &OptimizedClient, hits: usize) -> Option<u64> {
    let ask = || client.chat(ChatRequest::new("m").user("hi"));
    assert_eq!(ask().await.unwrap().trace().source, Source::Upstream);
    let mut life = None;
    for _ in 0..hits {
        let left = ask().await.unwrap().trace().ttl_left.unwrap().as_secs();
        assert_eq!(*life.get_or_insert(left), left);
    }
    life
}

#[tokio::test(start_paused = true)]
async fn lives_double_stay_and_halve_within_their_bounds() {
    for outside in [false, true] {
        let tier = sluicegate::cache::tier::Memory::new(100, 1 << 20).unwrap();
        let cache = if outside { Cache::on(tier).ttl(seconds(100)).jitter(0.0) } else { adaptive() };
        let client = OptimizedClient::builder(Scripted::new())
            .cache(cache.adaptive_ttl(seconds(30), seconds(350)))
            .build()
            .unwrap();
        // Hits in a life, and how long it is.
        for (hits, life) in [
            (4, 100),
            (9, 200),
            (3, 350),
            (1, 350),
            (0, 350),
            (2, 175),
            (0, 175),
            (0, 87),
            (0, 43),
            (1, 30),
            (5, 30),
            (1, 60),
        ] {
            let told = live(&client, hits).await;
            assert_eq!(told, (hits > 0).then_some(life));
            tokio::time::advance(seconds(life + 1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_life_asked_for_is_kept_and_off_means_off() {
    let upstream = Arc::new(Scripted::new());
    let client = OptimizedClient::builder(Arc::clone(&upstream)).cache(adaptive()).build().unwrap();
    let own = || ChatRequest::new("m").user("hi").with(CacheControl::new().ttl(seconds(7)));
    for _ in 0..3 {
        client.chat(own()).await.unwrap();
        for _ in 0..5 {
            assert_eq!(client.chat(own()).await.unwrap().trace().ttl_left, Some(seconds(7)));
        }
        tokio::time::advance(seconds(7)).await;
    }
    let cache = Cache::memory(100).ttl(seconds(100)).jitter(0.0);
    let client = OptimizedClient::builder(Arc::clone(&upstream)).cache(cache).build().unwrap();
    for hits in [5, 5, 1] {
        assert_eq!(live(&client, hits).await, Some(100));
        tokio::time::advance(seconds(100)).await;
    }
}

#[test]
fn bounds_that_make_no_sense_are_refused() {
    let build = |min, max| {
        let built = OptimizedClient::builder(Scripted::new()).cache(Cache::memory(1).adaptive_ttl(min, max)).build();
        built.map(drop).map_err(|error| error.to_string())
    };
    assert!(build(Duration::ZERO, seconds(1)).unwrap_err().contains("adaptive_ttl min = 0s"));
    assert!(build(seconds(2), seconds(1)).unwrap_err().contains("adaptive_ttl max = 1s"));
    assert_eq!(build(seconds(1), seconds(1)), Ok(()));
}
