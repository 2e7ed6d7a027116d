//! One item, from its request to its result.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::checkpoint::Checkpoint;
use super::identity::{self, Identity};
use super::{BulkItem, BulkRequest};
use crate::batch::{ORIGIN, room};
use crate::client::LlmClient;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::offload::{LARGE_JSON, offload};
use crate::types::{ChatRequest, ChatResponse, Cost, Priority, Source};

/// What all items of a run share.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) client: Arc<dyn LlmClient>,
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) priority: Priority,
    pub(super) env: Env,
    pub(super) drain: CancellationToken,
}

/// A request whose faults are known, and what it asks.
pub(super) struct Checked {
    request: BulkRequest,
    body: u128,
}

/// Checks a request, and hashes what it asks if that is to be compared. What is large is hashed elsewhere.
pub(super) async fn check(tasks: TaskTracker, request: BulkRequest, compared: bool) -> Checked {
    let is_large = compared && request.request.as_ref().is_ok_and(|request| request.body().weight() > LARGE_JSON);
    let check = move || {
        let BulkRequest { id, request, line, raw } = request;
        let request = request.and_then(|request| request.check().map(|()| request));
        let body = match &request {
            Ok(request) if compared => identity::body(request),
            Ok(_) => 0,
            Err(_) => raw.unwrap_or_default(),
        };
        Checked { request: BulkRequest { id, request, line, raw }, body }
    };
    offload(&tasks, is_large, check).await
}

/// An item that was taken from the source.
pub(super) struct Taken {
    pub(super) index: u64,
    pub(super) id: String,
    pub(super) line: Option<u64>,
    pub(super) request: Result<ChatRequest>,
    pub(super) identity: Identity,
}

impl Taken {
    pub(super) fn new(index: u64, Checked { request, body }: Checked) -> Self {
        let BulkRequest { id, request, line, raw: _ } = request;
        let id = id.unwrap_or_else(|| match line {
            Some(line) => format!("line-{line}"),
            None => format!("item-{index}"),
        });
        let identity = Identity { id: identity::hash(id.as_bytes()), body };
        Self { index, id, line, request, identity }
    }

    fn ended(self, result: Result<ChatResponse>, cost: Option<Cost>, recorded: bool) -> BulkItem {
        BulkItem { index: self.index, id: self.id, line: self.line, result, cost, recorded }
    }
}

/// What came of it, and why it could not be recorded, if it could not.
pub(super) async fn ask(parts: Arc<Parts>, mut taken: Taken) -> (BulkItem, Option<Error>) {
    // A run of recorded or failed items would never pause.
    tokio::task::coop::consume_budget().await;
    let request = match std::mem::replace(&mut taken.request, Err(unasked())) {
        Ok(request) => request,
        Err(error) => return (taken.ended(Err(error), None, false), None),
    };
    if let Some(checkpoint) = &parts.checkpoint
        && let Some(place) = checkpoint.find(taken.identity)
        && let Some((completion, cost)) = checkpoint.read(place).await
    {
        let mut answer = ChatResponse::new(completion);
        let trace = answer.trace_mut();
        (trace.source, trace.cost, trace.saved) = (Source::Cache("checkpoint"), Some(Cost::ZERO), cost);
        return (taken.ended(Ok(answer), cost, true), None);
    }
    let request = match request.extensions.get::<Priority>() {
        Some(_) => request,
        None => request.with(parts.priority),
    };
    // A client may also panic before it has made a future.
    let asking = AssertUnwindSafe(room::ask(&*parts.client, request, &parts.env, &parts.drain)).catch_unwind();
    match asking.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Panicked, ORIGIN, "the client panicked"))) {
        Ok(answer) => {
            let cost = answer.trace().cost;
            let mut unrecorded = None;
            if let Some(checkpoint) = &parts.checkpoint {
                // The answer is in the file before anybody else's turn, unless it is long.
                let recorded = checkpoint.record(&taken.id, taken.identity.body, answer.completion(), cost).await;
                unrecorded = recorded.err();
            }
            (taken.ended(Ok(answer), cost, false), unrecorded)
        }
        Err(error) => (taken.ended(Err(error), None, false), None),
    }
}

fn unasked() -> Error {
    Error::new(ErrorKind::Other, ORIGIN, "not asked")
}
