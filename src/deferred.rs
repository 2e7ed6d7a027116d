//! Chats that are answered later and cheaper: who answers them, and what is told with the answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::types::{ChatRequest, ChatResponse};

/// Whoever answers many chats at once, within hours, at the price of batches
/// ([`PriceTable::batch_cost`](crate::types::PriceTable::batch_cost)): `providers::openai::Batches` is one.
///
/// Cancellation: a dropped `send` may leave a batch behind that nobody waits for, and that is paid.
#[async_trait]
pub trait BatchProvider: fmt::Debug + Send + Sync + 'static {
    /// Sends these as a batch of their own; there is at least one.
    ///
    /// # Errors
    /// Nothing was sent, or what was sent is cancelled.
    async fn send(&self, requests: Vec<ChatRequest>) -> Result<Box<dyn SentBatch>>;
}

/// A batch under way.
#[async_trait]
pub trait SentBatch: fmt::Debug + Send + Sync + 'static {
    /// Waits for its end; a result per request, in their order. Dropping the future only stops the waiting.
    ///
    /// # Errors
    /// The batch's own failure. That of a single request is among the results.
    async fn answers(&mut self) -> Result<Vec<Result<ChatResponse>>>;

    /// Gives it up: nothing more is begun. What was answered by then is paid.
    ///
    /// # Errors
    /// It could not be cancelled, and goes on.
    async fn cancel(&mut self) -> Result<()>;
}

#[async_trait]
impl<P: BatchProvider + ?Sized> BatchProvider for Arc<P> {
    async fn send(&self, requests: Vec<ChatRequest>) -> Result<Box<dyn SentBatch>> {
        (**self).send(requests).await
    }
}

/// Told with the answer of a call that was deferred ([`ChatResponse::extension`]).
///
/// ```
/// use sluicegate::{batch::Deferred, types::ChatResponse};
/// let told = |answer: &ChatResponse| match answer.extension::<Deferred>() {
///     Some(deferred) if deferred.fell_back => "deferred in vain",
///     Some(_) => "answered by a batch",
///     None => "asked as usual",
/// };
/// assert_eq!(told(&ChatResponse::from_text("hi")), "asked as usual");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deferred {
    /// From the call until the batch had its answer, or until it was no longer waited for.
    pub waited: Duration,
    /// Whether the answer came the ordinary way after all, at the ordinary price: the batch failed or expired, or the
    /// deadline came near.
    pub fell_back: bool,
    /// Whether it had been sent in a batch. Together with `fell_back`: the batch's answer may be billed as well.
    pub sent: bool,
}

impl Deferred {
    pub(crate) fn new(waited: Duration, fell_back: bool, sent: bool) -> Self {
        Self { waited, fell_back, sent }
    }
}
