//! Deferred calls gathered by model, and the task that carries each batch to its end.
//!
//! The task belongs to those who wait: when the last of them has gone, for whatever reason, it cancels the batch and ends.
//! A shutdown is no exception: the callers leave on it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::deferred::{BatchProvider, SentBatch};
use crate::env::{Env, Event, Operation, Outcome as Ended, Record};
use crate::error::Result;
use crate::types::{ChatRequest, ChatResponse};

/// So long a shutdown waits for a batch to be cancelled.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// What a deferred call is told.
#[derive(Debug)]
pub(super) enum Outcome {
    /// What its batch says of it.
    Own(Result<ChatResponse>),
    /// Its batch failed as a whole.
    Batch,
}

struct Waiting {
    request: Prompt,
    tell: oneshot::Sender<Outcome>,
}

/// What a call asks, until it is sent or its caller leaves.
type Prompt = Arc<Mutex<Option<ChatRequest>>>;

/// The calls of a model that were not sent yet.
struct Open {
    calls: Vec<Waiting>,
    full: oneshot::Sender<Vec<Waiting>>,
    sent: Arc<AtomicBool>,
}

/// A call's place in a batch. Dropped before that was sent, it takes the prompt out.
pub(super) struct Place {
    request: Prompt,
    sent: Arc<AtomicBool>,
}

impl Place {
    /// Whether its batch was sent.
    pub(super) fn is_sent(&self) -> bool {
        self.sent.load(Ordering::Acquire)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.request.lock().take();
    }
}

pub(super) struct Collector {
    provider: Arc<dyn BatchProvider>,
    collect_for: Duration,
    max_calls: usize,
    env: Env,
    open: Mutex<HashMap<String, Open>>,
}

impl Collector {
    pub(super) fn new(provider: Arc<dyn BatchProvider>, collect_for: Duration, max_calls: usize, env: Env) -> Self {
        Self { provider, collect_for, max_calls, env, open: Mutex::default() }
    }

    /// Adds a call to the next batch of its model. Dropping the receiver or the place takes it out.
    pub(super) fn add(self: &Arc<Self>, request: ChatRequest, tell: oneshot::Sender<Outcome>) -> Place {
        let model = request.model.clone();
        let prompt = Arc::new(Mutex::new(Some(request)));
        let mut all = self.open.lock();
        let mut begun = None;
        let open = all.entry(model.clone()).or_insert_with(|| {
            let (full, filled) = oneshot::channel();
            begun = Some(filled);
            Open { calls: Vec::new(), full, sent: Arc::default() }
        });
        // Those who have left make room, so that a batch is not sent for nothing.
        if open.calls.len() + 1 == self.max_calls {
            open.calls.retain(|call| !call.tell.is_closed());
        }
        open.calls.push(Waiting { request: Arc::clone(&prompt), tell });
        let place = Place { request: prompt, sent: Arc::clone(&open.sent) };
        let sent = Arc::clone(&open.sent);
        if open.calls.len() >= self.max_calls
            && let Some(Open { calls, full, .. }) = all.remove(&model)
        {
            // It has ended on a shutdown: so do the callers.
            let _ended = full.send(calls);
        }
        drop(all);
        if let Some(filled) = begun {
            let this = Arc::clone(self);
            self.env.tasks().spawn(async move {
                let closing = this.env.closing().clone();
                tokio::select! {
                    () = this.carry(model, filled, &sent) => {}
                    () = async { closing.cancelled().await; this.env.sleep(LAST_WORDS).await } => {}
                }
            });
        }
        place
    }

    /// The calls of a batch, once it is full or was open for long enough.
    async fn collected(&self, model: &str, mut filled: oneshot::Receiver<Vec<Waiting>>) -> Vec<Waiting> {
        tokio::select! {
            biased;
            Ok(calls) = &mut filled => return calls,
            () = self.env.closing().cancelled() => {}
            () = self.env.sleep(self.collect_for) => {}
        }
        let mut all = self.open.lock();
        // Filled in this moment, the model's next batch stands there already.
        match filled.try_recv() {
            Ok(calls) => calls,
            Err(_) => all.remove(model).map(|open| open.calls).unwrap_or_default(),
        }
    }

    /// A batch from its first call to its end.
    async fn carry(&self, model: String, filled: oneshot::Receiver<Vec<Waiting>>, sent: &AtomicBool) {
        let calls = self.collected(&model, filled).await;
        let asked = |call: Waiting| Some((call.request.lock().take()?, call.tell));
        let (requests, mut callers): (Vec<_>, Vec<_>) =
            calls.into_iter().filter(|call| !call.tell.is_closed()).filter_map(asked).unzip();
        if callers.is_empty() || self.env.closing().is_cancelled() {
            return;
        }
        sent.store(true, Ordering::Release);
        let start = self.env.now();
        // Not dropped half-way when all have left: what was created must be known to be cancelled.
        let Ok(mut batch) = self.provider.send(requests).await else {
            // Nothing was sent, or it is cancelled.
            sent.store(false, Ordering::Release);
            return tell_all(callers);
        };
        let answers = tokio::select! {
            answers = batch.answers() => Some(answers),
            () = all_gone(&mut callers) => None,
        };
        let ended = |outcome: Ended<'_>| {
            let duration = self.env.now().saturating_duration_since(start);
            self.env.observe(&Event::Batched(Record::new(Operation::Chat, &model, duration, None, outcome)));
        };
        match answers {
            Some(Ok(answers)) if answers.len() == callers.len() => {
                for (caller, mut answer) in callers.into_iter().zip(answers) {
                    match &mut answer {
                        Ok(answer) => {
                            let completion = Arc::clone(answer.completion());
                            let usage = completion.usage.as_ref();
                            // By the name it was asked by, as an attempt is priced. The provider may know more names.
                            let cost = usage.and_then(|usage| self.env.prices().batch_cost(&model, usage));
                            answer.trace_mut().cost = cost.or(answer.trace().cost);
                            ended(Ended::Answered { usage, trace: answer.trace() });
                        }
                        Err(error) => ended(Ended::Failed(error)),
                    }
                    // Who left does not need it.
                    let _gone = caller.send(Outcome::Own(answer));
                }
            }
            // Its state is not known; it must not go on while its calls are asked again.
            Some(_) => {
                cancel(&mut *batch).await;
                callers.iter().for_each(|_| ended(Ended::Abandoned));
                tell_all(callers);
            }
            None => {
                cancel(&mut *batch).await;
                callers.iter().for_each(|_| ended(Ended::Abandoned));
            }
        }
    }
}

async fn cancel(batch: &mut dyn SentBatch) {
    // It has ended, or the provider cannot be reached: then it ends by itself, within its window.
    let _cancelled = batch.cancel().await;
}

async fn all_gone(callers: &mut [oneshot::Sender<Outcome>]) {
    for caller in callers {
        caller.closed().await;
    }
}

fn tell_all(callers: Vec<oneshot::Sender<Outcome>>) {
    for caller in callers {
        let _gone = caller.send(Outcome::Batch);
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("provider", &self.provider).finish_non_exhaustive()
    }
}
