//! Conversations that came broken.

mod calls;
mod ids;
mod single;
mod speakers;

use super::{Broken, Rule, Rules};
use crate::error::{Error, ErrorKind, Result};
use crate::types::Messages;

/// What to do about a conversation that no provider would take: put it right, or refuse it before it is sent.
///
/// A conversation that keeps the [`Rules`] passes as it is, at the cost of one look at each message. Of a broken one
/// nothing is lost in silence: [`HistoryTrace::repaired`](crate::types::HistoryTrace::repaired) counts the messages that
/// were changed, moved, left out or added, once for each of these steps:
///
/// | Broken | Put right |
/// |---|---|
/// | an unknown role | `human` is the user, `ai`, `bot` and `model` are the assistant; any other is a user of that name |
/// | `function` messages, where no longer taken | they become tool messages, the calls tool calls |
/// | no content, blank text | left out; what the user said or a tool returned becomes "(empty)", for that it came means something |
/// | names of speakers or functions | other characters become `_`, too long ones are cut |
/// | results apart from their call | moved next to it |
/// | a call without a result | stays, with a result that says that none came; one that comes later takes its place |
/// | a result without a call | stays a result, behind a call made up for it (`unknown_tool`, or the result's name): as text of the user's it would speak with the user's authority |
/// | a second result for a call | the same; if it equals the first, it is left out |
/// | ids missing, twice, or not as they may be | new ones, in the call and in its result |
/// | instructions in the middle, where not taken | moved to the front |
/// | two users or two assistants in a row, where not taken | joined by an empty line; where their names differ, the text tells them; of unknown fields that both carry, the later's stay |
/// | an assistant first or last, where not taken | a user message before it that says that the beginning is missing; one after it that asks to go on |
///
/// What has no message, or by Anthropic's rules nobody's but instructions, is refused all the same: nothing can be made of
/// it. Repairing what was repaired changes nothing.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use std::sync::Arc;
/// use sluicegate::{LlmClient, OptimizedClient, history::Repair, testing::Scripted, types::{ChatRequest, Message}};
///
/// let upstream = Arc::new(Scripted::new());
/// let client = OptimizedClient::builder(upstream.clone()).repair(Repair::fix()).build()?;
/// let request = ChatRequest::new("gpt-5-mini").user("Weather?").assistant("Let me see.").assistant("Rain.").user("Thanks.");
/// let answer = client.chat(request).await?;
/// assert_eq!(upstream.requests()[0].messages[1].text(), "Let me see.\n\nRain.");
/// assert_eq!(answer.trace().history.repaired, 1);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repair {
    rules: Rules,
    refuses: bool,
}

impl Repair {
    /// Puts right. By OpenAI's rules unless [`rules`](Self::rules) says others, and by two more that do no harm: no blank
    /// text, and no two assistants in a row.
    pub fn fix() -> Self {
        Self { rules: Rules::openai().and(Rule::TextNotBlank).and(Rule::AssistantsApart), refuses: false }
    }

    /// Refuses with [`ErrorKind::InvalidRequest`]: which rule, where, and what to do. By OpenAI's rules unless
    /// [`rules`](Self::rules) says others.
    pub fn refuse() -> Self {
        Self { rules: Rules::openai(), refuses: true }
    }

    /// Sets the rules to keep.
    #[must_use]
    pub fn rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    /// In words.
    pub(super) fn settings(self) -> String {
        let verb = if self.refuses { "refuse what breaks" } else { "repair by" };
        format!("{verb} {}", self.rules)
    }

    /// The messages as a provider takes them, and how many had to be put right; the very same list when none.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`]: which rule is broken, where, and what to do, when it is not, or cannot be, put right.
    pub fn apply(self, messages: Messages) -> Result<(Messages, u32)> {
        let Err(broken) = self.rules.check(&messages) else { return Ok((messages, 0)) };
        if self.refuses {
            return Err(refused(broken));
        }
        let mut repaired = 0;
        let mut fixed = single::put_right(self.rules, &messages, &mut repaired);
        if self.rules.has(Rule::InstructionsFirst) {
            fixed = speakers::instructions_first(fixed, &mut repaired);
        }
        fixed = calls::pair(self.rules, fixed, &mut repaired);
        fixed = speakers::join(self.rules, fixed, &mut repaired);
        fixed = speakers::first_and_last(self.rules, fixed, &mut repaired);
        match self.rules.check(&fixed) {
            Ok(()) => Ok((fixed.into_iter().collect(), repaired)),
            Err(broken) => Err(refused(broken)),
        }
    }
}

fn refused(broken: Broken) -> Error {
    Error::new(ErrorKind::InvalidRequest, "history", broken.to_string())
}

#[cfg(test)]
mod tests;
