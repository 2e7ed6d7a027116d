//! What is part of the key.

use std::time::Instant;

use super::Probe;
use crate::client::ClientInfo;
use crate::types::ChatRequest;

/// What is part of the key.
#[derive(Debug, Clone, Default)]
pub struct KeyPolicy {}

impl KeyPolicy {
    /// The probe of a chat request to this client, at this time.
    pub(super) fn chat(&self, info: &ClientInfo, request: &ChatRequest, now: Instant) -> Probe {
        Probe::chat(info, request, now)
    }
}
