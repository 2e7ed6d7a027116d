//! Everything, as long as it fits.

use async_trait::async_trait;

use super::counted::Counts;
use super::steps::Kept;
use super::{Allowance, Carry, Fit, HistoryPolicy, TokenBudget};
use crate::error::{Error, ErrorKind, Result};
use crate::types::Messages;

/// Sends the whole conversation; with an [`Allowance`], refuses at the call what exceeds it, before it is sent and
/// billed.
///
/// Without an allowance nothing is counted. With one, a prompt whose bytes already fit is not counted either (no token
/// is shorter than a byte).
///
/// ```
/// use sluicegate::history::{Allowance, KeepAll};
/// // Refuses what would leave the model less room than the reply may take.
/// let policy = KeepAll::within(Allowance::model());
/// # let _ = policy;
/// ```
#[derive(Debug, Clone, Default)]
pub struct KeepAll {
    allowance: Option<Allowance>,
}

impl KeepAll {
    /// Whatever it takes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses a prompt of more tokens than these.
    pub fn tokens(tokens: u64) -> Self {
        Self::within(Allowance::tokens(tokens))
    }

    /// Refuses a prompt of more tokens than this allows.
    pub fn within(allowance: Allowance) -> Self {
        Self { allowance: Some(allowance) }
    }
}

#[async_trait]
impl HistoryPolicy for KeepAll {
    fn settings(&self) -> String {
        match &self.allowance {
            Some(allowance) => format!("keep all, at most {allowance}"),
            None => "keep all".to_owned(),
        }
    }

    fn check(&self) -> Result<()> {
        self.allowance.as_ref().map_or(Ok(()), Allowance::check)
    }

    fn fits(&self, messages: &Messages, budget: &TokenBudget<'_>) -> bool {
        let Some(allowance) = &self.allowance else { return true };
        allowance.limit(budget).is_ok_and(|limit| budget.surely_within(messages, limit))
    }

    async fn fit(&self, messages: Messages, budget: &TokenBudget<'_>) -> Result<Fit> {
        let Some(allowance) = &self.allowance else { return Ok(Fit::unchanged(messages)) };
        let limit = allowance.limit(budget)?;
        let mut counts = Counts::new(&messages, budget);
        let used = (0..messages.len()).fold(budget.overhead(), |sum, at| sum.saturating_add(counts.at(at)));
        if used > limit {
            let text = format!(
                "the conversation takes {used} tokens, {limit} are allowed: shorten it, allow more, or set a policy that trims"
            );
            return Err(Error::new(ErrorKind::ContextLength, "history", text));
        }
        let (kept, counted) = counts.kept(Kept::all_from(0));
        Ok(Fit::unchanged(kept.clone()).kept(used).carrying(Carry::of(kept).counted(counted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::Tiktoken;
    use crate::types::ChatRequest;

    #[tokio::test]
    async fn sends_everything_or_refuses_with_numbers() {
        let request = ChatRequest::new("gpt-4o").user("word ".repeat(100)).assistant("Yes.").user("And now?");
        let counter = Tiktoken::new();
        let budget = TokenBudget::new(&request, &counter);
        let used = budget.prompt(&request.messages);
        assert!(KeepAll::new().fits(&request.messages, &budget));
        let fit = KeepAll::tokens(used).fit(request.messages.clone(), &budget).await.unwrap();
        assert!(fit.messages.ptr_eq(&request.messages));
        assert_eq!(u64::from(fit.trace.kept_tokens), used);
        assert!(!KeepAll::tokens(used).fits(&request.messages, &budget), "only counting can tell");
        let error = KeepAll::tokens(used - 1).fit(request.messages.clone(), &budget).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ContextLength);
        let numbers = format!("takes {used} tokens, {} are allowed", used - 1);
        assert!(error.to_string().contains(&numbers), "{error}");
    }

    #[test]
    fn an_allowance_without_room_is_refused() {
        assert_eq!(KeepAll::tokens(0).check().unwrap_err().kind(), ErrorKind::Config);
        assert!(KeepAll::new().check().is_ok());
    }
}
