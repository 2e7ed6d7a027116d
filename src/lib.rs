//! Wrap the LLM client you already have into a faster, cheaper, sturdier one, in one builder call.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
//! use std::time::Duration;
//! use sluicegate::{Admission, OptimizedClient, Retry, providers::client_fn};
//! use sluicegate::{cache::Cache, history::Window, types::{ChatRequest, ChatResponse}};
//!
//! // Anything that implements LlmClient, or a closure.
//! let client = client_fn(|_request| async { Ok(ChatResponse::from_text("Rayleigh scattering.")) });
//! let llm = OptimizedClient::builder(client)
//!     .cache(Cache::memory(10_000).ttl(Duration::from_secs(3600)))
//!     .history(Window::tokens(8_000))
//!     .schedule(Admission::new().concurrency(32).rpm(500).tpm(200_000))
//!     .retry(Retry::standard())
//!     .build()?; // every configuration mistake is reported here
//! let answer = llm.chat(ChatRequest::new("gpt-5-mini").user("Why is the sky blue?")).await?;
//! println!("{} [{}]", answer.text(), answer.trace());
//! # Ok(()) }
//! ```
//!
//! Nothing but the client is mandatory. [`OptimizedClient::describe`] prints the real stack, every answer's
//! [`Trace`](types::Trace) says what happened to it, [`OptimizedClient::report`] adds it all up.
//!
//! # How a request travels
//!
//! Down through the [`Slot`]s, outermost first; its answer, or the chunks of it, come back up through the same ones. The
//! order is fixed by slot, never by the order of the builder's calls.
//!
//! | [`Slot`] | Layer | What it does there |
//! |---|---|---|
//! | Observe | [`ObserveLayer`](observe::ObserveLayer), always | counts every call, hits included |
//! | Deadline | [`DeadlineLayer`](resilience::DeadlineLayer) | stamps the absolute limit that all below respect |
//! | Fallback, Route | your own | change or fix the model before anything depends on it |
//! | History | [`HistoryLayer`](history::HistoryLayer) | normalises the prompt and keeps it within its budget |
//! | Cache | [`CacheLayer`](cache::CacheLayer) | serves repeated prompts, and simultaneous ones with one call |
//! | Batch | [`DeferLayer`](batch::DeferLayer), [`BatchLayer`](batch::BatchLayer) | leaves calls that can wait to a provider's batches; merges small embedding requests of different callers |
//! | Retry | [`RetryLayer`](resilience::RetryLayer) | tries again, within one shared budget, holding no permit |
//! | Hedge, Breaker | your own | send copies, refuse early |
//! | Schedule | [`ScheduleLayer`](schedule::ScheduleLayer) | admits by priority within concurrency, RPM and TPM |
//! | Timeout | [`TimeoutLayer`](resilience::TimeoutLayer) | bounds the provider's time, after queueing |
//! | Attempt | [`AttemptLayer`](observe::AttemptLayer), always | measures and prices the provider alone |
//!
//! # Your own parts
//!
//! - A client: implement [`LlmClient`], or take [`client_fn`](providers::client_fn).
//! - A layer: implement [`Layer`] and place it with [`inside`](Builder::inside) or [`outside`](Builder::outside) a slot.
//! - A tier, a history policy, a scheduler, an embedder: [`CacheTier`](cache::CacheTier),
//!   [`HistoryPolicy`](history::HistoryPolicy), [`Scheduler`], [`Embedder`]; each module's page says what is expected of one.
//! - Time, randomness, token counts and prices come from [`Env`]; tests set them.
//!
//! # The cache
//!
//! [`Cache::memory`](cache::Cache::memory) keeps answers in this process; [`tier`](cache::Cache::tier) adds places outside
//! it, [`fleet`](cache::Cache::fleet) one that several processes share and are kept together by. How a request travels
//! through it, how long an answer lives, and which file holds what, says the page of [`cache`].
//!
//! | Wanted | Is |
//! |---|---|
//! | another life, size or place for some entries | a [`Namespace`](cache::Namespace) |
//! | stale answers while the new one comes, or while the provider is down | [`stale_while_revalidate`](cache::Cache::stale_while_revalidate), [`stale_if_error`](cache::Cache::stale_if_error) |
//! | something else for one call | [`CacheControl`](types::CacheControl) |
//! | more requests that count as equal | a [`KeyPolicy`](cache::KeyPolicy) |
//! | fewer, or other, answers kept | a [`StorePolicy`](cache::StorePolicy) |
//! | values of your own, fetched once | [`CacheHandle::namespace`](cache::CacheHandle::namespace) |
//! | answers gone | [`CacheHandle::remove_selected`](cache::CacheHandle::remove_selected) with a [`Selector`](cache::Selector) |
//!
//! [`OptimizedClient::cache`] gives a handle on the cache at work: [`stats`](cache::CacheHandle::stats) by namespace and tier, single
//! answers ([`get`](cache::CacheHandle::get), [`peek`](cache::CacheHandle::peek), [`put`](cache::CacheHandle::put),
//! [`remove`](cache::CacheHandle::remove)), removal by [`Selector`](cache::Selector), now and again later, memory as lines
//! of JSON ([`export`](cache::CacheHandle::export), [`import`](cache::CacheHandle::import)), and warm-up from a list, a
//! log, or the hottest requests of another run ([`warm_up`](cache::CacheHandle::warm_up)).
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
//! # use sluicegate::{OptimizedClient, cache::{Cache, Selector}, providers::client_fn, types::{ChatRequest, ChatResponse}};
//! # let client = client_fn(|_request| async { Ok(ChatResponse::from_text("Rayleigh scattering.")) });
//! let llm = OptimizedClient::builder(client).cache(Cache::memory(10_000)).build()?;
//! if let Some(cache) = llm.cache() {
//!     let warmed = cache.warm_up([ChatRequest::new("gpt-5-mini").user("Why is the sky blue?")]).await;
//!     assert_eq!(warmed.stored, 1);
//!     cache.remove_selected(&Selector::Pattern("responses/gpt-5*".into())).await?;
//!     println!("{}", cache.stats());
//! }
//! # Ok(()) }
//! ```
//!
//! # Promises
//!
//! - One upstream call per key: concurrent equal requests share one flight, streams too.
//! - The cache never fails a call, returns only what was stored for exactly that request and tenant, and never keeps a
//!   cut, filtered, refused, empty or failed answer, nor one that is not the JSON that was asked for. A
//!   [`KeyPolicy`](cache::KeyPolicy) widens what counts as the same request, a [`StorePolicy`](cache::StorePolicy) what
//!   is kept; tenants stay apart whatever they say.
//! - Nothing is retried once a chunk has been handed out.
//! - A dropped call or stream frees its permit, its reservation, its queue place and its flight.
//! - Errors, metrics, traces and the `Debug` of clients, layers and tiers never show prompts, answers, keys or tenants.
//! - No panics on input, no prints, no runtime of its own, no task that outlives
//!   [`shutdown`](OptimizedClient::shutdown).
//!
//! # Features
//!
//! None is on by default, and none changes what is there without it.
//!
//! | Feature | Adds |
//! |---|---|
//! | `openai` | `providers::OpenAi`: any OpenAI-compatible endpoint, over reqwest |
//! | `redis` | `redis::RedisServer` and what uses one, over fred: `cache::tier::Redis`, answers shared by a fleet; `batch::JobQueue`, durable jobs |
//! | `metrics` | `observe::Metrics`: everything counted, through the `metrics` facade |
//! | `disk` | `cache::tier::Disk`: answers that survive a restart, in a log of our own |
//! | `object-store` | `cache::tier::Objects`: answers in S3, Google Cloud Storage, Azure or a folder, over object_store |
//! | `json-schema` | `cache::StorePolicy::valid_schema`: answers held against the request's schema before they are kept |
//! | `summarize` | `history::Summarize`: old turns replaced by a running summary, written by a client you name |
//! | `simulated` | `providers::Simulated`: a model that behaves like a provider, for tests and benches |
//! | `test-util` | `testing`: a scripted client, the laws of layers and tiers, a harness that drops futures |

pub mod batch;
pub mod cache;
mod client;
mod deferred;
mod embedder;
pub mod env;
mod error;
mod fingerprint;
pub mod history;
mod layer;
mod lines;
pub mod observe;
mod offload;
pub mod providers;
#[cfg(feature = "redis")]
pub mod redis;
pub mod resilience;
pub mod schedule;
mod sharded;
mod stack;
#[cfg(feature = "test-util")]
pub mod testing;
pub mod tokens;
pub mod types;

pub use client::{ClientInfo, LlmClient};
pub use embedder::{ClientEmbedder, Embedder};
pub use env::Env;
pub use error::{Error, ErrorKind, Result, Retryability};
pub use layer::{Chain, Layer, Slot};
pub use resilience::{Retry, RetryBudget, Timeouts};
pub use schedule::{Admission, Scheduler};
pub use stack::{Builder, OptimizedClient};

#[cfg(all(doctest, feature = "openai", feature = "redis", feature = "disk"))]
#[doc = include_str!("../README.md")]
mod readme {}
