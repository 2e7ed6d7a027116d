//! How the provider refuses and fails.

use std::time::Duration;

use super::limits::Limit;
use crate::error::{Error, ErrorKind, Retryability};
use crate::types::RateLimits;

const ORIGIN: &str = "simulated";

/// A 429, worded as OpenAI words it.
pub(super) fn rate_limited(model: &str, tokens: u64, wait: Option<(Limit, Duration)>, report: RateLimits) -> Error {
    // Nothing to wait for any more: somebody gave back enough while the refusal was on its way.
    let (limit, wait) = wait.unwrap_or((Limit::Tokens, Duration::ZERO));
    let error = |message: &str| Error::new(ErrorKind::RateLimited, ORIGIN, message).with_status(429);
    let per_minute = report.limit_tokens.unwrap_or(0);
    let error = match limit {
        Limit::TooLarge => error("request too large: it reserves more tokens than the limit ever lets through at once")
            .with_code("tokens")
            .with_retryability(Retryability::Never)
            .with_provider_message(format!(
                "Request too large for {model} on tokens per min (TPM): Limit {per_minute}, Requested {tokens}. The input or \
                 output tokens must be reduced in order to run successfully."
            )),
        Limit::Requests => error("requests per minute are used up; wait as told")
            .with_code("rate_limit_exceeded")
            .with_retryability(Retryability::After(Some(wait)))
            .with_provider_message(format!(
                "Rate limit reached for {model} on requests per min (RPM): Limit {}, Requested 1. Please try again in {:?}.",
                report.limit_requests.unwrap_or(0),
                wait
            )),
        Limit::Tokens => error("tokens per minute are used up; wait as told")
            .with_code("rate_limit_exceeded")
            .with_retryability(Retryability::After(Some(wait)))
            .with_provider_message(format!(
                "Rate limit reached for {model} on tokens per min (TPM): Limit {per_minute}, Requested {tokens}. Please try \
                 again in {wait:?}."
            )),
    };
    error.with_rate_limits(report)
}

/// A 500 or a 503 before the first byte.
pub(super) fn server_error(unavailable: bool) -> Error {
    if unavailable {
        Error::new(ErrorKind::Server, ORIGIN, "simulated overload")
            .with_status(503)
            .with_code("overloaded")
            .with_provider_message("The engine is currently overloaded, please try again later")
    } else {
        Error::new(ErrorKind::Server, ORIGIN, "simulated failure")
            .with_status(500)
            .with_code("server_error")
            .with_provider_message("The server had an error while processing your request. Sorry about that!")
    }
}

/// An error event inside a stream.
pub(super) fn stream_error() -> Error {
    Error::new(ErrorKind::Server, ORIGIN, "simulated failure inside the stream")
        .with_code("server_error")
        .with_provider_message("The server had an error processing your request. Sorry about that!")
}

/// A request that cannot be served.
pub(super) fn invalid(field: &str, value: u32, remedy: &str) -> Error {
    Error::invalid(ORIGIN, field, value, remedy).with_status(400)
}
