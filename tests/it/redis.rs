//! The Redis tier against a real `redis-server`, through a proxy that breaks things, with real time.
//!
//! No test sleeps for luck: it polls for what must come to pass, with a deadline that only a hang reaches.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "helpers of tests fail as tests do")]

mod feed;
mod outages;
mod proxy;
pub(crate) mod server;
mod values;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sluicegate::cache::tier::Redis;
use sluicegate::cache::tier::redis::RedisBuilder;
use sluicegate::cache::{CacheTier, Entry, Probe};
use sluicegate::types::{ChatCompletion, ChatRequest};
use sluicegate::{ClientInfo, Env};

/// What takes longer than this has hung.
const HANG: Duration = Duration::from_secs(10);

/// A tier that waits as long as a machine under load may need: for tests in which nothing is slow on purpose.
pub(crate) fn patient(url: impl Into<String>) -> RedisBuilder {
    Redis::builder(url).get_timeout(HANG / 2).put_timeout(HANG / 2).connect_timeout(HANG / 2)
}

/// A tier with the standard patience for gets.
fn standard(url: impl Into<String>) -> RedisBuilder {
    Redis::builder(url).put_timeout(HANG / 2)
}

fn question(text: &str) -> Probe {
    Probe::chat(&ClientInfo::new("tests"), &ChatRequest::new("gpt-5-mini").user(text), Env::new().now())
}

fn answer(probe: &Probe, text: &str, ttl: Duration) -> Arc<Entry> {
    let completion = Arc::new(ChatCompletion::text("gpt-5-mini", text));
    Arc::new(Entry::new(probe, completion, Arc::from([]), Env::new().now(), ttl, None))
}

fn minute(probe: &Probe, text: &str) -> Arc<Entry> {
    answer(probe, text, Duration::from_secs(60))
}

async fn text(tier: &Redis, probe: &Probe) -> sluicegate::Result<Option<String>> {
    Ok(tier.get(probe).await?.map(|entry| entry.completion().unwrap().choices[0].message.text()))
}

/// Asks until it holds.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < HANG, "{what}: not within {HANG:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn joined(tier: &Redis) {
    until("the tier joins", || async { tier.is_connected() }).await;
}
