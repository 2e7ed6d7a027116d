//! A streamed answer: chunks, then exactly one finish, or one error.

mod assemble;
mod chunk;

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_util::{StreamExt, stream};

pub use assemble::Assembler;
pub use chunk::{ChatChunk, ChunkChoice, Delta, FunctionCallDelta, ToolCallDelta};

use super::{ChatResponse, Extensions, Trace, Usage};
use crate::error::{Error, ErrorKind, Result};

/// What a stream yields.
#[derive(Debug, Clone)]
pub enum StreamEvent {
    /// More of the answer. Shared, because several callers may listen to one flight.
    Chunk(Arc<ChatChunk>),
    /// The answer is complete. Always the last item.
    Finish(Box<Finish>),
}

impl StreamEvent {
    /// The new text; empty for a finish.
    pub fn text(&self) -> &str {
        match self {
            Self::Chunk(chunk) => chunk.text(),
            Self::Finish(_) => "",
        }
    }
}

/// The end of a complete answer.
#[derive(Debug, Clone, Default)]
pub struct Finish {
    /// What the answer used, if the provider said so.
    pub usage: Option<Usage>,
    /// What happened to the call on its way.
    pub trace: Trace,
}

type Events = Pin<Box<dyn Stream<Item = Result<StreamEvent>> + Send>>;

/// A streamed answer.
///
/// It yields chunks, then exactly one [`StreamEvent::Finish`], or ends with one error: a source that stops without a
/// finish becomes an error of kind [`Truncated`](ErrorKind::Truncated), so a cut answer is never taken for a whole one.
///
/// Dropping it cancels the call and frees all it holds; what it holds is also freed as soon as it has ended.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use sluicegate::types::{ChatResponse, ChatStream, StreamEvent};
/// let mut stream = ChatStream::from_response(&ChatResponse::from_text("hello"));
/// let mut text = String::new();
/// while let Some(event) = stream.next().await {
///     text.push_str(event.unwrap().text());
/// }
/// assert_eq!(text, "hello");
/// # }
/// ```
pub struct ChatStream {
    events: Option<Events>,
    trace: Trace,
    // Boxed: few streams carry any, and every layer moves the stream.
    extensions: Option<Box<Extensions>>,
}

impl ChatStream {
    /// A stream of these events. Items after the first finish or error are never polled for.
    pub fn new(events: impl Stream<Item = Result<StreamEvent>> + Send + 'static) -> Self {
        Self { events: Some(Box::pin(events)), trace: Trace::default(), extensions: None }
    }

    /// A stream that only fails.
    pub fn failed(error: Error) -> Self {
        Self::new(stream::iter([Err(error)]))
    }

    /// Replays chunks as they once came, then finishes.
    pub fn replay(chunks: Arc<[Arc<ChatChunk>]>, finish: Finish) -> Self {
        let trace = finish.trace;
        let mut finish = Some(Box::new(finish));
        let mut next = 0;
        Self::new(stream::poll_fn(move |_| {
            let event = match chunks.get(next) {
                Some(chunk) => Some(StreamEvent::Chunk(Arc::clone(chunk))),
                None => finish.take().map(StreamEvent::Finish),
            };
            next += 1;
            Poll::Ready(event.map(Ok))
        }))
        .with_trace(trace)
    }

    /// A complete answer as a stream of one chunk.
    pub fn from_response(response: &ChatResponse) -> Self {
        let chunk = Arc::new(ChatChunk::from_completion(response.completion()));
        let finish = Finish { usage: response.usage.clone(), trace: *response.trace() };
        Self::replay(Arc::from([chunk]), finish)
    }

    /// What was known when the stream opened. The whole story is in the [`Finish`].
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Says what is known at the opening.
    #[must_use]
    pub fn with_trace(mut self, trace: Trace) -> Self {
        self.trace = trace;
        self
    }

    /// A fact that a layer or provider tells at the opening, such as [`RateLimits`](super::RateLimits).
    pub fn extension<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.extensions.as_ref()?.get()
    }

    /// Tells a fact at the opening, replacing one of the same type.
    #[must_use]
    pub fn with<T: Any + Send + Sync>(mut self, fact: T) -> Self {
        self.extensions.get_or_insert_default().insert(fact);
        self
    }

    /// Takes what was known at the opening, for a layer that makes other events of these.
    pub(crate) fn opening(&mut self) -> Self {
        Self { events: None, trace: self.trace, extensions: self.extensions.take() }
    }

    /// Puts these events behind an [`opening`](Self::opening).
    pub(crate) fn carrying(self, events: impl Stream<Item = Result<StreamEvent>> + Send + 'static) -> Self {
        Self { events: Some(Box::pin(events)), ..self }
    }

    /// The next event; `None` after the finish or the error. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<StreamEvent>> {
        StreamExt::next(self).await
    }

    /// Keeps `guard` until the stream has ended, failed or is dropped: a permit rides it to its end.
    #[must_use]
    pub fn hold(self, guard: impl Send + Unpin + 'static) -> Self {
        let mut inner = self;
        let mut guard = Some(guard);
        inner.opening().carrying(stream::poll_fn(move |cx| {
            let event = ready!(inner.poll_next_unpin(cx));
            if !matches!(event, Some(Ok(StreamEvent::Chunk(_)))) {
                drop(guard.take());
            }
            Poll::Ready(event)
        }))
    }

    /// Lets a layer look at every event on its way out, and add to the finish.
    #[must_use]
    pub fn inspect(self, mut look: impl FnMut(&mut Result<StreamEvent>) + Send + 'static) -> Self {
        let mut inner = self;
        inner.opening().carrying(inner.map(move |mut event| {
            look(&mut event);
            event
        }))
    }

    /// Reads the stream to its end and puts the answer together.
    ///
    /// # Errors
    /// The stream's own error.
    pub async fn collect(self) -> Result<ChatResponse> {
        self.collect_with(|_| {}).await
    }

    /// The same, showing each chunk as it comes.
    ///
    /// # Errors
    /// The stream's own error.
    pub async fn collect_with(mut self, mut each: impl FnMut(&ChatChunk)) -> Result<ChatResponse> {
        let mut assembler = Assembler::new();
        while let Some(event) = self.next().await {
            // A stream that is replayed never waits by itself.
            tokio::task::coop::consume_budget().await;
            match event? {
                StreamEvent::Chunk(chunk) => {
                    each(&chunk);
                    assembler.push(&chunk);
                }
                StreamEvent::Finish(finish) => {
                    let mut completion = assembler.finish();
                    completion.usage = completion.usage.or(finish.usage);
                    let mut response = ChatResponse::new(completion);
                    *response.trace_mut() = finish.trace;
                    return Ok(response);
                }
            }
        }
        Err(truncated())
    }
}

fn truncated() -> Error {
    Error::new(ErrorKind::Truncated, "stream", "the stream ended before its finish; the answer is not whole")
}

impl Stream for ChatStream {
    type Item = Result<StreamEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(events) = &mut self.events else { return Poll::Ready(None) };
        let event = ready!(events.as_mut().poll_next(cx)).unwrap_or_else(|| Err(truncated()));
        if !matches!(event, Ok(StreamEvent::Chunk(_))) {
            self.events = None;
        }
        Poll::Ready(Some(event))
    }
}

impl fmt::Debug for ChatStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatStream").field("ended", &self.events.is_none()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn chunk(text: &str) -> Result<StreamEvent> {
        Ok(StreamEvent::Chunk(Arc::new(ChatChunk::text_delta("m", text))))
    }

    #[tokio::test]
    async fn a_source_without_finish_is_an_error() {
        let mut stream = ChatStream::new(stream::iter([chunk("a")]));
        assert_eq!(stream.next().await.unwrap().unwrap().text(), "a");
        assert_eq!(stream.next().await.unwrap().unwrap_err().kind(), ErrorKind::Truncated);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn nothing_follows_a_finish() {
        let finish = Ok(StreamEvent::Finish(Box::default()));
        let mut stream = ChatStream::new(stream::iter([finish, chunk("late")]));
        assert!(matches!(stream.next().await, Some(Ok(StreamEvent::Finish(_)))));
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_guard_goes_with_the_finish_and_with_a_drop() {
        struct Flag(Arc<AtomicBool>);
        impl Drop for Flag {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        for finished in [true, false] {
            let freed = Arc::new(AtomicBool::new(false));
            let response = ChatResponse::from_text("x");
            let mut stream = ChatStream::from_response(&response).hold(Flag(Arc::clone(&freed)));
            assert!(stream.next().await.is_some());
            assert!(!freed.load(Ordering::SeqCst));
            if finished {
                assert!(stream.next().await.is_some());
            } else {
                drop(stream);
            }
            assert!(freed.load(Ordering::SeqCst));
        }
    }
}
