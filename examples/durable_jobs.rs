//! A queue of jobs in Redis, two workers of which one dies, and nothing is lost.
//!
//! ```sh
//! cargo run --release --example durable_jobs --features redis,simulated
//! ```
//!
//! It starts a `redis-server` of its own on a free port; the model is simulated. The workers are tasks here so that one
//! table can show both; in production they are processes on any number of machines.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]
#![allow(clippy::disallowed_methods, reason = "callers live in real time")]

#[path = "support/redis_server.rs"]
#[allow(dead_code, reason = "this example does not stop it")]
mod redis_server;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use redis_server::RedisServer;
use sluicegate::batch::{ChatJob, Job, JobQueue, JobRetry, NewJob, WorkerReport};
use sluicegate::cache::{Cache, tier::Redis};
use sluicegate::providers::Simulated;
use sluicegate::types::{ChatCompletion, ChatRequest};
use sluicegate::{ErrorKind, LlmClient, OptimizedClient};

type Jobs = JobQueue<ChatJob, ChatCompletion>;

const JOBS: usize = 300;
const REFUSED: usize = 123;

/// A client with a cache that the workers share: what one was answered, the other does not ask again.
fn client(model: &Simulated, redis: &Redis) -> sluicegate::Result<OptimizedClient> {
    OptimizedClient::builder(model.clone()).cache(Cache::memory(1_000).fleet(redis.clone())).build()
}

async fn work(queue: Jobs, llm: OptimizedClient, done: Arc<AtomicU32>) -> sluicegate::Result<WorkerReport> {
    let retry = JobRetry::standard().base(Duration::from_millis(500));
    let worker = queue.worker().concurrency(16).hold(Duration::from_secs(2)).retry(retry);
    let llm = Arc::new(llm);
    worker
        .run(move |job: Job<ChatJob>| {
            let (llm, done) = (Arc::clone(&llm), Arc::clone(&done));
            async move {
                let request = job.payload.into_request();
                let text = request.messages.first().map(|message| message.text()).unwrap_or_default();
                let number: usize = text.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
                let answer = llm.chat(request).await?;
                // What comes after the model may fail as well: every tenth job does at first, and one always.
                if number == REFUSED {
                    let refused = "the customer is gone";
                    return Err(sluicegate::Error::new(ErrorKind::InvalidRequest, "example", refused));
                }
                if number.is_multiple_of(10) && job.attempt == 1 {
                    let away = "the database is away";
                    return Err(sluicegate::Error::new(ErrorKind::Network, "example", away));
                }
                done.fetch_add(1, Relaxed);
                Ok(answer.completion().as_ref().clone())
            }
        })
        .await
}

struct Table {
    started: Instant,
    queue: Jobs,
    model: Simulated,
    done: [Arc<AtomicU32>; 2],
}

impl Table {
    fn head(&self) {
        println!(
            "{:>6}  {:>6} {:>8} {:>8} {:>5} {:>8}  {:>7} {:>7}  {:>9}",
            "time", "ready", "delayed", "pending", "dead", "lag", "done A", "done B", "upstream"
        );
    }

    /// How it stands; whether all is over.
    async fn row(&self) -> sluicegate::Result<bool> {
        let stats = self.queue.stats().await?;
        let lag = stats.lag.map_or("-".to_owned(), |lag| format!("{} ms", lag.as_millis()));
        println!(
            "{:>5.1}s  {:>6} {:>8} {:>8} {:>5} {:>8}  {:>7} {:>7}  {:>9}",
            self.started.elapsed().as_secs_f64(),
            stats.ready,
            stats.delayed,
            stats.pending,
            stats.dead,
            lag,
            self.done[0].load(Relaxed),
            self.done[1].load(Relaxed),
            self.model.stats().requests
        );
        Ok(stats.ready + stats.delayed + stats.pending == 0)
    }

    fn event(&self, what: &str) {
        println!("{:>5.1}s  -- {what}", self.started.elapsed().as_secs_f64());
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = RedisServer::start()?;
    let redis = Redis::builder(server.url()).build()?;
    let queue: Jobs = JobQueue::at(sluicegate::redis::RedisServer::at(server.url())).name("reviews").build()?;
    let model =
        Simulated::builder().seed(1).first_chunk(Duration::from_millis(300), 0.3).tokens_per_second(400.0).build()?;
    while !queue.is_connected() || !redis.is_connected() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let done = [Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0))];
    let table = Table { started: Instant::now(), queue: queue.clone(), model: model.clone(), done: done.clone() };

    let mut jobs = Vec::new();
    for number in 0..JOBS {
        let review =
            ChatJob::new(ChatRequest::new("gpt-5-mini").user(format!("Is this review kind? Review {number}")))?;
        jobs.push(NewJob::new(review).idempotency_key(format!("review-{number}")));
    }
    let again = jobs.clone();
    let enqueued: Vec<_> = queue.enqueue_all(jobs).await.into_iter().collect::<Result<_, _>>()?;
    table.event(&format!("{} jobs enqueued", enqueued.iter().filter(|one| !one.repeated).count()));
    let repeated: Vec<_> = queue.enqueue_all(again).await.into_iter().collect::<Result<_, _>>()?;
    let repeats = repeated.iter().filter(|one| one.repeated).count();
    table.event(&format!("the same again, under the same idempotency keys: {repeats} were there already"));

    table.head();
    let first = tokio::spawn(work(queue.clone(), client(&model, &redis)?, Arc::clone(&done[0])));
    let _second = tokio::spawn(work(queue.clone(), client(&model, &redis)?, Arc::clone(&done[1])));
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        table.row().await?;
    }
    first.abort();
    table.event("worker A dies with its hands full; B takes its jobs over after 2 s");
    while !table.row().await? {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    for letter in queue.dead_letters(10).await? {
        let failure = &letter.failure;
        table.event(&format!("dead after {} attempt(s): {}, {}", letter.attempts, failure.reason, failure.message));
    }
    let mut results = 0;
    for one in &enqueued {
        results += u32::from(matches!(queue.result(&one.id).await?, sluicegate::batch::JobState::Done(_)));
    }
    println!("\n{results} of {JOBS} jobs have their result, with {} calls upstream", model.stats().requests);
    Ok(())
}
