//! Errors, limits and events as OpenAI puts them on the wire.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use serde::Serialize;
use serde_json::{Value, json};
use sluicegate::types::RateLimits;
use sluicegate::{Error, ErrorKind, Retryability};

/// One server-sent event.
pub(crate) fn event(data: &impl Serialize) -> String {
    format!("data: {}\n\n", serde_json::to_string(data).unwrap_or_default())
}

/// A request that never reached the provider.
pub(crate) fn refused(status: StatusCode, message: &str) -> Response {
    let error = json!({"message": message, "type": "invalid_request_error", "param": null, "code": null});
    (status, Json(json!({"error": error}))).into_response()
}

/// An error before the first byte.
pub(crate) fn failed(error: &Error) -> Response {
    let status = error.status().and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut headers = error.rate_limits().map(limit_headers).unwrap_or_default();
    match error.retryability() {
        Retryability::After(Some(wait)) => {
            // Rounded up: a client that waits as told must be let in.
            put(&mut headers, "retry-after-ms", wait.as_nanos().div_ceil(1_000_000).to_string());
            put(&mut headers, "retry-after", wait.as_nanos().div_ceil(1_000_000_000).to_string());
        }
        Retryability::Never => put(&mut headers, "x-should-retry", "false".to_owned()),
        _ => {}
    }
    (status, headers, Json(error_body(error))).into_response()
}

/// The error object of a body or an event.
pub(crate) fn error_body(error: &Error) -> Value {
    let (kind, code) = match (error.kind(), error.code()) {
        (ErrorKind::RateLimited, code) => {
            let of_tokens = error.provider_message().is_some_and(|message| message.contains("(TPM)"));
            // OpenAI's code of a request that is too large is that of any other 429; its type and text tell.
            (if of_tokens { "tokens" } else { "requests" }, code.map(|_| "rate_limit_exceeded"))
        }
        (ErrorKind::InvalidRequest, code) => ("invalid_request_error", code),
        (_, code) => ("server_error", code),
    };
    let message = error.provider_message().unwrap_or_else(|| error.message());
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

/// The `x-ratelimit-*` headers.
pub(crate) fn limit_headers(limits: &RateLimits) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let counts = [
        ("x-ratelimit-limit-requests", limits.limit_requests),
        ("x-ratelimit-remaining-requests", limits.remaining_requests),
        ("x-ratelimit-limit-tokens", limits.limit_tokens),
        ("x-ratelimit-remaining-tokens", limits.remaining_tokens),
    ];
    for (name, count) in counts {
        if let Some(count) = count {
            put(&mut headers, name, count.to_string());
        }
    }
    let resets =
        [("x-ratelimit-reset-requests", limits.reset_requests), ("x-ratelimit-reset-tokens", limits.reset_tokens)];
    for (name, reset) in resets {
        if let Some(reset) = reset {
            put(&mut headers, name, go_duration(reset));
        }
    }
    headers
}

fn put(headers: &mut HeaderMap, name: &'static str, value: String) {
    // Digits and letters are always a valid value.
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// As Go prints durations, which is how OpenAI states resets: `12ms`, `1.5s`, `6m0s`. Rounded up to a millisecond.
fn go_duration(duration: Duration) -> String {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let seconds = || match rest % 1_000 {
        0 => format!("{}s", rest / 1_000),
        part => format!("{}.{:03}", rest / 1_000, part).trim_end_matches('0').to_owned() + "s",
    };
    match (minutes, millis) {
        (_, millis @ 0..1_000) => format!("{millis}ms"),
        (0, _) => seconds(),
        (minutes, _) => format!("{minutes}m{}", seconds()),
    }
}
