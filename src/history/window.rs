//! The newest turns that fit.

use async_trait::async_trait;

use super::turns::turns;
use super::{HistoryPolicy, TokenBudget};
use crate::error::{Error, ErrorKind, Result};
use crate::types::Messages;

/// Keeps all instructions and the newest turns that fit into a number of tokens; older turns go whole.
///
/// A turn is what the user says and everything up to the next thing the user says, so a tool call never loses its
/// results. The last turn always stays; when it does not fit together with the instructions, the call is refused rather
/// than cut. Counted by the configured [`TokenCounter`](crate::tokens::TokenCounter), tools and response format
/// included.
///
/// A prompt whose bytes already fit is not counted at all (no token is shorter than a byte).
///
/// ```
/// use sluicegate::history::Window;
/// // A prompt of at most 7,000 tokens: 8,000 in all, 1,000 of them kept free for the reply.
/// let window = Window::tokens(8_000).reply_reserve(1_000);
/// # let _ = window;
/// ```
#[derive(Debug, Clone)]
pub struct Window {
    tokens: u64,
    reply_reserve: u64,
}

impl Window {
    /// At most so many tokens, the reply reserve included; must be more than the reserve.
    pub fn tokens(tokens: u64) -> Self {
        Self { tokens, reply_reserve: 0 }
    }

    /// Keeps so many of the tokens free for the reply. 0 unless set: set it when the number of tokens is the model's
    /// whole window rather than what you want to spend on a prompt.
    #[must_use]
    pub fn reply_reserve(mut self, tokens: u64) -> Self {
        self.reply_reserve = tokens;
        self
    }

    /// What is left for the prompt.
    fn limit(&self) -> u64 {
        self.tokens.saturating_sub(self.reply_reserve)
    }
}

#[async_trait]
impl HistoryPolicy for Window {
    fn settings(&self) -> String {
        format!("window, {} tokens, {} for the reply", self.tokens, self.reply_reserve)
    }

    fn check(&self) -> Result<()> {
        if self.tokens <= self.reply_reserve {
            let value = format!("{} with a reply reserve of {}", self.tokens, self.reply_reserve);
            let advice = "allow more tokens than the reply reserve, or the prompt has no room";
            return Err(Error::config("history", "window tokens", value, advice));
        }
        Ok(())
    }

    fn fits(&self, messages: &Messages, budget: &TokenBudget<'_>) -> bool {
        budget.upper_bound(messages).is_some_and(|bound| bound <= self.limit())
    }

    async fn fit(&self, messages: Messages, budget: &TokenBudget<'_>) -> Result<Messages> {
        let limit = self.limit();
        let overhead = budget.overhead();
        let counts: Vec<u64> = messages.iter().map(|message| budget.message(message)).collect();
        if overhead + counts.iter().sum::<u64>() <= limit {
            return Ok(messages);
        }
        let turns = turns(&messages);
        let is_instruction = |position: &usize| messages[*position].role.is_instruction();
        let instructions: u64 = (0..messages.len()).filter(is_instruction).map(|position| counts[position]).sum();
        let mut used = overhead + instructions;
        // Newest first; the last turn stays whatever it takes, and is judged after.
        let mut first_kept = messages.len();
        for turn in turns.iter().rev() {
            let cost: u64 = turn.clone().filter(|position| !is_instruction(position)).map(|p| counts[p]).sum();
            if first_kept < messages.len() && used + cost > limit {
                break;
            }
            used += cost;
            first_kept = turn.start;
        }
        if used > limit {
            let text = format!(
                "instructions and the last turn take {used} tokens, {limit} are allowed: shorten them or raise the window"
            );
            return Err(Error::new(ErrorKind::ContextLength, "history", text));
        }
        let kept =
            messages.iter().enumerate().filter(|(at, message)| *at >= first_kept || message.role.is_instruction());
        Ok(kept.map(|(_, message)| message.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::{Tiktoken, TokenCounter};
    use crate::types::{ChatRequest, FunctionCall, Message, Role, ToolCall};

    async fn fit(window: &Window, request: &ChatRequest) -> Result<Vec<String>> {
        let counter = Tiktoken::new();
        let fitted = window.fit(request.messages.clone(), &TokenBudget::new(request, &counter)).await?;
        let mut trimmed = request.clone();
        trimmed.messages = fitted.clone();
        assert!(counter.request(&trimmed) <= window.tokens - window.reply_reserve, "within the budget");
        let again = window.fit(fitted.clone(), &TokenBudget::new(&trimmed, &counter)).await?;
        assert!(again.ptr_eq(&fitted), "fitting again changes nothing");
        Ok(fitted.iter().map(|message| message.text()).collect())
    }

    fn call(id: &str) -> Message {
        let function = FunctionCall { name: "look".into(), arguments: "{}".into(), ..FunctionCall::default() };
        let call = ToolCall { id: id.into(), kind: "function".into(), function, extra: Default::default() };
        Message { tool_calls: vec![call], ..Message::empty(Role::Assistant) }
    }

    #[tokio::test]
    async fn drops_the_oldest_turns_and_keeps_tool_calls_with_their_results() {
        let request = ChatRequest::new("gpt-4o")
            .system("Be brief.")
            .user("first question")
            .assistant("first answer")
            .user("second question")
            .message(call("c1"))
            .message(Message::tool("c1", "a result of several words that takes its room in the window"))
            .assistant("second answer")
            .system("A later rule.")
            .user("third question");
        assert_eq!(fit(&Window::tokens(1_000), &request).await.unwrap().len(), 9);
        let kept = fit(&Window::tokens(70), &request).await.unwrap();
        assert_eq!(kept[..3], ["Be brief.", "second question", ""]);
        assert_eq!(fit(&Window::tokens(40), &request).await.unwrap(), ["Be brief.", "A later rule.", "third question"]);
    }

    #[tokio::test]
    async fn refuses_what_cannot_fit_with_numbers() {
        let request = ChatRequest::new("gpt-4o").system("Be brief.").user("word ".repeat(100));
        let error = fit(&Window::tokens(50), &request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ContextLength);
        assert!(error.to_string().contains("50 are allowed"), "{error}");
    }

    #[tokio::test]
    async fn a_role_of_any_length_counts() {
        let speaker = Message::new(Role::from("a, b; ".repeat(50).as_str()), "hello");
        let request = ChatRequest::new("gpt-4o").user("short").message(speaker);
        assert_eq!(fit(&Window::tokens(100), &request).await.unwrap_err().kind(), ErrorKind::ContextLength);
    }

    #[tokio::test]
    async fn a_prompt_that_fits_by_its_bytes_is_not_counted() {
        #[derive(Debug)]
        struct NeverCounts;
        impl TokenCounter for NeverCounts {
            fn text(&self, _: &str, _: &str) -> u64 {
                panic!("counted")
            }
            fn message(&self, _: &str, _: &Message) -> u64 {
                panic!("counted")
            }
            fn request(&self, _: &crate::types::ChatBody) -> u64 {
                panic!("counted")
            }
        }
        let request = ChatRequest::new("gpt-4o").user("short");
        let budget = TokenBudget::new(&request, &NeverCounts);
        assert!(Window::tokens(100).fits(&request.messages, &budget));
        assert!(!Window::tokens(20).fits(&request.messages, &budget));
    }
}
