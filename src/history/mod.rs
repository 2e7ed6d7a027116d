//! The conversation kept within a token budget, and its prompts brought into one form.
//!
//! On its way down a prompt is put right ([`Repair`]), normalised ([`Normalize`]) and fitted by a [`HistoryPolicy`], in this
//! order; each step is off unless set, and [`Trace::history`](crate::types::Trace::history) tells what they did.
//!
//! # How to add a policy
//!
//! Implement [`HistoryPolicy`]. What it returns must be valid for a provider: instructions stay, a tool call and its
//! results stay or go together, what the user said last and what came of it last are always there, and fitting the result
//! again changes nothing. It must depend on nothing but the messages and the budget: the prompt is the cache's key, and the
//! provider's too. What is valid, [`Rules`] says; `testing::laws::PolicyLaws` (feature `test-util`) hold a policy to all of this.

mod allowance;
mod budget;
mod carry;
mod chain;
mod conversation;
mod counted;
mod fit;
mod keep_all;
mod last_turns;
mod layer;
mod normalize;
mod relevance;
mod repair;
mod rules;
mod sent;
mod shorten;
mod stable;
mod steps;
#[cfg(feature = "summarize")]
mod summarize;
mod turns;
mod window;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

pub use allowance::Allowance;
pub use budget::TokenBudget;
pub use carry::Carry;
pub use chain::PolicyChain;
pub use conversation::Conversation;
pub use fit::Fit;
pub use keep_all::KeepAll;
pub use last_turns::LastTurns;
pub use layer::HistoryLayer;
pub use normalize::Normalize;
pub use relevance::Relevance;
pub use repair::Repair;
pub use rules::{Broken, Rule, Rules};
pub use shorten::Oversized;
pub use stable::{Breakpoints, StableWindow};
#[cfg(feature = "summarize")]
pub use summarize::{Summarize, SummaryRequest, SummaryStats};
pub use window::Window;

use crate::error::Result;
use crate::types::Messages;

/// Decides which messages of a conversation are sent.
#[async_trait]
pub trait HistoryPolicy: fmt::Debug + Send + Sync + 'static {
    /// Its settings in one line, for [`describe`](crate::OptimizedClient::describe).
    fn settings(&self) -> String;

    /// Refuses settings that cannot work; asked once, at `build()`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config): which setting, its value, what to do.
    fn check(&self) -> Result<()>;

    /// Whether it certainly leaves these messages as they are, found without waiting and without much work: then it is not
    /// asked to [`fit`](Self::fit) them. `false` when in doubt. What the conversation carries counts here too.
    fn fits(&self, messages: &Messages, budget: &TokenBudget<'_>) -> bool;

    /// The messages to send. Returns the very same list when nothing is to be done.
    ///
    /// What it carries ([`Fit::carry`]) is shown to it the next time, followed by what is new, in place of all it was shown
    /// now; the prompt must then be the one that all of it would give. So a turn more costs what is new, and not what was
    /// said before. Where it carries nothing, all it was shown is shown again, with what it had carried before.
    ///
    /// # Errors
    /// [`ErrorKind::ContextLength`](crate::ErrorKind::ContextLength) when what must stay does not fit.
    async fn fit(&self, messages: Messages, budget: &TokenBudget<'_>) -> Result<Fit>;
}

/// So that a policy can be shared between clients.
#[async_trait]
impl<P: HistoryPolicy + ?Sized> HistoryPolicy for Arc<P> {
    fn settings(&self) -> String {
        (**self).settings()
    }

    fn check(&self) -> Result<()> {
        (**self).check()
    }

    fn fits(&self, messages: &Messages, budget: &TokenBudget<'_>) -> bool {
        (**self).fits(messages, budget)
    }

    async fn fit(&self, messages: Messages, budget: &TokenBudget<'_>) -> Result<Fit> {
        (**self).fit(messages, budget).await
    }
}
