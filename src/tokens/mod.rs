//! How many tokens a text, a message or a request is.

mod ahead;
mod context;
mod counters;
mod encoding;
mod estimate;
mod image;
mod media;
mod memo;
mod name;
mod pieces;
mod prompt;
mod tiktoken;
mod words;
mod work;

use std::fmt;
use std::sync::Arc;

pub use ahead::count_ahead;
pub use context::ContextWindows;
pub use counters::Counters;
pub use estimate::Estimate;
pub use tiktoken::Tiktoken;
pub use work::Work;

use crate::types::{ChatBody, Message, Messages};

/// Counts tokens. Called on async threads: an implementation must not block, and must not panic on any text.
///
/// A count depends on its arguments only. No text has more tokens than bytes, and a message without media and tool calls
/// no more than its texts and 16: some who count rely on it. A prompt is cut by the sum of its messages and its
/// [`overhead`](Self::overhead), so [`request`](Self::request) should be that sum: of a counter by which a request is
/// more, prompts come out longer than they may be.
///
/// Two methods are written here already, for a counter that is cheap arithmetic: **whoever wraps another counter, or
/// tokenizes, writes both**. What is written here would count right and hold the async threads up: it does not know what
/// the inner counter remembers.
///
/// ```
/// use sluicegate::tokens::{Tiktoken, TokenCounter};
/// use sluicegate::types::{ChatBody, ChatRequest, Message};
///
/// /// A tenth more than OpenAI's vocabulary counts.
/// #[derive(Debug)]
/// struct Generous(Tiktoken);
///
/// fn more(tokens: u64) -> u64 {
///     tokens.saturating_mul(11).div_ceil(10)
/// }
///
/// impl TokenCounter for Generous {
///     fn text(&self, model: &str, text: &str) -> u64 {
///         more(self.0.text(model, text)).min(text.len() as u64)
///     }
///     fn message(&self, model: &str, message: &Message) -> u64 {
///         more(self.0.message(model, message))
///     }
///     fn request(&self, body: &ChatBody) -> u64 {
///         body.messages.iter().map(|message| self.message(&body.model, message)).sum::<u64>() + self.overhead(body)
///     }
///     fn overhead(&self, body: &ChatBody) -> u64 {
///         more(self.0.overhead(body))
///     }
///     fn uncounted(&self, model: &str, message: &Message) -> usize {
///         self.0.uncounted(model, message)
///     }
/// }
///
/// let counter = Generous(Tiktoken::new());
/// assert_eq!(counter.request(&ChatRequest::new("gpt-5").user("Why is the sky blue?")), 11 + 4);
/// ```
pub trait TokenCounter: fmt::Debug + Send + Sync + 'static {
    /// A bare text.
    fn text(&self, model: &str, text: &str) -> u64;

    /// A message with all it costs beside its text: role, name, tool calls, media.
    fn message(&self, model: &str, message: &Message) -> u64;

    /// A whole prompt: its messages, its tools and response format, and what primes the reply.
    fn request(&self, body: &ChatBody) -> u64;

    /// What a prompt costs beside its messages: tools, response format, what primes the reply. As it stands here it
    /// counts a copy of the request without messages. Write it where [`request`](Self::request) is made of it, or each
    /// would call the other until the stack is full; and where a request without messages is counted as something else,
    /// by a template that puts an instruction in their place or refuses.
    fn overhead(&self, body: &ChatBody) -> u64 {
        self.request(&ChatBody { messages: Messages::new(), ..body.clone() })
    }

    /// How many bytes of this message the counter would have to tokenize to count it now: 0 if it remembers their
    /// counts, or if counting is as cheap as remembering. Parts of unknown kinds may be left out.
    ///
    /// [`count_ahead`] asks, and has the rest counted on other threads. As it stands here, 0, all is counted in place
    /// however long it takes: write it for a counter that takes more than some 10 ns a byte, and let that counter
    /// remember, for what it was asked ahead it is asked again.
    fn uncounted(&self, model: &str, message: &Message) -> usize {
        let _ = (model, message);
        0
    }
}

/// Builds the vocabulary that models of this name are counted with, for all counters of the process: 150 to 300 ms and 52
/// MB for the newer models, once. Blocks; call it at start-up or from `spawn_blocking`. Otherwise the first count does
/// it. For a model that [`Counters`] estimates, does nothing.
///
/// ```
/// sluicegate::tokens::warm_up("gpt-5-mini");
/// ```
pub fn warm_up(model: &str) {
    if counters::is_exact(model) {
        encoding::Encoding::of(model).words();
    }
}

/// So that a counter can be shared between clients.
impl<C: TokenCounter + ?Sized> TokenCounter for Arc<C> {
    fn text(&self, model: &str, text: &str) -> u64 {
        (**self).text(model, text)
    }

    fn message(&self, model: &str, message: &Message) -> u64 {
        (**self).message(model, message)
    }

    fn request(&self, body: &ChatBody) -> u64 {
        (**self).request(body)
    }

    fn overhead(&self, body: &ChatBody) -> u64 {
        (**self).overhead(body)
    }

    fn uncounted(&self, model: &str, message: &Message) -> usize {
        (**self).uncounted(model, message)
    }
}
