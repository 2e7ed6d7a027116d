//! Every attempt asks a scheduler first.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::estimate::{Estimate, Estimator};
use super::{Admission, AdmissionGate, Job, ORIGIN, Outcome, Permit, Scheduler};
use crate::client::{ClientInfo, LlmClient};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::layer::Layer;
use crate::types::{
    ChatChunk, ChatRequest, ChatResponse, ChatStream, Deadline, EmbedRequest, EmbedResponse, Extensions, Priority,
    RateLimits, StreamEvent, Tenant, Usage,
};

/// Admits every attempt through a [`Scheduler`].
///
/// # What it does
/// It estimates the tokens of a request, waits for admission with the request's
/// [`Priority`] and [`Deadline`], calls, and reports the true tokens and the latency back. The time spent waiting is
/// added to [`Trace::queued`](crate::types::Trace::queued). Embeddings are admitted like chats.
///
/// The estimate is the bytes of the text times a ratio that starts at 0.30 and follows what the provider counts for this
/// model (within 0.05 and 1.5), and as output what this model and kind of call answered before, times `n`
/// ([`OutputCount`](super::OutputCount)). What the provider says is left (its `x-ratelimit-*` headers) is reported with
/// the end of the call, of a stream with the age that it has by then.
///
/// # Where it sits
/// In [`Slot::Schedule`](crate::Slot::Schedule): below retry and hedge, so that each attempt is admitted on its own and
/// a back-off holds nothing; above the timeouts, whose clocks start after the wait.
///
/// # Cost
/// One short lock to enter and one to leave, and a pass over the lengths of the messages; tools and a response format
/// are measured by serialising them. Nothing is spawned.
///
/// # Streaming
/// The permit rides the stream to its finish, its error or its drop.
///
/// # Cancellation
/// A future that is dropped frees its place in the queue or its permit, and its tokens in full; the next in line goes on.
/// So does a stream before its first chunk. One that is dropped later has used its input and what it has read, by the same
/// estimate: the provider counts it too.
///
/// # Errors
/// Of kind [`Overloaded`](ErrorKind::Overloaded) when the queue is full, [`Deadline`](ErrorKind::Deadline) when the
/// call cannot start in time, [`InvalidRequest`](ErrorKind::InvalidRequest) when it never can, and
/// [`Shutdown`](ErrorKind::Shutdown).
///
/// # Example
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use std::sync::Arc;
/// use sluicegate::schedule::{Admission, ScheduleLayer};
/// use sluicegate::testing::Scripted;
/// use sluicegate::types::{ChatRequest, Priority};
/// use sluicegate::{Env, Layer, LlmClient};
///
/// let layer = ScheduleLayer::from(Admission::new().concurrency(32).rpm(500).tpm(200_000));
/// assert_eq!(layer.settings(), "concurrency 32, 500 rpm, 200000 tpm, queue 10000");
///
/// let client = layer.wrap(Arc::new(Scripted::new()), &Env::new())?;
/// let answer = client.chat(ChatRequest::new("m").user("hi").with(Priority::High)).await?;
/// assert_eq!(answer.trace().queued.as_millis(), 0);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ScheduleLayer(Source);

#[derive(Debug)]
enum Source {
    Admission(Box<Admission>),
    /// A running gate, which knows how tokens are to be guessed.
    Gate(AdmissionGate),
    Custom(Arc<dyn Scheduler>),
}

impl From<Admission> for ScheduleLayer {
    fn from(admission: Admission) -> Self {
        Self(Source::Admission(Box::new(admission)))
    }
}

impl<S: Scheduler> From<S> for ScheduleLayer {
    fn from(scheduler: S) -> Self {
        let any: &dyn Any = &scheduler;
        let shared = any.downcast_ref::<Arc<AdmissionGate>>().map(|gate| &**gate);
        if let Some(gate) = any.downcast_ref::<AdmissionGate>().or(shared) {
            return Self(Source::Gate(gate.clone()));
        }
        Self(Source::Custom(Arc::new(scheduler)))
    }
}

impl Layer for ScheduleLayer {
    fn name(&self) -> &'static str {
        ORIGIN
    }

    fn settings(&self) -> String {
        match &self.0 {
            Source::Admission(admission) => admission.to_string(),
            Source::Gate(_) | Source::Custom(_) => "own scheduler".to_owned(),
        }
    }

    fn wrap(&self, inner: Arc<dyn LlmClient>, env: &Env) -> Result<Arc<dyn LlmClient>> {
        let gate = match &self.0 {
            Source::Admission(admission) => Ok(admission.start(env)?),
            Source::Gate(gate) => Ok(gate.clone()),
            Source::Custom(scheduler) => Err(Arc::clone(scheduler)),
        };
        let (scheduler, estimator): (Arc<dyn Scheduler>, _) = match gate {
            Ok(gate) => (Arc::new(gate.clone()), gate.estimator()),
            Err(scheduler) => (scheduler, Arc::new(Admission::new().estimator())),
        };
        Ok(Arc::new(Scheduled { inner, scheduler, estimator, env: env.clone() }))
    }
}

#[derive(Debug)]
struct Scheduled {
    inner: Arc<dyn LlmClient>,
    scheduler: Arc<dyn Scheduler>,
    estimator: Arc<Estimator>,
    env: Env,
}

impl Scheduled {
    async fn admit(&self, model: &str, estimate: Estimate, extensions: &Extensions) -> Result<Admitted> {
        let priority = extensions.get::<Priority>().copied().unwrap_or_default();
        let deadline = extensions.get::<Deadline>().map(|deadline| deadline.0);
        let job = Job::new(model).tokens(estimate.input, estimate.output).priority(priority).deadline(deadline);
        let job = job.tenant(extensions.get::<Tenant>().map(|Tenant(name)| name.as_str()));
        let job = Job { output_is_guess: estimate.output_is_guess, ..job };
        // A scheduler of the user's own need not know of the shutdown.
        let shut_down = || Error::new(ErrorKind::Shutdown, ORIGIN, "the client shuts down and admits no more calls");
        if self.env.closing().is_cancelled() {
            return Err(shut_down());
        }
        let permit = match self.scheduler.try_admit(&job)? {
            Some(permit) => permit,
            None => {
                let admitted = self.env.closing().run_until_cancelled(self.scheduler.admit(&job)).await;
                admitted.ok_or_else(shut_down)??
            }
        };
        let estimator = Arc::clone(&self.estimator);
        let (env, started) = (self.env.clone(), self.env.now());
        let heard = Heard { first_chunk: None, chunks: 0, bytes: 0 };
        Ok(Admitted { permit, estimate, estimator, env, started, heard, limits: None })
    }
}

/// A call under way.
struct Admitted {
    permit: Permit,
    estimate: Estimate,
    estimator: Arc<Estimator>,
    env: Env,
    started: Instant,
    heard: Heard,
    /// What a stream's opening told, and when.
    limits: Option<(RateLimits, Instant)>,
}

/// What came of a stream so far.
struct Heard {
    first_chunk: Option<Duration>,
    chunks: u64,
    bytes: u64,
}

impl Admitted {
    fn latency(&self) -> Duration {
        self.env.now().saturating_duration_since(self.started)
    }

    fn hear(&mut self, chunk: &ChatChunk) {
        if self.heard.first_chunk.is_none() {
            self.heard.first_chunk = Some(self.latency());
        }
        self.heard.chunks += 1;
        self.heard.bytes += chunk.text().len() as u64;
    }

    /// Ends it, with the limits beside a whole answer; returns how long it was queued.
    fn end(self, result: Result<Option<&Usage>, &Error>, limits: Option<&RateLimits>) -> Duration {
        let (queued, latency) = (self.permit.queued(), self.latency());
        let outcome = match result {
            Ok(usage) => {
                if let Some(usage) = usage {
                    self.estimator.learn(&self.estimate, usage);
                }
                Outcome::answered(usage, latency)
            }
            Err(error) => Outcome::failed(error, latency),
        };
        self.settle(outcome, limits);
        queued
    }

    /// Nobody reads on.
    fn leave(self) {
        if self.heard.first_chunk.is_none() {
            return;
        }
        let used = self.estimator.begun(&self.estimate, self.heard.chunks, self.heard.bytes);
        let latency = self.latency();
        self.settle(Outcome::answered(Some(&used), latency), None);
    }

    fn settle(self, outcome: Outcome<'_>, limits: Option<&RateLimits>) {
        let outcome = outcome.with_first_chunk(self.heard.first_chunk);
        let age = |told: &Instant| self.env.now().saturating_duration_since(*told);
        let outcome = match (&self.limits, limits) {
            (_, Some(limits)) => outcome.with_limits(Some(limits), Duration::ZERO),
            // What an error carries is newer than the opening.
            (Some((limits, told)), None) if outcome.limits.is_none() => outcome.with_limits(Some(limits), age(told)),
            _ => outcome,
        };
        self.permit.settle(outcome);
    }
}

#[async_trait]
impl LlmClient for Scheduled {
    fn info(&self) -> &ClientInfo {
        self.inner.info()
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        let call = self.admit(&request.model, self.estimator.chat(&request, false), &request.extensions).await?;
        let mut result = self.inner.chat(request).await;
        let limits = result.as_ref().ok().and_then(|response| response.extension::<RateLimits>());
        let queued = call.end(result.as_ref().map(|response| response.usage.as_ref()), limits);
        if let Ok(response) = &mut result {
            add(&mut response.trace_mut().queued, queued);
        }
        result
    }

    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        let call = self.admit(&request.model, self.estimator.chat(&request, true), &request.extensions).await?;
        match self.inner.chat_stream(request).await {
            Ok(stream) => Ok(ride(stream, call)),
            Err(error) => {
                call.end(Err(&error), None);
                Err(error)
            }
        }
    }

    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        let call = self
            .admit(&request.model, self.estimator.embed(&request.model, &request.input), &request.extensions)
            .await?;
        let mut result = self.inner.embed(request).await;
        let queued = call.end(result.as_ref().map(|response| response.usage.as_ref()), None);
        if let Ok(response) = &mut result {
            add(&mut response.trace.queued, queued);
        }
        result
    }
}

/// A call that goes with its stream.
struct Riding(Option<Admitted>);

impl Drop for Riding {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call.leave();
        }
    }
}

fn ride(stream: ChatStream, mut call: Admitted) -> ChatStream {
    call.limits = stream.extension::<RateLimits>().map(|limits| (limits.clone(), call.env.now()));
    let mut opening = *stream.trace();
    add(&mut opening.queued, call.permit.queued());
    let mut riding = Riding(Some(call));
    let stream = stream.inspect(move |event| match event {
        Ok(StreamEvent::Chunk(chunk)) => {
            if let Some(call) = &mut riding.0 {
                call.hear(chunk);
            }
        }
        Ok(StreamEvent::Finish(finish)) => {
            if let Some(call) = riding.0.take() {
                add(&mut finish.trace.queued, call.end(Ok(finish.usage.as_ref()), None));
            }
        }
        Err(error) => {
            if let Some(call) = riding.0.take() {
                call.end(Err(error), None);
            }
        }
    });
    stream.with_trace(opening)
}

fn add(total: &mut Duration, more: Duration) {
    *total = total.saturating_add(more);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::OutputCount;
    use crate::testing::Scripted;

    #[test]
    fn a_running_gate_guesses_as_it_was_told() {
        let gate = Admission::new().count_output(OutputCount::Limit).start(&Env::new()).unwrap();
        for layer in [ScheduleLayer::from(gate.clone()), ScheduleLayer::from(Arc::new(gate))] {
            let Source::Gate(gate) = layer.0 else { panic!("not known as a gate") };
            let request = ChatRequest::new("m").max_tokens(9_000);
            assert_eq!(gate.estimator().chat(&request, false).output, 9_000);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_left_has_used_what_was_read() {
        // A bucket of 1,000 tokens; the prompt is estimated at 300.
        let question = || ChatRequest::new("m").user("x".repeat(988)).max_tokens(100);
        for (read, left) in [(0, 1_000), (2, 698), (5, 695)] {
            let gate = Admission::new().tpm(60_000).burst(Duration::from_secs(1)).start(&Env::new()).unwrap();
            let upstream = Scripted::new().always("a b c d e f g h");
            let client = ScheduleLayer::from(gate.clone()).wrap(Arc::new(upstream), &Env::new()).unwrap();
            let mut stream = client.chat_stream(question()).await.unwrap();
            for _ in 0..read {
                assert!(matches!(stream.next().await, Some(Ok(StreamEvent::Chunk(_)))));
            }
            drop(stream);
            assert_eq!(gate.status().reserved_tokens, 0);
            let starts = |tokens| gate.try_admit(&Job::new("m").tokens(tokens, 0)).unwrap().is_some();
            // One that is larger than a full bucket may start.
            assert_eq!((starts(left + 1), starts(left)), (read == 0, true), "{read} were read");
        }
    }
}
