//! History in the stack: normalise, then fit.

use std::sync::Arc;

use super::{HistoryPolicy, Normalize, TokenBudget};
use crate::client::{Answer, ClientInfo, LlmClient};
use crate::env::Env;
use crate::error::Result;
use crate::layer::Layer;
use crate::types::{ChatRequest, ChatResponse, ChatStream, EmbedRequest, EmbedResponse, StreamEvent};

/// Brings every prompt into one form and within its budget.
///
/// # What it does
/// Normalises what users and instructions say, then lets a [`HistoryPolicy`] choose the messages that are sent. The
/// answer's trace says how many tokens were kept off the wire.
///
/// # Where it sits
/// [`Slot::History`](crate::Slot::History): inside Route, because it needs the model; outside Cache, because the final
/// prompt is the key.
///
/// # Cost
/// A prompt that is in form and fits by its bytes is scanned once. Otherwise each message costs a hash and a look-up,
/// and a message not seen before its tokenization (about 30 MB/s).
///
/// # Streaming
/// The same for calls and streams.
///
/// # Cancellation
/// Nothing is held.
///
/// # Example
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use std::sync::Arc;
/// use sluicegate::{Env, Layer, LlmClient, history::{HistoryLayer, Window}, testing::Scripted, types::ChatRequest};
///
/// let upstream = Arc::new(Scripted::new());
/// let client = HistoryLayer::from(Window::tokens(20)).wrap(upstream.clone(), &Env::new())?;
/// client.chat(ChatRequest::new("gpt-5-mini").user("An old question.").assistant("An old answer.").user("And now?")).await?;
/// assert_eq!(upstream.requests()[0].messages.len(), 1);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct HistoryLayer {
    normalize: Option<Normalize>,
    policy: Option<Arc<dyn HistoryPolicy>>,
}

impl HistoryLayer {
    /// Normalises before it fits.
    #[must_use]
    pub fn with_normalize(mut self, normalize: Normalize) -> Self {
        self.normalize = Some(normalize);
        self
    }
}

impl<P: HistoryPolicy> From<P> for HistoryLayer {
    fn from(policy: P) -> Self {
        Self { normalize: None, policy: Some(Arc::new(policy)) }
    }
}

impl From<Normalize> for HistoryLayer {
    fn from(normalize: Normalize) -> Self {
        Self::default().with_normalize(normalize)
    }
}

impl Layer for HistoryLayer {
    fn name(&self) -> &'static str {
        "history"
    }

    fn settings(&self) -> String {
        let normalize = self.normalize.map(|_| "normalise white space".to_owned());
        let parts: Vec<_> = normalize.into_iter().chain(self.policy.iter().map(|policy| policy.settings())).collect();
        parts.join("; ")
    }

    fn wrap(&self, inner: Arc<dyn LlmClient>, env: &Env) -> Result<Arc<dyn LlmClient>> {
        if let Some(policy) = &self.policy {
            policy.check()?;
        }
        Ok(Arc::new(Fitted { inner, normalize: self.normalize, policy: self.policy.clone(), env: env.clone() }))
    }
}

#[derive(Debug)]
struct Fitted {
    inner: Arc<dyn LlmClient>,
    normalize: Option<Normalize>,
    policy: Option<Arc<dyn HistoryPolicy>>,
    env: Env,
}

impl Fitted {
    /// The request in its form, and whether the policy has something to do.
    fn prepare(&self, mut request: ChatRequest) -> (ChatRequest, bool) {
        if let Some(normalize) = self.normalize {
            let messages = normalize.apply(request.messages.clone());
            if !messages.ptr_eq(&request.messages) {
                request.messages = messages;
            }
        }
        let budget = TokenBudget::new(&request, &**self.env.counter());
        let fits = self.policy.as_ref().is_none_or(|policy| policy.fits(&request.messages, &budget));
        (request, !fits)
    }

    /// The request to send, and how many tokens that saves.
    async fn fit(&self, mut request: ChatRequest) -> Result<(ChatRequest, u64)> {
        let Some(policy) = &self.policy else { return Ok((request, 0)) };
        let budget = TokenBudget::new(&request, &**self.env.counter());
        let fitted = policy.fit(request.messages.clone(), &budget).await?;
        if fitted.ptr_eq(&request.messages) {
            return Ok((request, 0));
        }
        let tokens = |messages: &[Arc<_>]| messages.iter().map(|message| budget.message(message)).sum::<u64>();
        let trimmed = tokens(&request.messages).saturating_sub(tokens(&fitted));
        request.messages = fitted;
        Ok((request, trimmed))
    }

    async fn chat_fitted(&self, request: ChatRequest) -> Result<ChatResponse> {
        let (request, trimmed) = self.fit(request).await?;
        let mut response = self.inner.chat(request).await?;
        response.trace_mut().trimmed_tokens += trimmed;
        Ok(response)
    }

    async fn stream_fitted(&self, request: ChatRequest) -> Result<ChatStream> {
        let (request, trimmed) = self.fit(request).await?;
        let stream = self.inner.chat_stream(request).await?;
        if trimmed == 0 {
            return Ok(stream);
        }
        Ok(stream.inspect(move |event| {
            if let Ok(StreamEvent::Finish(finish)) = event {
                finish.trace.trimmed_tokens += trimmed;
            }
        }))
    }
}

// Not `async fn`, so that a prompt that fits is handed on without a future of ours around it.
impl LlmClient for Fitted {
    fn info(&self) -> &ClientInfo {
        self.inner.info()
    }

    fn chat<'a, 'f>(&'a self, request: ChatRequest) -> Answer<'f, ChatResponse>
    where
        'a: 'f,
        Self: 'f,
    {
        match self.prepare(request) {
            (request, false) => self.inner.chat(request),
            (request, true) => Box::pin(self.chat_fitted(request)),
        }
    }

    fn chat_stream<'a, 'f>(&'a self, request: ChatRequest) -> Answer<'f, ChatStream>
    where
        'a: 'f,
        Self: 'f,
    {
        match self.prepare(request) {
            (request, false) => self.inner.chat_stream(request),
            (request, true) => Box::pin(self.stream_fitted(request)),
        }
    }

    fn embed<'a, 'f>(&'a self, request: EmbedRequest) -> Answer<'f, EmbedResponse>
    where
        'a: 'f,
        Self: 'f,
    {
        self.inner.embed(request)
    }
}
