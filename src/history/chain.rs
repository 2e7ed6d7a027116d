//! Several policies, one after the other.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Fit, HistoryPolicy, TokenBudget};
use crate::error::{Error, Result};
use crate::types::{HistoryTrace, Messages};

/// Several policies, in order: each sees what the former one left.
///
/// What was left out adds up in the trace; what the prompt takes is told as the last one that counted it did, if none
/// changed it after. The first that refuses ends the chain.
///
/// ```
/// use sluicegate::history::{LastTurns, PolicyChain, Window};
/// // Never more than 50 turns, and never more than 8,000 tokens.
/// let policy = PolicyChain::new().then(LastTurns::new(50)).then(Window::tokens(8_000));
/// # let _ = policy;
/// ```
#[derive(Debug, Clone, Default)]
pub struct PolicyChain {
    policies: Vec<Arc<dyn HistoryPolicy>>,
}

impl PolicyChain {
    /// A chain without policies, which is refused as it stands: add some with [`then`](Self::then).
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a policy behind those there are.
    #[must_use]
    pub fn then(mut self, policy: impl HistoryPolicy) -> Self {
        self.policies.push(Arc::new(policy));
        self
    }
}

#[async_trait]
impl HistoryPolicy for PolicyChain {
    fn settings(&self) -> String {
        self.policies.iter().map(|policy| policy.settings()).collect::<Vec<_>>().join(", then ")
    }

    fn check(&self) -> Result<()> {
        if self.policies.is_empty() {
            return Err(Error::config("history", "policies", "[]", "give the chain at least one, or set no history"));
        }
        self.policies.iter().try_for_each(|policy| policy.check())
    }

    fn fits(&self, messages: &Messages, budget: &TokenBudget<'_>) -> bool {
        self.policies.iter().all(|policy| policy.fits(messages, budget))
    }

    // Of one policy it is that one's. Of several it cannot be said, even if each of them drops for good: what a later one
    // dropped, an earlier one no longer sees, and it may decide by it. One that cuts deep once there is too much would cut
    // later if it were shown only what the chain kept. `false` is always right, and costs a walk over the conversation.
    fn drops_for_good(&self) -> bool {
        matches!(&*self.policies, [only] if only.drops_for_good())
    }

    async fn fit(&self, mut messages: Messages, budget: &TokenBudget<'_>) -> Result<Fit> {
        let mut trace = HistoryTrace::default();
        for policy in &self.policies {
            if policy.fits(&messages, budget) {
                continue;
            }
            let fit = policy.fit(messages.clone(), budget).await?;
            if !fit.messages.ptr_eq(&messages) {
                // Of what it changed, the counts of those before it say nothing.
                trace = HistoryTrace { kept_tokens: 0, expected_cached_tokens: 0, ..trace };
            }
            trace = trace.then(fit.trace);
            messages = fit.messages;
        }
        Ok(Fit { messages, trace })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::history::turns::turns;
    use crate::history::{KeepAll, LastTurns, Window};
    use crate::tokens::{Tiktoken, TokenCounter};
    use crate::types::ChatRequest;

    fn talk(turns: usize) -> ChatRequest {
        let request = ChatRequest::new("gpt-4o").system("Be brief.");
        (0..turns).fold(request, |request, turn| {
            let request = request.user(format!("Question number {turn}, in a few words."));
            if turn + 1 < turns { request.assistant(format!("Answer number {turn}.")) } else { request }
        })
    }

    async fn fit(policy: &impl HistoryPolicy, request: &ChatRequest) -> Result<Fit> {
        let counter = Tiktoken::new();
        policy.fit(request.messages.clone(), &TokenBudget::new(request, &counter)).await
    }

    #[tokio::test]
    async fn each_sees_what_the_former_left() {
        let request = talk(20);
        let counter = Tiktoken::new();
        let chain = PolicyChain::new().then(LastTurns::new(10)).then(Window::tokens(80));
        let both = fit(&chain, &request).await.unwrap();
        let alone = fit(&Window::tokens(80), &request).await.unwrap();
        assert_eq!(both.messages, alone.messages);
        let mut sent = request.clone();
        sent.messages = both.messages.clone();
        assert_eq!(u64::from(both.trace.kept_tokens), counter.request(&sent));
        let first = fit(&LastTurns::new(10), &request).await.unwrap().trace.trimmed_tokens;
        assert!(both.trace.trimmed_tokens > first, "what both left out adds up");
        assert!(fit(&chain, &sent).await.unwrap().messages.ptr_eq(&both.messages), "fitting again changes nothing");
    }

    #[tokio::test]
    async fn a_count_is_not_told_of_what_was_changed_after() {
        let chain = PolicyChain::new().then(Window::tokens(200)).then(LastTurns::new(1));
        let fit = fit(&chain, &talk(20)).await.unwrap();
        assert_eq!(fit.messages.len(), 2);
        assert_eq!(fit.trace.kept_tokens, 0);
    }

    #[tokio::test]
    async fn fits_when_all_fit_and_refuses_when_one_does() {
        let request = talk(3);
        let counter = Tiktoken::new();
        let budget = TokenBudget::new(&request, &counter);
        let chain = |turns, tokens| PolicyChain::new().then(LastTurns::new(turns)).then(KeepAll::tokens(tokens));
        assert!(chain(3, 1_000).fits(&request.messages, &budget));
        assert!(!chain(2, 1_000).fits(&request.messages, &budget));
        assert!(!chain(3, 50).fits(&request.messages, &budget));
        assert!(fit(&chain(3, 1_000), &request).await.unwrap().messages.ptr_eq(&request.messages));
        assert_eq!(fit(&chain(3, 20), &request).await.unwrap_err().kind(), ErrorKind::ContextLength);
    }

    #[test]
    fn an_empty_chain_or_a_wrong_link_is_refused() {
        assert_eq!(PolicyChain::new().check().unwrap_err().kind(), ErrorKind::Config);
        assert!(PolicyChain::new().then(Window::tokens(10)).then(LastTurns::new(0)).check().is_err());
        let chain = PolicyChain::new().then(LastTurns::new(50)).then(Window::tokens(8_000));
        assert!(chain.check().is_ok());
        assert_eq!(chain.settings(), "the last 50 turns, then window, 8000 tokens");
    }

    /// Lets four turns come together, then keeps two: shown all or what it kept and what came since, it decides the same.
    #[derive(Debug)]
    struct Deep;

    #[async_trait]
    impl HistoryPolicy for Deep {
        fn settings(&self) -> String {
            "deep".into()
        }

        fn check(&self) -> Result<()> {
            Ok(())
        }

        fn fits(&self, _: &Messages, _: &TokenBudget<'_>) -> bool {
            false
        }

        fn drops_for_good(&self) -> bool {
            true
        }

        async fn fit(&self, messages: Messages, budget: &TokenBudget<'_>) -> Result<Fit> {
            let kept = (0..turns(&messages).len()).fold(0, |kept, _| if kept == 4 { 2 } else { kept + 1 });
            LastTurns::new(kept).fit(messages, budget).await
        }
    }

    #[tokio::test]
    async fn two_that_drop_for_good_do_not_together() {
        let answered = |turns| talk(turns).assistant("Answer.");
        let later = |kept: Messages| talk(0).messages(kept).user("And now?");
        let kept = fit(&Deep, &answered(4)).await.unwrap().messages;
        assert_eq!(
            fit(&Deep, &later(kept)).await.unwrap().messages,
            fit(&Deep, &later(answered(4).messages.clone())).await.unwrap().messages
        );
        let chain = PolicyChain::new().then(Deep).then(LastTurns::new(3));
        let kept = fit(&chain, &answered(4)).await.unwrap().messages;
        let of_kept = fit(&chain, &later(kept)).await.unwrap().messages;
        let of_all = fit(&chain, &later(answered(4).messages.clone())).await.unwrap().messages;
        assert_ne!(of_kept, of_all);
        assert!(!chain.drops_for_good());
        assert!(PolicyChain::new().then(Deep).drops_for_good());
    }
}
