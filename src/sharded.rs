//! Statistics that threads write without meeting each other.
//!
//! A counter that two threads share costs each increment a trip of its cache line: measured at twenty times the work of
//! a cache hit's other parts. Here each thread writes to a shard of its own, and a reader adds the shards up.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// More threads than shards share them, which costs speed and nothing else.
const SHARDS: usize = 16;

/// One `T` per shard, each on cache lines of its own.
#[derive(Debug)]
pub(crate) struct Sharded<T> {
    shards: Box<[Padded<T>]>,
}

// Two lines: the adjacent-line prefetcher of x86 fetches pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

thread_local! {
    static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn mine() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    MINE.with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        mine.get()
    })
}

/// Whether this thread is the only one that ever has its number: one of the first. What only such threads write, they need
/// not write in one operation, which costs a fifth of the time.
pub(crate) fn is_alone() -> bool {
    mine() < SHARDS
}

impl<T: Default> Sharded<T> {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Padded::default()).collect() }
    }
}

impl<T> Sharded<T> {
    /// This thread's part.
    pub(crate) fn local(&self) -> &T {
        &self.shards[mine() % SHARDS].0
    }

    /// All parts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.shards.iter().map(|shard| &shard.0)
    }
}

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Self::new()
    }
}
