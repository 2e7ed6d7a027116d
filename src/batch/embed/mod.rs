//! Small embedding requests of different callers, merged into one.

mod merge;

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::ORIGIN;
use super::micro::{MicroBatcher, MicroBuilder, Shared};
use crate::client::{ClientInfo, LlmClient};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::layer::Layer;
use crate::types::{
    CacheControl, ChatRequest, ChatResponse, ChatStream, EmbedRequest, EmbedResponse, Priority, Tenant,
};
use merge::{group, merge, split, tokens};

/// Merges small embedding requests into one, and gives each caller its own vectors back.
///
/// # What it does
/// Requests of equal model, parameters, tenant and priority that come at the same time, or while a call is under way, are
/// sent as one, by the rules of [`MicroBatcher`]: an only request is sent at once. An input that several of them have is sent
/// once. Vectors are matched by the index they
/// state, never by order; an answer that does not state exactly one for each input is an error for all of the call.
/// Usage and cost are divided in proportion to the length of the inputs (bytes, or tokens where they are given as such),
/// and the parts add up. Details of the usage are told only to who was alone.
///
/// A request that the provider refuses is found by halving and fails alone. A request that fills a batch by itself, and
/// one that carries other extensions than [`Priority`], [`Tenant`], [`Deadline`](crate::types::Deadline) and [`CacheControl`], goes alone, as it
/// is. A merged request carries the latest of its callers' deadlines if all have one; each caller keeps its own.
///
/// # Where it sits
/// In [`Slot::Batch`](crate::Slot::Batch): below the cache, so that only misses are merged; above retry and scheduler, so
/// that a batch is one attempt and one admission.
///
/// # Cost
/// A request without company costs a batcher of its own. Nothing is spawned.
///
/// # Streaming
/// Chats and streams pass through.
///
/// # Cancellation
/// A dropped caller takes its inputs along if they were not sent yet; with the last caller the call is dropped.
///
/// # Example
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use std::sync::Arc;
/// use sluicegate::{OptimizedClient, batch::BatchLayer, testing::Scripted, types::EmbedRequest};
///
/// let upstream = Arc::new(Scripted::new());
/// let llm = OptimizedClient::builder(Arc::clone(&upstream)).batch(BatchLayer::new().max_inputs(100)).build()?;
/// let one = |text: &str| llm.embed(EmbedRequest::new("text-embedding-3-small", [text.to_owned()]));
/// let (sky, sea) = tokio::join!(one("Why is the sky blue?"), one("Why is the sea salt?"));
/// assert_eq!((sky?.data.len(), sea?.data.len(), upstream.calls()), (1, 1, 1));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct BatchLayer {
    max_inputs: usize,
    max_tokens: u64,
    max_wait: Duration,
    concurrency: usize,
}

impl BatchLayer {
    /// Batches of at most 2,048 inputs and 200,000 tokens (OpenAI takes 2,048 and 300,000; tokens are estimates), 10 ms,
    /// 8 calls.
    pub fn new() -> Self {
        Self { max_inputs: 2_048, max_tokens: 200_000, max_wait: Duration::from_millis(10), concurrency: 8 }
    }

    /// Inputs in a merged request at most, from 1 on.
    #[must_use]
    pub fn max_inputs(mut self, inputs: usize) -> Self {
        self.max_inputs = inputs;
        self
    }

    /// Tokens in a merged request at most, from 1 on, estimated as a third of the bytes of a text.
    #[must_use]
    pub fn max_tokens(mut self, tokens: u64) -> Self {
        self.max_tokens = tokens;
        self
    }

    /// How long a request waits for company at most while a call of its group is under way, from 0 to 1 minute.
    #[must_use]
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = wait;
        self
    }

    /// Calls under way at most for each model and set of parameters, from 1 on. Those that go alone are not counted.
    #[must_use]
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = calls;
        self
    }

    fn batcher(&self, inner: &Arc<dyn LlmClient>, env: &Env) -> Result<MicroBatcher<EmbedRequest, EmbedResponse>> {
        let inner = Arc::clone(inner);
        let work = move |requests: Vec<EmbedRequest>| {
            let inner = Arc::clone(&inner);
            async move {
                let answer = inner.embed(merge(&requests)).await?;
                split(answer, &requests)
            }
        };
        let builder: MicroBuilder<EmbedRequest, EmbedResponse> = MicroBatcher::builder(work);
        let builder = builder.max_size(self.max_inputs).size(|request| request.input.len());
        let builder = builder.max_weight(self.max_tokens, tokens);
        builder.max_wait(self.max_wait).concurrency(self.concurrency).env(env.clone()).build()
    }
}

impl Default for BatchLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer for BatchLayer {
    fn name(&self) -> &'static str {
        ORIGIN
    }

    fn settings(&self) -> String {
        let Self { max_inputs, max_tokens, max_wait, concurrency } = self;
        format!("{max_inputs} inputs, {max_tokens} tokens, wait {max_wait:?}, concurrency {concurrency}")
    }

    fn wrap(&self, inner: Arc<dyn LlmClient>, env: &Env) -> Result<Arc<dyn LlmClient>> {
        if self.max_inputs == 0 {
            return Err(Error::config(ORIGIN, "max_inputs", 0, "allow at least one input in a request"));
        }
        if self.max_tokens == 0 {
            return Err(Error::config(ORIGIN, "max_tokens", 0, "allow at least one token in a request"));
        }
        // The batcher refuses the rest.
        self.batcher(&inner, env)?;
        Ok(Arc::new(Batched { inner, layer: self.clone(), env: env.clone(), groups: Mutex::default() }))
    }
}

/// A batcher per group, for as long as somebody uses it.
#[derive(Default)]
struct Groups {
    batchers: HashMap<Vec<u8>, Weak<Shared<EmbedRequest, EmbedResponse>>>,
    /// So many may be there before those that nobody uses are dropped.
    room: usize,
}

impl Groups {
    /// Makes room for one more. Each time for as many again as are in use, so that it costs the same however many are.
    fn sweep(&mut self) {
        if self.batchers.len() >= self.room {
            self.batchers.retain(|_, shared| shared.strong_count() > 0);
            self.room = 2 * self.batchers.len() + 16;
        }
    }
}

struct Batched {
    inner: Arc<dyn LlmClient>,
    layer: BatchLayer,
    env: Env,
    groups: Mutex<Groups>,
}

impl std::fmt::Debug for Batched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batched").field("inner", &self.inner).field("layer", &self.layer).finish_non_exhaustive()
    }
}

impl Batched {
    fn batcher(&self, group: Vec<u8>) -> Result<MicroBatcher<EmbedRequest, EmbedResponse>> {
        let mut groups = self.groups.lock();
        if let Some(shared) = groups.batchers.get(&group).and_then(Weak::upgrade) {
            return Ok(MicroBatcher(shared));
        }
        groups.sweep();
        let batcher = self.layer.batcher(&self.inner, &self.env)?;
        groups.batchers.insert(group, batcher.downgrade());
        Ok(batcher)
    }

    fn goes_alone(&self, request: &EmbedRequest) -> bool {
        let known = [TypeId::of::<Priority>(), TypeId::of::<Tenant>(), TypeId::of::<CacheControl>()];
        let (inputs, layer) = (request.input.len(), &self.layer);
        inputs == 0
            || inputs >= layer.max_inputs
            || tokens(request) >= layer.max_tokens
            || request.extensions.holds_others(&known)
    }
}

#[async_trait]
impl LlmClient for Batched {
    fn info(&self) -> &ClientInfo {
        self.inner.info()
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        self.inner.chat(request).await
    }

    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        self.inner.chat_stream(request).await
    }

    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        if self.goes_alone(&request) {
            return self.inner.embed(request).await;
        }
        self.batcher(group(&request))?.call(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scripted;

    #[tokio::test(start_paused = true)]
    async fn groups_that_nobody_uses_do_not_pile_up() {
        let (layer, env) = (BatchLayer::new(), Env::new());
        let batched = Batched { inner: Arc::new(Scripted::new()), layer, env, groups: Mutex::default() };
        for user in 0..1_000 {
            let request = EmbedRequest { user: Some(user.to_string()), ..EmbedRequest::new("m", ["a"]) };
            batched.embed(request).await.unwrap();
            assert!(batched.groups.lock().batchers.len() <= 16);
        }
    }
}
