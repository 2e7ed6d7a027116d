//! The newest turns that fit.

use async_trait::async_trait;

use super::counted::Counts;
use super::fit::{Rate, clamped, estimate_before};
use super::steps::{Kept, newest};
use super::turns::turns;
use super::{Allowance, Carry, Fit, HistoryPolicy, Oversized, TokenBudget};
use crate::error::Result;
use crate::types::Messages;

/// Keeps all instructions and the newest turns that fit into a number of tokens; older turns go whole.
///
/// A turn is what the user says and everything up to the next thing the user says, so a tool call never loses its
/// results. Only a turn that does not even fit alone with the instructions, such as an agent's at work, loses its oldest
/// parts: what the user said before, message by message, then the oldest steps (a message of the model and what tools
/// answer to it). What must stay is the instructions, the user's last message and the newest step; where that does not
/// fit, the call is refused, unless [`oversized`](Self::oversized) says otherwise. Counted by the configured
/// [`TokenCounter`](crate::tokens::TokenCounter), tools and response format included.
///
/// A prompt whose bytes already fit is not counted at all (no token is shorter than a byte); of one that does not, the
/// instructions, what is kept, and the newest turn that goes or loses steps; the others that go are told by their length.
///
/// ```
/// use sluicegate::history::{Allowance, Window};
/// // A prompt of at most 7,000 tokens: 8,000 in all, 1,000 of them kept free for the reply.
/// let window = Window::within(Allowance::tokens(8_000).reply_reserve(1_000));
/// # let _ = window;
/// ```
#[derive(Debug, Clone)]
pub struct Window {
    allowance: Allowance,
    oversized: Oversized,
}

impl Window {
    /// At most so many tokens.
    pub fn tokens(tokens: u64) -> Self {
        Self::within(Allowance::tokens(tokens))
    }

    /// At most as many tokens as this allows.
    pub fn within(allowance: Allowance) -> Self {
        Self { allowance, oversized: Oversized::default() }
    }

    /// What to do when what must stay takes more than is allowed. Refused unless set.
    #[must_use]
    pub fn oversized(mut self, oversized: Oversized) -> Self {
        self.oversized = oversized;
        self
    }
}

#[async_trait]
impl HistoryPolicy for Window {
    fn settings(&self) -> String {
        format!("window, {}{}", self.allowance, self.oversized.settings())
    }

    fn check(&self) -> Result<()> {
        self.allowance.check()
    }

    fn fits(&self, messages: &Messages, budget: &TokenBudget<'_>) -> bool {
        self.allowance.limit(budget).is_ok_and(|limit| budget.surely_within(messages, limit))
    }

    async fn fit(&self, messages: Messages, budget: &TokenBudget<'_>) -> Result<Fit> {
        let limit = self.allowance.limit(budget)?;
        let mut counts = Counts::new(&messages, budget);
        let instructions = messages.iter().enumerate().filter(|(_, message)| message.role.is_instruction());
        let mut used = instructions.fold(budget.overhead(), |sum, (at, _)| sum.saturating_add(counts.at(at)));
        let mut rate = Rate::default();
        // Newest first, so that what goes is not even counted; the last turn is judged after.
        let mut kept = Kept::all_from(messages.len());
        let mut lost = 0;
        for turn in turns(&messages).iter().rev() {
            let said = messages.iter().enumerate().take(turn.end).skip(turn.start);
            let said = said.filter(|(_, message)| !message.role.is_instruction());
            let cost = said.fold(0_u64, |sum, (at, message)| {
                let tokens = counts.at(at);
                rate.learn(message, tokens);
                sum.saturating_add(tokens)
            });
            if used.saturating_add(cost) <= limit {
                used = used.saturating_add(cost);
                kept = Kept::all_from(turn.start);
                continue;
            }
            // With the instructions that there were when it was the last. What it lost then it has lost, and what is left of
            // it stays or goes as a whole, whether or not the rest is still shown.
            let instructions = messages.iter().enumerate().take(turn.end);
            let instructions = instructions.filter(|(_, message)| message.role.is_instruction());
            let fixed = instructions.fold(budget.overhead(), |sum, (at, _)| sum.saturating_add(counts.at(at)));
            if fixed.saturating_add(cost) > limit {
                let room = limit.saturating_sub(fixed);
                let (steps, taken) = newest(&messages, turn.clone(), room, |at| counts.at(at));
                let is_last = kept.from == messages.len();
                if is_last || used.saturating_add(taken) <= limit {
                    used = used.saturating_add(taken);
                    kept = steps;
                    lost = cost.saturating_sub(taken).saturating_add(estimate_before(&messages, turn.start, rate));
                    break;
                }
            }
            lost = estimate_before(&messages, kept.from, rate);
            break;
        }
        let (kept, counted) = counts.kept(kept);
        // Whole, or what was shortened would be shortened again from what is left of it.
        let carry = Carry::of(kept.clone()).counted(counted);
        let mut fit =
            if used > limit { self.oversized.settle(kept, budget, limit)? } else { Fit::unchanged(kept).kept(used) };
        fit.trace.trimmed_tokens = fit.trace.trimmed_tokens.saturating_add(clamped(lost));
        Ok(fit.carrying(carry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::tokens::{Tiktoken, TokenCounter};
    use crate::types::{ChatRequest, Content, FunctionCall, Message, Part, Role, ToolCall};

    async fn fit(window: &Window, request: &ChatRequest) -> Result<Vec<String>> {
        let counter = Tiktoken::new();
        let fitted = window.fit(request.messages.clone(), &TokenBudget::new(request, &counter)).await?.messages;
        let mut trimmed = request.clone();
        trimmed.messages = fitted.clone();
        let limit = window.allowance.limit(&TokenBudget::new(request, &counter))?;
        assert!(counter.request(&trimmed) <= limit, "within the budget");
        let again = window.fit(fitted.clone(), &TokenBudget::new(&trimmed, &counter)).await?.messages;
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
        assert_eq!(fit(&Window::tokens(60), &request).await.unwrap(), ["Be brief.", "A later rule.", "third question"]);
        // The second turn did not fit even when it was the last, and lost its call then.
        let kept = fit(&Window::tokens(40), &request).await.unwrap();
        assert_eq!(kept, ["Be brief.", "second question", "second answer", "A later rule.", "third question"]);
        assert_eq!(fit(&Window::tokens(30), &request).await.unwrap(), ["Be brief.", "A later rule.", "third question"]);
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
    async fn what_was_left_out_is_told_about_as_it_counts_whatever_was_kept() {
        let text = "an answer of several words, as they are said every day. ".repeat(20);
        let talk = (0..50).fold(ChatRequest::new("gpt-4o"), |talk, _| talk.user(text.clone()).assistant(text.clone()));
        let image = Content::Parts(vec![Part::text("and this?"), Part::image("https://example.com/a.png")]);
        let image = Message { content: Some(image), ..Message::user("") };
        let counter = Tiktoken::new();
        for last in [image, Message::user("ok"), Message::user(text)] {
            let request = talk.clone().message(last.clone());
            let budget = TokenBudget::new(&request, &counter);
            let trace = Window::tokens(1_000).fit(request.messages.clone(), &budget).await.unwrap().trace;
            let dropped = counter.request(&request) - u64::from(trace.kept_tokens);
            let told = u64::from(trace.trimmed_tokens);
            assert!(told.abs_diff(dropped) < dropped / 2, "{told} told, {dropped} dropped, {last:?} kept");
        }
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
