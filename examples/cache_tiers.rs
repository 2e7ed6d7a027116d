//! Memory, Redis and disk as one cache: the tiers fill, Redis is killed and comes back, and no caller notices.
//!
//! ```sh
//! cargo run --release --example cache_tiers --features redis,disk
//! ```
//!
//! It starts a `redis-server` of its own on a free port, stops it, and starts it again; the model is simulated.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]
#![allow(clippy::disallowed_methods, reason = "callers live in real time")]

#[path = "support/redis_server.rs"]
mod redis_server;

use std::error::Error;
use std::time::{Duration, Instant};

use redis_server::RedisServer;
use sluicegate::OptimizedClient;
use sluicegate::cache::tier::{Disk, Redis};
use sluicegate::cache::{Cache, CacheLayer, Selector};
use sluicegate::providers::Simulated;
use sluicegate::types::ChatRequest;

/// One process of the service, so to speak: its memory is its own, Redis and the disk are there before and after it.
struct Process {
    client: OptimizedClient,
    layer: CacheLayer,
}

impl Process {
    fn start(model: &Simulated, redis: &Redis, disk: &std::sync::Arc<Disk>) -> sluicegate::Result<Self> {
        let cache = Cache::memory(10_000).fleet(redis.clone()).tier(std::sync::Arc::clone(disk));
        let layer = CacheLayer::from(cache);
        let client = OptimizedClient::builder(model.clone()).cache(layer.clone()).build()?;
        Ok(Self { client, layer })
    }
}

struct Table {
    started: Instant,
    model: Simulated,
}

impl Table {
    fn head(&self) {
        println!(
            "{:>7}  {:<42} {:<12} {:>9} {:>9} {:>7}",
            "time", "what happens", "answer from", "took", "upstream", "tier"
        );
        println!("{:>7}  {:<42} {:<12} {:>9} {:>9} {:>7}", "", "", "", "", "calls", "errors");
    }

    /// Asks, and says where the answer came from.
    async fn ask(&self, what: &str, process: &Process, question: &str) -> sluicegate::Result<()> {
        let asked = Instant::now();
        let answer = process.client.chat(ChatRequest::new("gpt-5-mini").user(question)).await?;
        let took = asked.elapsed();
        let took = if took < Duration::from_millis(10) {
            format!("{:.2} ms", took.as_secs_f64() * 1e3)
        } else {
            format!("{} ms", took.as_millis())
        };
        let source = answer.trace().source.to_string();
        let (calls, over) = (self.model.stats().requests, process.layer.tier_errors());
        println!(
            "{:>6.1}s  {what:<42} {source:<12} {took:>9} {calls:>9} {over:>7}",
            self.started.elapsed().as_secs_f64()
        );
        Ok(())
    }

    fn event(&self, what: &str) {
        println!("{:>6.1}s  -- {what}", self.started.elapsed().as_secs_f64());
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut server = RedisServer::start()?;
    let folder = tempfile::tempdir()?;
    let redis = Redis::builder(server.url()).prefix("cache-tiers-example:").build()?;
    let disk = std::sync::Arc::new(Disk::open(folder.path().join("answers")).build()?);
    let model =
        Simulated::builder().seed(1).first_chunk(Duration::from_millis(400), 0.2).tokens_per_second(2_000.0).build()?;
    while !redis.is_connected() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let table = Table { started: Instant::now(), model: model.clone() };
    let sky = "Why is the sky blue?";

    let first = Process::start(&model, &redis, &disk)?;
    println!("{}\n", first.client.describe());
    table.head();
    table.ask("first question: nobody has the answer", &first, sky).await?;
    table.ask("again: it has filled all tiers", &first, sky).await?;
    let second = Process::start(&model, &redis, &disk)?;
    table.ask("another process: Redis has it", &second, sky).await?;
    table.ask("again: it has filled the memory there", &second, sky).await?;

    table.event("redis-server is killed");
    server.kill();
    let third = Process::start(&model, &redis, &disk)?;
    table.ask("a new process: passes Redis over", &third, sky).await?;
    table.ask("again: memory", &third, sky).await?;
    for n in 1..=3 {
        table.ask(&format!("new question {n}: asked for upstream"), &third, &format!("What is {n} + {n}?")).await?;
    }
    table.ask("the first process never noticed", &first, sky).await?;

    table.event("redis-server is started again, empty");
    server.run()?;
    let back = Instant::now();
    while !redis.is_connected() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    table.event(&format!("connected again {:.1} s later", back.elapsed().as_secs_f64()));
    // A tier that has failed is tried again after a pause of at most a second.
    loop {
        let fourth = Process::start(&model, &redis, &disk)?;
        fourth.client.chat(ChatRequest::new("gpt-5-mini").user("What is 4 + 4?")).await?;
        let fifth = Process::start(&model, &redis, &disk)?;
        let answer = fifth.client.chat(ChatRequest::new("gpt-5-mini").user("What is 4 + 4?")).await?;
        if answer.trace().source.to_string() == "redis hit" {
            break;
        }
    }
    let sixth = Process::start(&model, &redis, &disk)?;
    table.ask("a new process: Redis is in use again", &sixth, "What is 4 + 4?").await?;
    table.ask("what Redis lost, the disk still has", &sixth, sky).await?;

    table.event("the first process removes all answers of this model");
    first.layer.remove(&Selector::Pattern("responses/gpt-5*".into())).await?;
    table.ask("no process serves them any more", &second, sky).await?;
    if let Some(cache) = second.client.cache() {
        println!("\nwhat the second process's cache counted:\n{}", cache.stats());
    }
    redis.shutdown().await;
    Ok(())
}
