//! What stands in Redis for a job and for its result: JSON, under a version.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::batch::ORIGIN;
use crate::error::{Error, ErrorKind, Result};

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

/// # Errors
/// [`ErrorKind::InvalidRequest`], when it is no JSON or too large.
pub(super) fn write<T: Serialize>(value: &T) -> Result<String> {
    let value = serde_json::value::to_raw_value(value).map_err(unwritten)?;
    if value.get().len() > MOST {
        let advice = "use at most 16 MiB: keep the rest elsewhere, and its name in the job";
        return Err(Error::invalid(ORIGIN, "payload", format_args!("{} bytes", value.get().len()), advice));
    }
    serde_json::to_string(&Envelope { v: VERSION, ok: Some([&value]), failed: None }).map_err(unwritten)
}

/// What was written, or the failure that stands in its place. None when this version cannot read it.
pub(super) fn read<T: DeserializeOwned>(text: &[u8]) -> Option<std::result::Result<T, JobFailure>> {
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
    use super::*;

    #[test]
    fn comes_back_as_it_was_and_another_version_does_not() {
        assert_eq!(read::<Vec<u8>>(write(&vec![1_u8, 2]).unwrap().as_bytes()), Some(Ok(vec![1, 2])));
        let failure = JobFailure::abandoned();
        assert_eq!(read::<u8>(failure.clone().record().unwrap().as_bytes()), Some(Err(failure)));
        for foreign in ["", "7", "{\"v\":2,\"ok\":[7]}", "{\"v\":1}", "{\"v\":1,\"ok\":[\"seven\"]}"] {
            assert_eq!(read::<u8>(foreign.as_bytes()), None, "{foreign}");
        }
        assert_eq!(read::<Option<u8>>(write(&None::<u8>).unwrap().as_bytes()), Some(Ok(None)));
        assert!(write(&"x".repeat(MOST)).is_err());
    }
}
