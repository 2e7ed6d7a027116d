//! The Redis tier against a real `redis-server`, through a proxy that breaks things, with real time.
//!
//! No test sleeps for luck: it polls for what must come to pass, with a deadline that only a hang reaches.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "helpers of tests fail as tests do")]

pub(crate) mod crowd;
mod feed;
mod leases;
mod outages;
pub(crate) mod proxy;
mod refusals;
pub(crate) mod server;
mod tls;
mod values;
pub(crate) mod wait;

use std::sync::Arc;
use std::time::Duration;

use sluicegate::cache::tier::Redis;
use sluicegate::cache::tier::redis::RedisBuilder;
use sluicegate::cache::{CacheTier, Entry, Probe};
use sluicegate::types::{ChatCompletion, ChatRequest};
use sluicegate::{ClientInfo, Env};
use wait::{HANG, until};

/// A tier that waits as long as a machine under load may need: for tests in which nothing is slow on purpose.
pub(crate) fn patient(url: impl Into<String>) -> RedisBuilder {
    Redis::builder(url).get_timeout(HANG / 2).put_timeout(HANG / 2).connect_timeout(HANG / 2)
}

/// A tier with the standard patience for gets.
pub(crate) fn standard(url: impl Into<String>) -> RedisBuilder {
    Redis::builder(url).put_timeout(HANG / 2)
}

pub(crate) fn question(text: &str) -> Probe {
    Probe::chat(&ClientInfo::new("tests"), &ChatRequest::new("gpt-5-mini").user(text), Env::new().now())
}

pub(crate) fn answer(probe: &Probe, text: &str, ttl: Duration) -> Arc<Entry> {
    let completion = Arc::new(ChatCompletion::text("gpt-5-mini", text));
    Arc::new(Entry::new(probe, completion, Arc::from([]), Env::new().now(), ttl, None))
}

pub(crate) fn minute(probe: &Probe, text: &str) -> Arc<Entry> {
    answer(probe, text, Duration::from_secs(60))
}

pub(crate) async fn text(tier: &Redis, probe: &Probe) -> sluicegate::Result<Option<String>> {
    Ok(tier.get(probe).await?.map(|entry| entry.completion().unwrap().choices[0].message.text()))
}

pub(crate) async fn joined(tier: &Redis) {
    until("the tier joins", || async { tier.is_connected() }).await;
}
