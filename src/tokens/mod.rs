//! How many tokens a text, a message or a request is.

mod context;
mod tiktoken;

use std::fmt;
use std::sync::Arc;

pub use context::ContextWindows;
pub use tiktoken::Tiktoken;

use crate::types::{ChatBody, Message};

/// Counts tokens. Called on async threads: an implementation must not block, and must not panic on any text.
pub trait TokenCounter: fmt::Debug + Send + Sync + 'static {
    /// A bare text.
    fn text(&self, model: &str, text: &str) -> u64;

    /// A message with all it costs beside its text: role, name, tool calls, media.
    fn message(&self, model: &str, message: &Message) -> u64;

    /// A whole prompt: its messages, its tools and response format, and what primes the reply.
    fn request(&self, body: &ChatBody) -> u64;
}

/// So that a counter can be shared between clients.
impl<C: TokenCounter + ?Sized> TokenCounter for Arc<C> {
    fn text(&self, model: &str, text: &str) -> u64 {
        (**self).text(model, text)
    }

    fn message(&self, model: &str, message: &Message) -> u64 {
        (**self).message(model, message)
    }

    fn request(&self, body: &ChatBody) -> u64 {
        (**self).request(body)
    }
}
