//! Randomness, injected.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

/// Where jitter and sampling come from. Not for secrets.
pub trait Random: fmt::Debug + Send + Sync + 'static {
    /// 64 evenly distributed bits.
    fn next(&self) -> u64;
}

/// So that several clients can draw from one sequence.
impl<R: Random + ?Sized> Random for Arc<R> {
    fn next(&self) -> u64 {
        (**self).next()
    }
}

/// Unpredictable from run to run, one generator per thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThreadRandom;

impl Random for ThreadRandom {
    #[allow(clippy::disallowed_methods, reason = "the one place where randomness is taken from the system")]
    fn next(&self) -> u64 {
        fastrand::u64(..)
    }
}

/// The same sequence in every run with the same seed.
#[derive(Debug)]
pub struct SeededRandom(Mutex<fastrand::Rng>);

impl SeededRandom {
    /// A sequence.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(fastrand::Rng::with_seed(seed)))
    }
}

impl Random for SeededRandom {
    fn next(&self) -> u64 {
        self.0.lock().u64(..)
    }
}
