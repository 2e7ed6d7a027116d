//! One error type for the whole crate: cloneable, because a shared flight hands one failure to many callers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::types::{RateLimits, Usage};

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in the closest word the caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting was refused, at `build()` or when a component was made.
    #[error("refused setting")]
    Config,
    /// The request cannot be served as it stands: by our own checks, or status 400 and 422.
    #[error("invalid request")]
    InvalidRequest,
    /// Status 401 or 403.
    #[error("not authorised")]
    Auth,
    /// Status 404: unknown model or path.
    #[error("not found")]
    NotFound,
    /// Status 429 with a rate limit that passes.
    #[error("rate limited")]
    RateLimited,
    /// Status 429 or 402 because credit or quota is used up: waiting does not help.
    #[error("quota exhausted")]
    QuotaExhausted,
    /// The prompt does not fit the model's window or the configured budget.
    #[error("context too long")]
    ContextLength,
    /// Refused by the provider's content filter.
    #[error("content filtered")]
    ContentFilter,
    /// Status 5xx, or an error event inside a stream.
    #[error("provider failed")]
    Server,
    /// No connection, or it broke.
    #[error("network failed")]
    Network,
    /// One of the timeouts ran out.
    #[error("timed out")]
    Timeout,
    /// The call's own deadline passed, or cannot be met.
    #[error("deadline passed")]
    Deadline,
    /// The answer could not be understood.
    #[error("undecodable answer")]
    Decode,
    /// A stream ended before its finish.
    #[error("stream truncated")]
    Truncated,
    /// Only a stored answer was wanted, and there is none.
    #[error("not in the cache")]
    CacheMiss,
    /// A local queue or limit is full: nothing was sent.
    #[error("overloaded")]
    Overloaded,
    /// A component panicked; the panic was caught and everyone who waited on it is told.
    #[error("a component panicked")]
    Panicked,
    /// The client is shut down.
    #[error("shut down")]
    Shutdown,
    /// The wrapped client does not offer this operation.
    #[error("unsupported operation")]
    Unsupported,
    /// Anything else.
    #[error("failed")]
    Other,
}

impl ErrorKind {
    /// A stable lower-case word for metric labels (a closed set).
    pub fn label(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::InvalidRequest => "invalid_request",
            Self::Auth => "auth",
            Self::NotFound => "not_found",
            Self::RateLimited => "rate_limited",
            Self::QuotaExhausted => "quota_exhausted",
            Self::ContextLength => "context_length",
            Self::ContentFilter => "content_filter",
            Self::Server => "server",
            Self::Network => "network",
            Self::Timeout => "timeout",
            Self::Deadline => "deadline",
            Self::Decode => "decode",
            Self::Truncated => "truncated",
            Self::CacheMiss => "cache_miss",
            Self::Overloaded => "overloaded",
            Self::Panicked => "panicked",
            Self::Shutdown => "shutdown",
            Self::Unsupported => "unsupported",
            Self::Other => "other",
        }
    }
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retryability {
    /// The same request will fail again.
    Never,
    /// It may work later; the provider's own hint when it gave one.
    After(Option<Duration>),
    /// It was retried already and the retries are used up: outer layers must not multiply them.
    Spent,
}

/// Why a call failed.
///
/// `Display` and `Debug` print the kind, the layer it came from, the status, the provider's error code and our own
/// words. They never print the provider's text, a prompt, a key, a URL or the source error: those may carry secrets and
/// are reached only by asking ([`Error::provider_message`], [`std::error::Error::source`]).
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    origin: &'static str,
    message: String,
    retryability: Retryability,
    status: Option<u16>,
    code: Option<String>,
    provider_message: Option<String>,
    usage: Option<Usage>,
    rate_limits: Option<RateLimits>,
    attempts: u32,
    remembered: bool,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of this kind, from this layer (`"cache"`, `"openai"`, …), in our own words.
    ///
    /// Retryability follows the kind: rate limits, server, network, timeout, truncated, undecodable and overloaded
    /// errors may be retried, all others not; [`with_retryability`](Self::with_retryability) changes it.
    pub fn new(kind: ErrorKind, origin: &'static str, message: impl Into<String>) -> Self {
        let retryability = match kind {
            ErrorKind::RateLimited
            | ErrorKind::Server
            | ErrorKind::Network
            | ErrorKind::Timeout
            | ErrorKind::Truncated
            | ErrorKind::Decode
            | ErrorKind::Overloaded => Retryability::After(None),
            _ => Retryability::Never,
        };
        Self(Arc::new(Inner {
            kind,
            origin,
            message: message.into(),
            retryability,
            status: None,
            code: None,
            provider_message: None,
            usage: None,
            rate_limits: None,
            attempts: 0,
            remembered: false,
            source: None,
        }))
    }

    /// A refused setting: which one, the value it had, and what to do instead.
    pub fn config(origin: &'static str, setting: &str, value: impl fmt::Display, remedy: &str) -> Self {
        Self::new(ErrorKind::Config, origin, format!("{setting} = {value}: {remedy}"))
    }

    /// Refuses a setting, unless it is within this range.
    pub(crate) fn unless_within<T: PartialOrd + fmt::Debug>(
        origin: &'static str,
        setting: &str,
        value: T,
        range: std::ops::RangeInclusive<T>,
    ) -> Result<()> {
        if range.contains(&value) {
            return Ok(());
        }
        let advice = format!("use {:?} to {:?}", range.start(), range.end());
        Err(Self::config(origin, setting, format_args!("{value:?}"), &advice))
    }

    /// A refused request: which field, the value it had, and what to do instead.
    pub fn invalid(origin: &'static str, field: &str, value: impl fmt::Display, remedy: &str) -> Self {
        Self::new(ErrorKind::InvalidRequest, origin, format!("{field} = {value}: {remedy}"))
    }

    fn edit(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// Says whether trying again can help.
    #[must_use]
    pub fn with_retryability(self, retryability: Retryability) -> Self {
        self.edit(|e| e.retryability = retryability)
    }

    /// Adds the HTTP status.
    #[must_use]
    pub fn with_status(self, status: u16) -> Self {
        self.edit(|e| e.status = Some(status))
    }

    /// Adds the provider's error code, such as `insufficient_quota`. Shown by `Display`, so it is cut to 64 printable
    /// ASCII characters.
    #[must_use]
    pub fn with_code(self, code: &str) -> Self {
        let code = code.chars().filter(char::is_ascii_graphic).take(64).collect();
        self.edit(|e| e.code = Some(code))
    }

    /// Adds the provider's own text. Never shown by `Display` or `Debug`: it may quote the prompt or the key.
    #[must_use]
    pub fn with_provider_message(self, text: impl Into<String>) -> Self {
        let text = text.into();
        self.edit(|e| e.provider_message = Some(text))
    }

    /// Adds what the failed call used all the same.
    #[must_use]
    pub fn with_usage(self, usage: Usage) -> Self {
        self.edit(|e| e.usage = Some(usage))
    }

    /// Adds the rate limits the provider stated.
    #[must_use]
    pub fn with_rate_limits(self, limits: RateLimits) -> Self {
        self.edit(|e| e.rate_limits = Some(limits))
    }

    /// Says how many attempts were made upstream.
    #[must_use]
    pub fn with_attempts(self, attempts: u32) -> Self {
        self.edit(|e| e.attempts = attempts)
    }

    /// The same failure, given again without asking: this time nothing was sent and nothing used.
    pub(crate) fn remembered(self) -> Self {
        self.edit(|e| *e = Inner { remembered: true, attempts: 0, usage: None, rate_limits: None, ..e.clone() })
    }

    /// Adds the underlying error. Reached through [`std::error::Error::source`], never printed here.
    #[must_use]
    pub fn with_source(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.edit(|e| e.source = Some(Arc::new(source)))
    }

    /// Adds the underlying error, boxed already: whoever asks for it can tell its type.
    pub(crate) fn with_boxed_source(self, source: Box<dyn std::error::Error + Send + Sync>) -> Self {
        self.edit(|e| e.source = Some(Arc::from(source)))
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The layer or provider that raised it.
    pub fn origin(&self) -> &'static str {
        self.0.origin
    }

    /// Our own words, without kind and origin.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether trying again can help.
    pub fn retryability(&self) -> Retryability {
        self.0.retryability
    }

    /// The provider's hint how long to wait, if it gave one.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.0.retryability {
            Retryability::After(hint) => hint,
            Retryability::Never | Retryability::Spent => None,
        }
    }

    /// The HTTP status, if there was one.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// The provider's error code, if it gave one.
    pub fn code(&self) -> Option<&str> {
        self.0.code.as_deref()
    }

    /// The provider's own text. It may quote the prompt: do not log it.
    pub fn provider_message(&self) -> Option<&str> {
        self.0.provider_message.as_deref()
    }

    /// What the failed call used all the same, if known.
    pub fn usage(&self) -> Option<&Usage> {
        self.0.usage.as_ref()
    }

    /// The rate limits the provider stated with the failure.
    pub fn rate_limits(&self) -> Option<&RateLimits> {
        self.0.rate_limits.as_ref()
    }

    /// Whether the cache remembered it from an earlier call ([`Negative`](crate::cache::Negative)): nothing was asked.
    pub fn is_remembered(&self) -> bool {
        self.0.remembered
    }

    /// How many attempts were made upstream before giving up; 0 when no layer counted them.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        write!(f, "{}: {}", e.origin, e.kind)?;
        if let Some(status) = e.status {
            write!(f, " (status {status}")?;
            if let Some(code) = &e.code {
                write!(f, ", {code}")?;
            }
            write!(f, ")")?;
        } else if let Some(code) = &e.code {
            write!(f, " ({code})")?;
        }
        if !e.message.is_empty() {
            write!(f, ": {}", e.message)?;
        }
        if e.attempts > 1 {
            write!(f, " [after {} attempts]", e.attempts)?;
        }
        if e.remembered {
            write!(f, " [remembered]")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        f.debug_struct("Error")
            .field("kind", &e.kind)
            .field("origin", &e.origin)
            .field("message", &e.message)
            .field("status", &e.status)
            .field("code", &e.code)
            .field("retryability", &e.retryability)
            .field("attempts", &e.attempts)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| &**s as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_to_do_and_no_secret() {
        let source = std::io::Error::other("https://host/?key=sk-secret");
        let error = Error::new(ErrorKind::Auth, "openai", "check the key")
            .with_status(401)
            .with_code("invalid_api_key")
            .with_provider_message("Incorrect API key provided: sk-secret")
            .with_source(source);
        assert_eq!(error.to_string(), "openai: not authorised (status 401, invalid_api_key): check the key");
        assert!(!format!("{error:?}").contains("sk-secret"));
        assert!(std::error::Error::source(&error).is_some());
        assert_eq!(error.retryability(), Retryability::Never);
    }

    #[test]
    fn config_names_setting_value_and_remedy() {
        let error = Error::config("cache", "ttl", "0s", "use at least 1 ms");
        assert_eq!(error.to_string(), "cache: refused setting: ttl = 0s: use at least 1 ms");
    }
}
