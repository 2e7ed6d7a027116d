//! Several policies, one after the other.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Carry, Fit, HistoryPolicy, TokenBudget};
use crate::error::{Error, Result};
use crate::types::{HistoryTrace, Message, Messages};

/// Several policies, in order: each sees what the former one left.
///
/// What was left out adds up in the trace; what the prompt takes is told as the last one that counted it did, if none
/// changed it after. The first that refuses ends the chain.
///
/// A summary that one of them wrote is to the later ones a message of the oldest turn, and is left out with it: let these
/// keep more than the one that summarises. What it stood for is then told as left out.
///
/// What a later one expects from the provider's prompt cache is told only where it was given what it was given the last
/// time, followed by what is new.
///
/// A conversation shows the chain what its first policy carries. A later one is shown what it carries itself, as long as
/// what those before it leave begins with what they left the last time; else all that they leave. What a later one carries
/// is not stored with the conversation, so a policy that is dear to start anew, such as one that summarises, goes first.
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

    // What leaves its messages as they are hands on the very same, and of all that it is given a policy needs no note.
    fn fits(&self, messages: &Messages, budget: &TokenBudget<'_>) -> bool {
        let first = budget.carried().map(Carry::of_first);
        let carried = |at| first.as_ref().filter(|_| at == 0);
        let mut policies = self.policies.iter().enumerate();
        policies.all(|(at, policy)| policy.fits(messages, &budget.carrying(carried(at))))
    }

    async fn fit(&self, mut messages: Messages, budget: &TokenBudget<'_>) -> Result<Fit> {
        let (shown, first) = (messages.clone(), budget.carried().map(Carry::of_first));
        let links = budget.carried().and_then(|carry| carry.links.as_deref());
        let mut trace = HistoryTrace::default();
        let (mut carry, mut later) = (None, Vec::new());
        let mut summary = None;
        for (at, policy) in self.policies.iter().enumerate() {
            let input = messages;
            let link = at.checked_sub(1).and_then(|at| links?.later.get(at)?.as_ref());
            let resumed = link.and_then(|link| link.resume(&input));
            let carried = if at == 0 { first.as_ref() } else { resumed.as_ref() };
            let show = resumed.as_ref().map_or_else(|| input.clone(), |carry| carry.messages.clone());
            let mut budget = budget.carrying(carried);
            // What was counted is known whatever it is shown.
            if let Some(link) = link {
                budget = budget.knowing(link.carry.counted.as_deref());
            }
            let mut fit =
                if policy.fits(&show, &budget) { Fit::unchanged(show) } else { policy.fit(show, &budget).await? };
            if !fit.messages.ptr_eq(&input) {
                // Of what it changed, the counts of those before it say nothing.
                trace = HistoryTrace { kept_tokens: 0, expected_cached_tokens: 0, ..trace };
            }
            if at > 0 && resumed.is_none() && !input.ptr_eq(&shown) {
                // It takes what it was given for the former prompt and what came since, and that it may not be.
                fit.trace.expected_cached_tokens = 0;
            }
            if fit.trace.summarized_tokens > 0 {
                summary = beginning(&fit.messages);
            } else if trace.summarized_tokens > 0 && beginning(&fit.messages) != summary {
                // Who left the summary out left out what it stood for.
                trace.trimmed_tokens = trace.trimmed_tokens.saturating_add(trace.summarized_tokens);
                trace.summarized_tokens = 0;
            }
            trace = trace.then(fit.trace);
            messages = fit.messages;
            if at == 0 {
                carry = fit.carry;
            } else {
                later.push(fit.carry.or(resumed).map(|carry| Link { input, carry }));
            }
        }
        if carry.is_some() || later.iter().any(Option::is_some) {
            let carry = carry.unwrap_or_else(|| first.unwrap_or_default().shown(shown));
            let links = Links { first: carry.links.clone(), later };
            return Ok(Fit { messages, trace, carry: Some(Carry { links: Some(Arc::new(links)), ..carry }) });
        }
        Ok(Fit { messages, trace, carry: None })
    }
}

/// How the first message that is no instruction begins: a summary stands there. One that was shortened begins as it did.
fn beginning(messages: &Messages) -> Option<String> {
    const TOLD_BY: usize = 32;
    let first = messages.iter().find(|message| !message.role.is_instruction())?;
    Some(first.text().chars().take(TOLD_BY).collect())
}

/// What the policies of a chain carry beside the first one's messages and note.
#[derive(Debug)]
pub(super) struct Links {
    /// The first policy's own, where it is a chain too.
    first: Option<Arc<Links>>,
    /// Of each policy after it.
    later: Vec<Option<Link>>,
}

/// What a later policy was given, and what it would be shown in place of that.
#[derive(Debug)]
struct Link {
    input: Messages,
    carry: Carry,
}

impl Link {
    /// What to show in place of this input, if it is the former one and what came since.
    fn resume(&self, input: &Messages) -> Option<Carry> {
        let same = |(now, before): (&Arc<Message>, &Arc<Message>)| Arc::ptr_eq(now, before) || now == before;
        let since = input.get(self.input.len()..)?;
        if !input.iter().zip(self.input.iter()).all(same) {
            return None;
        }
        let mut messages = self.carry.messages.clone();
        if !since.is_empty() {
            messages.make_mut().extend_from_slice(since);
        }
        Some(self.carry.shown(messages))
    }
}

impl Carry {
    /// What the first policy of a chain carried, of what the chain did.
    fn of_first(&self) -> Self {
        let links = self.links.as_ref().and_then(|links| links.first.clone());
        Self { links, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::error::ErrorKind;
    use crate::history::turns::turns;
    use crate::history::{KeepAll, LastTurns, StableWindow, Window};
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

    /// A summary of all but the last four turns.
    #[derive(Debug)]
    struct Tells;

    #[async_trait]
    impl HistoryPolicy for Tells {
        fn settings(&self) -> String {
            "tells".into()
        }

        fn check(&self) -> Result<()> {
            Ok(())
        }

        fn fits(&self, _: &Messages, _: &TokenBudget<'_>) -> bool {
            false
        }

        async fn fit(&self, messages: Messages, budget: &TokenBudget<'_>) -> Result<Fit> {
            let mut fit = LastTurns::new(4).fit(messages, budget).await?;
            fit.messages
                .make_mut()
                .insert(1, Arc::new(Message::user("Summary of what was said: much of this and that.")));
            fit.trace = HistoryTrace { summarized_tokens: 1_000, ..HistoryTrace::default() };
            Ok(fit)
        }
    }

    #[tokio::test]
    async fn a_summary_that_is_left_out_is_not_told_as_sent() {
        for (turns, sent) in [(4, true), (3, false)] {
            let chain = PolicyChain::new().then(Tells).then(LastTurns::new(turns)).then(KeepAll::tokens(10_000));
            let fit = fit(&chain, &talk(20)).await.unwrap();
            let told = fit.messages.iter().any(|message| message.text().starts_with("Summary"));
            assert_eq!(told, sent);
            assert_eq!(fit.trace.summarized_tokens, if sent { 1_000 } else { 0 });
            assert_eq!(fit.trace.trimmed_tokens > 1_000, !sent, "{:?}", fit.trace);
        }
    }

    /// The former prompt of a window that comes after one that moves at every turn is not what that window believes.
    #[tokio::test]
    async fn what_another_moved_is_not_expected_from_the_prompt_cache() {
        for (turns, known) in [(1_000, true), (10, false)] {
            let stable = StableWindow::tokens(8_000).prompt_cache(16, 16);
            let chain = PolicyChain::new().then(LastTurns::new(turns)).then(stable);
            let mut carry = fit(&chain, &talk(20)).await.unwrap().carry.unwrap();
            for turn in 0..3 {
                let request =
                    talk(0).messages(carry.messages.clone()).assistant("So it is.").user(format!("And {turn}?"));
                let now = resumed(&chain, &request, &carry).await;
                assert_eq!(now.trace.expected_cached_tokens > 0, known, "{:?}", now.trace);
                carry = now.carry.unwrap();
            }
        }
    }

    #[test]
    fn an_empty_chain_or_a_wrong_link_is_refused() {
        assert_eq!(PolicyChain::new().check().unwrap_err().kind(), ErrorKind::Config);
        assert!(PolicyChain::new().then(Window::tokens(10)).then(LastTurns::new(0)).check().is_err());
        let chain = PolicyChain::new().then(LastTurns::new(50)).then(Window::tokens(8_000));
        assert!(chain.check().is_ok());
        assert_eq!(chain.settings(), "the last 50 turns, then window, 8000 tokens");
    }

    /// Lets four turns come together, then keeps two: shown all or what it carries and what came since, it decides the same.
    #[derive(Debug, Default)]
    struct Deep {
        shown: Arc<AtomicUsize>,
    }

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

        async fn fit(&self, messages: Messages, budget: &TokenBudget<'_>) -> Result<Fit> {
            self.shown.fetch_add(messages.len(), Relaxed);
            let kept = (0..turns(&messages).len()).fold(0, |kept, _| if kept == 4 { 2 } else { kept + 1 });
            LastTurns::new(kept).fit(messages, budget).await
        }
    }

    async fn resumed(policy: &impl HistoryPolicy, request: &ChatRequest, carry: &Carry) -> Fit {
        let counter = Tiktoken::new();
        let budget = TokenBudget::new(request, &counter);
        policy.fit(request.messages.clone(), &budget.with_carried(carry)).await.unwrap()
    }

    /// What a policy that cuts deep drops, one before it no longer sees: shown only what both kept, it would cut later.
    #[tokio::test]
    async fn each_is_shown_what_it_carries_itself() {
        let later = |kept: Messages| talk(0).messages(kept).user("And now?");
        let all = talk(4).assistant("Answer.");
        let whole = later(all.messages.clone());
        for nested in [false, true] {
            let chain = PolicyChain::new().then(Deep::default()).then(LastTurns::new(3));
            let chain = if nested { PolicyChain::new().then(chain).then(LastTurns::new(9)) } else { chain };
            let kept = fit(&chain, &all).await.unwrap();
            let carry = kept.carry.unwrap();
            let of_all = fit(&chain, &whole).await.unwrap().messages;
            assert_eq!(resumed(&chain, &later(carry.messages.clone()), &carry).await.messages, of_all);
            assert_ne!(fit(&chain, &later(kept.messages)).await.unwrap().messages, of_all);
            let stored = Carry::of(carry.messages.clone());
            assert_eq!(resumed(&chain, &later(carry.messages), &stored).await.messages, of_all, "and without links");
        }
    }

    #[tokio::test]
    async fn a_later_one_is_shown_what_is_new() {
        let (deep, shown) = (Deep::default(), Arc::new(AtomicUsize::new(0)));
        let chain = PolicyChain::new().then(KeepAll::tokens(100_000)).then(Deep { shown: Arc::clone(&shown) });
        let mut all = talk(500);
        let mut carry = fit(&chain, &all).await.unwrap().carry.unwrap();
        shown.store(0, Relaxed);
        for turn in 0..20 {
            let new = [Message::assistant("So it is."), Message::user(format!("And {turn}?"))];
            let mut request = talk(0).messages(carry.messages.clone());
            for message in new.map(Arc::new) {
                all.messages.push(Arc::clone(&message));
                request.messages.push(message);
            }
            let now = resumed(&chain, &request, &carry).await;
            assert_eq!(now.messages, fit(&deep, &all).await.unwrap().messages);
            carry = now.carry.unwrap();
        }
        assert!(shown.load(Relaxed) < 20 * 12, "{shown:?} messages");
    }
}
