//! A body of server-sent events as the events of a [`ChatStream`](crate::types::ChatStream).
//!
//! The parser takes bytes however the network cut them. What is added here is the meaning: which event is a chunk,
//! which is an error, and when the answer is whole. It is whole at `[DONE]`; endpoints that never send that are whole
//! when every choice has said why it stopped. Any other end is a truncated answer.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt, future, stream};
use memchr::memchr2_iter;
use sse_stream::{Sse, SseByteStream};
use tokio_util::task::TaskTracker;

use super::{ORIGIN, error, wire};
use crate::env::{Clock, after};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{ChatChunk, Finish, StreamEvent, Trace, Usage};

/// How long the end of the body may follow `[DONE]`. HTTP/1.1 reuses a connection only when its body was read to the
/// end, and that end is nearly always in the same packet; longer than this a new connection is cheaper than the wait.
const LINGER: Duration = Duration::from_millis(10);

/// The events of a streamed answer: chunks, then a finish or an error. No event may be larger than `max_event` bytes.
pub(super) fn chat_events<S>(
    bytes: S,
    max_event: usize,
    clock: impl Clock,
    tasks: TaskTracker,
) -> impl Stream<Item = Result<StreamEvent>>
where
    S: Stream<Item = Result<Bytes>> + Send + 'static,
{
    let events = SseByteStream::new(limited(bytes, max_event));
    let reader = Reader { events: Box::pin(events), usage: None, ended: BTreeMap::new(), clock, tasks };
    stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await;
        Some((event, reader))
    })
}

struct Reader<C> {
    events: Pin<Box<dyn Stream<Item = Result<Sse, sse_stream::Error>> + Send>>,
    usage: Option<Usage>,
    /// The choices seen, and whether each has said why it stopped.
    ended: BTreeMap<u32, bool>,
    clock: C,
    tasks: TaskTracker,
}

impl<C: Clock> Reader<C> {
    async fn next(&mut self) -> Result<StreamEvent> {
        while let Some(block) = self.events.next().await {
            let block = block.map_err(|error| self.spent(broken(error)))?;
            let data = block.data.unwrap_or_default();
            if block.event.as_deref() == Some("error") {
                return Err(self.spent(error::from_body(data.as_bytes())));
            }
            match data.trim() {
                "" => {}
                "[DONE]" => {
                    self.linger().await;
                    return Ok(self.finish());
                }
                _ => {
                    let chunk = wire::apart(&self.tasks, data, wire::chunk).await;
                    return chunk.map(|chunk| self.chunk(chunk)).map_err(|error| self.spent(error));
                }
            }
        }
        if !self.ended.is_empty() && self.ended.values().all(|ended| *ended) {
            return Ok(self.finish());
        }
        let message = "the stream ended before its finish; the answer is not whole";
        Err(self.spent(Error::new(ErrorKind::Truncated, ORIGIN, message)))
    }

    fn chunk(&mut self, chunk: ChatChunk) -> StreamEvent {
        if chunk.usage.is_some() {
            self.usage.clone_from(&chunk.usage);
        }
        for choice in &chunk.choices {
            *self.ended.entry(choice.index).or_default() |= choice.finish_reason.is_some();
        }
        StreamEvent::Chunk(Arc::new(chunk))
    }

    fn finish(&mut self) -> StreamEvent {
        StreamEvent::Finish(Box::new(Finish { usage: self.usage.take(), trace: Trace::default() }))
    }

    /// A broken answer was paid for all the same.
    fn spent(&mut self, error: Error) -> Error {
        match self.usage.take() {
            Some(usage) => error.with_usage(usage),
            None => error,
        }
    }

    async fn linger(&mut self) {
        let until = self.clock.sleep_until(after(self.clock.now(), LINGER));
        let rest = std::pin::pin!(async { while let Some(Ok(_)) = self.events.next().await {} });
        future::select(rest, until).await;
    }
}

fn broken(error: sse_stream::Error) -> Error {
    match error {
        sse_stream::Error::Body(cause) => match cause.downcast::<Error>() {
            Ok(own) => *own,
            Err(_) => Error::new(ErrorKind::Network, ORIGIN, "the connection broke"),
        },
        other => error::undecodable("an event of the stream is not text").with_source(other),
    }
}

/// The same bytes, until one event has grown past `max`. The parser has no limit of its own, so what it may have to
/// keep is measured before it gets it. Events before the one that is too large still come through.
fn limited<S: Stream<Item = Result<Bytes>>>(bytes: S, max: usize) -> impl Stream<Item = Result<Bytes>> {
    let mut meter = Meter { max, event: 0, line: 0, after_cr: false };
    bytes.flat_map(move |chunk| {
        let (fine, failed) = match chunk {
            Ok(chunk) => meter.admit(chunk),
            Err(error) => (Bytes::new(), Some(error)),
        };
        stream::iter([Ok(fine)].into_iter().chain(failed.map(Err)))
    })
}

struct Meter {
    max: usize,
    /// Bytes since the last blank line, line ends not counted.
    event: usize,
    /// Bytes since the last line end.
    line: usize,
    after_cr: bool,
}

impl Meter {
    /// What may pass of this piece, and the error that follows it if not all may.
    fn admit(&mut self, piece: Bytes) -> (Bytes, Option<Error>) {
        let mut whole_events = 0;
        let mut start = 0;
        for end in memchr2_iter(b'\r', b'\n', &piece) {
            self.grow(end - start);
            // The second half of CRLF ends no line.
            let pair = piece[end] == b'\n' && if end == 0 { self.after_cr } else { piece[end - 1] == b'\r' };
            start = end + 1;
            if self.event > self.max {
                break;
            }
            if pair {
                continue;
            }
            if self.line == 0 {
                self.event = 0;
                whole_events = start;
            }
            self.line = 0;
        }
        if self.event <= self.max {
            self.grow(piece.len() - start);
        }
        self.after_cr = piece.last().map_or(self.after_cr, |last| *last == b'\r');
        if self.event <= self.max {
            return (piece, None);
        }
        (piece.slice(..whole_events), Some(error::too_large("an event of the stream", self.max)))
    }

    fn grow(&mut self, bytes: usize) {
        self.line = self.line.saturating_add(bytes);
        self.event = self.event.saturating_add(bytes);
    }
}

#[cfg(test)]
#[path = "sse_tests.rs"]
mod tests;
