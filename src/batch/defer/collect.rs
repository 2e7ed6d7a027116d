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
use tokio::sync::{Notify, oneshot};

use crate::deferred::{BatchProvider, SentBatch};
use crate::env::Env;
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
    request: ChatRequest,
    tell: oneshot::Sender<Outcome>,
}

/// The calls of a model that were not sent yet.
struct Open {
    calls: Vec<Waiting>,
    full: Arc<Notify>,
    sent: Sent,
}

/// Whether a batch was sent, for all of its calls to see.
#[derive(Clone, Default)]
pub(super) struct Sent(Arc<AtomicBool>);

impl Sent {
    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
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

    /// Adds a call to the next batch of its model. Dropping the receiver takes it out.
    pub(super) fn add(self: &Arc<Self>, request: ChatRequest, tell: oneshot::Sender<Outcome>) -> Sent {
        let mut all = self.open.lock();
        if let Some(open) = all.get_mut(&request.model) {
            // Those who have left make room, so that a batch is not sent for nothing.
            if open.calls.len() + 1 == self.max_calls {
                open.calls.retain(|call| !call.tell.is_closed());
            }
            open.calls.push(Waiting { request, tell });
            if open.calls.len() >= self.max_calls {
                open.full.notify_one();
            }
            return open.sent.clone();
        }
        let (model, full, sent) = (request.model.clone(), Arc::new(Notify::new()), Sent::default());
        if self.max_calls == 1 {
            full.notify_one();
        }
        let calls = vec![Waiting { request, tell }];
        all.insert(model.clone(), Open { calls, full: Arc::clone(&full), sent: sent.clone() });
        drop(all);
        let this = Arc::clone(self);
        self.env.tasks().spawn(async move {
            let closing = this.env.closing().clone();
            tokio::select! {
                () = this.carry(model, &full) => {}
                () = async { closing.cancelled().await; this.env.sleep(LAST_WORDS).await } => {}
            }
        });
        sent
    }

    /// A batch from its first call to its end.
    async fn carry(&self, model: String, full: &Notify) {
        tokio::select! {
            () = self.env.sleep(self.collect_for) => {}
            () = full.notified() => {}
            () = self.env.closing().cancelled() => {}
        }
        let Some(open) = self.open.lock().remove(&model) else { return };
        let (requests, mut callers): (Vec<_>, Vec<_>) =
            open.calls.into_iter().filter(|call| !call.tell.is_closed()).map(|call| (call.request, call.tell)).unzip();
        if callers.is_empty() || self.env.closing().is_cancelled() {
            return;
        }
        open.sent.0.store(true, Ordering::Release);
        // Not dropped half-way when all have left: what was created must be known to be cancelled.
        let Ok(mut batch) = self.provider.send(requests).await else {
            // Nothing was sent, or it is cancelled.
            open.sent.0.store(false, Ordering::Release);
            return tell_all(callers);
        };
        let answers = tokio::select! {
            answers = batch.answers() => Some(answers),
            () = all_gone(&mut callers) => None,
        };
        match answers {
            Some(Ok(answers)) if answers.len() == callers.len() => {
                for (caller, answer) in callers.into_iter().zip(answers) {
                    // Who left does not need it.
                    let _gone = caller.send(Outcome::Own(answer));
                }
            }
            // Its state is not known; it must not go on while its calls are asked again.
            Some(_) => {
                cancel(&mut *batch).await;
                tell_all(callers);
            }
            None => cancel(&mut *batch).await,
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
