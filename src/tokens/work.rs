//! What a counter has done.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a [`Tiktoken`](super::Tiktoken) has tokenized since it was made, words that it looked up included; what it
/// remembered is not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Work {
    /// Pieces of text. A text of up to 32 KiB is one.
    pub pieces: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Pieces that ended inside a run that is too long: the counts they are part of may be overstated.
    pub cuts: u64,
}

#[derive(Debug, Default)]
pub(super) struct WorkDone {
    pieces: AtomicU64,
    bytes: AtomicU64,
    cuts: AtomicU64,
}

impl WorkDone {
    pub(super) fn add(&self, bytes: usize, cut: bool) {
        self.pieces.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.cuts.fetch_add(u64::from(cut), Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Work {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Work { pieces: read(&self.pieces), bytes: read(&self.bytes), cuts: read(&self.cuts) }
    }
}
