//! The limits of one attempt.

use std::time::{Duration, Instant};

use super::Span;
use crate::env::after;
use crate::error::{Error, ErrorKind, Result};

const NAME: &str = "timeout";

/// Four limits for one attempt, each of which may be off; becomes a [`TimeoutLayer`](super::TimeoutLayer).
///
/// All are measured from the start of the attempt except [`between_chunks`](Self::between_chunks). A limit of zero is
/// refused when the stack is built.
///
/// ```
/// use std::time::Duration;
/// use sluicegate::Timeouts;
/// let patient = Timeouts::standard().first_chunk(Duration::from_secs(300)).between_chunks(None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub(super) connect: Option<Duration>,
    pub(super) first_chunk: Option<Duration>,
    pub(super) between_chunks: Option<Duration>,
    pub(super) total: Option<Duration>,
}

impl Timeouts {
    /// 60 s to open a stream, 120 s to its first content, 60 s between chunks, 600 s in all.
    ///
    /// The total is that of the OpenAI and Anthropic SDKs. The others are generous on purpose, because cutting a model
    /// that is still thinking costs more than waiting for a dead one: the attempt is billed all the same, its retry
    /// costs double budget, and after the first chunk the answer is lost. A reasoning model may think for more than a
    /// minute before it says anything, and pause between text and tool calls. For models that do not reason, 20 to 30 s
    /// each are safe.
    pub fn standard() -> Self {
        Self {
            connect: Some(Duration::from_secs(60)),
            first_chunk: Some(Duration::from_secs(120)),
            between_chunks: Some(Duration::from_secs(60)),
            total: Some(Duration::from_secs(600)),
        }
    }

    /// No limit, to set single ones from.
    pub fn none() -> Self {
        Self { connect: None, first_chunk: None, between_chunks: None, total: None }
    }

    /// Until a stream is open, which means that the head of the reply has arrived; 60 s unless set. The SDKs' 5 s are
    /// for TCP and TLS alone; this one includes the provider's own queue, and some providers hold the head back until
    /// the model begins. Whole answers and embeddings cannot tell when their head arrives: it does not apply to them.
    #[must_use]
    pub fn connect(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.connect = limit.into();
        self
    }

    /// Until the first chunk of a stream that carries content ([`ChatChunk::has_content`]), opening included; 120 s
    /// unless set. Keep-alives, roles and empty pieces do not count. Does not apply to whole answers and embeddings.
    ///
    /// [`ChatChunk::has_content`]: crate::types::ChatChunk::has_content
    #[must_use]
    pub fn first_chunk(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.first_chunk = limit.into();
        self
    }

    /// Between two chunks of a stream once content flows, the finish included; 60 s unless set. Any chunk is a sign of
    /// life here. Only the time somebody waits for the chunk counts, so a slow reader is no silent provider. Does not
    /// apply to whole answers and embeddings.
    #[must_use]
    pub fn between_chunks(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.between_chunks = limit.into();
        self
    }

    /// Until the answer is complete, the time its reader takes included, because it holds a permit and a connection so
    /// long; 600 s unless set, the total of the OpenAI and Anthropic SDKs.
    #[must_use]
    pub fn total(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.total = limit.into();
        self
    }

    fn named(&self) -> [(&'static str, Option<Duration>); 4] {
        [
            ("connect", self.connect),
            ("first_chunk", self.first_chunk),
            ("between_chunks", self.between_chunks),
            ("total", self.total),
        ]
    }

    pub(super) fn settings(&self) -> String {
        let set = self.named().into_iter().filter_map(|(name, span)| Some(format!("{name} {}", Span(span?))));
        let set: Vec<_> = set.collect();
        if set.is_empty() { "no limits".to_owned() } else { set.join(", ") }
    }

    pub(super) fn check(&self) -> Result<()> {
        for (setting, limit) in self.named() {
            if limit.is_some_and(|limit| limit.is_zero()) {
                return Err(Error::config(NAME, setting, "0 s", "use at least 1 ms, or None for no limit"));
            }
        }
        Ok(())
    }
}

/// One of the limits, as it applies now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    name: &'static str,
    span: Duration,
    pub(super) until: Instant,
}

impl Limit {
    pub(super) fn new(name: &'static str, span: Option<Duration>, since: Instant) -> Option<Self> {
        span.map(|span| Self { name, span, until: after(since, span) })
    }

    /// The one that passes first.
    pub(super) fn first<const N: usize>(limits: [Option<Self>; N]) -> Option<Self> {
        limits.into_iter().flatten().min_by_key(|limit| limit.until)
    }

    pub(super) fn error(self) -> Error {
        Error::new(ErrorKind::Timeout, NAME, format!("{} = {} has passed", self.name, Span(self.span)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_refused_by_name() {
        let (zero, none) = (Duration::ZERO, Timeouts::none());
        let refused = [
            (none.connect(zero), "connect"),
            (none.first_chunk(zero), "first_chunk"),
            (none.between_chunks(zero), "between_chunks"),
            (none.total(zero), "total"),
        ];
        for (limits, name) in refused {
            let expected = format!("timeout: refused setting: {name} = 0 s: use at least 1 ms, or None for no limit");
            assert_eq!(limits.check().unwrap_err().to_string(), expected);
        }
        assert!(none.check().is_ok() && Timeouts::standard().check().is_ok());
    }

    #[test]
    fn settings_name_what_is_set() {
        let all = "connect 60 s, first_chunk 120 s, between_chunks 60 s, total 600 s";
        assert_eq!(Timeouts::standard().settings(), all);
        assert_eq!(Timeouts::none().settings(), "no limits");
        assert_eq!(Timeouts::none().total(Duration::from_millis(1_500)).settings(), "total 1500 ms");
    }
}
