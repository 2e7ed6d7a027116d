//! Any endpoint that speaks the OpenAI wire: OpenAI itself, gateways, and local servers such as vLLM or llama.cpp.
//!
//! One HTTP exchange per call and nothing clever around it. Retries, timeouts, limits and caching are layers of their
//! own, so this client switches off what the HTTP library would do by itself (retries, redirects) and sets no time
//! limit but the one for connecting: wrap it, or a silent server is waited for without end.
//!
//! What it does do is report precisely. A refusal becomes an [`ErrorKind`](crate::ErrorKind) with the provider's
//! `retry-after` and rate limits; a stream that stops early is never taken for a whole answer; no body or event may
//! grow past a limit, before or after decompression; no key, URL or provider text shows up in what is printed.
//!
//! Work that can wait goes through [`OpenAi::batches`]: files of requests, answered within a day, at half the price.
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
//! use sluicegate::{LlmClient, providers::OpenAi, types::ChatRequest};
//!
//! let local = OpenAi::builder("http://localhost:8000/v1").build()?;
//! let answer = local.chat(ChatRequest::new("qwen3").user("Why is the sky blue?")).await?;
//! # let _ = answer;
//! # Ok(()) }
//! ```

mod batch;
mod builder;
mod client;
mod error;
mod headers;
mod sse;
mod wire;

pub use batch::{Batch, BatchItem, BatchProgress, BatchRequest, BatchStatus, Batches};
pub use builder::OpenAiBuilder;
pub use client::OpenAi;

/// The layer name in every error raised here.
const ORIGIN: &str = "openai";
