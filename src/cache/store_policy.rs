//! Which answers may be kept.

use crate::types::{ChatCompletion, ChatRequest, Message};

/// Which answers may be kept.
#[derive(Debug, Clone, Default)]
pub struct StorePolicy {}

impl StorePolicy {
    /// Whether this answer may be kept: every choice came to a proper end, says something, and refuses nothing.
    pub(super) fn takes(&self, _request: &ChatRequest, completion: &ChatCompletion) -> bool {
        let says = |message: &Message| !message.tool_calls.is_empty() || message.texts().any(|text| !text.is_empty());
        completion.is_complete() && completion.choices.iter().all(|c| says(&c.message) && c.message.refusal.is_none())
    }
}
