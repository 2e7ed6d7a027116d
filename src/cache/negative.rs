//! Failures remembered for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::removals::{Mark, Removals};
use super::tier::Memory;
use super::{Entry, Labels, Payload, Probe};
use crate::error::{Error, ErrorKind, Result};

/// So many failures are remembered, in at most so many bytes, their requests included.
const ENTRIES: usize = 1_000;
const BYTES: u64 = 8 << 20;

/// The kinds that the request alone brings about: asked again, it fails again.
const LASTING: [ErrorKind; 5] = [
    ErrorKind::InvalidRequest,
    ErrorKind::NotFound,
    ErrorKind::ContextLength,
    ErrorKind::ContentFilter,
    ErrorKind::Unsupported,
];

/// Which failures are remembered, and for how long.
///
/// A request that failed in one of these ways is given the same error again without asking upstream; such an error says so
/// with [`Error::is_remembered`]. It is remembered in memory only, at most 1,000 failures in 8 MiB, apart from answers:
/// an answer stored in any tier goes first, fresh or, where the call takes it, stale. A call with `no_cache` asks again,
/// one with `no_store` is not remembered, `max_age` bounds the age of a failure too, and removals forget failures.
///
/// ```
/// use std::time::Duration;
/// use sluicegate::ErrorKind;
/// use sluicegate::cache::{Cache, Negative};
/// let kinds = [ErrorKind::InvalidRequest, ErrorKind::ContextLength];
/// let cache = Cache::memory(10_000).negative(Negative::new(kinds).ttl(Duration::from_secs(10)));
/// # let _ = cache;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negative {
    kinds: Vec<ErrorKind>,
    ttl: Duration,
}

impl Negative {
    /// Failures of these kinds, at least one of `InvalidRequest`, `NotFound`, `ContextLength`, `ContentFilter` and
    /// `Unsupported`. The others are refused when the stack is built: they pass by themselves, or depend on something
    /// other than the request, and asking again is the way to find out.
    pub fn new(kinds: impl IntoIterator<Item = ErrorKind>) -> Self {
        Self { kinds: kinds.into_iter().collect(), ttl: Duration::from_secs(30) }
    }

    /// For how long; more than zero. 30 s unless set: it stops a loop, and hardly outlasts a fix.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    fn check(&self) -> Result<()> {
        let words = || LASTING.map(|kind| format!("{kind:?}")).join(", ");
        if let Some(kind) = self.kinds.iter().find(|kind| !LASTING.contains(kind)) {
            let advice = format!("only what the request itself brings about is worth remembering: {}", words());
            return Err(Error::config("cache", "negative", format!("{kind:?}"), &advice));
        }
        if self.kinds.is_empty() {
            let advice = format!("name some of {}, or leave it out", words());
            return Err(Error::config("cache", "negative", "no kind", &advice));
        }
        if self.ttl.is_zero() {
            return Err(Error::config(
                "cache",
                "negative ttl",
                "0s",
                "remember for at least a millisecond, or leave it out",
            ));
        }
        Ok(())
    }
}

/// The failures of a cache.
#[derive(Debug)]
pub(super) struct Failures {
    settings: Negative,
    pub(super) memory: Memory,
}

impl Failures {
    pub(super) fn new(settings: Negative) -> Result<Self> {
        settings.check()?;
        Ok(Self { settings, memory: Memory::new(ENTRIES, BYTES)? })
    }

    /// How this request failed, if that was no longer ago than this.
    pub(super) fn find(&self, probe: &Probe, max_age: Option<Duration>) -> Option<Error> {
        let entry = self.memory.find(probe)?;
        match entry.payload() {
            Payload::Failure(error) if max_age.is_none_or(|max| entry.age(probe.now()) <= max) => Some(error.clone()),
            _ => None,
        }
    }

    /// Remembers it, if it is of a kind to be remembered.
    pub(super) fn keep(&self, probe: &Probe, labels: Labels, error: &Error, now: Instant, since: (&Removals, Mark)) {
        if !self.settings.kinds.contains(&error.kind()) {
            return;
        }
        let failure = Payload::Failure(error.clone().remembered());
        let entry = Arc::new(Entry::of(probe, failure, now, self.settings.ttl).with_labels(labels));
        self.memory.keep(probe, Arc::clone(&entry));
        let (removals, mark) = since;
        if !removals.spare(mark, &entry) {
            self.memory.forget(probe, &entry);
        }
    }

    /// The request has been answered.
    pub(super) fn forget(&self, probe: &Probe) {
        if let Some(entry) = self.memory.find(probe) {
            self.memory.forget(probe, &entry);
        }
    }
}
