//! Calls that can wait for hours, left to a provider's batches.

mod collect;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::ORIGIN;
use crate::client::{ClientInfo, LlmClient};
use crate::deferred::{BatchProvider, Deferred};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result, Retryability};
use crate::layer::Layer;
use crate::types::{ChatRequest, ChatResponse, ChatStream, Deadline, Deferrable, EmbedRequest, EmbedResponse};
use collect::{Collector, Outcome};

const DAYS: Duration = Duration::from_secs(30 * 86_400);

/// Leaves chat calls that can wait for hours to a provider's batches, at half the price, and each caller still gets its
/// own answer.
///
/// # What it does
/// A call is deferred when its [`Deadline`] is at least `min_wait` away, or when it has none and says [`Deferrable::Yes`];
/// never when it says [`Deferrable::No`]. Deferred calls of a model are collected for [`collect_for`](Self::collect_for),
/// then sent as one batch. The answer tells [`Deferred`] beside it, and its cost at the price of batches: that of the model
/// asked for, as everywhere; where that has no price, what the provider says it costs.
///
/// A call falls back to the ordinary way, at the ordinary price, when its batch cannot be sent, fails or expires; when
/// its own failure there may pass; and when its deadline is only [`margin`](Self::margin) away. What a batch answers after
/// that is not used, and is billed all the same, if it was asked already: see [`Deferred::sent`]. A failure that would come
/// again, such as a refused prompt, is the call's own.
///
/// # Where it sits
/// In [`Slot::Batch`](crate::Slot::Batch), outside [`BatchLayer`](super::BatchLayer): below the cache, so that only misses
/// are deferred; above retry and scheduler, which a batch does not use: providers count batches against limits of their
/// own. A call that is not deferred never waits for an equal one that is: both are asked.
///
/// # Cost
/// A deferred call holds its request until it is sent and one channel until it is answered. A batch under way is one task.
/// What batches cost stands in the client's report, and observers are told of each answer ([`Event::Batched`]); those of a
/// batch that was cancelled, or failed as a whole, count as abandoned at an unknown cost.
///
/// [`Event::Batched`]: crate::env::Event::Batched
///
/// # Streaming
/// Streams and embeddings pass through.
///
/// # Cancellation
/// A dropped call is left out if its batch was not sent yet; a batch that nobody waits for any more is cancelled. A
/// shutdown ends all deferred calls with [`ErrorKind::Shutdown`], and cancels their batches, for at most 30 s.
///
/// # Example
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// # #[cfg(feature = "openai")] {
/// use std::time::Duration;
/// use sluicegate::{OptimizedClient, batch::DeferLayer, providers::OpenAi, types::{ChatRequest, Deferrable}};
///
/// let openai = OpenAi::new("sk-…")?;
/// let hours = |hours: u64| Duration::from_secs(hours * 3600);
/// let llm = OptimizedClient::builder(openai.clone()).defer(DeferLayer::new(openai.batches(), hours(12))).build()?;
/// let report = ChatRequest::new("gpt-5-mini").user("Sum up this year.").with(Deferrable::Yes);
/// println!("{}", llm.chat(report).await?.text()); // within a day
/// # }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct DeferLayer {
    provider: Arc<dyn BatchProvider>,
    min_wait: Duration,
    collect_for: Duration,
    max_calls: usize,
    margin: Duration,
}

impl DeferLayer {
    /// Defers calls to this provider whose deadline is at least `min_wait` away, from 1 second to 30 days. There is no
    /// default: only the application knows which of its calls nobody waits for. Batches take up to a day, most of them
    /// minutes to hours.
    pub fn new(provider: impl BatchProvider, min_wait: Duration) -> Self {
        let (collect_for, margin) = (Duration::from_secs(60), min_wait / 10);
        Self { provider: Arc::new(provider), min_wait, collect_for, max_calls: 10_000, margin }
    }

    /// How long the first call of a batch waits for others, less than `min_wait` without the margin. Default: a minute,
    /// little beside what a batch takes.
    #[must_use]
    pub fn collect_for(mut self, wait: Duration) -> Self {
        self.collect_for = wait;
        self
    }

    /// Calls after which a batch is sent at once, from 1 on. Default: 10,000, which bounds the prompts held in memory.
    #[must_use]
    pub fn max_calls(mut self, calls: usize) -> Self {
        self.max_calls = calls;
        self
    }

    /// How long before its deadline a call stops waiting for its batch and is asked the ordinary way, less than
    /// `min_wait`. Default: a tenth of `min_wait`.
    #[must_use]
    pub fn margin(mut self, margin: Duration) -> Self {
        self.margin = margin;
        self
    }

    pub(crate) fn min_wait(&self) -> Duration {
        self.min_wait
    }
}

impl Layer for DeferLayer {
    fn name(&self) -> &'static str {
        "defer"
    }

    fn settings(&self) -> String {
        let Self { min_wait, collect_for, max_calls, margin, .. } = self;
        format!("from {min_wait:?}, collect {collect_for:?} or {max_calls} calls, margin {margin:?}")
    }

    fn wrap(&self, inner: Arc<dyn LlmClient>, env: &Env) -> Result<Arc<dyn LlmClient>> {
        Error::unless_within(ORIGIN, "min_wait", self.min_wait, Duration::from_secs(1)..=DAYS)?;
        Error::unless_within(ORIGIN, "max_calls", self.max_calls, 1..=usize::MAX)?;
        if self.margin.saturating_add(self.collect_for) >= self.min_wait {
            let value = format!("{:?} and {:?}", self.margin, self.collect_for);
            let advice = format!("together they must be less than min_wait = {:?}", self.min_wait);
            return Err(Error::config(ORIGIN, "margin and collect_for", value, &advice));
        }
        let collector = Collector::new(Arc::clone(&self.provider), self.collect_for, self.max_calls, env.clone());
        let (min_wait, margin) = (self.min_wait, self.margin);
        Ok(Arc::new(Deferring { inner, collector: Arc::new(collector), min_wait, margin, env: env.clone() }))
    }
}

#[derive(Debug)]
struct Deferring {
    inner: Arc<dyn LlmClient>,
    collector: Arc<Collector>,
    min_wait: Duration,
    margin: Duration,
    env: Env,
}

/// Until when a deferred call waits for its batch; `None` for one without a deadline.
type Patience = Option<Instant>;

impl Deferring {
    /// `None` for a call that is not deferred.
    fn patience(&self, request: &ChatRequest) -> Option<Patience> {
        let waits = Deferrable::may_wait(&request.extensions, self.env.now(), self.min_wait);
        let until = request.extensions.get::<Deadline>().and_then(|Deadline(until)| until.checked_sub(self.margin));
        waits.then_some(until)
    }

    /// The batch's answer; or `None` and whether it was sent, when the call is to be asked the ordinary way.
    async fn deferred(&self, request: &ChatRequest, patience: Patience) -> (Option<Result<ChatResponse>>, bool) {
        let (tell, told) = oneshot::channel();
        let place = self.collector.add(request.clone(), tell);
        let given_up = async {
            match patience {
                Some(until) => self.env.sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = told => outcome.ok(),
            () = self.env.closing().cancelled() => {
                let text = "shut down while the call waited for its batch";
                Some(Outcome::Own(Err(Error::new(ErrorKind::Shutdown, ORIGIN, text))))
            }
            () = given_up => None,
        };
        let answer = match outcome {
            Some(Outcome::Own(Err(error))) if error.retryability() != Retryability::Never => None,
            Some(Outcome::Own(result)) => Some(result),
            Some(Outcome::Batch) | None => None,
        };
        (answer, place.is_sent())
    }
}

#[async_trait]
impl LlmClient for Deferring {
    fn info(&self) -> &ClientInfo {
        self.inner.info()
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        let Some(patience) = self.patience(&request) else { return self.inner.chat(request).await };
        let start = self.env.now();
        let (answer, sent) = self.deferred(&request, patience).await;
        let told = Deferred::new(self.env.now().saturating_duration_since(start), answer.is_none(), sent);
        match answer {
            Some(answer) => answer.map(|answer| answer.with(told)),
            None => self.inner.chat(request).await.map(|answer| answer.with(told)),
        }
    }

    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        self.inner.chat_stream(request).await
    }

    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        self.inner.embed(request).await
    }
}

#[cfg(test)]
mod tests;
