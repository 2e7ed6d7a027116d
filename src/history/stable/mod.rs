//! A window that keeps the provider's prompt cache warm.

mod breakpoints;
mod depth;
#[cfg(test)]
mod tests;
mod walk;

use async_trait::async_trait;

pub use breakpoints::Breakpoints;
use depth::{Depth, Prices};
use walk::walk;

use super::counted::Counts;
use super::fit::clamped;
use super::{Allowance, Carry, Fit, HistoryPolicy, Oversized, TokenBudget};
use crate::error::{Error, Result};
use crate::types::Messages;

/// Keeps all instructions and the newest turns, as [`Window`](super::Window) does, but trims rarely and deeply.
///
/// A provider bills the part of a prompt that it saw the call before at a fraction of the price, as long as nothing in it
/// changed. A plain window that is full drops its oldest turn at every call, and every call is billed in full. This one
/// trims nothing while the conversation fits; once it does not, it drops so much that for many calls the prompt only
/// grows. Tools and instructions are not touched.
///
/// # How deep
/// The deeper the trims, the fewer, and the less history on average. How deep is decided at each trim by the model's
/// prices (the stack's [`PriceTable`](crate::types::PriceTable)) and by how fast the conversation grew, `t` tokens a
/// call in a room of `B`. If a trim leaves the share `a` of the room, a token of history costs
/// `f(a) = d + 2(w-d)(t/B)/(1-a^2)` times the price of an input token, `d` being the share billed for a cached one and
/// `w` that for one read anew: on average the room is filled to `(1+a)/2`, each call bills `t` anew, and a trim, which
/// comes every `(1-a)B/t` calls, another `aB`. The largest `a` is taken that is at most [`margin`](Self::margin) dearer
/// than `f(0)`, and at least enough to fill the room on average as far as [`keep_at_least`](Self::keep_at_least) says.
/// Without a discount this is the plain window. That holds for a model without a known price too: set it, or
/// [`cached_price`](Self::cached_price).
///
/// # The same for the same conversation
/// It remembers nothing: it goes through the conversation as it grew and trims where it was outgrown. What was there
/// before a trim has no influence on what comes after it. Turns go whole. Only where the last one does not even fit alone
/// with the instructions, such as an agent's at work, it loses its oldest parts, as deep as turns are dropped: what the user
/// said before, message by message, then the oldest steps (a message of the model and what tools answer to it). What is left
/// of it goes as a whole later. What must stay is the instructions, the user's last message and the newest step; where that
/// does not fit, the call is refused, unless [`oversized`](Self::oversized) says otherwise.
///
/// # Breakpoints
/// For providers that cache only where they are told to, it places `cache_control` on the last leading instruction, on the
/// last message of a user or a tool, and on the last such of the call before: [`Breakpoints`].
///
/// # Cost
/// Linear in the messages, each a hash and a look-up in the counter's memory, or of a
/// [`Conversation`](super::Conversation) not even that where it was counted the last time; a message not seen before is
/// tokenized, even if it is long gone from the prompt: an old conversation must be counted from its beginning once. A prompt too
/// short for the provider's cache, and without breakpoints, is not counted at all.
///
/// ```
/// use sluicegate::history::StableWindow;
/// // A prompt of at most 8,000 tokens, on average filled to at least 80 % of what instructions leave.
/// let window = StableWindow::tokens(8_000).keep_at_least(0.8);
/// # let _ = window;
/// ```
#[derive(Debug, Clone)]
pub struct StableWindow {
    allowance: Allowance,
    fill: f64,
    margin: f64,
    cached: Option<f64>,
    written: Option<f64>,
    shortest: u64,
    step: u64,
    breakpoints: Breakpoints,
    oversized: Oversized,
}

/// What Anthropic bills ("Prompt caching", pricing) for reading from the cache and for writing to it.
const ANTHROPIC: Prices = Prices { cached: 0.1, written: 1.25 };

impl StableWindow {
    /// At most so many tokens.
    pub fn tokens(tokens: u64) -> Self {
        Self::within(Allowance::tokens(tokens))
    }

    /// At most as many tokens as this allows.
    pub fn within(allowance: Allowance) -> Self {
        Self {
            allowance,
            fill: 0.7,
            margin: 0.15,
            cached: None,
            written: None,
            shortest: 1_024,
            step: 128,
            breakpoints: Breakpoints::Auto,
            oversized: Oversized::default(),
        }
    }

    /// How much of the room that tools and instructions leave is to be filled with history, on average over the calls
    /// of a conversation that has outgrown it: a share, 0 to 1. Default 0.7. At 1 it is the plain window.
    #[must_use]
    pub fn keep_at_least(mut self, share: f64) -> Self {
        self.fill = share;
        self
    }

    /// How much dearer a token of history may be than with the deepest trims, so that more of it stays: a share, 0 or
    /// more. Default 0.15: with cached input at a tenth of the price, and turns of a thirtieth of the room, a trim then
    /// leaves a little over half.
    #[must_use]
    pub fn margin(mut self, share: f64) -> Self {
        self.margin = share;
        self
    }

    /// What the provider bills for an input token from its prompt cache, as a share of its plain price: 0 to 1. Unless
    /// set, by the price table; for models with [`Breakpoints`] whose price is not known 0.1, as Anthropic bills.
    #[must_use]
    pub fn cached_price(mut self, share: f64) -> Self {
        self.cached = Some(share);
        self
    }

    /// What it bills for an input token that it reads anew and writes to its prompt cache, as a share of its plain price:
    /// 1 or more. Unless set, 1; for models with [`Breakpoints`] 1.25, as Anthropic bills.
    #[must_use]
    pub fn write_price(mut self, share: f64) -> Self {
        self.written = Some(share);
        self
    }

    /// The shortest prefix that the provider caches, and the steps in which longer ones are, both in tokens; for what is
    /// expected to be billed as cached ([`expected_cached_tokens`](crate::types::HistoryTrace::expected_cached_tokens)).
    /// The step must be at least 1. Default 1,024 and 128, as OpenAI documents ("Prompt caching").
    #[must_use]
    pub fn prompt_cache(mut self, shortest: u64, step: u64) -> Self {
        self.shortest = shortest;
        self.step = step;
        self
    }

    /// Whether prompts carry breakpoints. Default [`Breakpoints::Auto`].
    ///
    /// Where they do, a `cache_control` of `{"type": "ephemeral"}` on the last part of a message is taken for one placed
    /// earlier, and moved on; any other is left alone, and counts among the four that Anthropic allows, as those on tools do. None is placed
    /// before one that lives longer (its `ttl` is not `5m`): Anthropic refuses that order.
    #[must_use]
    pub fn breakpoints(mut self, breakpoints: Breakpoints) -> Self {
        self.breakpoints = breakpoints;
        self
    }

    /// What to do when what must stay takes more than is allowed. Refused unless set.
    ///
    /// What is shortened is shortened anew at each call, so that of such a prompt the provider has no more than
    /// tools and instructions in its cache.
    #[must_use]
    pub fn oversized(mut self, oversized: Oversized) -> Self {
        self.oversized = oversized;
        self
    }

    fn depth(&self, budget: &TokenBudget<'_>) -> Depth {
        let marked = self.breakpoints.serve(budget.model());
        let known = budget.cached_share();
        let usual = if marked && known >= 1.0 { ANTHROPIC.cached } else { known };
        let written = if marked { ANTHROPIC.written } else { 1.0 };
        let prices = Prices { cached: self.cached.unwrap_or(usual), written: self.written.unwrap_or(written) };
        Depth { prices, margin: self.margin, fill: self.fill }
    }

    /// How much of a prefix of so many tokens the provider keeps.
    fn cacheable(&self, tokens: u64) -> u64 {
        if tokens < self.shortest { 0 } else { tokens - tokens.checked_rem(self.step).unwrap_or(0) }
    }
}

#[async_trait]
impl HistoryPolicy for StableWindow {
    fn settings(&self) -> String {
        let fill = self.fill * 100.0;
        let oversized = self.oversized.settings();
        format!("prefix-stable window, {}, filled to {fill:.0} % or more on average{oversized}", self.allowance)
    }

    fn check(&self) -> Result<()> {
        let refuse = |setting: &str, value: f64, remedy: &str| Err(Error::config("history", setting, value, remedy));
        if !(0.0..=1.0).contains(&self.fill) {
            return refuse("keep_at_least", self.fill, "use a share of 0 to 1");
        }
        if !(self.margin.is_finite() && self.margin >= 0.0) {
            return refuse("margin", self.margin, "use a share of 0 or more");
        }
        if let Some(cached) = self.cached.filter(|share| !(0.0..=1.0).contains(share)) {
            return refuse("cached_price", cached, "use a share of the plain price, 0 to 1");
        }
        if let Some(written) = self.written.filter(|share| !(share.is_finite() && *share >= 1.0)) {
            return refuse("write_price", written, "use a multiple of the plain price, 1 or more");
        }
        if self.step == 0 {
            return refuse("prompt_cache step", 0.0, "use at least 1 token");
        }
        self.allowance.check()
    }

    fn fits(&self, messages: &Messages, budget: &TokenBudget<'_>) -> bool {
        // A longer one is counted even if it fits, to tell what should come from the provider's cache.
        let told = |limit: u64| limit.min(self.shortest);
        !self.breakpoints.serve(budget.model())
            && self.allowance.limit(budget).is_ok_and(|limit| budget.surely_within(messages, told(limit)))
    }

    async fn fit(&self, messages: Messages, budget: &TokenBudget<'_>) -> Result<Fit> {
        let limit = self.allowance.limit(budget)?;
        let shortens = self.oversized != Oversized::Refuse;
        let mut counts = Counts::new(&messages, budget);
        let walked = walk(&messages, budget.overhead(), limit, shortens, &self.depth(budget), |at| counts.at(at));
        let (messages, counted) = counts.kept(walked.kept);
        // What went before a trim has no part in what follows it. Carried as it came, neither shortened nor marked.
        let carry = Carry::of(messages.clone()).counted(counted);
        let mut fit = if walked.prompt > limit {
            self.oversized.settle(messages, budget, limit)?
        } else {
            Fit::unchanged(messages).kept(walked.prompt)
        };
        fit.carry = Some(carry);
        if self.breakpoints.serve(budget.model()) {
            fit.messages = breakpoints::place(fit.messages, budget.tools());
        }
        fit.trace.trimmed_tokens = fit.trace.trimmed_tokens.saturating_add(clamped(walked.trimmed));
        fit.trace.expected_cached_tokens = clamped(self.cacheable(walked.warm));
        Ok(fit)
    }
}
