//! Puts that nobody waits for: the call ends first, the tier has the answer later, and nothing is lost at shutdown.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sluicegate::cache::tier::Memory;
use sluicegate::cache::{Cache, CacheTier, Entry, Probe, Selector};
use sluicegate::testing::Scripted;
use sluicegate::types::{ChatRequest, Source};
use sluicegate::{Env, ErrorKind, OptimizedClient, Result};

/// A tier that takes a second for each put.
#[derive(Debug)]
struct Slow(Memory);

const SECOND: Duration = Duration::from_secs(1);

#[async_trait]
impl CacheTier for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    async fn get(&self, probe: &Probe) -> Result<Option<Arc<Entry>>> {
        self.0.get(probe).await
    }

    async fn put(&self, probe: &Probe, entry: Arc<Entry>) -> Result<()> {
        tokio::time::sleep(SECOND).await;
        self.0.put(probe, entry).await
    }

    async fn remove(&self, selector: &Selector) -> Result<u64> {
        self.0.remove(selector).await
    }
}

fn built(tier: &Arc<Slow>, behind: usize) -> OptimizedClient {
    let cache = Cache::memory(100).tier(Arc::clone(tier)).tier_timeout(10 * SECOND).write_behind(behind);
    OptimizedClient::builder(Scripted::new()).cache(cache).build().unwrap()
}

fn slow() -> Arc<Slow> {
    Arc::new(Slow(Memory::new(100, 1 << 20).unwrap()))
}

fn ask(text: &str) -> ChatRequest {
    ChatRequest::new("m").user(text)
}

#[tokio::test(start_paused = true)]
async fn a_call_does_not_wait_for_the_tier_and_shutdown_does() {
    let (tier, env) = (slow(), Env::new());
    let client = built(&tier, 2);
    let began = env.now();
    client.chat(ask("a")).await.unwrap();
    client.chat_stream(ask("b")).await.unwrap().collect().await.unwrap();
    assert_eq!(env.now() - began, Duration::ZERO, "two go behind");
    assert_eq!(client.chat(ask("a")).await.unwrap().trace().source, Source::Cache("memory"));
    client.chat(ask("c")).await.unwrap();
    assert_eq!(env.now() - began, SECOND, "the third is waited for: nothing is lost, and no queue grows");
    tokio::time::sleep(SECOND).await;
    client.chat(ask("d")).await.unwrap();
    assert_eq!(env.now() - began, 2 * SECOND, "there is room again");
    client.shutdown().await;
    assert_eq!(env.now() - began, 3 * SECOND);
    let next = built(&tier, 2);
    for question in ["a", "b", "c", "d"] {
        assert_eq!(next.chat(ask(question)).await.unwrap().trace().source, Source::Cache("slow"), "{question}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_removed_while_it_is_written_behind_does_not_stay() {
    let tier = slow();
    let client = built(&tier, 2);
    client.chat(ask("a")).await.unwrap();
    client.cache().unwrap().clear().await.unwrap();
    client.shutdown().await;
    assert!(tier.0.is_empty());
}

#[test]
fn no_place_behind_is_refused() {
    let error = OptimizedClient::builder(Scripted::new()).cache(Cache::memory(1).write_behind(0)).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("write_behind = 0"), "{error}");
}
