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
    /// Prompt tokens that history trimming kept off the wire; an estimate by the configured counter.
    pub trimmed_tokens: u64,
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
