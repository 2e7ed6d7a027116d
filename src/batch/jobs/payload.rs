//! What stands in Redis for a job and for its result: JSON, under a version.

use std::io;

use fred::bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_util::task::TaskTracker;

use crate::batch::ORIGIN;
use crate::error::{Error, ErrorKind, Result};
use crate::offload::{LARGE_JSON, offload};

const VERSION: u32 = 1;

/// A payload or result that is larger does not belong into a queue: 16 MiB.
const MOST: usize = 16 << 20;

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    v: u32,
    /// In brackets: a value may be `null` itself.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    ok: Option<[&'a RawValue; 1]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<JobFailure>,
}

/// Why a job is dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobFailure {
    /// `failed`, `unreadable` or `abandoned`: its last attempt failed, nobody could read it, or no attempt came to an end.
    pub reason: String,
    /// The last error's [`ErrorKind::label`](crate::ErrorKind::label) and its own words; never the payload.
    pub message: String,
}

impl JobFailure {
    pub(super) fn failed(error: &Error) -> Self {
        let mut message = format!("{}: {}", error.kind().label(), error.message());
        if let Some((end, _)) = message.char_indices().nth(500) {
            message.truncate(end);
        }
        Self { reason: "failed".to_owned(), message }
    }

    pub(super) fn unreadable() -> Self {
        let message = "the payload cannot be read by this version".to_owned();
        Self { reason: "unreadable".to_owned(), message }
    }

    pub(super) fn abandoned() -> Self {
        Self { reason: "abandoned".to_owned(), message: "no attempt came to an end".to_owned() }
    }

    pub(super) fn record(self) -> Result<String> {
        serde_json::to_string(&Envelope { v: VERSION, ok: None, failed: Some(self) }).map_err(unwritten)
    }
}

/// What is written of a value: it is read as an [`Envelope`].
#[derive(Serialize)]
struct Written<'a, T> {
    v: u32,
    ok: [&'a T; 1],
}

/// So many bytes and no more.
struct Bounded {
    written: Vec<u8>,
    most: usize,
    is_full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written.len() + bytes.len() > self.most {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// In at most so many bytes; `None`: it takes more.
fn within<T: Serialize>(most: usize, value: &T) -> Option<Result<String>> {
    let mut bounded = Bounded { written: Vec::new(), most, is_full: false };
    match serde_json::to_writer(&mut bounded, &Written { v: VERSION, ok: [value] }) {
        Err(_) if bounded.is_full => None,
        Err(error) => Some(Err(unwritten(error))),
        // JSON is text.
        Ok(()) => Some(String::from_utf8(bounded.written).map_err(|error| unwritten(serde::ser::Error::custom(error)))),
    }
}

/// What is large is written elsewhere: how large it is, is known when so much of it is written.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`], when it is no JSON or too large.
pub(super) async fn write<T: Serialize + Send + 'static>(tasks: &TaskTracker, value: T) -> Result<String> {
    let written = match within(LARGE_JSON, &value) {
        Some(written) => Some(written),
        None => offload(tasks, true, move || within(MOST, &value)).await,
    };
    written.unwrap_or_else(|| {
        let advice = "use at most 16 MiB: keep the rest elsewhere, and its name in the job";
        Err(Error::invalid(ORIGIN, "payload", "over 16 MiB", advice))
    })
}

/// What was written, or the failure that stands in its place. None when this version cannot read it. What is large is read
/// elsewhere.
pub(super) async fn read<T: DeserializeOwned + Send + 'static>(
    tasks: &TaskTracker,
    text: Bytes,
) -> Option<std::result::Result<T, JobFailure>> {
    offload(tasks, text.len() > LARGE_JSON, move || parse(&text)).await
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Option<std::result::Result<T, JobFailure>> {
    match serde_json::from_slice(text).ok()? {
        Envelope { v: VERSION, ok: Some([value]), .. } => serde_json::from_str(value.get()).ok().map(Ok),
        Envelope { v: VERSION, failed: Some(failure), .. } => Some(Err(failure)),
        _ => None,
    }
}

fn unwritten(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::InvalidRequest, ORIGIN, "the payload or result cannot be written as JSON").with_source(error)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;

    use super::*;

    async fn written<T: Serialize + Send + 'static>(value: T) -> Bytes {
        write(&TaskTracker::new(), value).await.unwrap().into()
    }

    async fn back<T: DeserializeOwned + Send + 'static>(
        text: impl Into<Bytes>,
    ) -> Option<std::result::Result<T, JobFailure>> {
        read(&TaskTracker::new(), text.into()).await
    }

    #[tokio::test]
    async fn comes_back_as_it_was_and_another_version_does_not() {
        assert_eq!(back::<Vec<u8>>(written(vec![1_u8, 2]).await).await, Some(Ok(vec![1, 2])));
        let failure = JobFailure::abandoned();
        assert_eq!(back::<u8>(failure.clone().record().unwrap()).await, Some(Err(failure)));
        for foreign in ["", "7", "{\"v\":2,\"ok\":[7]}", "{\"v\":1}", "{\"v\":1,\"ok\":[\"seven\"]}"] {
            assert_eq!(back::<u8>(foreign).await, None, "{foreign}");
        }
        assert_eq!(back::<Option<u8>>(written(None::<u8>).await).await, Some(Ok(None)));
        let envelope = written("").await.len();
        for length in [LARGE_JSON - envelope, LARGE_JSON - envelope + 1, MOST - envelope] {
            let text = "x".repeat(length);
            assert_eq!(back(written(text.clone()).await).await, Some(Ok(text)), "{length}");
        }
        let refused = write(&TaskTracker::new(), "x".repeat(MOST - envelope + 1)).await.unwrap_err();
        assert!(refused.to_string().contains("over 16 MiB"), "{refused}");
        let unwritten = write(&TaskTracker::new(), std::collections::HashMap::from([((1, 2), 3)])).await.unwrap_err();
        assert!(unwritten.to_string().contains("cannot be written as JSON"), "{unwritten}");
    }

    /// With the only thread for blocking work held up, what is large waits, and what is small does not.
    #[test]
    fn what_is_large_is_written_and_read_elsewhere() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.max_blocking_threads(1).build().unwrap().block_on(async {
            let (release, released) = std::sync::mpsc::channel::<()>();
            let (begin, begun) = tokio::sync::oneshot::channel();
            let held = tokio::task::spawn_blocking(move || {
                begin.send(()).unwrap();
                released.recv()
            });
            begun.await.unwrap();
            let text = |length| "x".repeat(length);
            let record = || format!("{{\"v\":1,\"ok\":[\"{}\"]}}", text(LARGE_JSON));
            assert_eq!(back(written(text(1_000)).await).await, Some(Ok(text(1_000))));
            let (mut writing, mut reading) = (pin!(written(text(LARGE_JSON))), pin!(back::<String>(record())));
            for _ in 0..100 {
                assert!(poll!(&mut writing).is_pending() && poll!(&mut reading).is_pending());
                tokio::task::yield_now().await;
            }
            release.send(()).unwrap();
            assert_eq!((writing.await, reading.await), (record().into(), Some(Ok(text(LARGE_JSON)))));
            held.await.unwrap().unwrap();
        });
    }
}
