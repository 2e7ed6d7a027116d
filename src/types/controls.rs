//! Per-call controls that travel down in [`Extensions`](super::Extensions).

use std::time::{Duration, Instant};

/// How much a call matters. Higher goes first; equals go in order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// Work that can wait.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Somebody is waiting for it.
    High,
}

/// The absolute time by which a call must be answered. The tighter of the caller's and the stack's own applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

/// Whose call this is. It separates cache entries: two tenants never share an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tenant(pub String);

/// How one call uses the cache, in the words of HTTP caching (RFC 9111, section 5.2.1). Without it, the call takes a
/// stored answer if there is one, and its own is kept.
///
/// Whoever starts a flight decides for all who join it whether and how long its answer is kept.
///
/// ```
/// use std::time::Duration;
/// use sluicegate::types::{CacheControl, ChatRequest};
/// let fresh = ChatRequest::new("gpt-5-mini").user("What is new?").with(CacheControl::new().max_age(Duration::from_secs(60)));
/// # let _ = fresh;
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheControl {
    pub(crate) no_store: bool,
    pub(crate) no_cache: bool,
    pub(crate) only_if_cached: bool,
    pub(crate) max_age: Option<Duration>,
    pub(crate) ttl: Option<Duration>,
}

impl CacheControl {
    /// What happens without it.
    pub const fn new() -> Self {
        Self { no_store: false, no_cache: false, only_if_cached: false, max_age: None, ttl: None }
    }

    /// Does not keep this call's answer. A stored one is still served; add [`no_cache`](Self::no_cache) to refuse that.
    #[must_use]
    pub const fn no_store(mut self) -> Self {
        self.no_store = true;
        self
    }

    /// Takes no stored answer: asks upstream, or joins those who are asking, and the new answer replaces the stored one.
    #[must_use]
    pub const fn no_cache(mut self) -> Self {
        self.no_cache = true;
        self
    }

    /// Takes only a stored answer: without one the call fails with
    /// [`ErrorKind::CacheMiss`](crate::ErrorKind::CacheMiss), and nothing is asked upstream.
    #[must_use]
    pub const fn only_if_cached(mut self) -> Self {
        self.only_if_cached = true;
        self
    }

    /// Takes no answer that was stored longer ago than this.
    #[must_use]
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Keeps this call's answer for so long, instead of the cache's own time to live. Zero keeps nothing.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}
