//! One call or attempt watched to its end, whatever that is: answered, failed or dropped.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Stats;
use crate::env::{Env, Event, Operation, Outcome, Record};
use crate::error::{Error, Result};
use crate::types::{ChatStream, StreamEvent, Trace, Usage};

/// What is watched, and who is told.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) stats: Arc<Stats>,
    pub(super) env: Env,
    pub(super) level: Level,
}

/// What is watched.
#[derive(Debug, Clone, Copy)]
pub(super) enum Level {
    /// A caller's call.
    Call,
    /// An attempt upstream.
    Attempt,
}

impl Watcher {
    /// Starts to watch. The model's name is copied only when there is somebody to tell it.
    pub(super) fn watch(&self, operation: Operation, model: &str) -> Watch<&Self> {
        let model = self.env.is_observed().then(|| model.to_owned());
        Watch { watcher: self, open: true, operation, model, started: self.env.now(), first_chunk: None }
    }

    fn ended(&self, record: Record<'_>) {
        let event = match self.level {
            Level::Call => {
                self.stats.call(&record);
                Event::Call(record)
            }
            Level::Attempt => {
                self.stats.attempt(&record);
                Event::Attempt(record)
            }
        };
        self.env.observe(&event);
    }
}

/// A call under way. Dropped without an end, it was abandoned. A call borrows its watcher, a stream shares it.
pub(super) struct Watch<W: Deref<Target = Watcher>> {
    watcher: W,
    open: bool,
    operation: Operation,
    model: Option<String>,
    started: Instant,
    first_chunk: Option<Duration>,
}

impl<W: Deref<Target = Watcher>> Watch<W> {
    #[inline]
    pub(super) fn answered(mut self, usage: Option<&Usage>, trace: &Trace) {
        self.end(Outcome::Answered { usage, trace });
    }

    pub(super) fn failed(mut self, error: &Error) {
        self.end(Outcome::Failed(error));
    }

    fn passed(&self) -> Duration {
        self.watcher.env.now().saturating_duration_since(self.started)
    }

    fn end(&mut self, outcome: Outcome<'_>) {
        if std::mem::take(&mut self.open) {
            let model = self.model.as_deref().unwrap_or_default();
            self.watcher.ended(Record::new(self.operation, model, self.passed(), self.first_chunk, outcome));
        }
    }
}

impl Watch<&Watcher> {
    /// Watches a stream to its end; `price` may add to its finish first.
    pub(super) fn stream(
        mut self,
        watcher: Arc<Watcher>,
        stream: ChatStream,
        mut price: impl FnMut(Option<&Usage>, &mut Trace) + Send + 'static,
    ) -> ChatStream {
        self.open = false;
        let mut watch = Watch {
            watcher,
            open: true,
            operation: self.operation,
            model: self.model.take(),
            started: self.started,
            first_chunk: None,
        };
        stream.inspect(move |event: &mut Result<StreamEvent>| match event {
            Ok(StreamEvent::Chunk(chunk)) => {
                if watch.first_chunk.is_none() && chunk.has_content() {
                    watch.first_chunk = Some(watch.passed());
                }
            }
            Ok(StreamEvent::Finish(finish)) => {
                price(finish.usage.as_ref(), &mut finish.trace);
                watch.end(Outcome::Answered { usage: finish.usage.as_ref(), trace: &finish.trace });
            }
            Err(error) => watch.end(Outcome::Failed(error)),
        })
    }
}

impl<W: Deref<Target = Watcher>> Drop for Watch<W> {
    fn drop(&mut self) {
        self.end(Outcome::Abandoned);
    }
}
