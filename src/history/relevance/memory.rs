//! The vectors of texts, asked for once.

use std::collections::HashMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use parking_lot::Mutex;
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::embedder::Embedder;
use crate::env::{Clock, after};
use crate::error::{Error, ErrorKind, Result};
use crate::fingerprint::{ByFingerprint, fingerprint};

/// A vector of length one; empty for a text that has none to compare with.
pub(super) type Direction = Arc<[f32]>;

/// How long an embedder that failed is left alone: a call in between is not made to wait for it.
const REST: Duration = Duration::from_secs(10);

/// Vectors by the fingerprint of their text, a bounded number of them.
pub(super) struct Memory {
    known: Cache<u128, Direction, UnitWeighter, ByFingerprint, DefaultLifecycle<u128, Direction>>,
    rests_until: Mutex<Option<Instant>>,
    fallbacks: AtomicU64,
}

impl Memory {
    pub(super) fn new(vectors: usize) -> Self {
        let (hasher, lifecycle) = (ByFingerprint::default(), DefaultLifecycle::default());
        let known = Cache::with(vectors, vectors as u64, UnitWeighter, hasher, lifecycle);
        Self { known, rests_until: Mutex::new(None), fallbacks: AtomicU64::new(0) }
    }

    pub(super) fn fallbacks(&self) -> u64 {
        self.fallbacks.load(Ordering::Relaxed)
    }

    pub(super) fn count_fallback(&self) {
        self.fallbacks.fetch_add(1, Ordering::Relaxed);
    }

    /// The directions of these texts; those not known are asked for together, in one call, each once.
    pub(super) async fn directions(
        &self,
        texts: &[String],
        embedder: &dyn Embedder,
        clock: &dyn Clock,
        time_limit: Duration,
    ) -> Result<Vec<Direction>> {
        let keys: Vec<u128> = texts.iter().map(|text| fingerprint(text.as_bytes())).collect();
        let mut found: HashMap<u128, Direction> = HashMap::with_capacity(keys.len());
        let (mut asked, mut missing) = (Vec::new(), Vec::new());
        for (key, text) in keys.iter().zip(texts) {
            if found.contains_key(key) {
                continue;
            }
            let known = self.known.get(key);
            if known.is_none() {
                asked.push(*key);
                missing.push(text.clone());
            }
            found.insert(*key, known.unwrap_or_default());
        }
        if !missing.is_empty() {
            let vectors = self.ask(&missing, embedder, clock, time_limit).await?;
            for (key, vector) in asked.into_iter().zip(vectors) {
                let direction = direction(vector);
                self.known.insert(key, Arc::clone(&direction));
                found.insert(key, direction);
            }
        }
        // From what was found, not from what is remembered: that may have pushed some of it out.
        Ok(keys.iter().map(|key| found.get(key).cloned().unwrap_or_default()).collect())
    }

    async fn ask(
        &self,
        texts: &[String],
        embedder: &dyn Embedder,
        clock: &dyn Clock,
        time_limit: Duration,
    ) -> Result<Vec<Vec<f32>>> {
        if self.rests_until.lock().is_some_and(|until| clock.now() < until) {
            return Err(Error::new(ErrorKind::Overloaded, "history", "the embedder failed a moment ago"));
        }
        let until = after(clock.now(), time_limit);
        // It may also panic before it has made a future.
        let asking = AssertUnwindSafe(async { embedder.embed(texts).await }).catch_unwind();
        let answer = tokio::select! {
            biased;
            answer = asking => answer.unwrap_or_else(|_| Err(Error::new(ErrorKind::Panicked, "history", "the embedder panicked"))),
            () = clock.sleep_until(until) => Err(Error::new(ErrorKind::Timeout, "history", "the embedder took too long")),
        };
        let answer = answer.and_then(|vectors| is_usable(&vectors, texts.len()).map(|()| vectors));
        *self.rests_until.lock() = answer.is_err().then(|| after(clock.now(), REST));
        answer
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("known", &self.known.len()).field("fallbacks", &self.fallbacks()).finish()
    }
}

/// Whether these are vectors of so many texts. Some may be none; if all are, or they are of several lengths, there is nothing
/// to compare, at this call or the next.
fn is_usable(vectors: &[Vec<f32>], texts: usize) -> Result<()> {
    let refuse = |text: String| Err(Error::new(ErrorKind::Decode, "history", text));
    if vectors.len() != texts {
        return refuse(format!("{} vectors came for {texts} texts", vectors.len()));
    }
    let mut lengths = vectors.iter().filter(|vector| !vector.is_empty() && length(vector).is_finite()).map(Vec::len);
    let Some(length) = lengths.next() else {
        return refuse(format!("of {texts} vectors none is one: they are empty, or hold what is no number"));
    };
    match lengths.find(|other| *other != length) {
        Some(other) => refuse(format!("vectors of {length} and of {other} numbers came for one request")),
        None => Ok(()),
    }
}

/// Its length; in double precision: the squares of small numbers would vanish, those of great ones overflow.
fn length(vector: &[f32]) -> f64 {
    vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt()
}

/// The vector at length one. One of no length, or with a number in it that is none, points nowhere.
fn direction(mut vector: Vec<f32>) -> Direction {
    let length = length(&vector);
    if !length.is_finite() || length == 0.0 {
        return Direction::default();
    }
    vector.iter_mut().for_each(|number| *number = (f64::from(*number) / length) as f32);
    vector.into()
}

/// The cosine of the angle between two directions; `None` where they cannot be compared.
pub(super) fn cosine(one: &[f32], other: &[f32]) -> Option<f32> {
    if one.is_empty() || one.len() != other.len() {
        return None;
    }
    Some(one.iter().zip(other).map(|(one, other)| one * other).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_compare_by_angle_and_what_points_nowhere_does_not() {
        let compare = |one: &[f32], other: &[f32]| cosine(&direction(one.to_vec()), &direction(other.to_vec()));
        assert_eq!(compare(&[3.0, 4.0], &[6.0, 8.0]).map(|cosine| (cosine * 1e6).round()), Some(1e6));
        assert_eq!(compare(&[1.0, 0.0], &[0.0, 5.0]), Some(0.0));
        assert_eq!(compare(&[1e-30, 0.0], &[1e30, 0.0]), Some(1.0));
        assert_eq!(compare(&[1.0, 0.0], &[0.0, 0.0]), None);
        assert_eq!(compare(&[1.0, 0.0], &[f32::NAN, 1.0]), None);
        assert_eq!(compare(&[1.0, 0.0], &[f32::INFINITY, 1.0]), None);
        assert_eq!(compare(&[1.0, 0.0], &[1.0, 0.0, 0.0]), None);
    }
}
