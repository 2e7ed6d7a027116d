//! What goes into a bulk run and what comes out of it.

use crate::error::{Error, Result};
use crate::types::{ChatRequest, ChatResponse, Cost};

/// A request of a bulk run, with the name its result is found by.
///
/// A plain [`ChatRequest`] is one without an id, a pair of an id and a request is one with it; lines of a file are read
/// by [`Bulk::run_lines`](super::Bulk::run_lines). What cannot be a request is one all the same: it fails as an item of
/// its own, and nothing is lost silently.
///
/// ```
/// use sluicegate::{batch::BulkRequest, types::ChatRequest};
/// let named: BulkRequest = ("review-17", ChatRequest::new("gpt-5-mini").user("Is this review kind?")).into();
/// assert_eq!(named.id(), Some("review-17"));
/// ```
#[derive(Debug, Clone)]
pub struct BulkRequest {
    pub(super) id: Option<String>,
    pub(super) request: Result<ChatRequest>,
    pub(super) line: Option<u64>,
    /// Of a line that cannot be read: what it is told apart by.
    pub(super) raw: Option<u128>,
}

impl BulkRequest {
    /// A request with an id of its own, which no other item of the run may have.
    pub fn new(id: impl Into<String>, request: ChatRequest) -> Self {
        Self { id: Some(id.into()), ..request.into() }
    }

    /// Something of the source that is no request: its item fails with this error, and the run goes on.
    pub fn unreadable(error: Error) -> Self {
        Self { id: None, request: Err(error), line: None, raw: None }
    }

    /// Its id, if it was given one.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The request, or why it is none.
    pub fn request(&self) -> &Result<ChatRequest> {
        &self.request
    }
}

impl From<ChatRequest> for BulkRequest {
    fn from(request: ChatRequest) -> Self {
        Self { id: None, request: Ok(request), line: None, raw: None }
    }
}

impl<I: Into<String>> From<(I, ChatRequest)> for BulkRequest {
    fn from((id, request): (I, ChatRequest)) -> Self {
        Self::new(id, request)
    }
}

/// What came of one request of a bulk run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BulkItem {
    /// Its place in the source, from 0.
    pub index: u64,
    /// Its id; of a request without one `line-` and the line's number in a file, or `item-` and its index.
    pub id: String,
    /// The number of its line, from 1, when it was read from a file.
    pub line: Option<u64>,
    /// The answer, or why there is none. A failure is this item's alone.
    ///
    /// Failures of the item itself are of kind [`InvalidRequest`](crate::ErrorKind::InvalidRequest): a line that cannot
    /// be read, an id that an earlier item has. A client that panics gives [`Panicked`](crate::ErrorKind::Panicked).
    /// All others are the client's.
    pub result: Result<ChatResponse>,
    /// What the answer was billed, in this run or in the one that recorded it; `None` when that is unknown.
    pub cost: Option<Cost>,
    /// Whether the checkpoint had the answer: nothing was asked, and the answer's trace names the tier `checkpoint`.
    pub recorded: bool,
}
