//! How a conversation learns what was sent of it.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Carry;
use crate::types::{ChatRequest, Messages};

/// Where the requests of one conversation leave what was sent of it, and the conversation finds it.
#[derive(Clone, Default)]
pub(super) struct Slot(Arc<Mutex<Option<Kept>>>);

/// What a policy carries of the beginning of a conversation.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) carry: Arc<Carry>,
    /// How many messages of the log its messages stand for.
    pub(super) upto: usize,
}

impl Slot {
    /// What was left there since it was last asked.
    pub(super) fn take(&self) -> Option<Kept> {
        self.0.lock().take()
    }

    /// The same, left where it is.
    pub(super) fn peek(&self) -> Option<Kept> {
        self.0.lock().clone()
    }
}

/// Travels with a request of a conversation; the layer writes down what it sent.
#[derive(Clone)]
pub(super) struct Sent {
    slot: Slot,
    /// What the request shows, and of whom it asks.
    messages: Messages,
    /// What they begin with, if a policy had to do with them.
    carry: Option<Arc<Carry>>,
    template: Arc<ChatRequest>,
    upto: usize,
}

impl Sent {
    /// Of a request that shows these messages in place of so many of the log.
    pub(super) fn new(
        slot: Slot,
        messages: Messages,
        carry: Option<Arc<Carry>>,
        template: ChatRequest,
        upto: usize,
    ) -> Self {
        Self { slot, messages, carry, template: Arc::new(template), upto }
    }

    /// What the policy carried into this request.
    pub(super) fn carried(&self) -> Option<&Carry> {
        self.carry.as_deref()
    }

    /// Whether this is still the conversation's own request: nobody on its way has given it other messages, nor anything
    /// else that changes how many of them fit.
    pub(super) fn is_of(&self, request: &ChatRequest) -> bool {
        request.messages.ptr_eq(&self.messages)
            && request.model == self.template.model
            && request.tools == self.template.tools
            && request.response_format == self.template.response_format
            && request.output_limit() == self.template.output_limit()
    }

    /// The policy shall be shown this the next time.
    pub(super) fn set(&self, carry: Carry) {
        let nothing_new = carry.messages.ptr_eq(&self.messages) && carry.is_plain();
        if nothing_new && self.carried().is_none_or(Carry::is_plain) {
            return;
        }
        let mut place = self.slot.0.lock();
        // A request that was under way for long does not undo what a later one left.
        if place.as_ref().is_none_or(|kept| kept.upto <= self.upto) {
            *place = Some(Kept { carry: Arc::new(carry), upto: self.upto });
        }
    }
}
