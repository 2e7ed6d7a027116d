//! What happened to a call on its way, told with its answer.

use std::fmt;
use std::time::Duration;

use super::Cost;

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Source {
    /// The wrapped client was called for this answer.
    #[default]
    Upstream,
    /// A cache tier had it; its name.
    Cache(&'static str),
    /// Another caller's equal request was in flight, and its answer served this one too.
    Coalesced,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream => f.write_str("upstream"),
            Self::Cache(tier) => write!(f, "{tier} hit"),
            Self::Coalesced => f.write_str("coalesced"),
        }
    }
}

/// What became of a conversation before it was sent, in tokens as the configured counter counts them. All zero where
/// nothing had to be done: what fits is not even counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HistoryTrace {
    /// Tokens of the prompt as it was sent; 0 when it was not counted.
    pub kept_tokens: u32,
    /// Tokens of messages that were left out. Where counting them would have cost more than it tells, an estimate.
    pub trimmed_tokens: u32,
    /// Tokens of messages that a summary stands for.
    pub summarized_tokens: u32,
    /// Tokens that normalisation saved.
    pub normalized_tokens: u32,
    /// Tokens of the prompt that the provider should have in its prompt cache from the call before, where a policy keeps
    /// account of that. What it billed so is in the answer's [`Usage`](super::Usage).
    pub expected_cached_tokens: u32,
    /// Messages that were shortened, 65,535 at most.
    pub shortened: u16,
    /// Messages that were put right, left out or added, because the conversation came broken; 65,535 at most.
    pub repaired: u16,
}

impl HistoryTrace {
    /// What two steps one after the other did: the later one's prompt is what was sent.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        let last = |earlier: u32, later: u32| if later > 0 { later } else { earlier };
        Self {
            kept_tokens: last(self.kept_tokens, later.kept_tokens),
            trimmed_tokens: self.trimmed_tokens.saturating_add(later.trimmed_tokens),
            summarized_tokens: self.summarized_tokens.saturating_add(later.summarized_tokens),
            normalized_tokens: self.normalized_tokens.saturating_add(later.normalized_tokens),
            expected_cached_tokens: last(self.expected_cached_tokens, later.expected_cached_tokens),
            shortened: self.shortened.saturating_add(later.shortened),
            repaired: self.repaired.saturating_add(later.repaired),
        }
    }
}

/// What happened to one call. Cheap to copy; its `Display` is the one line for a log.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct Trace {
    /// Where the answer came from.
    pub source: Source,
    /// Attempts made upstream for this call; 0 on a hit, and when no retry layer counts them.
    pub attempts: u32,
    /// Time the attempt that answered spent waiting for admission.
    pub queued: Duration,
    /// How old a cached answer is.
    pub age: Option<Duration>,
    /// How long a cached answer is still fresh; zero when it is stale.
    pub ttl_left: Option<Duration>,
    /// Whether a cached answer's life had ended, and it was served all the same.
    pub stale: bool,
    /// What became of the conversation on its way.
    pub history: HistoryTrace,
    /// What was billed for this call; `None` when the model's price or the usage is unknown, zero on a hit.
    pub cost: Option<Cost>,
    /// What a hit or a shared flight saved; `None` when it is unknown, or nothing was saved.
    pub saved: Option<Cost>,
    /// Input and output tokens that a hit or a shared flight saved.
    pub saved_tokens: u64,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.attempts == 1 { "" } else { "s" };
        let stale = if self.stale { ", stale" } else { "" };
        let queued = self.queued.as_millis();
        write!(f, "{}{stale}, {} attempt{plural}, {queued} ms queued", self.source, self.attempts)?;
        if self.source == Source::Upstream {
            match self.cost {
                Some(cost) => write!(f, ", {cost}"),
                None => f.write_str(", cost unknown"),
            }
        } else {
            match self.saved {
                Some(saved) => write!(f, ", {saved} saved"),
                None => f.write_str(", savings unknown"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ChatResponse;

    /// An answer is moved through every layer: one word more, and each move is a call of `memcpy`, which costs a hit a
    /// tenth of its time.
    #[test]
    fn an_answer_is_moved_in_registers() {
        assert!(size_of::<Trace>() <= 128, "{}", size_of::<Trace>());
        assert!(size_of::<ChatResponse>() <= 144, "{}", size_of::<ChatResponse>());
    }
}
