//! A namespace at work.

use std::sync::OnceLock;
use std::time::Duration;

use super::Namespace;
use super::tier::Memory;
use crate::error::Result;

/// A namespace and its memory.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) name: Box<str>,
    pub(super) ttl: Duration,
    memory: Option<Lazy>,
}

/// Memory that is made when it is used: a cache of answers alone does not pay for the vectors it never sees.
#[derive(Debug)]
struct Lazy {
    entries: usize,
    max_bytes: u64,
    made: OnceLock<Option<Memory>>,
}

impl Space {
    /// With or without memory.
    pub(super) fn new(settings: Namespace, in_memory: bool) -> Result<Self> {
        settings.check()?;
        let Namespace { name, ttl, entries, max_bytes } = settings;
        let memory = in_memory.then(|| Lazy { entries, max_bytes, made: OnceLock::new() });
        Ok(Self { name: name.into(), ttl, memory })
    }

    /// Its memory, made on first use.
    pub(super) fn memory(&self) -> Option<&Memory> {
        let lazy = self.memory.as_ref()?;
        // The sizes have been checked, so it can be made.
        lazy.made.get_or_init(|| Memory::new(lazy.entries, lazy.max_bytes).ok()).as_ref()
    }

    /// Its memory, if it has been used.
    pub(super) fn used_memory(&self) -> Option<&Memory> {
        self.memory.as_ref()?.made.get()?.as_ref()
    }
}
