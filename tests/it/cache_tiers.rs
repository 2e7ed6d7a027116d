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
    mood: parking_lot::Mutex<Mood>,
    memory: Memory,
    last: parking_lot::Mutex<Option<Arc<Entry>>>,
    asked: AtomicUsize,
}

impl Moody {
    fn new(mood: Mood) -> Arc<Self> {
        let memory = Memory::new(100, 1 << 20).unwrap();
        Arc::new(Self { mood: mood.into(), memory, last: parking_lot::Mutex::default(), asked: AtomicUsize::new(0) })
    }

    fn mood(&self) -> Mood {
        *self.mood.lock()
    }

    fn becomes(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn play(&self) -> Result<()> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match self.mood() {
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
        match self.mood() {
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
        // Asked before the flight, in it, and to keep the answer; the fifth failure is the last for a while.
        assert_eq!(layer.tier_errors(), 5, "{mood:?}");
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

fn tiered(tier: &Arc<Moody>, upstream: &Arc<Scripted>) -> (OptimizedClient, CacheLayer) {
    let cache = Cache::memory(100).tier(Arc::clone(tier)).ttl(Duration::from_secs(60)).jitter(0.0);
    let layer = CacheLayer::from(cache.tier_timeout(Duration::from_millis(50)));
    (OptimizedClient::builder(Arc::clone(upstream)).cache(layer.clone()).build().unwrap(), layer)
}

/// Two processes, so to speak: each its own memory, one tier for both.
#[tokio::test(start_paused = true)]
async fn reads_go_outward_and_hits_fill_inward_with_the_life_that_is_left() {
    let (tier, upstream) = (Moody::new(Mood::Healthy), Arc::new(Scripted::new()));
    let (first, _) = tiered(&tier, &upstream);
    let (second, layer) = tiered(&tier, &upstream);
    first.chat(ask("a")).await.unwrap();
    let source = async |client: &OptimizedClient| client.chat(ask("a")).await.unwrap().trace().source;
    assert_eq!(source(&first).await, Source::Cache("memory"));
    tokio::time::advance(Duration::from_secs(40)).await;
    assert_eq!(source(&second).await, Source::Cache("moody"));
    let asked = tier.asked();
    assert_eq!(source(&second).await, Source::Cache("memory"));
    assert_eq!(tier.asked(), asked, "memory has it now");
    tokio::time::advance(Duration::from_secs(19)).await;
    assert_eq!(source(&second).await, Source::Cache("memory"));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(source(&second).await, Source::Upstream, "it kept its expiry on the way inward");

    assert_eq!(layer.remove(&Selector::All).await.unwrap(), 2);
    assert_eq!(source(&second).await, Source::Upstream);
    assert_eq!(upstream.calls(), 3);
    assert!(first.describe().contains("memory, 100 entries, 256 MiB > moody, ttl 60s"), "{}", first.describe());
}

#[tokio::test(start_paused = true)]
async fn a_failing_tier_is_left_alone_and_comes_back_by_itself() {
    let (tier, upstream) = (Moody::new(Mood::Stuck), Arc::new(Scripted::new()));
    let (client, layer) = tiered(&tier, &upstream);
    let env = Env::new();
    // Each call asks twice and puts once; the fifth failure opens the breaker.
    for question in ["a", "b"] {
        client.chat(ask(question)).await.unwrap();
    }
    assert_eq!((tier.asked(), layer.tier_errors()), (5, 5));
    let started = env.now();
    for question in 0..100 {
        client.chat(ask(&question.to_string())).await.unwrap();
    }
    assert_eq!((tier.asked(), env.now() - started), (5, Duration::ZERO), "nobody asks, nobody waits");

    // A call that goes away while it is the one that asks leaves the next one free to.
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(tokio::time::timeout(Duration::from_millis(10), client.chat(ask("c"))).await.is_err());
    tier.becomes(Mood::Healthy);
    client.chat(ask("d")).await.unwrap();
    let (other, _) = tiered(&tier, &upstream);
    assert_eq!(other.chat(ask("d")).await.unwrap().trace().source, Source::Cache("moody"));
}

#[tokio::test(start_paused = true)]
async fn a_call_says_how_it_uses_the_cache() {
    use sluicegate::types::CacheControl;
    let upstream = Arc::new(Scripted::new());
    let cache = Cache::memory(100).ttl(Duration::from_secs(600));
    let client = OptimizedClient::builder(Arc::clone(&upstream)).cache(cache).build().unwrap();
    let seconds = Duration::from_secs;
    let source = async |question: &str, control: CacheControl| {
        let call = client.chat(ask(question).with(control.clone())).await.map(|answer| answer.trace().source);
        let stream = client.chat_stream(ask(question).with(control)).await;
        let streamed = match stream {
            Ok(stream) => stream.collect().await.map(|answer| answer.trace().source),
            Err(error) => Err(error),
        };
        (call.map_err(|error| error.kind()), streamed.map_err(|error| error.kind()))
    };
    let plain = CacheControl::new;
    let (hit, fresh) = (Ok(Source::Cache("memory")), Ok(Source::Upstream));
    let missed = Err(ErrorKind::CacheMiss);

    assert_eq!(source("a", plain().only_if_cached()).await, (missed, missed));
    assert_eq!(upstream.calls(), 0, "nothing was asked upstream");
    assert_eq!(source("a", plain().no_store()).await, (fresh, fresh), "not kept");
    assert_eq!(source("a", plain()).await, (fresh, hit), "kept");
    assert_eq!(source("a", plain().only_if_cached()).await, (hit, hit));
    assert_eq!(source("a", plain().no_store()).await, (hit, hit), "a stored one is still served");

    tokio::time::advance(seconds(60)).await;
    assert_eq!(source("a", plain().max_age(seconds(60))).await, (hit, hit));
    assert_eq!(source("a", plain().max_age(seconds(59))).await, (fresh, hit), "and the new one replaces the old");
    assert_eq!(source("a", plain().no_cache()).await, (fresh, fresh));

    assert_eq!(source("b", plain().ttl(seconds(10))).await, (fresh, hit));
    tokio::time::advance(seconds(10)).await;
    assert_eq!(source("b", plain().ttl(Duration::ZERO)).await, (fresh, fresh), "expired, and then never kept");
}

/// A tier whose reads are answered late, with what was there when they came.
#[derive(Debug)]
struct Late {
    memory: Memory,
    reading: tokio::sync::Semaphore,
    gate: tokio::sync::Semaphore,
}

#[async_trait]
impl CacheTier for Late {
    fn name(&self) -> &'static str {
        "late"
    }

    async fn get(&self, probe: &Probe) -> Result<Option<Arc<Entry>>> {
        let found = self.memory.get(probe).await;
        self.reading.add_permits(1);
        let _ = self.gate.acquire().await;
        found
    }

    async fn put(&self, probe: &Probe, entry: Arc<Entry>) -> Result<()> {
        self.memory.put(probe, entry).await
    }

    async fn remove(&self, selector: &Selector) -> Result<u64> {
        self.memory.remove(selector).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_read_before_a_put_does_not_take_its_place_in_memory() {
    let memory = Memory::new(100, 1 << 20).unwrap();
    let (reading, gate) = (tokio::sync::Semaphore::new(0), tokio::sync::Semaphore::new(0));
    let tier = Arc::new(Late { memory, reading, gate });
    let client = || {
        let cache = Cache::memory(100).tier(Arc::clone(&tier)).tier_timeout(Duration::from_secs(60));
        OptimizedClient::builder(Scripted::new()).cache(cache).build().unwrap()
    };
    let put = async |client: &OptimizedClient, answer: &str| {
        let answer = sluicegate::types::ChatCompletion::text("m", answer);
        assert!(client.cache().unwrap().put(ask("question"), answer).await.unwrap());
    };
    let (other, client) = (client(), client());
    put(&other, "old").await;
    let late = tokio::spawn({
        let client = client.clone();
        async move { client.chat(ask("question")).await.unwrap() }
    });
    drop(tier.reading.acquire().await.unwrap());
    put(&client, "new").await;
    tier.gate.close();
    assert_eq!(late.await.unwrap().text(), "old", "it asked before");
    assert_eq!(client.chat(ask("question")).await.unwrap().text(), "new");
}
