//! Refusals and broken connections as one of our errors.
//!
//! The provider's text, which may quote the prompt or the key, goes to
//! [`provider_message`](crate::Error::provider_message) only; what is printed is the kind, the status, the code and our
//! own advice. Source errors lose their URL, because its query may hold a key.

use std::error::Error as _;
use std::time::SystemTime;

use reqwest::header::HeaderMap;
use serde_json::Value;

use super::{ORIGIN, headers};
use crate::error::{Error, ErrorKind, Retryability};

/// Longer texts are HTML pages or prompts, not messages.
const MESSAGE_BYTES: usize = 2048;

/// What the body of a refusal says, in any of the shapes seen: `{"error": {"message", "type", "code"}}`,
/// `{"error": "text"}`, `{"message"}`, `{"detail"}`, one of these in a list, plain text, nothing.
#[derive(Debug, Default, PartialEq)]
struct Refusal {
    message: Option<String>,
    code: Option<String>,
    class: Option<String>,
}

impl Refusal {
    fn read(body: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(body) {
            Ok(value) => Self::from_value(&value),
            Err(_) => Self { message: cut(&String::from_utf8_lossy(body)), ..Self::default() },
        }
    }

    fn from_value(value: &Value) -> Self {
        let value = value.get(0).unwrap_or(value);
        let value = value.get("error").filter(|error| !error.is_null()).unwrap_or(value);
        if let Value::String(text) = value {
            return Self { message: cut(text), ..Self::default() };
        }
        let word = |name: &str| match value.get(name)? {
            Value::String(text) => Some(text.clone()),
            // Some servers repeat the status as the code.
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let message = value.get("message").or_else(|| value.get("detail")).and_then(Value::as_str);
        Self { message: message.and_then(cut), code: word("code"), class: word("type") }
    }

    /// What its words say, whatever the status.
    fn named(&self) -> Option<ErrorKind> {
        let words = [&self.code, &self.class];
        let kind = words.into_iter().flatten().find_map(|word| match word.as_str() {
            "context_length_exceeded" => Some(ErrorKind::ContextLength),
            "content_filter" | "content_policy_violation" => Some(ErrorKind::ContentFilter),
            "insufficient_quota" | "billing_hard_limit_reached" => Some(ErrorKind::QuotaExhausted),
            "rate_limit_exceeded" | "rate_limit_error" => Some(ErrorKind::RateLimited),
            "invalid_api_key" | "authentication_error" | "permission_error" => Some(ErrorKind::Auth),
            "model_not_found" | "not_found_error" => Some(ErrorKind::NotFound),
            _ => None,
        });
        // vLLM and others give no code for it, only OpenAI's sentence. Without this no layer could trim and try again.
        let too_long = || self.message.as_ref().is_some_and(|text| text.contains("maximum context length"));
        let broad = || self.class.as_ref().is_some_and(|class| class == "invalid_request_error");
        kind.or_else(|| too_long().then_some(ErrorKind::ContextLength))
            .or_else(|| broad().then_some(ErrorKind::InvalidRequest))
    }

    fn kind(&self, status: u16) -> ErrorKind {
        match (status, self.named()) {
            (402, _) | (401 | 403 | 429, Some(ErrorKind::QuotaExhausted)) => ErrorKind::QuotaExhausted,
            (408, _) => ErrorKind::Timeout,
            // A conflict and "too early" pass by themselves.
            (409 | 425, _) => ErrorKind::Server,
            (400..=499, Some(kind @ (ErrorKind::ContextLength | ErrorKind::ContentFilter))) => kind,
            (401 | 403, _) => ErrorKind::Auth,
            (404, _) => ErrorKind::NotFound,
            (429, _) => ErrorKind::RateLimited,
            (400..=499, _) => ErrorKind::InvalidRequest,
            (500.., _) => ErrorKind::Server,
            _ => ErrorKind::Other,
        }
    }

    fn into_error(self, kind: ErrorKind) -> Error {
        let mut error = Error::new(kind, ORIGIN, advice(kind));
        if let Some(code) = self.code.or(self.class).filter(|code| !code.is_empty()) {
            error = error.with_code(&code);
        }
        match self.message {
            Some(text) => error.with_provider_message(text),
            None => error,
        }
    }
}

/// An answer with a status other than 2xx. `now` is the time of day that dates in its headers are relative to.
pub(super) fn from_status(status: u16, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Error {
    let refusal = Refusal::read(body);
    let kind = refusal.kind(status);
    let hint = headers::retry_after(headers, now);
    let mut error = refusal.into_error(kind).with_status(status);
    let retryability = match (kind, headers::should_retry(headers), error.retryability()) {
        // No header makes money appear.
        (ErrorKind::QuotaExhausted, _, _) | (_, Some(false), _) => Retryability::Never,
        (_, Some(true), _) | (_, None, Retryability::After(_)) => Retryability::After(hint),
        (_, None, other) => other,
    };
    error = error.with_retryability(retryability);
    match headers::rate_limits(headers) {
        Some(limits) => error.with_rate_limits(limits),
        None => error,
    }
}

/// An error told inside a 2xx answer: an event of a stream, or a whole body.
pub(super) fn from_body(body: &[u8]) -> Error {
    from_refusal(Refusal::read(body))
}

/// The same, already parsed.
pub(super) fn from_value(value: &Value) -> Error {
    from_refusal(Refusal::from_value(value))
}

fn from_refusal(refusal: Refusal) -> Error {
    let status = refusal.code.as_ref().and_then(|code| code.parse().ok()).filter(|code| (400..600).contains(code));
    let kind = match (refusal.named(), status) {
        (Some(kind), _) => kind,
        (None, Some(status)) => refusal.kind(status),
        (None, None) => ErrorKind::Server,
    };
    refusal.into_error(kind)
}

/// A failure below HTTP: no connection, a broken one, an undecodable body.
pub(super) fn from_transport(error: reqwest::Error) -> Error {
    let (kind, message) = if error.is_timeout() {
        (ErrorKind::Timeout, "the connection was not made, or went silent, within its time limit")
    } else if error.is_connect() {
        (ErrorKind::Network, "could not connect; check the base URL and that the server is up")
    } else if error.is_builder() {
        (ErrorKind::InvalidRequest, "the request could not be built")
    } else if is_garbled(&error) {
        (ErrorKind::Decode, "the body could not be decompressed")
    } else {
        (ErrorKind::Network, "the connection broke")
    };
    Error::new(kind, ORIGIN, message).with_source(error.without_url())
}

/// Whether reading a body failed in the decompression. reqwest calls every failure there "decode"; those of the
/// connection come from the HTTP library below, those of the decompressor are plain I/O errors.
fn is_garbled(error: &reqwest::Error) -> bool {
    error.is_decode() && error.source().is_some_and(|cause| cause.is::<std::io::Error>())
}

/// An answer that arrived and cannot be understood.
pub(super) fn undecodable(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Decode, ORIGIN, message)
}

/// An answer that was stopped because it grew past the limit. It would grow as large again, and be paid for again.
pub(super) fn too_large(what: &str, limit: usize) -> Error {
    undecodable(format!("{what} is larger than max_body_bytes = {limit}")).with_retryability(Retryability::Never)
}

fn advice(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidRequest => "the provider refused the request; its reason is in provider_message()",
        ErrorKind::Auth => "check the API key and what it may do",
        ErrorKind::NotFound => "check the model's name and the base URL",
        ErrorKind::RateLimited => "send fewer requests or tokens per minute",
        ErrorKind::QuotaExhausted => "the account's credit or quota is used up; waiting does not help",
        ErrorKind::ContextLength => "shorten the conversation or choose a model with a larger window",
        ErrorKind::Other => "an unexpected status; redirects are not followed, so give the final base URL",
        _ => "",
    }
}

/// The text without surrounding space, at most [`MESSAGE_BYTES`] long; `None` when nothing is left.
fn cut(text: &str) -> Option<String> {
    let text = text.trim();
    let end = (0..=text.len().min(MESSAGE_BYTES)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    (end > 0).then(|| text[..end].to_owned())
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
