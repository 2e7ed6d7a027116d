//! A conversation as a value: its whole log, and the part of it that is still sent.

mod stored;

use std::fmt;
use std::sync::Arc;

use super::Carry;
use super::sent::{Kept, Sent, Slot};
use crate::error::Result;
use crate::types::{ChatChunk, ChatRequest, ChatResponse, ChatStream, Extensions, Message, Messages};

/// A conversation that is asked about turn by turn: it keeps every message, gives the next request, and remembers what
/// was sent the last time, so that a turn costs what is new in it and not what has been said before.
///
/// # What it does
/// The log is all that was ever said; nothing is taken from it but by [`truncate`](Self::truncate). The next
/// [`request`](Self::request) carries its active part: what the client's history policy carried over from the last time
/// ([`Carry`]), and what came since. A summary is part of it, so nothing is summarised twice, not in another process
/// either. A policy that carries nothing is shown the whole log each time. Either way the prompt is the one that sending
/// the whole log would give; only [`trimmed_tokens`](crate::types::HistoryTrace::trimmed_tokens) and
/// [`normalized_tokens`](crate::types::HistoryTrace::normalized_tokens) tell what was done this time, rather than ever.
///
/// A conversation goes on with one client: another one's policy may want what this one's has dropped, so call
/// [`show_all`](Self::show_all) when it changes. A history that had to be repaired, or a request that was changed by
/// hand or by a layer (other messages, model, tools, format or output limit), is answered all the same, and the next
/// request shows what this one showed.
///
/// # When a call fails
/// Nothing is undone: what the user said stays in the log, and the next request says it again. The same when a call or a
/// stream is dropped. To take a question back, [`truncate`](Self::truncate).
///
/// # Several calls at a time
/// Each request is a snapshot. Two made one after the other ask the same (that is how to get a second answer); which
/// answers are said, and in what order, is up to whoever calls [`answered`](Self::answered). A request that comes to its
/// end late never undoes what a later one left.
///
/// # Cost
/// A message more, and the next request, take time in proportion to the active messages at most, and one look at a lock
/// that nobody holds for long. A clone copies the log's references, and goes its own way. To go back behind what the last
/// request showed ([`truncate`](Self::truncate)) shows the whole log once more.
///
/// # Storage
/// It is [`Serialize`](serde::Serialize) and [`Deserialize`](serde::Deserialize): log, active part, the policy's note on
/// it, and the body of the template. Its controls ([`controls_mut`](Self::controls_mut)) are not stored: a tenant or a priority is of this
/// process. What another version of this crate wrote in a form this one does not know is refused with an error that says
/// so; [`Values`](crate::cache::Values) takes what it cannot read for a miss. A cache may forget: give conversations a
/// namespace with a life of its own and a tier that lasts, and what must never be lost to a database. Store it where only
/// you write: who can change it can put words into anybody's mouth there, though not into another conversation.
///
/// # Example
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use sluicegate::history::{Conversation, Window};
/// use sluicegate::{LlmClient, OptimizedClient, cache::Cache, testing::Scripted, types::ChatRequest};
///
/// let llm = OptimizedClient::builder(Scripted::new())
///     .cache(Cache::memory(10_000))
///     .history(Window::tokens(8_000))
///     .build()?;
///
/// let mut talk = Conversation::new(ChatRequest::new("gpt-5-mini").system("Be brief.").max_tokens(500));
/// talk.user("Why is the sky blue?");
/// let answer = llm.chat(talk.request()).await?;
/// talk.answered(&answer);
///
/// // Streamed: said once it is whole.
/// talk.user("And at dusk?");
/// let stream = llm.chat_stream(talk.request()).await?;
/// talk.read(stream, |chunk| { let _shown = chunk.text(); }).await?;
/// assert_eq!(talk.len(), 5);
///
/// // Kept on the tiers of the cache, and taken up again.
/// if let Some(cache) = llm.cache() {
///     let talks = cache.namespace("responses")?.tenant("acme");
///     talks.put("talk-17", talk).await?;
///     let talk = talks.get::<Conversation>("talk-17").await?.expect("it was just put there");
///     let mut talk = Conversation::clone(&talk);
///     talk.user("And on Mars?");
///     assert_eq!(talk.request().messages.len(), 6);
/// }
/// # Ok(()) }
/// ```
pub struct Conversation {
    /// Without messages.
    template: ChatRequest,
    log: Vec<Arc<Message>>,
    active: Active,
    slot: Slot,
}

/// What is still shown of a log.
#[derive(Clone, Default)]
struct Active {
    /// What is carried in place of the log's first `upto` messages, then the others.
    messages: Messages,
    upto: usize,
    carry: Option<Arc<Carry>>,
}

impl Conversation {
    /// A conversation with this model, tools, parameters and controls; its messages are the beginning.
    pub fn new(mut template: ChatRequest) -> Self {
        let messages = std::mem::take(&mut template.messages);
        template.extensions.remove::<Sent>();
        let log = messages.to_vec();
        Self { template, log, active: Active { messages, ..Active::default() }, slot: Slot::default() }
    }

    /// Adds a message.
    pub fn push(&mut self, message: impl Into<Arc<Message>>) {
        self.absorb();
        let message = message.into();
        self.log.push(Arc::clone(&message));
        self.active.messages.push(message);
    }

    /// Adds what the user says.
    pub fn user(&mut self, text: impl Into<String>) {
        self.push(Message::user(text));
    }

    /// Adds instructions. They stay in every prompt, so each of them costs from now on.
    pub fn system(&mut self, text: impl Into<String>) {
        self.push(Message::system(text));
    }

    /// Adds a tool's result.
    pub fn tool(&mut self, call_id: impl Into<String>, text: impl Into<String>) {
        self.push(Message::tool(call_id, text));
    }

    /// Adds the answer: its first choice's message as it came, with tool calls, refusal and fields this crate does not
    /// know (`reasoning_content`). An answer without choices adds nothing.
    pub fn answered(&mut self, answer: &ChatResponse) {
        if let Some(choice) = answer.choices.first() {
            self.push(choice.message.clone());
        }
    }

    /// Reads a streamed answer to its end, showing each chunk as it comes, and adds it.
    ///
    /// # Errors
    /// The stream's own. Then nothing is added.
    ///
    /// # Cancellation
    /// Dropped before its end, it cancels the stream and adds nothing.
    pub async fn read(&mut self, stream: ChatStream, each: impl FnMut(&ChatChunk)) -> Result<ChatResponse> {
        let answer = stream.collect_with(each).await?;
        self.answered(&answer);
        Ok(answer)
    }

    /// The next request: the template with the active messages, and a note by which the client's history layer tells
    /// what it kept of them.
    pub fn request(&mut self) -> ChatRequest {
        self.absorb();
        let mut request = self.template.clone();
        let Active { messages, carry, .. } = self.active.clone();
        request.messages = messages.clone();
        let sent = Sent::new(self.slot.clone(), messages, carry, self.template.clone(), self.log.len());
        request.with(sent)
    }

    /// All that was said, oldest first.
    pub fn messages(&self) -> &[Arc<Message>] {
        &self.log
    }

    /// How many messages were said.
    pub fn len(&self) -> usize {
        self.log.len()
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// How many messages the next request carries.
    pub fn active_len(&self) -> usize {
        self.now().messages.len()
    }

    /// Goes back to the first so many messages, as if no more had been said: to take a question back, to say it in other
    /// words, to ask again. Requests still under way leave no mark. More than there are: nothing happens.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.log.len() {
            return;
        }
        self.absorb();
        let gone = self.log.len() - len;
        self.log.truncate(len);
        if len < self.active.upto {
            return self.show_all();
        }
        let left = self.active.messages.len().saturating_sub(gone);
        self.active.messages.make_mut().truncate(left);
        self.slot = Slot::default();
    }

    /// Shows the whole log in the next request: for when the conversation goes on with another client or policy. Requests
    /// still under way leave no mark.
    pub fn show_all(&mut self) {
        self.active = Active { messages: self.log.iter().cloned().collect(), ..Active::default() };
        self.slot = Slot::default();
    }

    /// What every request begins with: model, tools, parameters and controls, without messages.
    pub fn template(&self) -> &ChatRequest {
        &self.template
    }

    /// Replaces what every request begins with, controls included; its messages are left aside. Another model, other
    /// tools may leave room for more or less, so the next request shows the whole log.
    pub fn set_template(&mut self, mut template: ChatRequest) {
        template.messages = Messages::new();
        template.extensions.remove::<Sent>();
        self.template = template;
        self.show_all();
    }

    /// Asks another model from now on; the next request shows the whole log.
    pub fn set_model(&mut self, model: impl Into<String>) {
        self.template.model = model.into();
        self.show_all();
    }

    /// The controls every request carries ([`Tenant`](crate::types::Tenant), [`Priority`](crate::types::Priority)). They
    /// are not stored: set them again after loading.
    pub fn controls_mut(&mut self) -> &mut Extensions {
        &mut self.template.extensions
    }

    /// Takes over what the latest request left.
    fn absorb(&mut self) {
        if let Some(kept) = self.slot.take().filter(|kept| kept.upto >= self.active.upto) {
            self.active = self.with(kept);
        }
    }

    /// The active part as it is now.
    fn now(&self) -> Active {
        match self.slot.peek().filter(|kept| kept.upto >= self.active.upto) {
            Some(kept) => self.with(kept),
            None => self.active.clone(),
        }
    }

    fn with(&self, Kept { carry, upto }: Kept) -> Active {
        let mut messages = carry.messages.clone();
        let since = self.log.get(upto..).unwrap_or_default();
        if !since.is_empty() {
            messages.make_mut().extend_from_slice(since);
        }
        Active { messages, upto, carry: Some(carry) }
    }
}

/// The copy goes its own way: what is sent of one changes nothing in the other.
impl Clone for Conversation {
    fn clone(&self) -> Self {
        let (template, log) = (self.template.clone(), self.log.clone());
        Self { template, log, active: self.now(), slot: Slot::default() }
    }
}

impl fmt::Debug for Conversation {
    // Prompts are not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Conversation");
        shown.field("model", &self.template.model).field("len", &self.len()).field("active_len", &self.active_len());
        shown.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
