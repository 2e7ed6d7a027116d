//! What a call used, and what the provider says is left.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Extra;
use super::message::null_as_default;

/// Tokens of one call as the provider counted them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Input tokens, cached ones included.
    #[serde(default, deserialize_with = "null_as_default")]
    pub prompt_tokens: u64,
    /// Output tokens, reasoning included.
    #[serde(default, deserialize_with = "null_as_default")]
    pub completion_tokens: u64,
    /// The sum.
    #[serde(default, deserialize_with = "null_as_default")]
    pub total_tokens: u64,
    /// How the input divides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
    /// How the output divides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens_details: Option<CompletionTokensDetails>,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Usage {
    /// So many input and output tokens.
    pub fn new(prompt_tokens: u64, completion_tokens: u64) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            ..Self::default()
        }
    }

    /// Says how many of the input tokens came from the provider's prompt cache.
    #[must_use]
    pub fn with_cached(mut self, tokens: u64) -> Self {
        self.prompt_tokens_details.get_or_insert_default().cached_tokens = tokens;
        self
    }

    /// Input tokens that the provider served from its prompt cache.
    pub fn cached_tokens(&self) -> u64 {
        self.prompt_tokens_details.as_ref().map_or(0, |details| details.cached_tokens)
    }

    /// Output tokens spent on reasoning.
    pub fn reasoning_tokens(&self) -> u64 {
        self.completion_tokens_details.as_ref().map_or(0, |details| details.reasoning_tokens)
    }
}

/// How input tokens divide.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PromptTokensDetails {
    /// Served from the provider's prompt cache.
    #[serde(default, deserialize_with = "null_as_default")]
    pub cached_tokens: u64,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

/// How output tokens divide.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CompletionTokensDetails {
    /// Spent on reasoning.
    #[serde(default, deserialize_with = "null_as_default")]
    pub reasoning_tokens: u64,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The `x-ratelimit-*` headers of a reply. A value that was absent or nonsense (negative, unreadable) is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimits {
    /// Requests allowed in a window.
    pub limit_requests: Option<u64>,
    /// Requests left.
    pub remaining_requests: Option<u64>,
    /// Until requests are full again.
    pub reset_requests: Option<Duration>,
    /// Tokens allowed in a window.
    pub limit_tokens: Option<u64>,
    /// Tokens left.
    pub remaining_tokens: Option<u64>,
    /// Until tokens are full again.
    pub reset_tokens: Option<Duration>,
}
