//! How much a prompt may take.

use std::fmt;

use super::TokenBudget;
use crate::error::{Error, ErrorKind, Result};

/// How many tokens a prompt may take: a number of them or the model's whole window, less what is kept free.
///
/// ```
/// use sluicegate::history::{Allowance, Window};
/// // A prompt of at most 7,000 tokens: 8,000 in all, 1,000 of them for the reply.
/// let small = Window::within(Allowance::tokens(8_000).reply_reserve(1_000));
/// // Whatever the model takes, less the reply the request allows, less room for the results of tools.
/// let whole = Window::within(Allowance::model().tool_reserve(2_000));
/// # let _ = (small, whole);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    tokens: Option<u64>,
    reply_reserve: Option<u64>,
    tool_reserve: u64,
}

/// What is kept free in a model's window for a reply whose request sets no limit of its own: so much, and at most half.
const REPLY: u64 = 4_096;

impl Allowance {
    /// At most so many tokens, reserves included; must be more than the reserves.
    pub fn tokens(tokens: u64) -> Self {
        Self { tokens: Some(tokens), reply_reserve: Some(0), tool_reserve: 0 }
    }

    /// As many as the model takes, by [`ContextWindows`](crate::tokens::ContextWindows). What is kept free for the reply is
    /// the request's own limit (`max_completion_tokens` or `max_tokens`), or where it sets none 4,096, of a small model half of
    /// what it takes.
    pub fn model() -> Self {
        Self { tokens: None, reply_reserve: None, tool_reserve: 0 }
    }

    /// Keeps so many of the tokens free for the reply. Of a number of tokens nothing is kept free unless this is set.
    #[must_use]
    pub fn reply_reserve(mut self, tokens: u64) -> Self {
        self.reply_reserve = Some(tokens);
        self
    }

    /// Keeps so many of the tokens free for what tools will say before the turn has ended. Nothing unless set.
    #[must_use]
    pub fn tool_reserve(mut self, tokens: u64) -> Self {
        self.tool_reserve = tokens;
        self
    }

    /// Refuses a number of tokens that leaves no room for a prompt.
    pub(super) fn check(&self) -> Result<()> {
        let reserved = self.reply_reserve.unwrap_or(0).saturating_add(self.tool_reserve);
        match self.tokens {
            Some(tokens) if tokens <= reserved => {
                let value = format!("{tokens} with a reserve of {reserved}");
                let advice = "allow more tokens than are reserved, or the prompt has no room";
                Err(Error::config("history", "tokens", value, advice))
            }
            _ => Ok(()),
        }
    }

    /// The tokens this prompt may take, all in all.
    ///
    /// # Errors
    /// [`ErrorKind::ContextLength`] when the model's window is not known, or nothing of it is left.
    pub fn limit(&self, budget: &TokenBudget<'_>) -> Result<u64> {
        let Some(all) = self.tokens.or_else(|| budget.context()) else {
            let model = budget.model();
            let text =
                format!("how many tokens {model:?} takes is not known: set it in ContextWindows, or give a number");
            return Err(Error::new(ErrorKind::ContextLength, "history", text));
        };
        let reply = self.reply_reserve.unwrap_or_else(|| budget.output_limit().unwrap_or(REPLY.min(all / 2)));
        let left = all.saturating_sub(reply.saturating_add(self.tool_reserve));
        if left == 0 {
            let tools = self.tool_reserve;
            let text = format!(
                "of {all} tokens {reply} are kept for the reply and {tools} for tools: no room for a prompt; \
                 set a lower max_tokens or reply_reserve, or tool_reserve"
            );
            return Err(Error::new(ErrorKind::ContextLength, "history", text));
        }
        Ok(left)
    }
}

impl fmt::Display for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tokens {
            Some(tokens) => write!(f, "{tokens} tokens")?,
            None => f.write_str("the model's window")?,
        }
        match self.reply_reserve {
            Some(0) => {}
            Some(tokens) => write!(f, ", {tokens} for the reply")?,
            None => f.write_str(" less the reply")?,
        }
        if self.tool_reserve > 0 {
            write!(f, ", {} for tools", self.tool_reserve)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::Tiktoken;
    use crate::types::ChatRequest;

    #[test]
    fn the_reply_has_what_the_request_allows_or_a_part_of_the_window() {
        let counter = Tiktoken::new();
        let limit = |context, most: Option<u32>| {
            let mut request = ChatRequest::new("house-model");
            request.max_tokens = most;
            Allowance::model().limit(&TokenBudget::new(&request, &counter).with_context(context)).ok()
        };
        assert_eq!((limit(128_000, None), limit(128_000, Some(1_000))), (Some(123_904), Some(127_000)));
        assert_eq!(
            (limit(8_192, None), limit(4_096, None), limit(4_096, Some(4_096))),
            (Some(4_096), Some(2_048), None)
        );
    }
}
