//! A tier of the user's own: whatever it does, a call loses bounded time and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sluicegate::cache::tier::Memory;
use sluicegate::cache::{Cache, CacheLayer, CacheTier, Entry, Probe, Selector};
use sluicegate::testing::Scripted;
use sluicegate::types::{ChatRequest, Source};
use sluicegate::{Env, Error, ErrorKind, OptimizedClient, Result};

#[derive(Debug, Clone, Copy)]
enum Mood {
    Healthy,
    Stuck,
    Failing,
    Panicking,
    /// Hands out the last entry it was given, whatever is asked for.
    Lying,
}

#[derive(Debug)]
struct Moody {
    mood: Mood,
    memory: Memory,
    last: parking_lot::Mutex<Option<Arc<Entry>>>,
    asked: AtomicUsize,
}

impl Moody {
    fn new(mood: Mood) -> Arc<Self> {
        let memory = Memory::new(100, 1 << 20).unwrap();
        Arc::new(Self { mood, memory, last: parking_lot::Mutex::default(), asked: AtomicUsize::new(0) })
    }

    async fn play(&self) -> Result<()> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match self.mood {
            Mood::Stuck => std::future::pending().await,
            Mood::Failing => Err(Error::new(ErrorKind::Network, "test", "down")),
            Mood::Panicking => panic!("scripted panic"),
            Mood::Healthy | Mood::Lying => Ok(()),
        }
    }
}

#[async_trait]
impl CacheTier for Moody {
    fn name(&self) -> &'static str {
        "moody"
    }

    async fn get(&self, probe: &Probe) -> Result<Option<Arc<Entry>>> {
        self.play().await?;
        match self.mood {
            Mood::Lying => Ok(self.last.lock().clone()),
            _ => self.memory.get(probe).await,
        }
    }

    async fn put(&self, probe: &Probe, entry: Arc<Entry>) -> Result<()> {
        self.play().await?;
        *self.last.lock() = Some(Arc::clone(&entry));
        self.memory.put(probe, entry).await
    }

    async fn remove(&self, selector: &Selector) -> Result<u64> {
        self.memory.remove(selector).await
    }
}

fn ask(text: &str) -> ChatRequest {
    ChatRequest::new("m").user(text)
}

#[tokio::test(start_paused = true)]
async fn a_sick_tier_costs_bounded_time_and_no_answer() {
    for mood in [Mood::Stuck, Mood::Failing, Mood::Panicking] {
        let tier = Moody::new(mood);
        let layer = CacheLayer::from(Cache::on(Arc::clone(&tier)).tier_timeout(Duration::from_millis(50)));
        let client = OptimizedClient::builder(Scripted::new()).cache(layer.clone()).build().unwrap();
        let env = Env::new();
        let started = env.now();
        assert_eq!(client.chat(ask("a")).await.unwrap().text(), "ok");
        let streamed = client.chat_stream(ask("b")).await.unwrap().collect().await.unwrap();
        assert_eq!(streamed.text(), "ok");
        // Asked before the flight, in it, and to keep the answer: three times a call.
        assert_eq!(layer.tier_errors(), 6, "{mood:?}");
        assert!(env.now() - started <= Duration::from_millis(300), "{mood:?}: {:?}", env.now() - started);
    }
}

#[tokio::test]
async fn a_healthy_tier_serves_and_says_its_name() {
    let upstream = Arc::new(Scripted::new());
    let cache = Cache::on(Moody::new(Mood::Healthy));
    let client = OptimizedClient::builder(Arc::clone(&upstream)).cache(cache).build().unwrap();
    client.chat(ask("a")).await.unwrap();
    assert_eq!(client.chat(ask("a")).await.unwrap().trace().source, Source::Cache("moody"));
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn a_lying_tier_is_not_believed() {
    let upstream = Arc::new(Scripted::new());
    let cache = Cache::on(Moody::new(Mood::Lying));
    let client = OptimizedClient::builder(Arc::clone(&upstream)).cache(cache).build().unwrap();
    client.chat(ask("a")).await.unwrap();
    assert_eq!(client.chat(ask("b")).await.unwrap().trace().source, Source::Upstream);
    assert_eq!(upstream.calls(), 2);
}
