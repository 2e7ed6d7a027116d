//! Batches and files as the provider writes them.
//!
//! Fields and words are those of the API reference (Batches, Files); limits are those of the Batch guide: 50,000 requests
//! and 200 MB a file, 50,000 embedding inputs, one model a file, a window of 24 hours.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::error;
use crate::error::Result;

/// What state a batch is in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BatchStatus {
    /// Its file is being looked at.
    Validating,
    /// Its file was refused: nothing was asked, nothing is paid.
    Failed,
    /// It is being answered.
    InProgress,
    /// All is answered, the results are being written.
    Finalizing,
    /// The results are there.
    Completed,
    /// Its window closed: what was answered by then is there.
    Expired,
    /// It is being cancelled, which takes up to 10 minutes.
    Cancelling,
    /// It was cancelled: what was answered by then is there.
    Cancelled,
    /// A word this version does not know.
    #[serde(untagged)]
    Other(String),
}

impl BatchStatus {
    /// Whether nothing changes any more.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Failed | Self::Completed | Self::Expired | Self::Cancelled)
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct BatchObject {
    pub(super) id: String,
    pub(super) status: BatchStatus,
    #[serde(default)]
    pub(super) endpoint: String,
    #[serde(default)]
    pub(super) input_file_id: String,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    #[serde(default)]
    pub(super) created_at: u64,
    // Whatever they hold, the batch is read: they are told to observers only.
    completed_at: Option<Value>,
    expired_at: Option<Value>,
    cancelled_at: Option<Value>,
    failed_at: Option<Value>,
    request_counts: Option<Counts>,
    errors: Option<Failures>,
    metadata: Option<BTreeMap<String, String>>,
}

impl BatchObject {
    /// Where its results are: answers, then failures. A file that has nothing to hold is absent, or named by no letter.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        [&self.output_file_id, &self.error_file_id]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .filter(|id| !id.is_empty())
    }

    pub(super) fn counts(&self) -> Counts {
        self.request_counts.unwrap_or_default()
    }

    pub(super) fn metadata(&self, name: &str) -> Option<&str> {
        self.metadata.as_ref()?.get(name).map(String::as_str)
    }

    /// From its creation to its end, by the provider's clock.
    pub(super) fn took(&self) -> Option<Duration> {
        let times = [&self.completed_at, &self.expired_at, &self.cancelled_at, &self.failed_at];
        let ended = times.into_iter().flatten().find_map(Value::as_u64)?;
        // Zero was not told.
        ended.checked_sub(self.created_at).filter(|_| self.created_at > 0).map(Duration::from_secs)
    }

    /// The first fault that was found in its file.
    pub(super) fn failure(&self) -> Option<&Failure> {
        self.errors.as_ref()?.data.as_ref()?.first()
    }
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(super) struct Counts {
    pub(super) total: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
}

#[derive(Debug, Clone, Deserialize)]
struct Failures {
    data: Option<Vec<Failure>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Failure {
    pub(super) code: Option<String>,
    pub(super) message: Option<String>,
    pub(super) line: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct Page {
    pub(super) data: Vec<BatchObject>,
    #[serde(default)]
    pub(super) has_more: bool,
}

#[derive(Deserialize)]
pub(super) struct FileObject {
    pub(super) id: String,
    #[serde(default)]
    pub(super) created_at: u64,
}

#[derive(Serialize)]
pub(super) struct NewBatch<'a> {
    pub(super) input_file_id: &'a str,
    pub(super) endpoint: &'a str,
    pub(super) completion_window: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) metadata: BTreeMap<&'a str, String>,
}

/// A line of a file of results. A line of the file of requests has its `custom_id` too.
#[derive(Deserialize)]
pub(super) struct Line<'a> {
    pub(super) custom_id: String,
    #[serde(borrow)]
    pub(super) response: Option<Reply<'a>>,
    #[serde(borrow)]
    pub(super) error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(super) struct Reply<'a> {
    pub(super) status_code: u16,
    #[serde(borrow)]
    pub(super) body: &'a RawValue,
}

pub(super) fn parse<T: DeserializeOwned>(body: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(body)
        .map_err(|cause| error::undecodable(format!("the answer is no {what}")).with_source(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_null_and_empty_are_the_same() {
        let object = |text: &str| -> BatchObject { parse(text.as_bytes(), "batch").unwrap() };
        let batch = object(
            r#"{"id": "b", "status": "completed", "output_file_id": null, "error_file_id": "", "errors": null,
            "request_counts": {"total": 2}, "metadata": null, "unknown": 1}"#,
        );
        assert_eq!((batch.files().count(), batch.counts().total, batch.counts().failed), (0, 2, 0));
        assert!(batch.status.is_final() && batch.failure().is_none() && batch.metadata("a").is_none());
        let batch = object(r#"{"id": "b", "status": "paused", "output_file_id": "f1", "error_file_id": "f2"}"#);
        assert_eq!(batch.status, BatchStatus::Other("paused".to_owned()));
        assert!(!batch.status.is_final() && batch.took().is_none());
        for (times, took) in [
            (r#""created_at": 100, "completed_at": 160, "expired_at": null"#, Some(60)),
            (r#""created_at": 100, "completed_at": null, "cancelled_at": 130"#, Some(30)),
            (r#""created_at": 100, "expired_at": 86500"#, Some(86_400)),
            (r#""created_at": 100, "failed_at": 101"#, Some(1)),
            (r#""created_at": 100, "completed_at": 99"#, None),
            (r#""completed_at": 160"#, None),
            (r#""created_at": 100, "completed_at": 160.5, "failed_at": "2026-01-01""#, None),
        ] {
            let batch = object(&format!(r#"{{"id": "b", "status": "completed", {times}}}"#));
            assert_eq!(batch.took(), took.map(Duration::from_secs), "{times}");
        }
        let batch = object(r#"{"id": "b", "status": "paused", "output_file_id": "f1", "error_file_id": "f2"}"#);
        assert_eq!(batch.files().collect::<Vec<_>>(), ["f1", "f2"]);
    }
}
