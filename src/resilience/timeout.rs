//! How long one attempt may stay silent.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};

use super::alarm::{Alarm, before};
use super::limits::{Limit, Timeouts};
use crate::client::{ClientInfo, LlmClient};
use crate::env::Env;
use crate::error::Result;
use crate::layer::Layer;
use crate::types::{ChatRequest, ChatResponse, ChatStream, EmbedRequest, EmbedResponse, StreamEvent};

const NAME: &str = "timeout";

/// Drops an attempt that stays silent for too long.
///
/// # What it does
/// Enforces the limits of [`Timeouts`]. An attempt that exceeds one ends with an error of kind
/// [`Timeout`](crate::ErrorKind::Timeout), whose message names the limit and its value, and which may be retried.
///
/// # Where it sits
/// [`Slot::Timeout`](crate::Slot::Timeout), inside admission: its clock starts after queueing, so a full queue is not
/// taken for a slow provider, and each attempt has its limits to itself. For a limit on the whole call use
/// [`DeadlineLayer`](super::DeadlineLayer).
///
/// # Cost
/// A clock reading per call and per chunk. No timer is armed when the answer is there at once; otherwise one per call
/// or stream, which stays where it is while the limits move on with the chunks.
///
/// # Streaming
/// All four limits apply. They are looked at when the stream is polled: a stream that nobody polls notices nothing. A
/// chunk that is there when the reader comes is handed out unless the total has passed; a finish always is.
///
/// # Cancellation
/// The attempt is dropped when a limit passes, before the error is returned, and its connection goes with it. Dropping
/// the call or stream drops the timer with it.
///
/// # Example
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> sluicegate::Result<()> {
/// use std::{sync::Arc, time::Duration};
/// use sluicegate::{Env, Layer, LlmClient, Timeouts, resilience::TimeoutLayer};
/// use sluicegate::{testing::Scripted, types::ChatRequest};
///
/// let slow = Arc::new(Scripted::new().latency(Duration::from_secs(60)));
/// let limits = Timeouts::standard().total(Duration::from_secs(30));
/// let llm = TimeoutLayer::from(limits).wrap(slow, &Env::new())?;
/// let error = llm.chat(ChatRequest::new("m").user("hi")).await.unwrap_err();
/// assert_eq!(error.to_string(), "timeout: timed out: total = 30 s has passed");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct TimeoutLayer(Timeouts);

impl From<Timeouts> for TimeoutLayer {
    fn from(limits: Timeouts) -> Self {
        Self(limits)
    }
}

impl Layer for TimeoutLayer {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> String {
        self.0.settings()
    }

    fn wrap(&self, inner: Arc<dyn LlmClient>, env: &Env) -> Result<Arc<dyn LlmClient>> {
        self.0.check()?;
        Ok(Arc::new(TimeoutClient { inner, limits: self.0, env: Arc::new(env.clone()) }))
    }
}

#[derive(Debug)]
struct TimeoutClient {
    inner: Arc<dyn LlmClient>,
    limits: Timeouts,
    env: Arc<Env>,
}

impl TimeoutClient {
    async fn within<T>(&self, limit: Option<Limit>, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        match limit {
            Some(limit) => before(&self.env, limit.until, attempt).await.unwrap_or_else(|| Err(limit.error())),
            None => attempt.await,
        }
    }

    fn total(&self) -> Option<Limit> {
        Limit::new("total", self.limits.total, self.env.now())
    }
}

/// Watches the silence of one stream.
struct Watch {
    inner: ChatStream,
    env: Arc<Env>,
    alarm: Alarm,
    total: Option<Limit>,
    /// Until content has come.
    first_chunk: Option<Limit>,
    /// Whether content has come.
    flows: bool,
    between_chunks: Option<Duration>,
    /// Since when the next chunk is waited for; a reader who does something else does not wait.
    waiting: Option<Instant>,
}

impl Watch {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<StreamEvent>>> {
        if let Poll::Ready(event) = self.inner.poll_next_unpin(cx) {
            return Poll::Ready(event.map(|event| self.arrived(event)));
        }
        let current = if self.flows {
            let since = *self.waiting.get_or_insert_with(|| self.env.now());
            Limit::new("between_chunks", self.between_chunks, since)
        } else {
            self.first_chunk
        };
        let Some(limit) = Limit::first([current, self.total]) else { return Poll::Pending };
        ready!(self.alarm.poll(&self.env, limit.until, cx));
        Poll::Ready(Some(Err(limit.error())))
    }

    fn arrived(&mut self, event: Result<StreamEvent>) -> Result<StreamEvent> {
        self.waiting = None;
        let Ok(StreamEvent::Chunk(chunk)) = &event else { return event };
        self.flows = self.flows || chunk.has_content();
        match self.total {
            Some(total) if self.env.now() >= total.until => Err(total.error()),
            _ => event,
        }
    }
}

#[async_trait]
impl LlmClient for TimeoutClient {
    fn info(&self) -> &ClientInfo {
        self.inner.info()
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        self.within(self.total(), self.inner.chat(request)).await
    }

    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        let start = self.env.now();
        let Timeouts { connect, first_chunk, between_chunks, total } = self.limits;
        let connect = Limit::new("connect", connect, start);
        let first_chunk = Limit::new("first_chunk", first_chunk, start);
        let total = Limit::new("total", total, start);
        let opening = Limit::first([connect, first_chunk, total]);
        let mut inner = self.within(opening, self.inner.chat_stream(request)).await?;
        let (opening, env) = (inner.opening(), Arc::clone(&self.env));
        let alarm = Alarm::default();
        let mut watch = Watch { inner, env, alarm, total, first_chunk, flows: false, between_chunks, waiting: None };
        Ok(opening.carrying(stream::poll_fn(move |cx| watch.poll(cx))))
    }

    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        self.within(self.total(), self.inner.embed(request)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::testing::{Reply, Scripted, drop_at_every_await};
    use crate::types::ChatChunk;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits(connect: u32, first_chunk: u32, between_chunks: u32, total: u32) -> Timeouts {
        let [connect, first_chunk, between_chunks, total] =
            [connect, first_chunk, between_chunks, total].map(|seconds| seconds * SECOND);
        Timeouts::none().connect(connect).first_chunk(first_chunk).between_chunks(between_chunks).total(total)
    }

    fn request() -> ChatRequest {
        ChatRequest::new("m").user("hi")
    }

    /// Reads a stream of this client: the texts until it ended, why it failed if it did, and after how many seconds.
    async fn read(limits: Timeouts, inner: Scripted) -> (String, Option<String>, u64) {
        let (inner, env) = (Arc::new(inner), Env::new());
        let llm = TimeoutLayer::from(limits).wrap(inner.clone(), &env).unwrap();
        let (start, mut text, mut failure) = (env.now(), String::new(), None);
        match llm.chat_stream(request()).await {
            Err(error) => failure = Some(error),
            Ok(mut stream) => {
                while let Some(event) = stream.next().await {
                    match event {
                        Ok(event) => text.push_str(event.text()),
                        Err(error) => failure = Some(error),
                    }
                }
            }
        }
        assert_eq!(inner.active(), 0, "what timed out was dropped");
        assert!(failure.iter().all(|error| error.kind() == ErrorKind::Timeout), "{failure:?}");
        (text, failure.map(|error| error.message().to_owned()), (env.now() - start).as_secs())
    }

    fn failed(text: &str, limit: &str, after: u64) -> (String, Option<String>, u64) {
        (text.to_owned(), Some(format!("{limit} has passed")), after)
    }

    #[tokio::test(start_paused = true)]
    async fn each_limit_ends_a_stream() {
        let every = |gap: u32| Scripted::new().chunk_gap(gap * SECOND).always("a b c d");
        assert_eq!(read(limits(5, 9, 9, 99), every(0).latency(20 * SECOND)).await, failed("", "connect = 5 s", 5));
        assert_eq!(read(limits(9, 5, 9, 99), every(0).latency(20 * SECOND)).await, failed("", "first_chunk = 5 s", 5));
        assert_eq!(read(limits(9, 9, 9, 5), every(0).latency(20 * SECOND)).await, failed("", "total = 5 s", 5));
        // The opening counts towards the first chunk.
        let late = every(4).latency(4 * SECOND);
        assert_eq!(read(limits(5, 7, 9, 99), late).await, failed("", "first_chunk = 7 s", 7));
        assert_eq!(read(limits(9, 20, 7, 99), every(8)).await, failed("a ", "between_chunks = 7 s", 15));
        assert_eq!(read(limits(9, 9, 9, 20), every(8)).await, failed("a b ", "total = 20 s", 20));
        // Every gap is short enough, though their sum is not: the limit moves on with the chunks.
        assert_eq!(read(limits(9, 9, 9, 99), every(8)).await, ("a b c d".to_owned(), None, 48));
        assert_eq!(read(Timeouts::none(), every(999)).await.1, None);
    }

    #[tokio::test(start_paused = true)]
    async fn keep_alives_neither_satisfy_nor_reset_the_first_chunk() {
        let role = ChatChunk::text_delta("m", "");
        let quiet: Vec<_> = std::iter::repeat_with(|| role.clone()).take(50).collect();
        let chatty = Scripted::new().chunk_gap(SECOND).always_reply(Reply::Chunks(quiet.clone()));
        assert_eq!(read(limits(9, 30, 9, 99), chatty).await, failed("", "first_chunk = 30 s", 30));
        // Once content flows they are a sign of life.
        let chunks = std::iter::once(ChatChunk::text_delta("m", "a")).chain(quiet).collect();
        let chatty = Scripted::new().chunk_gap(SECOND).always_reply(Reply::Chunks(chunks));
        assert_eq!(read(limits(9, 30, 9, 99), chatty).await, ("a".to_owned(), None, 52));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_no_silent_provider() {
        let (inner, env) = (Arc::new(Scripted::new().always("a b")), Env::new());
        let llm = TimeoutLayer::from(limits(5, 5, 5, 99)).wrap(inner, &env).unwrap();
        let mut stream = llm.chat_stream(request()).await.unwrap();
        while let Some(event) = stream.next().await {
            assert!(event.is_ok(), "{event:?}");
            env.sleep(20 * SECOND).await;
        }
        let mut stream = llm.chat_stream(request()).await.unwrap();
        env.sleep(100 * SECOND).await;
        let error = stream.next().await.unwrap().unwrap_err();
        assert_eq!(error.message(), "total = 99 s has passed", "its permit was held for too long");
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_total_applies_to_whole_answers() {
        let (inner, env) = (Arc::new(Scripted::new().latency(20 * SECOND)), Env::new());
        let patient = TimeoutLayer::from(limits(1, 1, 1, 21)).wrap(inner.clone(), &env).unwrap();
        assert!(patient.chat(request()).await.is_ok());
        let llm = TimeoutLayer::from(limits(1, 1, 1, 19)).wrap(inner.clone(), &env).unwrap();
        let start = env.now();
        for error in
            [llm.chat(request()).await.unwrap_err(), llm.embed(EmbedRequest::new("m", ["x"])).await.unwrap_err()]
        {
            assert_eq!((error.kind(), error.message()), (ErrorKind::Timeout, "total = 19 s has passed"));
        }
        assert_eq!((env.now() - start, inner.active()), (38 * SECOND, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn frees_everything_wherever_it_is_dropped() {
        let inner = Arc::new(Scripted::new().latency(SECOND).chunk_gap(SECOND));
        let llm = TimeoutLayer::from(Timeouts::standard()).wrap(inner.clone(), &Env::new()).unwrap();
        let settled = async || assert_eq!(inner.active(), 0);
        assert!(drop_at_every_await(|| llm.chat(request()), settled).await > 1);
        assert!(drop_at_every_await(async || llm.chat_stream(request()).await?.collect().await, settled).await > 2);
    }
}
