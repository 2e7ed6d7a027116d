//! Per-call controls that travel down in [`Extensions`](super::Extensions).

use std::time::{Duration, Instant};

use super::Extensions;

/// How much a call matters. Higher goes first; among equals tenants take turns, and a tenant's calls go in order of
/// arrival.
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

/// Whether a call may wait for hours to be answered in a batch, at half the price, where the stack has a
/// [`DeferLayer`](crate::batch::DeferLayer). Without it, calls whose [`Deadline`] is far enough away are deferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Deferrable {
    /// Never, however far its deadline is away.
    No,
    /// Also without a deadline. One that is too near still keeps it from being deferred.
    Yes,
}

impl Deferrable {
    /// Whether a call with these controls may be left to a batch, where those are whose deadline is so far away.
    pub(crate) fn may_wait(extensions: &Extensions, now: Instant, least: Duration) -> bool {
        match (extensions.get::<Self>(), extensions.get::<Deadline>()) {
            (Some(Self::No), _) => false,
            (_, Some(Deadline(until))) => until.saturating_duration_since(now) >= least,
            (control, None) => control == Some(&Self::Yes),
        }
    }
}

/// Whose call this is. It separates cache entries: two tenants never share an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tenant(pub String);

/// Who shares a stored answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scope {
    /// Calls of the same [`Tenant`]; those without one share among themselves.
    #[default]
    Tenant,
    /// All calls that say so, whatever their tenant. Only for answers that may be shown to everybody: a hit also tells
    /// that somebody has asked before.
    Public,
}

/// How one call uses the cache, in the words of HTTP caching (RFC 9111, section 5.2.1). Without it, the call takes a
/// stored answer if there is one, and its own is kept.
///
/// Whoever starts a flight decides for all who join it whether and how long its answer is kept, and under which tags.
///
/// ```
/// use std::time::Duration;
/// use sluicegate::types::{CacheControl, ChatRequest};
/// let fresh = ChatRequest::new("gpt-5-mini").user("What is new?").with(CacheControl::new().max_age(Duration::from_secs(60)));
/// let tagged = ChatRequest::new("gpt-5-mini").user("What does it cost?").with(CacheControl::new().tag("price-list"));
/// # let _ = (fresh, tagged);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheControl {
    pub(crate) no_store: bool,
    pub(crate) no_cache: bool,
    pub(crate) only_if_cached: bool,
    pub(crate) max_age: Option<Duration>,
    pub(crate) max_stale: Option<Duration>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) scope: Scope,
    pub(crate) namespace: Option<String>,
    pub(crate) tags: Vec<String>,
}

impl CacheControl {
    /// What happens without it.
    pub const fn new() -> Self {
        Self {
            no_store: false,
            no_cache: false,
            only_if_cached: false,
            max_age: None,
            max_stale: None,
            ttl: None,
            scope: Scope::Tenant,
            namespace: None,
            tags: Vec::new(),
        }
    }

    /// Does not keep this call's answer. A stored one is still served; add [`no_cache`](Self::no_cache) to refuse that.
    #[must_use]
    pub fn no_store(mut self) -> Self {
        self.no_store = true;
        self
    }

    /// Takes no stored answer: asks upstream, or joins those who are asking, and the new answer replaces the stored one.
    #[must_use]
    pub fn no_cache(mut self) -> Self {
        self.no_cache = true;
        self
    }

    /// Takes only a stored answer: without one the call fails with
    /// [`ErrorKind::CacheMiss`](crate::ErrorKind::CacheMiss), and nothing is asked upstream.
    #[must_use]
    pub fn only_if_cached(mut self) -> Self {
        self.only_if_cached = true;
        self
    }

    /// Takes no answer that was stored longer ago than this.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Takes an answer that has been stale for at most so long, if one is still stored: the cache keeps stale answers
    /// only as long as it was told to (`stale_while_revalidate`, `stale_if_error`). A staler one is not taken under those
    /// settings either, so zero refuses what is stale.
    #[must_use]
    pub fn max_stale(mut self, staleness: Duration) -> Self {
        self.max_stale = Some(staleness);
        self
    }

    /// Keeps this call's answer for so long, instead of the namespace's own time to live. Zero keeps nothing.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Who shares this call's answer; its tenant unless set.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// The namespace in which it is looked up and kept, with that one's size and time to live; `responses` unless set. A
    /// call that names one the cache was not given fails with
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest).
    #[must_use]
    pub fn namespace(mut self, name: impl Into<String>) -> Self {
        self.namespace = Some(name.into());
        self
    }

    /// Adds a tag under which this call's answer can be removed later. Tags are not part of the key.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }
}
