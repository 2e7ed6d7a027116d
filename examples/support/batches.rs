//! `/v1/files` and `/v1/batches` in front of a simulated provider.
//!
//! A batch moves on with each look at it, so a test decides how fast: `validating`, `in_progress`, and at its last look
//! the end that was set. Faults are set in [`Script`], and what happened is counted in [`Seen`].

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use futures_util::future::join_all;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sluicegate::LlmClient;
use sluicegate::providers::Simulated;
use sluicegate::types::{ChatBody, ChatRequest, EmbedRequest};

use super::wire;

/// How batches go.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// Looks until the end.
    pub(crate) looks: u32,
    /// `completed`, `expired` or `failed`.
    pub(crate) end: &'static str,
    /// So many requests are answered before an `expired` end.
    pub(crate) answered: usize,
    /// So many requests are left out of both files of results.
    pub(crate) lost: usize,
    /// So many creations work and are answered with 500.
    pub(crate) creations_unheard: u32,
    /// So many creations do not work and are answered with 503.
    pub(crate) creations_refused: u32,
    /// So many other exchanges are answered with 500.
    pub(crate) failures: u32,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            looks: 2,
            end: "completed",
            answered: usize::MAX,
            lost: 0,
            creations_unheard: 0,
            creations_refused: 0,
            failures: 0,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) uploads: u32,
    pub(crate) batches: u32,
    pub(crate) looks: u32,
    pub(crate) cancellations: u32,
    pub(crate) deletions: u32,
}

#[derive(Debug, Clone)]
struct Batch {
    value: Value,
    looks: u32,
}

#[derive(Debug, Default)]
struct Shelf {
    files: HashMap<String, Bytes>,
    batches: Vec<Batch>,
    named: u32,
    script: Script,
    seen: Seen,
}

/// The files and batches of a server. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batches(Arc<Mutex<Shelf>>);

impl Batches {
    pub(crate) fn set(&self, script: Script) {
        self.0.lock().script = script;
    }

    pub(crate) fn seen(&self) -> Seen {
        self.0.lock().seen
    }

    /// How many files there are.
    pub(crate) fn files(&self) -> usize {
        self.0.lock().files.len()
    }

    /// The batches there are, as they stand.
    pub(crate) fn all(&self) -> Vec<Value> {
        self.0.lock().batches.iter().map(|batch| batch.value.clone()).collect()
    }

    /// The lines of a file.
    pub(crate) fn lines(&self, file: &str) -> Vec<Value> {
        let file = self.0.lock().files.get(file).cloned().unwrap_or_default();
        file.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }

    fn fails(&self) -> Option<Response> {
        let mut shelf = self.0.lock();
        shelf.script.failures = shelf.script.failures.checked_sub(1)?;
        Some(wire::refused(StatusCode::INTERNAL_SERVER_ERROR, "The server had an error"))
    }
}

impl Shelf {
    fn name(&mut self, kind: &str) -> String {
        self.named += 1;
        format!("{kind}{}", self.named)
    }

    fn put(&mut self, lines: &[Value]) -> Value {
        if lines.is_empty() {
            return Value::Null;
        }
        let (id, text) = (self.name("file-"), lines.iter().map(|line| format!("{line}\n")).collect::<String>());
        self.files.insert(id.clone(), text.into());
        Value::String(id)
    }
}

type Desk = (Batches, Simulated);

pub(super) fn routes(batches: Batches, simulated: Simulated) -> Router {
    Router::new()
        .route("/v1/files", post(upload))
        .route("/v1/files/{id}", axum::routing::delete(remove))
        .route("/v1/files/{id}/content", get(content))
        .route("/v1/batches", post(create).get(list))
        .route("/v1/batches/{id}", get(look))
        .route("/v1/batches/{id}/cancel", post(cancel))
        .with_state((batches, simulated))
}

fn not_found() -> Response {
    wire::refused(StatusCode::NOT_FOUND, "No such object")
}

/// The fields of a form, by name.
fn form(headers: &HeaderMap, body: &[u8]) -> Option<HashMap<String, Vec<u8>>> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let boundary = format!("--{}", kind.split_once("multipart/form-data; boundary=")?.1);
    let find = |text: &[u8], what: &[u8]| text.windows(what.len()).position(|window| window == what);
    let (mut fields, mut rest) = (HashMap::new(), body.strip_prefix(boundary.as_bytes())?);
    while let Some(part) = rest.strip_prefix(b"\r\n") {
        let head = find(part, b"\r\n\r\n")?;
        let name = String::from_utf8_lossy(&part[..head]).split_once("name=\"")?.1.split('"').next()?.to_owned();
        let value = &part[head + 4..];
        let end = find(value, format!("\r\n{boundary}").as_bytes())?;
        fields.insert(name, value[..end].to_vec());
        rest = &value[end + 2 + boundary.len()..];
    }
    (rest.starts_with(b"--")).then_some(fields)
}

async fn upload(State((batches, _)): State<Desk>, headers: HeaderMap, body: Bytes) -> Response {
    if let Some(failed) = batches.fails() {
        return failed;
    }
    let Some(mut fields) = form(&headers, &body) else {
        return wire::refused(StatusCode::BAD_REQUEST, "This is no form");
    };
    let (purpose, file) = (fields.remove("purpose"), fields.remove("file"));
    let (Some(b"batch"), Some(file)) = (purpose.as_deref(), file) else {
        return wire::refused(StatusCode::BAD_REQUEST, "A file and its purpose are needed");
    };
    let mut shelf = batches.0.lock();
    shelf.seen.uploads += 1;
    let id = shelf.name("file-");
    shelf.files.insert(id.clone(), file.into());
    Json(json!({"id": id, "object": "file", "purpose": "batch", "created_at": 1_800_000_000 + shelf.named}))
        .into_response()
}

async fn remove(State((batches, _)): State<Desk>, Path(id): Path<String>) -> Response {
    let mut shelf = batches.0.lock();
    match shelf.files.remove(&id) {
        Some(_) => {
            shelf.seen.deletions += 1;
            Json(json!({"id": id, "deleted": true})).into_response()
        }
        None => not_found(),
    }
}

async fn content(State((batches, _)): State<Desk>, Path(id): Path<String>) -> Response {
    if let Some(failed) = batches.fails() {
        return failed;
    }
    batches.0.lock().files.get(&id).cloned().map_or_else(not_found, IntoResponse::into_response)
}

async fn create(State((batches, _)): State<Desk>, Json(body): Json<Value>) -> Response {
    let mut shelf = batches.0.lock();
    if let Some(left) = shelf.script.creations_refused.checked_sub(1) {
        shelf.script.creations_refused = left;
        return wire::refused(StatusCode::SERVICE_UNAVAILABLE, "Try again later");
    }
    let file = body["input_file_id"].as_str().unwrap_or_default();
    if !shelf.files.contains_key(file) {
        return wire::refused(StatusCode::BAD_REQUEST, "No such file");
    }
    shelf.seen.batches += 1;
    let id = shelf.name("batch_");
    let value = json!({
        "id": id, "object": "batch", "endpoint": body["endpoint"], "errors": null, "input_file_id": file,
        "completion_window": body["completion_window"], "status": "validating", "output_file_id": null,
        "error_file_id": null, "created_at": 1_800_000_000 + shelf.named, "metadata": body["metadata"],
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
    });
    shelf.batches.push(Batch { value: value.clone(), looks: 0 });
    if let Some(left) = shelf.script.creations_unheard.checked_sub(1) {
        shelf.script.creations_unheard = left;
        return wire::refused(StatusCode::INTERNAL_SERVER_ERROR, "The server had an error");
    }
    Json(value).into_response()
}

/// The newest first, two a page, so that clients have to turn it.
async fn list(State((batches, _)): State<Desk>, RawQuery(query): RawQuery) -> Response {
    if let Some(failed) = batches.fails() {
        return failed;
    }
    let all: Vec<_> = batches.all().into_iter().rev().collect();
    let query = query.unwrap_or_default();
    let after = query.split('&').find_map(|pair| pair.strip_prefix("after="));
    let after = after.and_then(|id| all.iter().position(|batch| batch["id"] == *id));
    let rest = &all[after.map_or(0, |place| place + 1)..];
    Json(json!({"object": "list", "data": rest.iter().take(2).collect::<Vec<_>>(), "has_more": rest.len() > 2}))
        .into_response()
}

async fn cancel(State((batches, _)): State<Desk>, Path(id): Path<String>) -> Response {
    let mut shelf = batches.0.lock();
    shelf.seen.cancellations += 1;
    let Some(batch) = shelf.batches.iter_mut().find(|batch| batch.value["id"] == *id) else { return not_found() };
    if !matches!(batch.value["status"].as_str(), Some("validating" | "in_progress")) {
        return wire::refused(StatusCode::BAD_REQUEST, "It has ended");
    }
    batch.value["status"] = json!("cancelling");
    Json(batch.value.clone()).into_response()
}

async fn look(State((batches, simulated)): State<Desk>, Path(id): Path<String>) -> Response {
    if let Some(failed) = batches.fails() {
        return failed;
    }
    let (lines, script, mut value) = {
        let mut shelf = batches.0.lock();
        shelf.seen.looks += 1;
        let script = shelf.script.clone();
        let Some(batch) = shelf.batches.iter_mut().find(|batch| batch.value["id"] == *id) else { return not_found() };
        batch.looks += 1;
        let (looks, mut value) = (batch.looks, batch.value.clone());
        if value["status"] == "cancelling" {
            batch.value["status"] = json!("cancelled");
            return Json(batch.value.clone()).into_response();
        }
        let file = value["input_file_id"].as_str().unwrap_or_default().to_owned();
        let is_moving = matches!(value["status"].as_str(), Some("validating" | "in_progress"));
        if !is_moving {
            return Json(value).into_response();
        }
        let total = shelf.files.get(&file).map_or(0, |file| file.iter().filter(|byte| **byte == b'\n').count());
        if looks < script.looks {
            value["status"] = json!("in_progress");
            let done = total * looks as usize / script.looks as usize;
            value["request_counts"] = json!({"total": total, "completed": done, "failed": 0});
            if let Some(batch) = shelf.batches.iter_mut().find(|batch| batch.value["id"] == *id) {
                batch.value = value.clone();
            }
            return Json(value).into_response();
        }
        drop(shelf);
        (batches.lines(&file), script, value)
    };
    let results = if script.end == "failed" { Vec::new() } else { answer_all(&simulated, &lines, &script).await };
    let (answered, failed): (Vec<_>, Vec<_>) =
        results.into_iter().partition(|line| line["response"]["status_code"] == 200);
    let mut shelf = batches.0.lock();
    value["status"] = json!(script.end);
    if script.end == "failed" {
        let fault =
            json!({"code": "invalid_json_line", "message": "This line is not parseable", "param": null, "line": 1});
        value["errors"] = json!({"object": "list", "data": [fault]});
    }
    value["request_counts"] = json!({"total": lines.len(), "completed": answered.len(), "failed": failed.len()});
    value["output_file_id"] = shelf.put(&answered);
    value["error_file_id"] = shelf.put(&failed);
    if let Some(batch) = shelf.batches.iter_mut().find(|batch| batch.value["id"] == *id) {
        batch.value = value.clone();
    }
    Json(value).into_response()
}

/// The results, not in the order of the requests.
async fn answer_all(simulated: &Simulated, lines: &[Value], script: &Script) -> Vec<Value> {
    let answered = if script.end == "expired" { script.answered.min(lines.len()) } else { lines.len() };
    let asked = lines[..answered].iter().map(|line| async move {
        let (status, body) = answer(simulated, line).await;
        let response = json!({"status_code": status, "request_id": "r", "body": body});
        json!({"id": "b", "custom_id": line["custom_id"], "response": response, "error": null})
    });
    let mut results = join_all(asked).await;
    results.extend(lines[answered..].iter().map(|line| {
        let error = json!({"code": "batch_expired", "message": "This request could not be executed before the window expired."});
        json!({"id": "b", "custom_id": line["custom_id"], "response": null, "error": error})
    }));
    results.drain(..script.lost.min(results.len()));
    results.reverse();
    results
}

async fn answer(simulated: &Simulated, line: &Value) -> (u16, Value) {
    let body = line["body"].clone();
    let answered = if line["url"] == "/v1/embeddings" {
        let request: EmbedRequest = serde_json::from_value(body).unwrap_or_else(|_| EmbedRequest::new("", [""]));
        simulated.embed(request).await.map(|answer| json!(answer))
    } else {
        let mut body: ChatBody = serde_json::from_value(body).unwrap_or_default();
        body.extra.remove("stream");
        simulated.chat(ChatRequest::from(body)).await.map(|answer| json!(&**answer.completion()))
    };
    match answered {
        Ok(body) => (200, body),
        Err(error) => (error.status().unwrap_or(500), wire::error_body(&error)),
    }
}
