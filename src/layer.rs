//! What wraps a client, and where in the stack it goes.

use std::fmt;
use std::sync::Arc;

use crate::client::LlmClient;
use crate::env::Env;
use crate::error::Result;

/// Where errors of the scheduler that comes with the crate come from: others tell its refusals by it.
pub(crate) const SCHEDULE: &str = "schedule";

/// A decorator: makes a client of a client.
///
/// Its state lives in the layer's own parts and in what `wrap` returns. The place in the stack is a [`Slot`], never the
/// order of the calls that configured it.
pub trait Layer: fmt::Debug + Send + Sync + 'static {
    /// Its name in [`describe`](crate::OptimizedClient::describe), errors and metrics: lower case, one word.
    fn name(&self) -> &'static str;

    /// Its settings in one line, for [`describe`](crate::OptimizedClient::describe). Empty when there are none.
    fn settings(&self) -> String;

    /// Wraps a client.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a setting that cannot work: which one, its value, what to do.
    fn wrap(&self, inner: Arc<dyn LlmClient>, env: &Env) -> Result<Arc<dyn LlmClient>>;
}

macro_rules! forward {
    ($pointer:ident) => {
        impl<L: Layer + ?Sized> Layer for $pointer<L> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            fn settings(&self) -> String {
                (**self).settings()
            }

            fn wrap(&self, inner: Arc<dyn LlmClient>, env: &Env) -> Result<Arc<dyn LlmClient>> {
                (**self).wrap(inner, env)
            }
        }
    };
}

forward!(Arc);
forward!(Box);

/// A place in the stack. A request goes through them from top to bottom, its answer from bottom to top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Slot {
    /// Sees every call, hits included.
    Observe,
    /// Stamps the absolute limit that all below respect.
    Deadline,
    /// Changes the model, so everything below decides again; a degraded answer never enters the first model's key.
    Fallback,
    /// Fixes the model before anything depends on it.
    Route,
    /// Normalises and trims: needs the model's window, and a normalised prompt hits more often.
    History,
    /// The final prompt is the key; a hit spends no quota and never queues. Single-flight lives inside.
    Cache,
    /// Merges embedding misses.
    Batch,
    /// Back-off holds no permit; one shared retry budget.
    Retry,
    /// Each copy is admitted on its own.
    Hedge,
    /// Refuses before queueing.
    Breaker,
    /// Admission per attempt; the permit rides a stream to its end.
    Schedule,
    /// Its clock starts after queueing.
    Timeout,
    /// Sees the provider alone: its latency, its refusals.
    Attempt,
}

impl Slot {
    /// All slots, outermost first.
    pub const ALL: [Self; 13] = [
        Self::Observe,
        Self::Deadline,
        Self::Fallback,
        Self::Route,
        Self::History,
        Self::Cache,
        Self::Batch,
        Self::Retry,
        Self::Hedge,
        Self::Breaker,
        Self::Schedule,
        Self::Timeout,
        Self::Attempt,
    ];
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Several layers as one, for a place that needs more than one: the first given is the outermost.
#[derive(Debug, Default)]
pub struct Chain(Vec<Arc<dyn Layer>>);

impl Chain {
    /// No layer yet: wraps nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a layer inside those given before.
    #[must_use]
    pub fn then(mut self, layer: impl Layer) -> Self {
        self.0.push(Arc::new(layer));
        self
    }
}

impl Layer for Chain {
    fn name(&self) -> &'static str {
        "chain"
    }

    fn settings(&self) -> String {
        let names: Vec<_> = self.0.iter().map(|layer| layer.name()).collect();
        names.join(" > ")
    }

    fn wrap(&self, inner: Arc<dyn LlmClient>, env: &Env) -> Result<Arc<dyn LlmClient>> {
        self.0.iter().rev().try_fold(inner, |inner, layer| layer.wrap(inner, env))
    }
}
