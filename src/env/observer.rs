//! Who is told what happens.

use std::fmt;
use std::time::Duration;

use crate::error::Error;
use crate::types::{Trace, Usage};

/// Is told of every call and attempt when it ends. Called on the caller's task, or on the one that carries a batch: it must return within microseconds and
/// must not block.
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// Something ended.
    fn observe(&self, event: &Event<'_>);
}

/// What ended. Carries no prompt, answer, key or tenant.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A caller's call, hits included.
    Call(Record<'a>),
    /// One attempt upstream.
    Attempt(Record<'a>),
    /// One call's part in a provider's batch, from when the batch was sent. Told by the layer that sent it, or, of a batch
    /// that was sent without one, when its results are read.
    Batched(Record<'a>),
}

/// How a call or an attempt ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Record<'a> {
    /// What was asked for.
    pub operation: Operation,
    /// The model asked for.
    pub model: &'a str,
    /// From the start to the end of the answer.
    pub duration: Duration,
    /// Until the first chunk with content, of a stream.
    pub first_chunk: Option<Duration>,
    /// How it ended.
    pub outcome: Outcome<'a>,
}

/// How a call or an attempt ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome<'a> {
    /// With a whole answer.
    Answered {
        /// What the answer used, if known; on a hit, what it once used.
        usage: Option<&'a Usage>,
        /// What happened on its way.
        trace: &'a Trace,
    },
    /// With an error.
    Failed(&'a Error),
    /// The caller dropped it.
    Abandoned,
}

/// An operation, in the words of OpenTelemetry's `gen_ai.operation.name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// A whole answer.
    Chat,
    /// A streamed answer.
    ChatStream,
    /// Vectors.
    Embed,
}

impl Operation {
    /// A stable word for metric labels.
    pub fn label(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::ChatStream => "chat_stream",
            Self::Embed => "embeddings",
        }
    }
}

impl<'a> Record<'a> {
    pub(crate) fn new(
        operation: Operation,
        model: &'a str,
        duration: Duration,
        first_chunk: Option<Duration>,
        outcome: Outcome<'a>,
    ) -> Self {
        Self { operation, model, duration, first_chunk, outcome }
    }
}
