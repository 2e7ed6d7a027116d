//! Conversations that came broken.

use crate::error::Result;
use crate::types::Messages;

/// What to do about a conversation that no provider would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repair {}

impl Repair {
    /// In words.
    pub(super) fn settings(self) -> String {
        "repair".to_owned()
    }

    /// The messages as a provider takes them, and how many had to be put right; the very same list when none.
    ///
    /// # Errors
    /// Which rule is broken, where, when it is not to be put right.
    pub(super) fn apply(self, messages: Messages) -> Result<(Messages, u32)> {
        Ok((messages, 0))
    }
}
