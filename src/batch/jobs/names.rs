//! What things of one queue are called in Redis. The exclamation mark sets them apart from the entries of a cache under
//! the same prefix; the braces put all of them into one slot of a cluster.

use super::JobId;

#[derive(Debug, Clone)]
pub(super) struct Names(String);

impl Names {
    pub(super) fn new(prefix: &str, queue: &str) -> Self {
        Self(format!("{prefix}!jobs:{{{queue}}}:"))
    }

    fn of(&self, what: &str) -> String {
        format!("{}{what}", self.0)
    }

    /// What can be worked on, and what is.
    pub(super) fn stream(&self) -> String {
        self.of("stream")
    }

    /// What is to wait, by the time it is due.
    pub(super) fn delayed(&self) -> String {
        self.of("delayed")
    }

    /// What could not be done.
    pub(super) fn dead(&self) -> String {
        self.of("dead")
    }

    pub(super) fn job(&self, id: &JobId) -> String {
        format!("{}job:{}", self.0, id.as_str())
    }

    pub(super) fn result(&self, id: &JobId) -> String {
        format!("{}result:{}", self.0, id.as_str())
    }

    /// The key itself may be long, or say something of a customer.
    pub(super) fn idempotency(&self, key: &str) -> String {
        format!("{}once:{}", self.0, blake3::hash(key.as_bytes()).to_hex())
    }
}
