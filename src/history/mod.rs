//! The conversation kept within a token budget, and its prompts brought into one form.
//!
//! # How to add a policy
//!
//! Implement [`HistoryPolicy`]. What it returns must be valid for a provider: instructions stay, a tool call and its
//! results stay or go together, the last turn is always there, and fitting the result again changes nothing.

mod layer;
mod normalize;
mod turns;
mod window;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

pub use layer::HistoryLayer;
pub use normalize::Normalize;
pub use window::Window;

use crate::error::Result;
use crate::tokens::TokenCounter;
use crate::types::{ChatBody, Content, Message, Messages};

/// Decides which messages of a conversation are sent.
#[async_trait]
pub trait HistoryPolicy: fmt::Debug + Send + Sync + 'static {
    /// Its settings in one line, for [`describe`](crate::OptimizedClient::describe).
    fn settings(&self) -> String;

    /// Refuses settings that cannot work; asked once, at `build()`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config): which setting, its value, what to do.
    fn check(&self) -> Result<()>;

    /// Whether it certainly leaves these messages as they are, found without waiting and without much work: then it is not
    /// asked to [`fit`](Self::fit) them. `false` when in doubt.
    fn fits(&self, messages: &Messages, budget: &TokenBudget<'_>) -> bool;

    /// The messages to send. Returns the very same list when nothing is to be done.
    ///
    /// # Errors
    /// [`ErrorKind::ContextLength`](crate::ErrorKind::ContextLength) when what must stay does not fit.
    async fn fit(&self, messages: Messages, budget: &TokenBudget<'_>) -> Result<Messages>;
}

/// So that a policy can be shared between clients.
#[async_trait]
impl<P: HistoryPolicy + ?Sized> HistoryPolicy for Arc<P> {
    fn settings(&self) -> String {
        (**self).settings()
    }

    fn check(&self) -> Result<()> {
        (**self).check()
    }

    fn fits(&self, messages: &Messages, budget: &TokenBudget<'_>) -> bool {
        (**self).fits(messages, budget)
    }

    async fn fit(&self, messages: Messages, budget: &TokenBudget<'_>) -> Result<Messages> {
        (**self).fit(messages, budget).await
    }
}

/// What a policy needs to count with: the request's model, and what the prompt costs beside its messages.
#[derive(Debug, Clone, Copy)]
pub struct TokenBudget<'a> {
    body: &'a ChatBody,
    counter: &'a dyn TokenCounter,
}

impl<'a> TokenBudget<'a> {
    /// The budget of this request, by this counter.
    pub fn new(body: &'a ChatBody, counter: &'a dyn TokenCounter) -> Self {
        Self { body, counter }
    }

    /// The tokens of one message.
    pub fn message(&self, message: &Message) -> u64 {
        self.counter.message(&self.body.model, message)
    }

    /// The tokens of the prompt beside its messages: tools, response format, what primes the reply.
    pub fn overhead(&self) -> u64 {
        let mut bare = self.body.clone();
        bare.messages = Messages::new();
        self.counter.request(&bare)
    }

    /// A number of tokens the prompt certainly does not exceed, found without counting; `None` when only counting can
    /// tell. No token is shorter than a byte.
    pub fn upper_bound(&self, messages: &Messages) -> Option<u64> {
        /// Separators and priming, generously.
        const PER_MESSAGE: usize = 16;
        if !self.body.tools.is_empty() || self.body.response_format.is_some() {
            return None;
        }
        let mut bytes = PER_MESSAGE;
        for message in messages.iter() {
            let Message { role, content, name, tool_calls, refusal, .. } = &**message;
            let Some(Content::Text(text)) = content else { return None };
            if !tool_calls.is_empty() || refusal.is_some() {
                return None;
            }
            bytes += PER_MESSAGE + role.as_str().len() + text.len() + name.as_ref().map_or(0, String::len);
        }
        Some(bytes as u64)
    }
}
