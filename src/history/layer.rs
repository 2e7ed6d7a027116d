//! History in the stack: normalise, then fit.

use std::future::ready;
use std::sync::Arc;

use super::carry::{with_summary, without_summary};
use super::fit::{clamped, length};
use super::sent::Sent;
use super::{HistoryPolicy, Normalize, Repair, TokenBudget};
use crate::client::{Answer, ClientInfo, LlmClient};
use crate::env::Env;
use crate::error::Result;
use crate::layer::Layer;
use crate::tokens::count_ahead;
use crate::types::{
    ChatRequest, ChatResponse, ChatStream, EmbedRequest, EmbedResponse, HistoryTrace, Messages, StreamEvent,
};

/// Brings every prompt into one form and within its budget.
///
/// # What it does
/// Puts right what came broken, normalises what users and instructions say, then lets a [`HistoryPolicy`] choose the
/// messages that are sent; each if it is set. The answer's [`Trace::history`](crate::types::Trace::history) says what was
/// done.
///
/// # Where it sits
/// [`Slot::History`](crate::Slot::History): inside Route, because it needs the model; outside Cache, because the final
/// prompt is the key.
///
/// # Cost
/// A prompt that is in form and fits by its bytes is scanned once ([`Normalize::aggressive`] reads it a few times).
/// Otherwise each message costs a hash and a look-up, a message not seen before its tokenization, and one that was counted
/// for the former request of the same [`Conversation`](super::Conversation) a few nanoseconds.
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
/// let talk = ChatRequest::new("gpt-5-mini").user("An old question.").assistant("An old answer.").user("And now?");
/// client.chat(talk).await?;
/// assert_eq!(upstream.requests()[0].messages.len(), 1);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct HistoryLayer {
    repair: Option<Repair>,
    normalize: Option<Normalize>,
    policy: Option<Arc<dyn HistoryPolicy>>,
}

impl HistoryLayer {
    /// Puts conversations right that came broken, or refuses them, before anything else.
    #[must_use]
    pub fn with_repair(mut self, repair: Repair) -> Self {
        self.repair = Some(repair);
        self
    }

    /// Normalises before it fits.
    #[must_use]
    pub fn with_normalize(mut self, normalize: Normalize) -> Self {
        self.normalize = Some(normalize);
        self
    }
}

impl<P: HistoryPolicy> From<P> for HistoryLayer {
    fn from(policy: P) -> Self {
        Self { policy: Some(Arc::new(policy)), ..Self::default() }
    }
}

impl From<Normalize> for HistoryLayer {
    fn from(normalize: Normalize) -> Self {
        Self::default().with_normalize(normalize)
    }
}

impl From<Repair> for HistoryLayer {
    fn from(repair: Repair) -> Self {
        Self::default().with_repair(repair)
    }
}

impl Layer for HistoryLayer {
    fn name(&self) -> &'static str {
        "history"
    }

    fn settings(&self) -> String {
        let repair = self.repair.map(Repair::settings);
        let normalize = self.normalize.map(Normalize::settings);
        let policy = self.policy.iter().map(|policy| policy.settings());
        let parts: Vec<_> = repair.into_iter().chain(normalize).chain(policy).collect();
        parts.join("; ")
    }

    fn wrap(&self, inner: Arc<dyn LlmClient>, env: &Env) -> Result<Arc<dyn LlmClient>> {
        if let Some(policy) = &self.policy {
            policy.check()?;
        }
        Ok(Arc::new(Fitted { inner, layer: self.clone(), env: env.clone() }))
    }
}

#[derive(Debug)]
struct Fitted {
    inner: Arc<dyn LlmClient>,
    layer: HistoryLayer,
    env: Env,
}

/// A request on its way, and what was done to it.
struct Prepared {
    request: ChatRequest,
    done: HistoryTrace,
    /// Whether the policy may have something to do.
    to_fit: bool,
    /// Where its conversation hears what the policy left.
    sent: Option<Sent>,
}

impl Fitted {
    /// Whether this request is handed on as it is: the common case, found without moving it.
    fn passes(&self, request: &ChatRequest) -> bool {
        let HistoryLayer { repair: None, normalize: None, policy: Some(policy) } = &self.layer else { return false };
        let budget = TokenBudget::of(request, &self.env).with_extensions(&request.extensions);
        request.extensions.get::<Sent>().is_none() && policy.fits(&request.messages, &budget)
    }

    /// The request put right and in its form.
    fn prepare(&self, mut request: ChatRequest) -> Result<Prepared> {
        // What somebody on its way has changed is no longer what its conversation showed.
        let sent = request.extensions.get::<Sent>().filter(|sent| sent.is_of(&request)).cloned();
        // A policy further down speaks of what this one leaves, not of the conversation.
        if sent.is_none() || self.layer.policy.is_some() {
            request.extensions.remove::<Sent>();
        }
        let summarized = sent.as_ref().and_then(Sent::carried).is_some_and(|carry| carry.summarized);
        let done = self.form(&mut request, summarized)?;
        let budget = self.budget(&request, sent.as_ref());
        let fits = self.layer.policy.as_ref().is_none_or(|policy| policy.fits(&request.messages, &budget));
        Ok(Prepared { request, done, to_fit: !fits, sent })
    }

    /// Puts the messages right and into their form. A summary that a policy put there stays as it wrote it.
    fn form(&self, request: &mut ChatRequest, summarized: bool) -> Result<HistoryTrace> {
        let mut done = HistoryTrace::default();
        if self.layer.repair.is_none() && self.layer.normalize.is_none() {
            return Ok(done);
        }
        let carried = if summarized { without_summary(&request.messages) } else { None };
        let said = carried.as_ref().map_or(&request.messages, |(said, _)| said);
        let mut messages = said.clone();
        if let Some(repair) = self.layer.repair {
            let repaired;
            (messages, repaired) = repair.apply(messages)?;
            done.repaired = u16::try_from(repaired).unwrap_or(u16::MAX);
        }
        if let Some(normalize) = self.layer.normalize {
            let normalized = normalize.apply(messages.clone());
            if !normalized.ptr_eq(&messages) {
                done.normalized_tokens = clamped(saved(&messages, &normalized, &TokenBudget::of(request, &self.env)));
                messages = normalized;
            }
        }
        if !messages.ptr_eq(said) {
            request.messages = match carried {
                Some((_, summary)) => with_summary(messages, summary),
                None => messages,
            };
        }
        Ok(done)
    }

    fn budget<'a>(&'a self, request: &'a ChatRequest, sent: Option<&'a Sent>) -> TokenBudget<'a> {
        let budget = TokenBudget::of(request, &self.env).with_extensions(&request.extensions);
        budget.carrying(sent.and_then(Sent::carried))
    }

    /// The request to send, and what was done to it.
    async fn fit(&self, prepared: Prepared) -> Result<(ChatRequest, HistoryTrace)> {
        let Prepared { mut request, mut done, to_fit, sent } = prepared;
        if let Some(policy) = self.layer.policy.as_ref().filter(|_| to_fit) {
            count_ahead(self.env.counter(), self.env.tasks(), &request.model, &request.messages).await;
            let fit = policy.fit(request.messages.clone(), &self.budget(&request, sent.as_ref())).await?;
            done = done.then(fit.trace);
            // What came broken may be mended by what comes next: then it must all be seen again.
            if let (Some(sent), Some(carry), 0) = (sent, fit.carry, done.repaired) {
                sent.set(carry);
            }
            replace(&mut request, fit.messages);
        }
        Ok((request, done))
    }

    async fn chat_fitted(&self, prepared: Prepared) -> Result<ChatResponse> {
        let (request, done) = self.fit(prepared).await?;
        let mut response = self.inner.chat(request).await?;
        let trace = response.trace_mut();
        trace.history = done.then(trace.history);
        Ok(response)
    }

    async fn stream_fitted(&self, prepared: Prepared) -> Result<ChatStream> {
        let (request, done) = self.fit(prepared).await?;
        let stream = self.inner.chat_stream(request).await?;
        if done == HistoryTrace::default() {
            return Ok(stream);
        }
        let mut opening = *stream.trace();
        opening.history = done.then(opening.history);
        let stream = stream.inspect(move |event| {
            if let Ok(StreamEvent::Finish(finish)) = event {
                finish.trace.history = done.then(finish.trace.history);
            }
        });
        Ok(stream.with_trace(opening))
    }
}

/// The tokens that normalising saved. Messages are counted up to so many bytes in all, which takes half a millisecond
/// twice at most; from there on what was saved is estimated at four bytes a token: it is told, not billed.
fn saved(before: &Messages, after: &Messages, budget: &TokenBudget<'_>) -> u64 {
    const COUNTED: usize = 8 << 10;
    let mut left = COUNTED;
    let changed = before.iter().zip(after.iter()).filter(|(old, new)| !Arc::ptr_eq(old, new));
    let saved = changed.map(|(old, new)| {
        let (bytes, new_bytes) = (length(old), length(new));
        if bytes > left {
            return bytes.saturating_sub(new_bytes) as u64 / 4;
        }
        left -= bytes;
        budget.message(old).saturating_sub(budget.message(new))
    });
    saved.sum()
}

/// A list that did not change is not written: that would copy the request.
fn replace(request: &mut ChatRequest, messages: Messages) {
    if !messages.ptr_eq(&request.messages) {
        request.messages = messages;
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
        if self.passes(&request) {
            return self.inner.chat(request);
        }
        match self.prepare(request) {
            Ok(Prepared { request, done, to_fit: false, .. }) if done == HistoryTrace::default() => {
                self.inner.chat(request)
            }
            Ok(prepared) => Box::pin(self.chat_fitted(prepared)),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }

    fn chat_stream<'a, 'f>(&'a self, request: ChatRequest) -> Answer<'f, ChatStream>
    where
        'a: 'f,
        Self: 'f,
    {
        if self.passes(&request) {
            return self.inner.chat_stream(request);
        }
        match self.prepare(request) {
            Ok(Prepared { request, done, to_fit: false, .. }) if done == HistoryTrace::default() => {
                self.inner.chat_stream(request)
            }
            Ok(prepared) => Box::pin(self.stream_fitted(prepared)),
            Err(error) => Box::pin(ready(Err(error))),
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
