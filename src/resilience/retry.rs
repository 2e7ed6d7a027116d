//! Another attempt, when it can help.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};

use super::policy::{Decision, Retry};
use crate::client::{ClientInfo, LlmClient};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result, Retryability};
use crate::layer::Layer;
use crate::types::{
    ChatRequest, ChatResponse, ChatStream, Deadline, EmbedRequest, EmbedResponse, Extensions, Source, StreamEvent,
    Trace,
};

const NAME: &str = "retry";

/// Tries a failed call again, when that can help and is affordable.
///
/// # What it does
/// After an error whose [`retryability`](Error::retryability) is [`After`] it waits and tries
/// again, until the attempts ([`Retry::attempts`]) or the shared [budget](super::RetryBudget) are used up. It
/// waits with exponential back-off and full jitter, or as long as the provider's hint says and at most one base longer.
///
/// | The call fails with the last error when | and it says |
/// |---|---|
/// | the error may not be retried | what it said: [`Never`], or [`Spent`] from further inside |
/// | attempts or budget are used up | [`Spent`], so that nobody outside multiplies the retries |
/// | the hint is longer than [`Retry::max_retry_after`] | [`After`] with the hint |
/// | the wait would pass the request's [`Deadline`] | [`After`] with the hint if there was one, otherwise [`Spent`] |
/// | the client shuts down during the wait | [`Spent`] |
///
/// [`Never`]: Retryability::Never
/// [`After`]: Retryability::After
/// [`Spent`]: Retryability::Spent
///
/// Errors and traces tell how many attempts were made upstream.
///
/// # Where it sits
/// [`Slot::Retry`](crate::Slot::Retry): inside the cache, so that a hit costs nothing and equal requests share one
/// series of attempts; outside admission, so that each attempt queues anew and back-off holds no permit.
///
/// # Cost
/// One clone of the request per attempt: cheap for chats, which share their messages, a copy of the texts for
/// embeddings. No clock, no randomness and no timer unless an attempt fails.
///
/// # Streaming
/// The stream is handed out once its first event is there; until then its failures are retried like any other, the
/// failed stream being dropped before the wait. From then on nothing is retried: the caller has seen part of it.
///
/// # Cancellation
/// Dropping the call drops the attempt or the wait at hand. The tokens of a retry that was not sent yet go back.
///
/// # Example
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> sluicegate::Result<()> {
/// use std::sync::Arc;
/// use sluicegate::{Env, Error, ErrorKind, Layer, LlmClient, Retry, resilience::RetryLayer};
/// use sluicegate::{testing::{Reply, Scripted}, types::ChatRequest};
///
/// let flaky = Scripted::new().then(Reply::Fail(Error::new(ErrorKind::Server, "test", "down"))).always("up again");
/// let llm = RetryLayer::from(Retry::standard()).wrap(Arc::new(flaky), &Env::new())?;
/// let answer = llm.chat(ChatRequest::new("m").user("hi")).await?;
/// assert_eq!((answer.text(), answer.trace().attempts), ("up again", 2));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct RetryLayer(Retry);

impl From<Retry> for RetryLayer {
    fn from(policy: Retry) -> Self {
        Self(policy)
    }
}

impl Layer for RetryLayer {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> String {
        self.0.settings()
    }

    fn wrap(&self, inner: Arc<dyn LlmClient>, env: &Env) -> Result<Arc<dyn LlmClient>> {
        self.0.check()?;
        Ok(Arc::new(RetryClient { inner, policy: self.0.clone(), env: env.clone() }))
    }
}

#[derive(Debug)]
struct RetryClient {
    inner: Arc<dyn LlmClient>,
    policy: Retry,
    env: Env,
}

impl RetryClient {
    /// Attempts until one succeeds or the policy gives up; the answer, and how many attempts failed before it.
    async fn run<T, F>(&self, extensions: &Extensions, mut attempt: impl FnMut() -> F) -> Result<(T, u32)>
    where
        F: Future<Output = Result<T>>,
    {
        let mut tab = self.policy.open_tab();
        let (mut own, mut upstream) = (0, 0);
        loop {
            let error = match attempt().await {
                Ok(answer) => {
                    tab.succeed();
                    return Ok((answer, upstream));
                }
                Err(error) => error,
            };
            own += 1;
            upstream = match error.kind() {
                // Refused on this side: nothing was sent, unless somebody counted.
                ErrorKind::Overloaded | ErrorKind::Deadline | ErrorKind::Shutdown => {
                    upstream.saturating_add(error.attempts())
                }
                _ => add(upstream, error.attempts()),
            };
            let deadline = extensions.get::<Deadline>().map(|deadline| deadline.0);
            let verdict = match self.policy.decide(own, &error, deadline, &self.env, &mut tab) {
                Decision::GiveUp(verdict) => verdict,
                Decision::RetryAfter(wait) => {
                    let waited = self.env.closing().run_until_cancelled(self.env.sleep(wait)).await;
                    if waited.is_some() {
                        tab.send();
                        continue;
                    }
                    Retryability::Spent
                }
            };
            return Err(error.with_retryability(verdict).with_attempts(upstream));
        }
    }
}

/// Opens a stream and waits for its first event, which decides whether the attempt failed.
async fn open(inner: &dyn LlmClient, request: ChatRequest) -> Result<(StreamEvent, ChatStream)> {
    let mut stream = inner.chat_stream(request).await?;
    match stream.next().await {
        Some(first) => first.map(|first| (first, stream)),
        None => Err(Error::new(ErrorKind::Truncated, NAME, "the stream had ended before it was handed out")),
    }
}

/// Attempts made upstream: those that failed and those of one more call, which counts as one if nobody counted further
/// inside.
fn add(failed: u32, counted: u32) -> u32 {
    failed.saturating_add(counted.max(1))
}

fn note(trace: &mut Trace, failed: u32) {
    trace.attempts = match trace.source {
        Source::Upstream => add(failed, trace.attempts),
        // Whoever answered from elsewhere made no attempt of its own.
        Source::Cache(_) | Source::Coalesced => failed.saturating_add(trace.attempts),
    };
}

#[async_trait]
impl LlmClient for RetryClient {
    fn info(&self) -> &ClientInfo {
        self.inner.info()
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        let (mut response, failed) = self.run(&request.extensions, || self.inner.chat(request.clone())).await?;
        note(response.trace_mut(), failed);
        Ok(response)
    }

    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        let attempt = || open(&*self.inner, request.clone());
        let ((first, rest), failed) = self.run(&request.extensions, attempt).await?;
        let mut trace = *rest.trace();
        note(&mut trace, failed);
        let events = stream::iter([Ok(first)]).chain(rest).map(move |mut event| {
            if let Ok(StreamEvent::Finish(finish)) = &mut event {
                note(&mut finish.trace, failed);
            }
            event.map_err(|error| {
                let attempts = add(failed, error.attempts());
                error.with_attempts(attempts)
            })
        });
        Ok(ChatStream::new(events).with_trace(trace))
    }

    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        let (mut response, failed) = self.run(&request.extensions, || self.inner.embed(request.clone())).await?;
        note(&mut response.trace, failed);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resilience::RetryBudget;
    use crate::testing::{Reply, Scripted};
    use crate::types::ChatChunk;

    fn down() -> Error {
        Error::new(ErrorKind::Server, "test", "down")
    }

    fn wrap(inner: &Arc<Scripted>, policy: Retry) -> Arc<dyn LlmClient> {
        RetryLayer::from(policy).wrap(inner.clone(), &Env::new()).unwrap()
    }

    fn request() -> ChatRequest {
        ChatRequest::new("m").user("hi")
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_retried_until_its_first_event_and_told_so() {
        let inner =
            Arc::new(Scripted::new().then(Reply::Fail(down())).then(Reply::Break(vec![], down())).always("a b"));
        let budget = RetryBudget::standard();
        let stream = wrap(&inner, Retry::standard().budget(budget.clone())).chat_stream(request()).await.unwrap();
        assert_eq!((inner.calls(), inner.active(), inner.peak()), (3, 1, 1), "what failed was dropped before the wait");
        assert_eq!((stream.trace().attempts, budget.available()), (3, 500));
        let answer = stream.collect().await.unwrap();
        assert_eq!((answer.text(), answer.trace().attempts), ("a b", 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_never_retried_after_its_first_event() {
        // An empty chunk counts: it was handed out.
        let chunk = ChatChunk::text_delta("m", "");
        let inner = Arc::new(Scripted::new().then(Reply::Fail(down())).then(Reply::Break(vec![chunk], down())));
        let mut stream = wrap(&inner, Retry::standard()).chat_stream(request()).await.unwrap();
        assert!(stream.next().await.unwrap().is_ok());
        let error = stream.next().await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.attempts(), inner.calls()), (ErrorKind::Server, 2, 2));
        assert!(stream.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn retries_do_not_multiply() {
        let inner = Arc::new(Scripted::new().always_reply(Reply::Fail(down())));
        let env = Env::new();
        let inside = RetryLayer::from(Retry::standard()).wrap(inner.clone(), &env).unwrap();
        let llm = RetryLayer::from(Retry::standard().attempts(10)).wrap(inside, &env).unwrap();
        let error = llm.chat(request()).await.unwrap_err();
        assert_eq!((inner.calls(), error.attempts(), error.retryability()), (3, 3, Retryability::Spent));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_dropped_in_its_back_off_pays_nothing_for_it() {
        let inner = Arc::new(Scripted::new().always_reply(Reply::Fail(down())));
        let budget = RetryBudget::standard();
        let llm = wrap(&inner, Retry::standard().budget(budget.clone()));
        let mut call = llm.chat(request());
        assert!(futures_util::poll!(&mut call).is_pending());
        assert_eq!((inner.calls(), inner.active(), budget.available()), (1, 0, 486));
        drop(call);
        assert_eq!(budget.available(), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_ends_the_wait() {
        let inner = Arc::new(Scripted::new().always_reply(Reply::Fail(down())));
        let env = Env::new();
        let llm = RetryLayer::from(Retry::standard()).wrap(inner.clone(), &env).unwrap();
        let mut call = llm.chat(request());
        assert!(futures_util::poll!(&mut call).is_pending());
        env.closing().cancel();
        let error = call.await.unwrap_err();
        assert_eq!((error.attempts(), error.retryability(), inner.calls()), (1, Retryability::Spent, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn embeddings_are_retried_and_counted() {
        let attempts = std::sync::atomic::AtomicUsize::new(0);
        let chat = |_| async { Err(down()) };
        let client = crate::providers::client_fn(chat).with_embed(move |_| {
            let first = attempts.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
            async move { if first { Err(down()) } else { Ok(EmbedResponse::default()) } }
        });
        let llm = RetryLayer::from(Retry::standard()).wrap(Arc::new(client), &Env::new()).unwrap();
        assert_eq!(llm.embed(EmbedRequest::new("m", ["x"])).await.unwrap().trace.attempts, 2);
    }

    #[test]
    fn an_answer_from_elsewhere_counts_no_attempt_of_its_own() {
        for (source, expected) in [(Source::Upstream, 2), (Source::Cache("memory"), 1), (Source::Coalesced, 1)] {
            let mut trace = Trace { source, ..Trace::default() };
            note(&mut trace, 1);
            assert_eq!(trace.attempts, expected);
        }
    }
}
