//! A model that behaves like a provider, in process: it takes its time, streams at its speed, limits requests and
//! tokens per minute, caches prompts, and fails as often as it is told.
//!
//! What it is for: examples, benches and load tests without a key, a bill or a network. What it is not: a model. The
//! answers are words.
//!
//! # Time
//! All of it comes from the [`Env`], so a test with tokio's paused clock runs hours in milliseconds.
//!
//! | Answered with | When |
//! |---|---|
//! | 400, 429 | at once; 20 ms after arrival |
//! | 500, 503 | when the first chunk would be due |
//! | a stream's opening | 20 ms after arrival, or with the first chunk if that is sooner |
//! | the first chunk | a log-normal draw after arrival |
//! | a whole answer, a stream's finish | its tokens at the output speed after the first chunk |
//! | embeddings | a log-normal draw after arrival |
//!
//! # Chance
//! The same request gets the same answer. What differs from call to call (latency, faults) depends on the seed, the
//! request and its place in the order of calls: the same calls in the same order run the same way.
//!
//! # Cancellation
//! Dropping a call or a stream stops it and settles it: its input and what was written by then are charged, the rest of
//! its reservation is given back.

mod answer;
mod builder;
mod call;
mod chat;
mod dice;
mod embed;
mod errors;
mod latency;
mod limits;
mod playback;
mod prompt_cache;
mod schema;
mod text;
mod vectors;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use twox_hash::XxHash3_64;

pub use builder::SimulatedBuilder;
pub use call::SimulatedStats;
pub use prompt_cache::PromptCache;

use builder::Settings;
use call::{Account, Call};
use dice::{Dice, Draw};

use crate::client::{ClientInfo, LlmClient};
use crate::env::Env;
use crate::error::Result;
use crate::types::{ChatRequest, ChatResponse, ChatStream, EmbedRequest, EmbedResponse, RateLimits};

/// A simulated provider. Cloning shares it: limits, prompt cache and statistics belong to the account, not the handle.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> sluicegate::Result<()> {
/// use sluicegate::{LlmClient, providers::Simulated, types::ChatRequest};
///
/// let provider = Simulated::builder().seed(7).rpm(60).build()?;
/// let answer = provider.chat(ChatRequest::new("gpt-5-mini").user("Why is the sky blue?").max_tokens(50)).await?;
/// assert!(!answer.text().is_empty());
/// assert_eq!(provider.stats().accepted, 1);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Simulated {
    account: Arc<Account>,
}

impl Simulated {
    /// A provider without limits and faults; see the setters for what else is on by default.
    pub fn builder() -> SimulatedBuilder {
        SimulatedBuilder::new()
    }

    fn new(settings: Settings, env: Env) -> Self {
        // Whatever changes the answers is part of who answers.
        let (seed, answer::Lengths { min, max }) = (settings.seed, settings.lengths);
        let endpoint = format!("seed={seed},output={min}-{max},dimensions={}", settings.dimensions);
        let info = ClientInfo { endpoint, ..ClientInfo::new("simulated") };
        Self { account: Arc::new(Account::new(settings, env, info)) }
    }

    /// What it has done so far.
    pub fn stats(&self) -> SimulatedStats {
        self.account.state.lock().stats
    }

    /// The limits as its headers state them now: the limit a minute, what the bucket holds, and when it is full again.
    pub fn rate_limits(&self) -> RateLimits {
        let now = self.account.env.now();
        self.account.state.lock().limits.report(now)
    }

    fn dice(&self, request: &impl serde::Serialize) -> Dice {
        let bytes = serde_json::to_vec(request).unwrap_or_default();
        Dice::of_request(self.account.settings.seed, XxHash3_64::oneshot(&bytes))
    }

    /// Fails the call when the first chunk is due, if this is one that fails.
    async fn play_error(&self, call: &mut Call, dice: &Dice) -> Result<()> {
        if !dice.happens(Draw::Fault, self.account.settings.error_rate) {
            return Ok(());
        }
        call.wait_until(call.first_at).await;
        call.fail();
        Err(errors::server_error(dice.bits(Draw::FaultStatus, 0) & 1 == 0))
    }
}

#[async_trait]
impl LlmClient for Simulated {
    fn info(&self) -> &ClientInfo {
        &self.account.info
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        self.answer(&request).await
    }

    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        self.stream(&request).await
    }

    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        self.vectors(request).await
    }
}
