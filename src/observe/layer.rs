//! Every call, seen from outside.

use std::sync::Arc;

use async_trait::async_trait;

use super::Stats;
use super::watch::{Level, Watcher};
use crate::client::{ClientInfo, LlmClient};
use crate::env::{Env, Operation};
use crate::error::Result;
use crate::layer::Layer;
use crate::types::{ChatRequest, ChatResponse, ChatStream, EmbedRequest, EmbedResponse};

/// Counts every call as its caller sees it.
///
/// # What it does
/// Adds each call's latency, first chunk, outcome, hits and savings to [`Stats`], and tells the [`Env`]'s observers.
///
/// # Where it sits
/// [`Slot::Observe`](crate::Slot::Observe), outermost: hits and refusals count too.
///
/// # Cost
/// Two clock readings and a few increments in this thread's own memory.
///
/// # Streaming
/// A stream is counted when it ends: finished, failed or dropped.
///
/// # Cancellation
/// A dropped call is counted as abandoned.
///
/// # Example
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use std::sync::Arc;
/// use sluicegate::{Env, Layer, LlmClient, observe::{ObserveLayer, Stats}, testing::Scripted, types::ChatRequest};
///
/// let stats = Arc::new(Stats::new());
/// let client = ObserveLayer::new(stats.clone()).wrap(Arc::new(Scripted::new()), &Env::new())?;
/// client.chat(ChatRequest::new("gpt-5-mini").user("hi")).await?;
/// assert_eq!(stats.report().answered, 1);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct ObserveLayer {
    stats: Arc<Stats>,
}

impl ObserveLayer {
    /// Counts into these numbers.
    pub fn new(stats: Arc<Stats>) -> Self {
        Self { stats }
    }
}

impl Layer for ObserveLayer {
    fn name(&self) -> &'static str {
        "observe"
    }

    fn settings(&self) -> String {
        String::new()
    }

    fn wrap(&self, inner: Arc<dyn LlmClient>, env: &Env) -> Result<Arc<dyn LlmClient>> {
        let watcher = Watcher { stats: Arc::clone(&self.stats), env: env.clone(), level: Level::Call };
        Ok(Arc::new(Observed { inner, watcher: Arc::new(watcher) }))
    }
}

#[derive(Debug)]
struct Observed {
    inner: Arc<dyn LlmClient>,
    watcher: Arc<Watcher>,
}

#[async_trait]
impl LlmClient for Observed {
    fn info(&self) -> &ClientInfo {
        self.inner.info()
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        let watch = self.watcher.watch(Operation::Chat, &request.model);
        // By value: looked at in its place, an answer would be moved once more on every hit.
        match self.inner.chat(request).await {
            Ok(response) => {
                watch.answered(response.usage.as_ref(), response.trace());
                Ok(response)
            }
            Err(error) => {
                watch.failed(&error);
                Err(error)
            }
        }
    }

    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        let watch = self.watcher.watch(Operation::ChatStream, &request.model);
        match self.inner.chat_stream(request).await {
            Ok(stream) => Ok(watch.stream(Arc::clone(&self.watcher), stream, |_, _| {})),
            Err(error) => {
                watch.failed(&error);
                Err(error)
            }
        }
    }

    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        let watch = self.watcher.watch(Operation::Embed, &request.model);
        let answer = self.inner.embed(request).await;
        match &answer {
            Ok(response) => watch.answered(response.usage.as_ref(), &response.trace),
            Err(error) => watch.failed(error),
        }
        answer
    }
}
