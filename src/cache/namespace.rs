//! Parts of a cache with a size and a time to live of their own.

use std::time::Duration;

use crate::error::{Error, Result};

/// Answers of chats, unless a call says otherwise.
pub(super) const RESPONSES: &str = "responses";
/// Vectors of texts.
pub(super) const EMBEDDINGS: &str = "embeddings";
/// Results of prompts that are steps of something larger.
pub(super) const PROMPTS: &str = "prompts";
/// What was found for a question: documents, passages, rows.
pub(super) const RETRIEVAL: &str = "retrieval";

const HOUR: Duration = Duration::from_secs(3600);

/// A part of the cache with its own size in memory and its own time to live. Entries of different namespaces never meet,
/// and one that fills up pushes nothing out of another.
///
/// Four are ready-made:
///
/// | Name | Time to live | Entries | Bytes | For |
/// |---|--:|--:|--:|---|
/// | `responses` | 1 h | 10,000 | 256 MiB | answers of chats |
/// | `embeddings` | 24 h | 50,000 | 512 MiB | vectors: a text's vector changes only with its model |
/// | `prompts` | 2 h | 5,000 | 64 MiB | results of prompts that are steps of something larger |
/// | `retrieval` | 2 h | 50,000 | 256 MiB | what was found for a question |
///
/// Memory is taken as it is filled. `responses` has the size given to [`Cache::memory`](super::Cache::memory).
///
/// ```
/// use std::time::Duration;
/// use sluicegate::cache::{Cache, Namespace};
/// let cache = Cache::memory(10_000)
///     .namespace(Namespace::embeddings().max_bytes(64 << 20))
///     .namespace(Namespace::new("tool-results").entries(1_000).ttl(Duration::from_secs(300)));
/// # let _ = cache;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    pub(super) name: String,
    pub(super) ttl: Duration,
    pub(super) entries: usize,
    pub(super) max_bytes: u64,
}

impl Namespace {
    /// A namespace of this name, of 1 to 64 letters, digits, `-`, `_` and `.`: an hour, 10,000 entries, 256 MiB, unless
    /// set. One of a name that the cache has already takes its place.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ttl: HOUR, entries: 10_000, max_bytes: 256 << 20 }
    }

    /// Answers of chats: 1 h, 10,000 entries.
    pub fn responses() -> Self {
        Self::new(RESPONSES)
    }

    /// Vectors: 24 h, 50,000 entries, 512 MiB.
    pub fn embeddings() -> Self {
        Self::new(EMBEDDINGS).ttl(24 * HOUR).entries(50_000).max_bytes(512 << 20)
    }

    /// Results of prompts that are steps of something larger: 2 h, 5,000 entries, 64 MiB.
    pub fn prompts() -> Self {
        Self::new(PROMPTS).ttl(2 * HOUR).entries(5_000).max_bytes(64 << 20)
    }

    /// What was found for a question: 2 h, 50,000 entries.
    pub fn retrieval() -> Self {
        Self::new(RETRIEVAL).ttl(2 * HOUR).entries(50_000)
    }

    pub(super) fn ready_made() -> Vec<Self> {
        vec![Self::responses(), Self::embeddings(), Self::prompts(), Self::retrieval()]
    }

    /// How long an entry is served; more than zero.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Entries in memory at most; at least 1.
    #[must_use]
    pub fn entries(mut self, entries: usize) -> Self {
        self.entries = entries;
        self
    }

    /// Bytes of memory at most, the keys included; at least 1.
    #[must_use]
    pub fn max_bytes(mut self, max: u64) -> Self {
        self.max_bytes = max;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !(1..=64).contains(&self.name.len()) || !self.name.chars().all(plain) {
            let advice = "give it a name of 1 to 64 letters, digits, '-', '_' and '.'";
            return Err(Error::config("cache", "namespace", format!("{:?}", self.name), advice));
        }
        let refuse = |what: &str, value: &str, advice: &str| {
            let setting = if self.name == RESPONSES { what.to_owned() } else { format!("{what} of {}", self.name) };
            Err(Error::config("cache", &setting, value, advice))
        };
        if self.ttl.is_zero() {
            return refuse("ttl", "0s", "keep answers for at least a millisecond, or leave the cache out");
        }
        if self.entries == 0 {
            return refuse("memory entries", "0", "keep at least 1 entry, or leave the cache out");
        }
        if self.max_bytes == 0 {
            return refuse("max_bytes", "0", "allow at least a few KiB, or leave the cache out");
        }
        Ok(())
    }
}
