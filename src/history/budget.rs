//! What a policy counts with.

use std::sync::Arc;

use super::Carry;
use super::counted::Counted;
use crate::env::Env;
use crate::tokens::TokenCounter;
use crate::types::{ChatBody, Content, Extensions, Message, Messages, Tool};

/// What a policy needs to count with: the request's model, what the prompt costs beside its messages, what the model
/// takes, and how much cheaper the provider bills what it has in its prompt cache.
#[derive(Debug, Clone, Copy)]
pub struct TokenBudget<'a> {
    body: &'a ChatBody,
    counter: &'a dyn TokenCounter,
    // What was set. What was not is looked up when it is asked for: a prompt that fits asks for none of it.
    context: Option<u64>,
    cached_share: Option<f64>,
    env: Option<&'a Env>,
    extensions: Option<&'a Extensions>,
    carried: Option<&'a Carry>,
    counted: Option<&'a Counted>,
}

impl<'a> TokenBudget<'a> {
    /// The budget of this request, by this counter; of the model's window and prices nothing is known.
    pub fn new(body: &'a ChatBody, counter: &'a dyn TokenCounter) -> Self {
        Self {
            body,
            counter,
            context: None,
            cached_share: None,
            env: None,
            extensions: None,
            carried: None,
            counted: None,
        }
    }

    /// The budget of this request in a stack of this [`Env`].
    pub fn of(body: &'a ChatBody, env: &'a Env) -> Self {
        Self { env: Some(env), ..Self::new(body, &**env.counter()) }
    }

    /// Sets what an input token from the provider's prompt cache costs, as a share of another: 0 to 1.
    #[must_use]
    pub fn with_cached_share(mut self, share: f64) -> Self {
        self.cached_share = Some(share.clamp(0.0, 1.0));
        self
    }

    /// Sets how many tokens the model takes.
    #[must_use]
    pub fn with_context(mut self, tokens: u64) -> Self {
        self.context = Some(tokens);
        self
    }

    /// Says what travels with the request.
    #[must_use]
    pub fn with_extensions(mut self, extensions: &'a Extensions) -> Self {
        self.extensions = Some(extensions);
        self
    }

    /// Says that the messages are of a conversation and begin with what a policy carried.
    #[must_use]
    pub fn with_carried(self, carry: &'a Carry) -> Self {
        self.carrying(Some(carry))
    }

    /// The same, or that they do not.
    pub(super) fn carrying(mut self, carry: Option<&'a Carry>) -> Self {
        self.carried = carry;
        self.counted = carry.and_then(|carry| carry.counted.as_deref());
        self
    }

    /// Says what some of the messages took, whatever they begin with.
    pub(super) fn knowing(mut self, counted: Option<&'a Counted>) -> Self {
        self.counted = counted;
        self
    }

    /// What the policy carried when it was last asked about this conversation, if the messages begin with it: then the
    /// note there speaks of them. A policy that does not know the note takes the messages as they are.
    pub fn carried(&self) -> Option<&'a Carry> {
        self.carried
    }

    /// The stack's time and tasks, for a policy that waits or works in the background; `None` outside a stack.
    pub fn env(&self) -> Option<&'a Env> {
        self.env
    }

    /// A control that travels with the request, such as its [`Tenant`](crate::types::Tenant).
    pub fn extension<T: std::any::Any + Send + Sync>(&self) -> Option<&'a T> {
        self.extensions.and_then(Extensions::get)
    }

    /// The model asked.
    pub fn model(&self) -> &'a str {
        &self.body.model
    }

    /// The tools of the request.
    pub(super) fn tools(&self) -> &'a [Tool] {
        &self.body.tools
    }

    /// How many tokens the model takes, if that is known.
    pub fn context(&self) -> Option<u64> {
        self.context.or_else(|| self.env?.contexts().get(self.model()))
    }

    /// How many tokens the request allows the reply, if it sets a limit.
    pub fn output_limit(&self) -> Option<u64> {
        self.body.max_completion_tokens.or(self.body.max_tokens).map(u64::from)
    }

    /// What an input token from the provider's prompt cache costs, as a share of another: 1 where no price is known.
    pub fn cached_share(&self) -> f64 {
        let listed = || {
            let price = self.env?.prices().get(self.model()).filter(|price| price.input > 0.0)?;
            Some((price.cached_input / price.input).clamp(0.0, 1.0))
        };
        self.cached_share.or_else(listed).unwrap_or(1.0)
    }

    /// What some of the messages took, if they were counted as they would be now.
    pub(super) fn counted(&self) -> Option<&'a Counted> {
        let counter = self.counter_of_stack()?;
        self.counted.filter(|counted| counted.is_by(counter, self.model()))
    }

    /// The counter, where it can be told from others.
    pub(super) fn counter_of_stack(&self) -> Option<&'a Arc<dyn TokenCounter>> {
        self.env.map(Env::counter)
    }

    /// The tokens of one message.
    pub fn message(&self, message: &Message) -> u64 {
        self.counter.message(&self.body.model, message)
    }

    /// The tokens of a text.
    pub fn text(&self, text: &str) -> u64 {
        self.counter.text(&self.body.model, text)
    }

    /// The tokens of the prompt beside its messages: tools, response format, what primes the reply.
    pub fn overhead(&self) -> u64 {
        self.counter.overhead(self.body)
    }

    /// The tokens of a prompt of these messages.
    pub fn prompt(&self, messages: &Messages) -> u64 {
        messages.iter().fold(self.overhead(), |sum, message| sum.saturating_add(self.message(message)))
    }

    /// Whether a prompt of these messages certainly takes no more than this, found without counting: no token is shorter
    /// than a byte. `false` when only counting can tell.
    pub fn surely_within(&self, messages: &Messages, limit: u64) -> bool {
        /// Separators and priming, generously.
        const PER_MESSAGE: usize = 16;
        if !self.body.tools.is_empty() || self.body.response_format.is_some() {
            return false;
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut bytes = PER_MESSAGE;
        // A long conversation is not walked to its end once it is too long.
        messages.iter().all(|message| {
            let Message { role, content, name, tool_calls, refusal, .. } = &**message;
            let Some(Content::Text(text)) = content else { return false };
            bytes += PER_MESSAGE + role.as_str().len() + text.len() + name.as_ref().map_or(0, String::len);
            tool_calls.is_empty() && refusal.is_none() && bytes <= limit
        }) && bytes <= limit
    }
}
