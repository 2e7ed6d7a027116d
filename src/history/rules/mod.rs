//! What providers accept of a conversation, as code that can be checked.

mod alone;
mod check;
mod rule;

use std::fmt;
use std::sync::Arc;

pub(super) use alone::{
    CALL_ID, NAME, has_blank, is_blank, is_function, is_name, plain, says_something, untrimmed, well_named,
};
pub use rule::Rule;

use crate::types::Message;

/// Which [`Rule`]s a conversation must keep: what OpenAI's chat API accepts, or Anthropic's, or both and more.
///
/// | Rule | OpenAI | Anthropic | Strict | Source |
/// |---|---|---|---|---|
/// | [`Rule::Present`] | yes | yes | yes | OpenAI, API reference "Create chat completion": `messages`; Anthropic, API reference "Create a Message": `messages` |
/// | [`Rule::KnownRoles`] | yes | yes | yes | the same, `role` |
/// | [`Rule::NoFunctions`] | | yes | yes | Anthropic, "Create a Message": roles are `user` and `assistant` |
/// | [`Rule::Content`] | yes | yes | yes | OpenAI, "Create chat completion": `content` is required unless the assistant calls tools; an empty list is refused |
/// | [`Rule::TextNotBlank`] | | yes | yes | Anthropic: "all messages must have non-empty content", "text content blocks must contain non-whitespace text" |
/// | [`Rule::Names`] | yes | | yes | OpenAI: `name` matches `^[^\s<\|\\/>]+$`, up to 64 characters |
/// | [`Rule::FunctionNames`] | yes | yes | yes | OpenAI and Anthropic, "Tool use": names match `^[a-zA-Z0-9_-]{1,64}$` |
/// | [`Rule::CallsAnswered`] | yes | yes | yes | OpenAI, "Function calling": every `tool_call_id` is answered before anything else is said; Anthropic, "Tool use": a `tool_result` for each `tool_use` in the next message |
/// | [`Rule::ResultsHaveCalls`] | yes | yes | yes | the same |
/// | [`Rule::CallIds`] | yes | yes | yes | the same: an id is what a result is known by |
/// | [`Rule::CallIdsOnce`] | | yes | yes | Anthropic: "`tool_use` ids must be unique", all messages together |
/// | [`Rule::CallIdsPlain`] | | yes | yes | Anthropic, "Create a Message": `tool_use.id` matches `^[a-zA-Z0-9_-]+$` |
/// | [`Rule::CallIdsShort`] | | | yes | OpenAI and Azure refused ids of more than 40 characters up to 2026 |
/// | [`Rule::InstructionsFirst`] | | yes | yes | Anthropic, "Create a Message": one `system` field, no such role; OpenAI takes instructions anywhere |
/// | [`Rule::UserFirst`] | | yes | yes | Anthropic, "Create a Message": the first message is the user's |
/// | [`Rule::UsersApart`] | | | yes | neither: OpenAI takes them as they are, Anthropic joins them ("consecutive turns will be combined"); chat templates of open models ask for turns that alternate |
/// | [`Rule::AssistantsApart`] | | | yes | the same |
/// | [`Rule::PrefillTrimmed`] | | yes | yes | Anthropic, "Prefill Claude's response": a last assistant message does not end in white space |
/// | [`Rule::UserLast`] | | | yes | Anthropic: newer models take no prefill, "the conversation must end with a user message" |
///
/// `developer` counts as an instruction everywhere, as both providers take it. Instructions are left out of account where
/// it says who is first or last. What is not checked: whether the arguments of calls are JSON, whether tools are declared,
/// and which media a model takes.
///
/// ```
/// use sluicegate::history::{Rule, Rules};
/// use sluicegate::types::{ChatRequest, Message};
///
/// let request = ChatRequest::new("gpt-5-mini").user("Weather?").message(Message::tool("c1", "Rain."));
/// let broken = Rules::openai().check(&request.messages).unwrap_err();
/// assert_eq!((broken.rule(), broken.position()), (Rule::ResultsHaveCalls, 1));
/// // Names of speakers are your own business where no provider of yours minds.
/// let lenient = Rules::openai().without(Rule::Names);
/// # let _ = lenient;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rules(u32);

impl Rules {
    /// What OpenAI's chat completions accept.
    pub fn openai() -> Self {
        use Rule::{CallIds, CallsAnswered, Content, FunctionNames, KnownRoles, Names, Present, ResultsHaveCalls};
        Self::of(&[Present, KnownRoles, Content, Names, FunctionNames, CallsAnswered, ResultsHaveCalls, CallIds])
    }

    /// What Anthropic's messages accept, once translated: instructions to the `system` field, results of tools to the
    /// user's next message.
    pub fn anthropic() -> Self {
        use Rule::{
            CallIdsOnce, CallIdsPlain, InstructionsFirst, NoFunctions, PrefillTrimmed, TextNotBlank, UserFirst,
        };
        let own = [NoFunctions, TextNotBlank, CallIdsOnce, CallIdsPlain, InstructionsFirst, UserFirst, PrefillTrimmed];
        Self(Self::openai().without(Rule::Names).0 | Self::of(&own).0)
    }

    /// Every rule: what it lets pass, all providers accept.
    pub fn strict() -> Self {
        Self::of(&Rule::ALL)
    }

    /// These, and this one.
    #[must_use]
    pub fn and(self, rule: Rule) -> Self {
        Self(self.0 | rule.bit())
    }

    /// These but this one.
    #[must_use]
    pub fn without(self, rule: Rule) -> Self {
        Self(self.0 & !rule.bit())
    }

    /// Whether this rule is one of them.
    pub fn has(self, rule: Rule) -> bool {
        self.0 & rule.bit() != 0
    }

    /// Checks a conversation: one pass, and nothing is allocated but for [`Rule::CallIdsOnce`] (a set of the ids) and where
    /// more than 64 tools are called at once.
    ///
    /// # Errors
    /// The first rule found broken, and where.
    pub fn check(self, messages: &[Arc<Message>]) -> Result<(), Broken> {
        check::check(self, messages)
    }

    fn of(rules: &[Rule]) -> Self {
        Self(rules.iter().fold(0, |bits, rule| bits | rule.bit()))
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Rule::ALL.iter().filter(|rule| self.has(**rule))).finish()
    }
}

impl fmt::Display for Rules {
    /// Their name, or how many they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [("OpenAI's", Self::openai()), ("Anthropic's", Self::anthropic()), ("all", Self::strict())];
        match named.iter().find(|(_, rules)| rules == self) {
            Some((name, _)) => write!(f, "{name} rules"),
            None => write!(f, "{} rules", self.0.count_ones()),
        }
    }
}

/// A conversation breaks a rule. It tells nothing of what was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("messages[{position}] breaks the rule that {}: {}", .rule.words(), .rule.advice())]
pub struct Broken {
    rule: Rule,
    position: usize,
}

impl Broken {
    /// Which rule.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Where: a position in the list, counted from 0; its length where a message is missing at the end.
    pub fn position(&self) -> usize {
        self.position
    }

    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        self.rule.advice()
    }
}

#[cfg(test)]
mod tests;
