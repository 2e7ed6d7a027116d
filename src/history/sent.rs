//! How a conversation learns what was sent of it.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::types::Messages;

/// Travels with a request of a conversation; the layer writes down what it sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent(Arc<Mutex<Option<Messages>>>);

impl Sent {
    /// The prompt was fitted to this, by a policy that leaves out for good.
    pub(super) fn set(&self, messages: Messages) {
        *self.0.lock() = Some(messages);
    }
}
