//! The newest turns, by number.

use async_trait::async_trait;

use super::fit::{Rate, estimate_before, from};
use super::turns::turns;
use super::{Fit, HistoryPolicy, TokenBudget};
use crate::error::{Error, Result};
use crate::types::Messages;

/// Keeps all instructions and the last turns, so many of them, however long they are; older turns go whole.
///
/// A turn is what the user says and everything up to the next thing the user says, so a tool call never loses its
/// results. Nothing is counted: what was left out is told at four bytes a token. To keep within a number of tokens too, put
/// a [`Window`](super::Window) behind it, in a [`PolicyChain`](super::PolicyChain).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use sluicegate::{OptimizedClient, history::LastTurns, testing::Scripted, types::ChatRequest};
/// let llm = OptimizedClient::builder(Scripted::new()).history(LastTurns::new(1)).build()?;
/// let asked = ChatRequest::new("gpt-5-mini").user("An old question.").assistant("An old answer.").user("And now?");
/// assert!(llm.chat(asked).await?.trace().history.trimmed_tokens > 0);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct LastTurns {
    turns: usize,
}

impl LastTurns {
    /// So many turns, the one that is asked included; at least 1.
    pub fn new(turns: usize) -> Self {
        Self { turns }
    }

    /// Where the kept turns begin; `None` when all are kept.
    fn first_kept(&self, messages: &Messages) -> Option<usize> {
        // A turn has a message at least.
        if messages.len() <= self.turns {
            return None;
        }
        let turns = turns(messages);
        let dropped = turns.len().checked_sub(self.turns).filter(|dropped| *dropped > 0)?;
        turns.get(dropped).map(|turn| turn.start)
    }
}

#[async_trait]
impl HistoryPolicy for LastTurns {
    fn settings(&self) -> String {
        match self.turns {
            1 => "the last turn".to_owned(),
            turns => format!("the last {turns} turns"),
        }
    }

    fn check(&self) -> Result<()> {
        if self.turns == 0 {
            return Err(Error::config("history", "turns", 0, "keep at least 1: the last turn is what is asked"));
        }
        Ok(())
    }

    fn fits(&self, messages: &Messages, _: &TokenBudget<'_>) -> bool {
        self.first_kept(messages).is_none()
    }

    async fn fit(&self, messages: Messages, _: &TokenBudget<'_>) -> Result<Fit> {
        let Some(first_kept) = self.first_kept(&messages) else {
            return Ok(Fit::unchanged(messages).carrying_what_is_sent());
        };
        let trimmed = estimate_before(&messages, first_kept, Rate::default());
        // Where a turn begins depends on nothing before it but that there is something, and the last turns of what was kept
        // and what came since are the last turns of all.
        Ok(Fit::unchanged(from(&messages, first_kept)).trimmed(trimmed).carrying_what_is_sent())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::tokens::Tiktoken;
    use crate::types::{ChatRequest, Message, Role};

    async fn fit(turns: usize, messages: &Messages) -> Fit {
        let request = ChatRequest::new("gpt-4o");
        let counter = Tiktoken::new();
        let budget = TokenBudget::new(&request, &counter);
        let policy = LastTurns::new(turns);
        let fit = policy.fit(messages.clone(), &budget).await.unwrap();
        assert_eq!(policy.fits(messages, &budget), fit.messages.ptr_eq(messages));
        assert!(policy.fits(&fit.messages, &budget), "fitting again changes nothing");
        fit
    }

    /// A conversation by the first letters of its roles; each message says where it stands.
    fn said(roles: &str) -> Messages {
        let message = |(at, letter): (usize, char)| match letter {
            's' => Message::system(at.to_string()),
            'u' => Message::user(at.to_string()),
            'a' => Message::assistant(at.to_string()),
            _ => Message::new(Role::Tool, at.to_string()),
        };
        roles.chars().enumerate().map(message).collect()
    }

    fn texts(messages: &Messages) -> Vec<String> {
        messages.iter().map(|message| message.text()).collect()
    }

    #[tokio::test]
    async fn keeps_instructions_and_the_last_turns_whole() {
        let messages = said("suauatatausu");
        assert_eq!(texts(&fit(1, &messages).await.messages), ["0", "9", "10", "11"]);
        let two = fit(2, &messages).await;
        assert_eq!(texts(&two.messages), ["0", "3", "4", "5", "6", "7", "8", "9", "10", "11"]);
        assert!(two.trace.trimmed_tokens == 0 && two.trace.kept_tokens == 0, "two bytes are no token");
        assert!(fit(3, &messages).await.messages.ptr_eq(&messages));
        assert!(fit(50, &messages).await.messages.ptr_eq(&messages));
        assert!(fit(1, &said("ss")).await.messages.len() == 2, "no turn at all");
    }

    #[tokio::test]
    async fn what_it_leaves_out_stays_left_out() {
        let whole = "suauuatatsaauasuaauuattaua";
        for shown in 1..whole.len() {
            for turns in 1..5 {
                let all = said(whole);
                let earlier: Messages = all[..shown].iter().cloned().collect();
                let kept = fit(turns, &earlier).await.messages;
                let since: Messages = kept.iter().chain(&all[shown..]).cloned().collect();
                assert_eq!(fit(turns, &since).await.messages, fit(turns, &all).await.messages, "{shown} {turns}");
            }
        }
    }

    #[test]
    fn none_is_refused() {
        assert_eq!(LastTurns::new(0).check().unwrap_err().kind(), ErrorKind::Config);
        assert!(LastTurns::new(1).check().is_ok());
    }
}
