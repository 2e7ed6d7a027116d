//! Old turns replaced by a running summary.

mod clip;
mod cuts;
mod deliver;
mod flight;
mod keys;
mod memory;
mod obtain;
mod quote;
mod resume;
mod stats;
mod write;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use stats::SummaryStats;
pub use write::SummaryRequest;

use self::cuts::Counted;
use self::deliver::Prompt;
use self::flight::Flights;
use self::keys::keys;
use self::memory::Memory;
use self::resume::{Resumed, carry};
use self::write::{Writer, least_request};
use super::{Allowance, Fit, HistoryPolicy, TokenBudget};
use crate::client::LlmClient;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::tokens::Tiktoken;
use crate::types::{ChatBody, Messages};

/// Replaces old turns by a running summary, which a client of your choice writes.
///
/// # What it does
/// A prompt that fits is sent as it is. As soon as one would exceed the limit, the conversation is cut before a turn, and
/// everything older goes into the summary: so deep that what stays and the room for the summary take no more than
/// [`low_water`](Self::low_water) of the room that instructions and tools leave. Then the prompt only grows until the next
/// cut, at which the new summary is made of the last one and what was said since. So summaries are rare, and in between
/// the provider's prompt cache stays warm. Instructions always stay, and so does the last turn, whole; if these exceed the
/// limit, the call is refused. Tool calls and their results go together.
///
/// The summary is one message of the user, after the instructions that come before the kept turns. It begins with
/// `Summary of the conversation so far:` and an empty line. It is not an instruction, so that nothing quoted from the
/// conversation gains authority by it. A turn follows it, so it stands before another message of the user: OpenAI takes that
/// and Anthropic joins the two, but not every template of an open model does ([`Rule::UsersApart`](super::Rule::UsersApart)).
/// A summary longer than its room is cut, with a visible mark.
///
/// It places no `cache_control` breakpoints and does not tell what it expects from the provider's prompt cache: a
/// [`StableWindow`](super::StableWindow) of as many tokens behind it, in a [`PolicyChain`](super::PolicyChain), does both,
/// and trims nothing more. The last turn is never shortened, not by such a window either.
///
/// Where a conversation is cut depends on its messages and the limit only, so callers without state, which bring the whole
/// conversation each time, are served as well: summaries are remembered under a hash of all the messages they stand for, and
/// of the call's [`Tenant`](crate::types::Tenant). Equal summaries needed at the same time are written once.
///
/// # When no summary can be had
/// No message is lost for good. If the client fails, panics, answers nothing, or takes longer than the
/// [`time_limit`](Self::time_limit), the prompt is made of the last summary there is and the newest turns since that fit; without any,
/// of the newest turns that fit, as by [`Window`](super::Window). The next attempt covers everything since that
/// last summary. It is made by the first call after [`retry_after`](Self::retry_after), a time that doubles with each failure
/// of the same conversation, up to 64 times as long. A call with a [`Deadline`](crate::types::Deadline) waits no longer than half of what is left
/// of it; the summary is then finished in the background.
///
/// So the prompt depends on the messages, the limit, and which summaries are there: the one exception to the rule that it
/// depends on nothing else.
///
/// # In a conversation
/// A [`Conversation`](super::Conversation) carries the last summary and all that was said since its end, and is stored with
/// them: whoever loads it goes on from there, in another process too, and nothing is summarised again. Where the whole
/// conversation is brought each time, another process writes summaries of its own.
///
/// What was stored is believed of its own conversation only: who can write there decides what that conversation says, its
/// summary too. What it reaches of the summaries remembered here are those of the same tenant that were made of the very
/// same messages; others it can neither read nor change, and another tenant's it cannot delay either.
///
/// # Its own requests
/// They go to the given client, carry a [`SummaryRequest`], the call's tenant and [`Priority`](crate::types::Priority), and the limit
/// of [`summary_tokens`](Self::summary_tokens) on the answer; a model that reasons first needs a higher one. None of them takes more
/// than [`request_tokens`](Self::request_tokens): a long stretch is summarised piece by piece. What was said is quoted as JSON, one line for each message, and declared as data.
/// Media are named, not sent. If the client is the very stack that asks, its own `Summarize` leaves these requests alone;
/// a client that sends the conversation itself back into the stack is refused.
///
/// # Cost
/// Nothing for a prompt that fits by its bytes. Otherwise each message shown costs a look-up of its count, and one that a
/// summary stands for a blake3 hash; of a `Conversation` those since the last summary are shown. What the summaries cost is told by [`stats`](Self::stats), not in the trace of the calls.
///
/// # Cancellation
/// A call that is dropped leaves the summary to the others that wait for it; when nobody does, the request is cancelled. In
/// the [`background`](Self::background) it goes on, until shutdown or until the policy is dropped.
///
/// # Example
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use std::sync::Arc;
/// use sluicegate::{OptimizedClient, history::Summarize, testing::Scripted, types::ChatRequest};
///
/// let writer = Arc::new(Scripted::new().always("The user's name is Ada."));
/// let upstream = Arc::new(Scripted::new());
/// let summarize = Summarize::with(writer.clone(), "gpt-5-nano").tokens(200).summary_tokens(40);
/// let llm = OptimizedClient::builder(upstream.clone()).history(summarize.clone()).build()?;
/// let long = "I have much to say about this. ".repeat(30);
/// llm.chat(ChatRequest::new("gpt-5-mini").user("I am Ada.").assistant(long).user("Who am I?")).await?;
/// let sent = &upstream.requests()[0].messages;
/// assert_eq!(sent[0].text(), "Summary of the conversation so far:\n\nThe user's name is Ada.");
/// assert_eq!(sent[1].text(), "Who am I?");
/// assert_eq!(summarize.stats().summaries, 1);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Summarize {
    allowance: Allowance,
    low_water: f64,
    background: bool,
    writer: Writer,
    memory_bytes: u64,
    memory: Arc<Memory>,
    flights: Arc<Flights>,
    /// For use outside a stack.
    env: Env,
    alive: Arc<Alive>,
}

/// Ends with the last clone of a policy, and its background work with it.
#[derive(Debug, Default)]
struct Alive(CancellationToken);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Summarize {
    /// Summaries written by this client with this model; prompts as long as the model asked takes. A clone shares what
    /// is remembered.
    pub fn with(client: impl LlmClient, model: impl Into<String>) -> Self {
        const MEMORY: u64 = 16 << 20;
        let writer = Writer {
            client: Arc::new(client),
            model: model.into(),
            summary_tokens: 500,
            request_tokens: 16_000,
            time_limit: Duration::from_secs(30),
            pause: Duration::from_secs(10),
        };
        Self {
            allowance: Allowance::model(),
            low_water: 0.5,
            background: false,
            writer,
            memory_bytes: MEMORY,
            memory: Arc::new(Memory::new(MEMORY)),
            flights: Arc::default(),
            env: Env::new(),
            alive: Arc::default(),
        }
    }

    /// Prompts of at most so many tokens.
    #[must_use]
    pub fn tokens(self, tokens: u64) -> Self {
        self.within(Allowance::tokens(tokens))
    }

    /// Prompts of at most as many tokens as this allows. [`Allowance::model`] unless set.
    #[must_use]
    pub fn within(mut self, allowance: Allowance) -> Self {
        self.allowance = allowance;
        self
    }

    /// What a cut leaves, as a share of the room that instructions and tools leave: more than 0, less than 1, 0.5 unless
    /// set. A lower share makes summaries rarer, and tells more by summary.
    #[must_use]
    pub fn low_water(mut self, share: f64) -> Self {
        self.low_water = share;
        self
    }

    /// Summaries of at most so many tokens, at least 16, 500 unless set: about a page. So much room is kept for one at
    /// each cut, and it is the limit that its request sets.
    #[must_use]
    pub fn summary_tokens(mut self, tokens: u32) -> Self {
        self.writer.summary_tokens = tokens;
        self
    }

    /// Requests for summaries of at most so many input tokens, 16,000 unless set: that is within the window of any model
    /// of today. At least 1,000 and four times as many as a summary takes.
    #[must_use]
    pub fn request_tokens(mut self, tokens: u64) -> Self {
        self.writer.request_tokens = tokens;
        self
    }

    /// How long one summary may take, all its requests together; more than zero, 30 seconds unless set. What was
    /// summarised by then is kept up to the end of a turn.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.writer.time_limit = limit;
        self
    }

    /// How long a conversation is left alone after its summary failed; 10 seconds unless set. Twice as long after each
    /// further failure, up to 64 times.
    #[must_use]
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.writer.pause = pause;
        self
    }

    /// No call waits for a summary: it is written in the background, for a later call. Until then the prompt is made of
    /// the summary before and the newest turns that fit.
    #[must_use]
    pub fn background(mut self) -> Self {
        self.background = true;
        self
    }

    /// Remembers so many bytes of summaries, at least 65,536, 16 MiB unless set: some 8,000 summaries of 500 tokens. Those
    /// not asked for go first; a forgotten one is written again when it is needed.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory_bytes = bytes;
        self.memory = Arc::new(Memory::new(bytes));
        self
    }

    /// What it has asked for and spent so far.
    pub fn stats(&self) -> SummaryStats {
        self.memory.tally.stats()
    }
}

#[async_trait]
impl HistoryPolicy for Summarize {
    fn settings(&self) -> String {
        let (model, summary) = (&self.writer.model, self.writer.summary_tokens);
        let background = if self.background { ", in the background" } else { "" };
        let low = self.low_water * 100.0;
        format!("summarize by {model}, {}, cut to {low:.0} %, summaries of {summary}{background}", self.allowance)
    }

    fn check(&self) -> Result<()> {
        let refuse = |setting, value: String, advice| Err(Error::config("history", setting, value, advice));
        self.allowance.check()?;
        let Writer { model, summary_tokens, request_tokens, time_limit, .. } = &self.writer;
        if model.is_empty() {
            return refuse("model", "\"\"".into(), "name the model that writes summaries");
        }
        if !(self.low_water > 0.0 && self.low_water < 1.0) {
            return refuse("low_water", self.low_water.to_string(), "use a share between 0 and 1, such as 0.5");
        }
        if *summary_tokens < 16 {
            return refuse("summary_tokens", summary_tokens.to_string(), "allow a summary at least 16 tokens");
        }
        if *request_tokens < least_request(*summary_tokens) {
            let least = least_request(*summary_tokens);
            let advice = format!("allow at least 1,000 and four times summary_tokens, which is {least}");
            return refuse("request_tokens", request_tokens.to_string(), &advice);
        }
        if time_limit.is_zero() {
            return refuse("time_limit", "0s".into(), "allow a summary some time, such as 30 s");
        }
        if self.memory_bytes < 1 << 16 {
            return refuse("memory", self.memory_bytes.to_string(), "use at least 65,536 bytes");
        }
        // Of a model's window nothing is known yet.
        if let Ok(limit) = self.allowance.limit(&TokenBudget::new(&ChatBody::default(), &Tiktoken::new()))
            && limit as f64 * self.low_water <= f64::from(*summary_tokens)
        {
            let value = format!("{summary_tokens} of {limit} tokens cut to {:.0} %", self.low_water * 100.0);
            return refuse("summary_tokens", value, "a summary must leave room below the low water: make it shorter");
        }
        Ok(())
    }

    // Of what is carried it tells how much the summary stands for, even if all of it fits.
    fn fits(&self, messages: &Messages, budget: &TokenBudget<'_>) -> bool {
        let short =
            |limit| budget.carried().is_none_or(|carry| !carry.summarized) && budget.surely_within(messages, limit);
        budget.extension::<SummaryRequest>().is_some() || self.allowance.limit(budget).is_ok_and(short)
    }

    async fn fit(&self, messages: Messages, budget: &TokenBudget<'_>) -> Result<Fit> {
        if budget.extension::<SummaryRequest>().is_some() {
            return Ok(Fit::unchanged(messages));
        }
        let limit = self.allowance.limit(budget)?;
        let resumed = Resumed::of(&messages, budget);
        let messages = resumed.as_ref().map_or(messages, |resumed| resumed.messages.clone());
        let counted = Counted::of(&messages, budget);
        if resumed.is_none() && counted.whole() <= limit {
            return Ok(Fit::unchanged(messages).kept(counted.whole()));
        }
        let summary_tokens = u64::from(self.writer.summary_tokens);
        let reserve = budget.message(&deliver::message("")).saturating_add(summary_tokens);
        let before = resumed.as_ref().map_or(0, |resumed| resumed.tokens);
        let cuts = counted.cuts(limit, self.low_water, reserve, resumed.as_ref().map(|resumed| resumed.cut));
        let (mut summary, mut carried) = (None, None);
        if let (Some(first), Some(last)) = (cuts.first(), cuts.last()) {
            let starts = counted.turns.iter().map(|turn| turn.start).take_while(|start| start <= last);
            let (keys, conversation) = match &resumed {
                // What was said before the summary's end is known by its key.
                Some(Resumed { summary, key, conversation, .. }) => {
                    let key = self.memory.trusted(&self.root(budget), *key, &summary.text);
                    (keys(&messages, (summary.end, key), starts), Some(*conversation))
                }
                None => {
                    let keys = keys(&messages, (0, self.root(budget)), starts.skip(1));
                    let conversation = keys.iter().find(|(end, _)| end == first).map(|(_, key)| *key);
                    (keys, conversation)
                }
            };
            if let Some(conversation) = conversation {
                let known = resumed.as_ref().map(|resumed| &resumed.summary);
                summary = self.summary(&messages, &keys, conversation, known, budget).await?;
                let carry = |summary| carry(&messages, &counted, summary, &keys, conversation, before);
                carried = summary.as_ref().and_then(carry);
            }
        }
        let prompt = Prompt { messages: &messages, counted: &counted, budget, limit, reserve, before };
        Ok(Fit { carry: carried, ..prompt.assemble(summary.as_ref())? })
    }
}
