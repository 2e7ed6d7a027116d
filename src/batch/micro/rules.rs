//! Settings of a micro-batcher.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::MicroBatcher;
use super::split::Work;
use super::state::{Shared, State};
use crate::batch::ORIGIN;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

type OfItem<In, T> = Box<dyn Fn(&In) -> T + Send + Sync>;

pub(super) struct Rules<In, Out> {
    pub(super) max_size: usize,
    pub(super) max_weight: u64,
    pub(super) max_wait: Duration,
    pub(super) concurrency: usize,
    pub(super) size: OfItem<In, usize>,
    pub(super) weight: OfItem<In, u64>,
    pub(super) key: Option<OfItem<In, Vec<u8>>>,
    /// Of results that several callers get; set with the key.
    copy: Option<fn(&Out) -> Out>,
}

impl<In, Out> Rules<In, Out> {
    pub(super) fn copied(&self, outcome: &Result<Out>) -> Option<Result<Out>> {
        match outcome {
            Ok(out) => self.copy.map(|copy| {
                // All others of the call wait for theirs.
                let copied = catch_unwind(AssertUnwindSafe(|| copy(out)));
                copied.map_err(|_| Error::new(ErrorKind::Panicked, ORIGIN, "copying the result panicked"))
            }),
            Err(error) => Some(Err(error.clone())),
        }
    }
}

/// Settings of a [`MicroBatcher`]; see [`MicroBatcher::builder`].
#[must_use = "nothing is batched before build()"]
pub struct MicroBuilder<In, Out> {
    work: Work<In, Out>,
    rules: Rules<In, Out>,
    env: Env,
}

impl<In: Clone + Send + 'static, Out: Send + 'static> MicroBuilder<In, Out> {
    pub(super) fn new<F, Answering, Results>(work: F) -> Self
    where
        F: Fn(Vec<In>) -> Answering + Send + Sync + 'static,
        Answering: Future<Output = Results> + Send + 'static,
        Results: Into<BatchResults<Out>>,
    {
        let work: Work<In, Out> = Box::new(move |items| {
            let answering = work(items);
            Box::pin(async move { answering.await.into().0 }) as Pin<Box<_>>
        });
        let rules = Rules {
            max_size: 64,
            max_weight: u64::MAX,
            max_wait: Duration::from_millis(10),
            concurrency: 4,
            size: Box::new(|_| 1),
            weight: Box::new(|_| 0),
            key: None,
            copy: None,
        };
        Self { work, rules, env: Env::new() }
    }

    /// Items in a batch at most, from 1 on; 64 unless set.
    pub fn max_size(mut self, items: usize) -> Self {
        self.rules.max_size = items;
        self
    }

    /// What an item counts in [`max_size`](Self::max_size); 1 unless set.
    pub fn size(mut self, size: impl Fn(&In) -> usize + Send + Sync + 'static) -> Self {
        self.rules.size = Box::new(size);
        self
    }

    /// The weight of a batch at most, tokens for example, and of each item. An item heavier than that goes alone. Without
    /// limit unless set.
    pub fn max_weight(mut self, most: u64, weight: impl Fn(&In) -> u64 + Send + Sync + 'static) -> Self {
        (self.rules.max_weight, self.rules.weight) = (most, Box::new(weight));
        self
    }

    /// How long an item waits for company at most while a call is under way, from 0 to 1 minute; 10 ms unless set.
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.rules.max_wait = wait;
        self
    }

    /// Calls under way at most, from 1 on; 4 unless set.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.rules.concurrency = calls;
        self
    }

    /// Asks equal items once: an item whose key is that of one waiting or under way gets a copy of its result, or of its
    /// error. Keys are compared in full.
    pub fn once_by<K: Into<Vec<u8>>>(mut self, key: impl Fn(&In) -> K + Send + Sync + 'static) -> Self
    where
        Out: Clone,
    {
        self.rules.key = Some(Box::new(move |item| key(item).into()));
        self.rules.copy = Some(Out::clone);
        self
    }

    /// Sets the clock.
    pub fn env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    /// Makes the batcher.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a setting out of its range.
    pub fn build(self) -> Result<MicroBatcher<In, Out>> {
        let Rules { max_size, max_weight, max_wait, concurrency, .. } = &self.rules;
        if *max_size == 0 {
            return Err(Error::config(ORIGIN, "max_size", 0, "allow at least one item in a batch"));
        }
        if *max_weight == 0 {
            return Err(Error::config(ORIGIN, "max_weight", 0, "allow a weight of at least 1"));
        }
        if *concurrency == 0 {
            return Err(Error::config(ORIGIN, "concurrency", 0, "allow at least one call"));
        }
        if *max_wait > Duration::from_secs(60) {
            return Err(Error::config(ORIGIN, "max_wait", format!("{max_wait:?}"), "wait at most a minute"));
        }
        let Self { work, rules, env } = self;
        let state = parking_lot::Mutex::new(State::default());
        Ok(MicroBatcher(Arc::new(Shared { work, rules, env, state })))
    }
}

impl<In, Out> std::fmt::Debug for MicroBuilder<In, Out> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MicroBuilder").finish_non_exhaustive()
    }
}

/// What answers a batch gives: a result per item, or one failure for all of them. Made of either.
#[derive(Debug)]
pub struct BatchResults<Out>(Result<Vec<Result<Out>>>);

impl<Out> From<Vec<Result<Out>>> for BatchResults<Out> {
    fn from(results: Vec<Result<Out>>) -> Self {
        Self(Ok(results))
    }
}

impl<Out> From<Result<Vec<Result<Out>>>> for BatchResults<Out> {
    fn from(results: Result<Vec<Result<Out>>>) -> Self {
        Self(results)
    }
}
