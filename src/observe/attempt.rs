//! Every attempt upstream, seen from directly outside the provider.

use std::sync::Arc;

use async_trait::async_trait;

use super::Stats;
use super::watch::{Level, Watcher};
use crate::client::{ClientInfo, LlmClient};
use crate::env::{Env, Operation};
use crate::error::Result;
use crate::layer::Layer;
use crate::types::{ChatRequest, ChatResponse, ChatStream, EmbedRequest, EmbedResponse, Trace, Usage};

/// Counts every attempt upstream, and says what it cost.
///
/// # What it does
/// Adds the provider's latency, tokens, dollars and 429s to [`Stats`], tells the [`Env`]'s observers, and writes the cost
/// into the answer's trace. A cost is unknown, never zero, when the model has no price or the provider told no usage.
///
/// # Where it sits
/// [`Slot::Attempt`](crate::Slot::Attempt), innermost: queueing and back-off are not in its times.
///
/// # Cost
/// Two clock readings and one price look-up per attempt.
///
/// # Streaming
/// A stream is counted when it ends.
///
/// # Cancellation
/// A dropped attempt is counted as abandoned, at an unknown cost.
///
/// # Example
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use std::sync::Arc;
/// use sluicegate::{Env, Layer, LlmClient, observe::{AttemptLayer, Stats}, testing::Scripted, types::ChatRequest};
///
/// let client = AttemptLayer::new(Arc::new(Stats::new())).wrap(Arc::new(Scripted::new()), &Env::new())?;
/// let priced = client.chat(ChatRequest::new("gpt-5-mini").user("hi")).await?;
/// let unpriced = client.chat(ChatRequest::new("house-model").user("hi")).await?;
/// assert!(priced.trace().cost.is_some() && unpriced.trace().cost.is_none());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct AttemptLayer {
    stats: Arc<Stats>,
}

impl AttemptLayer {
    /// Counts into these numbers.
    pub fn new(stats: Arc<Stats>) -> Self {
        Self { stats }
    }
}

impl Layer for AttemptLayer {
    fn name(&self) -> &'static str {
        "attempt"
    }

    fn settings(&self) -> String {
        String::new()
    }

    fn wrap(&self, inner: Arc<dyn LlmClient>, env: &Env) -> Result<Arc<dyn LlmClient>> {
        let watcher = Watcher { stats: Arc::clone(&self.stats), env: env.clone(), level: Level::Attempt };
        Ok(Arc::new(Attempted { inner, watcher: Arc::new(watcher) }))
    }
}

#[derive(Debug)]
struct Attempted {
    inner: Arc<dyn LlmClient>,
    watcher: Arc<Watcher>,
}

/// Prices what was asked for by the name it was asked by: providers answer with dated names.
fn price(env: &Env, model: &str, usage: Option<&Usage>, trace: &mut Trace) {
    trace.cost = usage.and_then(|usage| env.prices().cost(model, usage));
}

#[async_trait]
impl LlmClient for Attempted {
    fn info(&self) -> &ClientInfo {
        self.inner.info()
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        let watch = self.watcher.watch(Operation::Chat, &request.model);
        let model = request.model.clone();
        let mut answer = self.inner.chat(request).await;
        match &mut answer {
            Ok(response) => {
                let completion = Arc::clone(response.completion());
                price(&self.watcher.env, &model, completion.usage.as_ref(), response.trace_mut());
                watch.answered(completion.usage.as_ref(), response.trace());
            }
            Err(error) => watch.failed(error),
        }
        answer
    }

    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        let watch = self.watcher.watch(Operation::ChatStream, &request.model);
        let (watcher, model) = (Arc::clone(&self.watcher), request.model.clone());
        match self.inner.chat_stream(request).await {
            Ok(stream) => {
                let env = watcher.env.clone();
                Ok(watch.stream(watcher, stream, move |usage, trace| price(&env, &model, usage, trace)))
            }
            Err(error) => {
                watch.failed(&error);
                Err(error)
            }
        }
    }

    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        let watch = self.watcher.watch(Operation::Embed, &request.model);
        let model = request.model.clone();
        let mut answer = self.inner.embed(request).await;
        match &mut answer {
            Ok(response) => {
                price(&self.watcher.env, &model, response.usage.as_ref(), &mut response.trace);
                watch.answered(response.usage.as_ref(), &response.trace);
            }
            Err(error) => watch.failed(error),
        }
        answer
    }
}
