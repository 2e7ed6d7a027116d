//! Per-call controls that travel down in [`Extensions`](super::Extensions).

use std::time::Instant;

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
