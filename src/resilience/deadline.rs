//! One absolute limit for a whole call, whatever happens to it on the way.

use std::future::Future;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};

use super::Span;
use super::alarm::{Alarm, before};
use crate::client::{Answer, ClientInfo, LlmClient};
use crate::env::{Env, after};
use crate::error::{Error, ErrorKind, Result};
use crate::layer::Layer;
use crate::types::{
    ChatRequest, ChatResponse, ChatStream, Deadline, EmbedRequest, EmbedResponse, Extensions, StreamEvent,
};

const NAME: &str = "deadline";

/// Ends every call by its deadline: a fixed time after its start, or the caller's own.
///
/// # What it does
/// Stamps a [`Deadline`] into the request's extensions: the moment of the call plus the limit, or the caller's own
/// [`Deadline`] if that is tighter. Without a limit it only enforces the caller's own. Layers below read it, so that a retry, for one, does not begin a wait that cannot
/// end in time. When the moment has come the call ends with [`ErrorKind::Deadline`], which is never retried; one that
/// has passed before the call begins is refused without asking anybody.
///
/// # Where it sits
/// [`Slot::Deadline`](crate::Slot::Deadline), near the top: fallbacks, queueing, retries and waits all count.
///
/// # Cost
/// Nothing when there is neither a limit nor a caller's deadline. Otherwise a clock reading; no timer is armed when the
/// answer is there at once, as on a hit; otherwise one per call or stream.
///
/// # Streaming
/// The limit holds to the end of the stream: no chunk is handed out after it, and a stream that waits for one fails.
/// The finish of a stream whose chunks all came in time still gets through. A stream that nobody polls notices nothing.
///
/// # Cancellation
/// The call below is dropped when the limit passes, before the error is returned. Dropping the call or stream drops the
/// timer with it.
///
/// # Example
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> sluicegate::Result<()> {
/// use std::{sync::Arc, time::Duration};
/// use sluicegate::{Env, ErrorKind, Layer, LlmClient, resilience::DeadlineLayer};
/// use sluicegate::{testing::Scripted, types::ChatRequest};
///
/// let slow = Arc::new(Scripted::new().latency(Duration::from_secs(60)));
/// let llm = DeadlineLayer::new(Duration::from_secs(30)).wrap(slow, &Env::new())?;
/// let error = llm.chat(ChatRequest::new("m").user("hi")).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Deadline);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct DeadlineLayer {
    limit: Option<Duration>,
}

impl DeadlineLayer {
    /// How long a call may take in all. There is no default: only the application knows when an answer has become
    /// useless. Zero is refused when the stack is built; more than a century counts as a century.
    pub fn new(limit: Duration) -> Self {
        Self { limit: Some(limit) }
    }

    /// No limit of the layer's own: enforces the [`Deadline`] of callers that set one.
    pub fn callers() -> Self {
        Self { limit: None }
    }
}

impl Layer for DeadlineLayer {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> String {
        self.limit.map_or_else(|| "the caller's own".to_owned(), |limit| Span(limit).to_string())
    }

    fn wrap(&self, inner: Arc<dyn LlmClient>, env: &Env) -> Result<Arc<dyn LlmClient>> {
        if let Some(limit) = self.limit.filter(Duration::is_zero) {
            return Err(Error::config(NAME, "limit", Span(limit), "use at least 1 ms, or leave the layer out"));
        }
        if let (Some(limit), Some(least)) = (self.limit, env.deferral())
            && limit < least
        {
            let remedy = format!(
                "no call could be left to a batch, which takes those that have {} or more: set a later one, or leave defer out",
                Span(least)
            );
            return Err(Error::config(NAME, "limit", Span(limit), &remedy));
        }
        Ok(Arc::new(DeadlineClient { inner, limit: self.limit, env: Arc::new(env.clone()) }))
    }
}

#[derive(Debug)]
struct DeadlineClient {
    inner: Arc<dyn LlmClient>,
    limit: Option<Duration>,
    env: Arc<Env>,
}

/// The limit that applies to one call.
#[derive(Debug, Clone, Copy)]
struct Limit {
    until: Instant,
    /// The layer's own limit, unless the caller's deadline is the tighter one.
    own: Option<Duration>,
}

impl Limit {
    fn error(self) -> Error {
        let message = match self.own {
            Some(limit) => format!("not answered within {}", Span(limit)),
            None => "not answered by the caller's own deadline".to_owned(),
        };
        Error::new(ErrorKind::Deadline, NAME, message)
    }
}

impl DeadlineClient {
    /// The limit that applies to a call with these extensions; `None` when there is none to enforce.
    fn stamp(&self, extensions: &mut Extensions) -> Option<Result<Limit>> {
        let callers = extensions.get::<Deadline>().map(|Deadline(until)| *until);
        if self.limit.is_none() && callers.is_none() {
            return None;
        }
        let now = self.env.now();
        let own = self.limit.map(|limit| after(now, limit));
        let limit = match (own, callers) {
            (Some(own), callers) if callers.is_none_or(|callers| own < callers) => {
                extensions.insert(Deadline(own));
                Limit { until: own, own: self.limit }
            }
            (_, callers) => Limit { until: callers?, own: None },
        };
        Some(if now >= limit.until { Err(limit.error()) } else { Ok(limit) })
    }

    async fn bounded<T>(&self, limit: Result<Limit>, inner: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = limit?;
        before(&self.env, limit.until, inner).await.unwrap_or_else(|| Err(limit.error()))
    }

    fn watch(&self, limit: Limit, mut inner: ChatStream) -> ChatStream {
        let (trace, env) = (*inner.trace(), Arc::clone(&self.env));
        let mut alarm = Alarm::default();
        let events = stream::poll_fn(move |cx| match inner.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(StreamEvent::Chunk(_)))) if env.now() >= limit.until => {
                Poll::Ready(Some(Err(limit.error())))
            }
            Poll::Ready(event) => Poll::Ready(event),
            Poll::Pending => alarm.poll(&env, limit.until, cx).map(|()| Some(Err(limit.error()))),
        });
        ChatStream::new(events).with_trace(trace)
    }
}

// Not `async fn`, so that a call without any deadline is handed on without a future of ours around it.
impl LlmClient for DeadlineClient {
    fn info(&self) -> &ClientInfo {
        self.inner.info()
    }

    fn chat<'a, 'f>(&'a self, mut request: ChatRequest) -> Answer<'f, ChatResponse>
    where
        'a: 'f,
        Self: 'f,
    {
        match self.stamp(&mut request.extensions) {
            None => self.inner.chat(request),
            Some(limit) => Box::pin(async move { self.bounded(limit, self.inner.chat(request)).await }),
        }
    }

    fn chat_stream<'a, 'f>(&'a self, mut request: ChatRequest) -> Answer<'f, ChatStream>
    where
        'a: 'f,
        Self: 'f,
    {
        match self.stamp(&mut request.extensions) {
            None => self.inner.chat_stream(request),
            Some(limit) => Box::pin(async move {
                let limit = limit?;
                let stream = self.bounded(Ok(limit), self.inner.chat_stream(request)).await?;
                Ok(self.watch(limit, stream))
            }),
        }
    }

    fn embed<'a, 'f>(&'a self, mut request: EmbedRequest) -> Answer<'f, EmbedResponse>
    where
        'a: 'f,
        Self: 'f,
    {
        match self.stamp(&mut request.extensions) {
            None => self.inner.embed(request),
            Some(limit) => Box::pin(async move { self.bounded(limit, self.inner.embed(request)).await }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Reply, Scripted, drop_at_every_await};

    const SECOND: Duration = Duration::from_secs(1);

    fn wrap(inner: &Arc<Scripted>, env: &Env) -> Arc<dyn LlmClient> {
        DeadlineLayer::new(10 * SECOND).wrap(inner.clone(), env).unwrap()
    }

    fn request() -> ChatRequest {
        ChatRequest::new("m").user("hi")
    }

    #[tokio::test(start_paused = true)]
    async fn the_tighter_deadline_is_stamped_and_enforced() {
        let (inner, env) = (Arc::new(Scripted::new().latency(60 * SECOND)), Env::new());
        let llm = wrap(&inner, &env);
        for (callers, waited) in [(None, 10), (Some(20), 10), (Some(3), 3)] {
            let start = env.now();
            let mut request = request();
            if let Some(callers) = callers {
                request = request.with(Deadline(start + callers * SECOND));
            }
            let error = llm.chat(request).await.unwrap_err();
            assert_eq!((error.kind(), error.origin()), (ErrorKind::Deadline, "deadline"));
            assert_eq!(env.now() - start, waited * SECOND);
            let stamped = inner.requests().last().and_then(|seen| seen.extensions.get::<Deadline>().copied());
            assert_eq!(stamped, Some(Deadline(start + waited * SECOND)));
            assert_eq!(inner.active(), 0);
        }
        assert_eq!(llm.embed(EmbedRequest::new("m", ["x"])).await.unwrap_err().kind(), ErrorKind::Deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_has_passed_asks_nobody() {
        let (inner, env) = (Arc::new(Scripted::new()), Env::new());
        let error = wrap(&inner, &env).chat(request().with(Deadline(env.now()))).await.unwrap_err();
        assert_eq!((error.kind(), inner.calls()), (ErrorKind::Deadline, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_at_the_deadline_waiting_or_not() {
        let words = Reply::words(["a", "b", "c", "d"]);
        let (inner, env) = (Arc::new(Scripted::new().always_reply(words).chunk_gap(4 * SECOND)), Env::new());
        let llm = wrap(&inner, &env);
        let start = env.now();
        let mut stream = llm.chat_stream(request()).await.unwrap();
        for word in ["a", "b"] {
            assert_eq!(stream.next().await.unwrap().unwrap().text(), word);
        }
        assert_eq!(stream.next().await.unwrap().unwrap_err().kind(), ErrorKind::Deadline);
        assert_eq!((env.now() - start, inner.active()), (10 * SECOND, 0));

        let inner = Arc::new(Scripted::new().always_reply(Reply::words(["a", "b"])));
        let mut stream = wrap(&inner, &env).chat_stream(request()).await.unwrap();
        assert!(stream.next().await.unwrap().is_ok());
        env.sleep(11 * SECOND).await;
        assert_eq!(stream.next().await.unwrap().unwrap_err().kind(), ErrorKind::Deadline, "b is there, but too late");
        assert_eq!(inner.active(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn frees_everything_wherever_it_is_dropped() {
        let inner = Arc::new(Scripted::new().latency(SECOND).chunk_gap(SECOND));
        let llm = wrap(&inner, &Env::new());
        let settled = async || assert_eq!(inner.active(), 0);
        assert!(drop_at_every_await(|| llm.chat(request()), settled).await > 1);
        assert!(drop_at_every_await(async || llm.chat_stream(request()).await?.collect().await, settled).await > 2);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_the_callers_deadline_is_enforced() {
        let (inner, env) = (Arc::new(Scripted::new().latency(60 * SECOND)), Env::new());
        let llm = DeadlineLayer::callers().wrap(inner.clone(), &env).unwrap();
        let start = env.now();
        let error = llm.chat(request().with(Deadline(start + SECOND))).await.unwrap_err();
        assert_eq!((error.kind(), env.now() - start), (ErrorKind::Deadline, SECOND));
        assert_eq!(llm.chat(request()).await.unwrap().text(), "ok");
        assert_eq!(env.now() - start, 61 * SECOND);
    }

    #[test]
    fn refuses_zero() {
        let error = DeadlineLayer::new(Duration::ZERO).wrap(Arc::new(Scripted::new()), &Env::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "deadline: refused setting: limit = 0 s: use at least 1 ms, or leave the layer out"
        );
    }
}
