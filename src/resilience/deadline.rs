//! One absolute limit for a whole call, whatever happens to it on the way.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};

use super::Span;
use super::alarm::{Alarm, before};
use crate::client::{ClientInfo, LlmClient};
use crate::env::{Env, after};
use crate::error::{Error, ErrorKind, Result};
use crate::layer::Layer;
use crate::types::{
    ChatRequest, ChatResponse, ChatStream, Deadline, EmbedRequest, EmbedResponse, Extensions, StreamEvent,
};

const NAME: &str = "deadline";

/// Ends every call by a fixed time after its start.
///
/// # What it does
/// Stamps a [`Deadline`] into the request's extensions: the moment of the call plus the limit, or the caller's own
/// [`Deadline`] if that is tighter. Layers below read it, so that a retry, for one, does not begin a wait that cannot
/// end in time. When the moment has come the call ends with [`ErrorKind::Deadline`], which is never retried; one that
/// has passed before the call begins is refused without asking anybody.
///
/// # Where it sits
/// [`Slot::Deadline`](crate::Slot::Deadline), near the top: fallbacks, queueing, retries and waits all count.
///
/// # Cost
/// A clock reading and, unless the caller's is tighter, one small entry in the extensions. No timer is armed when the
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
    limit: Duration,
}

impl DeadlineLayer {
    /// How long a call may take in all. There is no default: only the application knows when an answer has become
    /// useless. Zero is refused when the stack is built; more than a century counts as a century.
    pub fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl Layer for DeadlineLayer {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> String {
        Span(self.limit).to_string()
    }

    fn wrap(&self, inner: Arc<dyn LlmClient>, env: &Env) -> Result<Arc<dyn LlmClient>> {
        if self.limit.is_zero() {
            return Err(Error::config(NAME, "limit", Span(self.limit), "use at least 1 ms, or leave the layer out"));
        }
        Ok(Arc::new(DeadlineClient { inner, limit: self.limit, env: Arc::new(env.clone()) }))
    }
}

#[derive(Debug)]
struct DeadlineClient {
    inner: Arc<dyn LlmClient>,
    limit: Duration,
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
    fn stamp(&self, extensions: &mut Extensions) -> Result<Limit> {
        let now = self.env.now();
        let own = after(now, self.limit);
        let limit = match extensions.get::<Deadline>() {
            Some(&Deadline(callers)) if callers <= own => Limit { until: callers, own: None },
            _ => {
                extensions.insert(Deadline(own));
                Limit { until: own, own: Some(self.limit) }
            }
        };
        if now >= limit.until { Err(limit.error()) } else { Ok(limit) }
    }
}

#[async_trait]
impl LlmClient for DeadlineClient {
    fn info(&self) -> &ClientInfo {
        self.inner.info()
    }

    async fn chat(&self, mut request: ChatRequest) -> Result<ChatResponse> {
        let limit = self.stamp(&mut request.extensions)?;
        before(&self.env, limit.until, self.inner.chat(request)).await.unwrap_or_else(|| Err(limit.error()))
    }

    async fn chat_stream(&self, mut request: ChatRequest) -> Result<ChatStream> {
        let limit = self.stamp(&mut request.extensions)?;
        let opening = self.inner.chat_stream(request);
        let mut inner = before(&self.env, limit.until, opening).await.unwrap_or_else(|| Err(limit.error()))?;
        let (trace, env) = (*inner.trace(), Arc::clone(&self.env));
        let mut alarm = Alarm::default();
        let events = stream::poll_fn(move |cx| match inner.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(StreamEvent::Chunk(_)))) if env.now() >= limit.until => {
                Poll::Ready(Some(Err(limit.error())))
            }
            Poll::Ready(event) => Poll::Ready(event),
            Poll::Pending => alarm.poll(&env, limit.until, cx).map(|()| Some(Err(limit.error()))),
        });
        Ok(ChatStream::new(events).with_trace(trace))
    }

    async fn embed(&self, mut request: EmbedRequest) -> Result<EmbedResponse> {
        let limit = self.stamp(&mut request.extensions)?;
        before(&self.env, limit.until, self.inner.embed(request)).await.unwrap_or_else(|| Err(limit.error()))
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

    #[test]
    fn refuses_zero() {
        let error = DeadlineLayer::new(Duration::ZERO).wrap(Arc::new(Scripted::new()), &Env::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "deadline: refused setting: limit = 0 s: use at least 1 ms, or leave the layer out"
        );
    }
}
