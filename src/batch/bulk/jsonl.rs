//! Files of requests and of results, one a line.

use futures_core::Stream;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, BufReader};
use tokio_util::task::TaskTracker;

use super::identity::hash;
use super::{BulkItem, BulkRequest};
use crate::batch::ORIGIN;
use crate::error::{Error, ErrorKind, Result};
use crate::lines::Lines;
use crate::offload::{LARGE_JSON, offload};
use crate::types::{ChatBody, ChatCompletion, ChatRequest, Usage};

const PATH: &str = "/v1/chat/completions";

/// The requests of a file: lines as OpenAI's Batch API takes them (`{"custom_id", "method", "url", "body"}`), and bare
/// bodies of chat requests, also mixed, and with a `custom_id` among their fields. `stream` and `stream_options` are
/// left out: they are not part of a request here.
///
/// Empty lines are passed over. A line that is neither, is longer than 64 MiB, is not `POST` or not for
/// `/v1/chat/completions` is an item that fails, under its `custom_id` if it has one. So is the place where the reader
/// fails, and nothing comes after that.
///
/// Lines are read as they are asked for, in one buffer. One of more than 256 KiB, which takes longer than a poll may,
/// is parsed on a blocking thread.
pub fn requests(reader: impl AsyncRead + Send + Unpin + 'static) -> impl Stream<Item = BulkRequest> + Send + 'static {
    requests_on(reader, TaskTracker::new())
}

/// The same; these tasks track the work of long lines.
pub(super) fn requests_on(
    reader: impl AsyncRead + Send + Unpin + 'static,
    tasks: TaskTracker,
) -> impl Stream<Item = BulkRequest> + Send + 'static {
    let lines = Lines::new(BufReader::with_capacity(1 << 16, reader));
    stream::unfold(Some((lines, 0_u64, tasks)), async |state| {
        let (mut lines, mut number, tasks) = state?;
        loop {
            number += 1;
            let request = match lines.next().await {
                Ok(Some(Some(line))) => {
                    let parsed = if line.len() > LARGE_JSON {
                        let line = lines.take();
                        offload(&tasks, true, move || parse(&line, number)).await
                    } else {
                        parse(line, number)
                    };
                    let Some(request) = parsed else { continue };
                    request
                }
                Ok(Some(None)) => unreadable(number, "is longer than 64 MiB", None),
                Ok(None) => return None,
                Err(error) => {
                    let text = format!("the input cannot be read from line {number} on: {}", error.kind());
                    let error = Error::new(ErrorKind::Other, ORIGIN, text).with_source(error);
                    return Some((BulkRequest { line: Some(number), ..BulkRequest::unreadable(error) }, None));
                }
            };
            return Some((request, Some((lines, number, tasks))));
        }
    })
}

/// How many items [`requests`] finds in it, which is the lines that are not empty. It reads all of it.
///
/// # Errors
/// What the reader says, with kind [`ErrorKind::Other`].
pub async fn count(reader: impl AsyncRead + Send + Unpin) -> Result<u64> {
    let mut lines = Lines::new(BufReader::with_capacity(1 << 16, reader));
    let (mut number, mut items) = (0, 0);
    loop {
        number += 1;
        match lines.next().await {
            Ok(Some(line)) => items += u64::from(line.is_none_or(|line| !blank(line, number))),
            Ok(None) => return Ok(items),
            Err(error) => {
                let text = format!("the input cannot be read from line {number} on: {}", error.kind());
                return Err(Error::new(ErrorKind::Other, ORIGIN, text).with_source(error));
            }
        }
    }
}

/// Some editors begin a file with a byte order mark.
fn content(line: &[u8], number: u64) -> &[u8] {
    let line = if number == 1 { line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line) } else { line };
    line.trim_ascii()
}

fn blank(line: &[u8], number: u64) -> bool {
    content(line, number).is_empty()
}

fn unreadable(number: u64, what: &str, cause: Option<serde_json::Error>) -> BulkRequest {
    let error = Error::new(ErrorKind::InvalidRequest, ORIGIN, format!("line {number} {what}"));
    let error = match cause {
        Some(cause) => error.with_source(cause),
        None => error,
    };
    BulkRequest { line: Some(number), ..BulkRequest::unreadable(error) }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    custom_id: Option<&'a RawValue>,
    method: Option<String>,
    url: Option<String>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

/// The request on this line; none on an empty one.
fn parse(line: &[u8], number: u64) -> Option<BulkRequest> {
    let line = content(line, number);
    (!line.is_empty()).then(|| request(line, number))
}

fn request(line: &[u8], number: u64) -> BulkRequest {
    let raw = Some(hash(line));
    // Its words would quote the prompt; where it found the fault does not.
    let fault = |error: &serde_json::Error| format!("is no chat request, as its column {} shows", error.column());
    let envelope: Envelope<'_> = match serde_json::from_slice(line) {
        Ok(envelope) => envelope,
        Err(error) => return BulkRequest { raw, ..unreadable(number, &fault(&error), Some(error)) },
    };
    let Envelope { custom_id, method, url, body } = envelope;
    let id = match custom_id.map(RawValue::get) {
        Some(text) if text.starts_with('"') => match serde_json::from_str(text) {
            Ok(id) => Some(id),
            Err(error) => {
                return BulkRequest { raw, ..unreadable(number, "has a custom_id that is no text", Some(error)) };
            }
        },
        // As it is written: a large one is not rounded.
        Some(text) if text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => Some(text.to_owned()),
        _ => None,
    };
    let refused = |what: &str| BulkRequest { id: id.clone(), raw, ..unreadable(number, what, None) };
    if method.is_some_and(|method| !method.eq_ignore_ascii_case("POST")) {
        return refused("has another method than POST");
    }
    if url.is_some_and(|url| url.trim_end_matches('/') != PATH) {
        return refused("is not for /v1/chat/completions, the only path a bulk run serves");
    }
    let is_bare = body.is_none();
    let parsed = match body {
        Some(body) => serde_json::from_str::<ChatBody>(body.get()),
        None => serde_json::from_slice(line),
    };
    match parsed {
        Ok(mut body) => {
            let around: &[&str] = if is_bare { &["custom_id", "method", "url"] } else { &[] };
            for not_of_a_request in ["stream", "stream_options"].iter().chain(around) {
                body.extra.remove(*not_of_a_request);
            }
            let request = ChatRequest::from(body);
            match request.check() {
                Ok(()) => BulkRequest { id, request: Ok(request), line: Some(number), raw },
                Err(error) => refused(&format!("is no chat request: {}", error.message())),
            }
        }
        Err(error) => BulkRequest { id, raw, ..unreadable(number, "has no chat request as its body", Some(error)) },
    }
}

#[derive(Serialize)]
struct Line<'a> {
    custom_id: &'a str,
    response: Option<Response<'a>>,
    error: Option<Failure<'a>>,
    usage: Option<&'a Usage>,
    cost: Option<f64>,
}

#[derive(Serialize)]
struct Response<'a> {
    status_code: u16,
    body: &'a ChatCompletion,
}

#[derive(Serialize)]
struct Failure<'a> {
    code: &'a str,
    message: String,
    status_code: Option<u16>,
    line: Option<u64>,
}

/// The line of a result, with its end, in the shape of OpenAI's batch output: `custom_id`, `response` with
/// `status_code` and `body`, or `error` with our [`ErrorKind`]'s label as its `code`, our message, the provider's
/// status and the line's number; and beside them `usage`, and `cost` in dollars.
pub fn line(item: &BulkItem) -> Vec<u8> {
    let (response, error) = match &item.result {
        Ok(answer) => (Some(Response { status_code: 200, body: answer.completion() }), None),
        Err(error) => {
            let (code, message) = (error.kind().label(), error.to_string());
            (None, Some(Failure { code, message, status_code: error.status(), line: item.line }))
        }
    };
    let usage = match &item.result {
        Ok(answer) => answer.usage.as_ref(),
        Err(error) => error.usage(),
    };
    let cost = item.cost.map(|cost| cost.dollars());
    // Maps with keys of text and finite numbers are always JSON.
    let mut line = serde_json::to_vec(&Line { custom_id: &item.id, response, error, usage, cost }).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    #[tokio::test]
    async fn every_line_is_an_item_and_what_cannot_be_read_says_where() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"secret"}],"stream":true}"#;
        let file = [
            "\u{feff}".to_owned() + body,
            format!(r#"{{"custom_id":"a","method":"POST","url":"{PATH}","body":{body}}}"#) + "\r",
            String::new(),
            r#"{"model":"m","messages":"secret"}"#.to_owned(),
            format!(r#"{{"custom_id":"b","method":"GET","body":{body}}}"#),
            format!(r#"{{"custom_id":"c","url":"/v1/embeddings","body":{body}}}"#),
            r#"{"custom_id":"d","body":{"model":"m"}}"#.to_owned(),
            r#"{"custom_id":"e","body":"secret"}"#.to_owned(),
            "secret".to_owned(),
            "[]".to_owned(),
            format!(r#"{{"custom_id":7,"body":{body}}}"#),
        ]
        .join("\n");
        assert_eq!(count(file.as_bytes()).await.unwrap(), 10);
        let found: Vec<_> = requests(std::io::Cursor::new(file)).collect().await;
        let ids: Vec<_> = found.iter().map(|item| (item.id(), item.line.unwrap())).collect();
        let (a, b, c, d, e) = (Some("a"), Some("b"), Some("c"), Some("d"), Some("e"));
        let lines =
            [(None, 1), (a, 2), (None, 4), (b, 5), (c, 6), (d, 7), (e, 8), (None, 9), (None, 10), (Some("7"), 11)];
        assert_eq!(ids, lines);
        for (item, good) in found.iter().zip([true, true, false, false, false, false, false, false, false, true]) {
            assert_eq!(item.request.is_ok(), good, "{item:?}");
            if let Err(error) = &item.request {
                let text = error.to_string();
                assert!(text.contains(&format!("line {} ", item.line.unwrap())) && !text.contains("secret"), "{text}");
            }
        }
        assert!(found[0].request.as_ref().unwrap().extra.is_empty());
    }
}
