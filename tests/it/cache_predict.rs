//! A key that is asked for in a rhythm is refreshed before its next beat.

use std::sync::Arc;
use std::time::Duration;

use sluicegate::OptimizedClient;
use sluicegate::cache::Cache;
use sluicegate::testing::Scripted;
use sluicegate::types::{CacheControl, ChatRequest, Source};

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Calls every so many seconds, for 2,000 s of lives of 100 s; how many went upstream by themselves, and how many
/// upstream calls there were.
async fn beats(cache: Cache, gap: u64, control: &CacheControl) -> (usize, usize) {
    let upstream = Arc::new(Scripted::new());
    let cache = cache.ttl(seconds(100)).jitter(0.0);
    let client = OptimizedClient::builder(Arc::clone(&upstream)).cache(cache).build().unwrap();
    let mut misses = 0;
    for _ in 0..2_000 / gap {
        let request = ChatRequest::new("m").user("hi").with(control.clone());
        let Ok(answer) = client.chat(request).await else { continue };
        misses += usize::from(answer.trace().source != Source::Cache("memory"));
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(seconds(gap)).await;
    }
    (misses, upstream.calls())
}

#[tokio::test(start_paused = true)]
async fn the_last_hit_of_a_life_refreshes_for_the_next() {
    let plain = CacheControl::new();
    // Until the rhythm is known, lives end.
    for (gap, ends) in [(1, 1), (7, 1), (30, 2), (45, 2)] {
        let (misses, calls) = beats(Cache::memory(10).predict(100), gap, &plain).await;
        assert_eq!(misses, ends, "every {gap} s");
        assert!((20..=24).contains(&calls), "every {gap} s: {calls} calls");
    }
    // Too rare for a life to see two.
    let (misses, calls) = beats(Cache::memory(10).predict(100), 60, &plain).await;
    assert_eq!(misses, calls);
    // Off, and for calls whose answers would not be kept.
    let (misses, calls) = beats(Cache::memory(10), 30, &plain).await;
    assert!(misses == calls && calls >= 16);
    let (misses, calls) = beats(Cache::memory(10).predict(100), 30, &plain.no_store()).await;
    assert!(misses == calls && calls == 66);
}
