//! Limits that follow what comes back: refusals, and the time to the first chunk.

use std::ops::RangeInclusive;
use std::time::Instant;

use crate::error::ErrorKind;
use crate::schedule::Outcome;

/// What a refusal leaves of the limit: CUBIC's factor (RFC 9438).
const DECREASE: f64 = 0.7;
/// Where the gradient starts, as in Netflix's library.
const FIRST_LIMIT: f64 = 20.0;
/// How many times slower than its long average an answer may begin before the limit goes down: Gradient2's.
const TOLERANCE: f64 = 1.5;
/// What one answer weighs in the long average: Gradient2's window of 600 answers.
const LONG: f64 = 2.0 / 601.0;
/// A round is as many answers as the limit, but at least so many.
const ROUND: f64 = 10.0;

/// A limit within bounds that goes down with refusals, once per round trip.
#[derive(Debug)]
struct Level {
    bounds: RangeInclusive<usize>,
    limit: f64,
    lowered: Option<Instant>,
}

impl Level {
    fn new(bounds: RangeInclusive<usize>, first: f64) -> Self {
        let mut level = Self { bounds, limit: 0.0, lowered: None };
        level.set(first);
        level
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(*self.bounds.start() as f64, *self.bounds.end() as f64);
    }

    fn whole(&self) -> usize {
        (self.limit as usize).clamp(*self.bounds.start(), *self.bounds.end())
    }

    fn is_used(&self, in_flight: usize) -> bool {
        in_flight as f64 * 2.0 >= self.limit
    }

    /// Goes down, if this call was refused and began after the last time it did.
    fn lower(&mut self, outcome: &Outcome<'_>, now: Instant) -> bool {
        if !is_refusal(outcome) {
            return false;
        }
        let began = now.checked_sub(outcome.latency).unwrap_or(now);
        if self.lowered.is_none_or(|lowered| began > lowered) {
            self.lowered = Some(now);
            self.set(self.limit * DECREASE);
        }
        true
    }
}

/// Whether upstream said that it has too much. Timeouts are no such word: an answer may just be long.
fn is_refusal(outcome: &Outcome<'_>) -> bool {
    outcome.error.is_some_and(|error| {
        matches!(error.kind(), ErrorKind::RateLimited | ErrorKind::Overloaded)
            || matches!(error.status(), Some(503 | 529))
    })
}

/// Additive increase, multiplicative decrease.
#[derive(Debug)]
pub(in crate::schedule) struct Aimd(Level);

impl Aimd {
    pub(super) fn new(bounds: RangeInclusive<usize>) -> Self {
        let first = *bounds.start() as f64;
        Self(Level::new(bounds, first))
    }

    pub(super) fn limit(&self) -> usize {
        self.0.whole()
    }

    pub(super) fn ended(&mut self, outcome: &Outcome<'_>, in_flight: usize, now: Instant) {
        let level = &mut self.0;
        if !level.lower(outcome, now) && outcome.error.is_none() && level.is_used(in_flight) {
            let step = if level.lowered.is_none() { 1.0 } else { 1.0 / level.limit };
            level.set(level.limit + step);
        }
    }
}

/// The gradient of the time to the first chunk.
#[derive(Debug)]
pub(in crate::schedule) struct Gradient {
    level: Level,
    /// The long average, in seconds, and of how many answers.
    long: f64,
    answers: f64,
    sum: f64,
    count: f64,
    used: bool,
}

impl Gradient {
    pub(super) fn new(bounds: RangeInclusive<usize>) -> Self {
        Self { level: Level::new(bounds, FIRST_LIMIT), long: 0.0, answers: 0.0, sum: 0.0, count: 0.0, used: false }
    }

    pub(super) fn limit(&self) -> usize {
        self.level.whole()
    }

    pub(super) fn ended(&mut self, outcome: &Outcome<'_>, in_flight: usize, now: Instant) {
        if self.level.lower(outcome, now) {
            return;
        }
        let Some(first_chunk) = outcome.first_chunk.map(|wait| wait.as_secs_f64()) else { return };
        self.sum += first_chunk;
        self.count += 1.0;
        self.used |= self.level.is_used(in_flight);
        // At first the plain average, so that one odd answer does not stand for all.
        self.answers = (self.answers + 1.0).min(1.0 / LONG);
        self.long += (first_chunk - self.long) / self.answers;
        if self.count >= self.level.limit.max(ROUND) {
            self.step();
        }
    }

    /// A round is over.
    fn step(&mut self) {
        let (short, used) = (self.sum / self.count, self.used);
        (self.sum, self.count, self.used) = (0.0, 0.0, false);
        if used && short > 0.0 {
            let gradient = (TOLERANCE * self.long / short).clamp(0.5, 1.0);
            self.level.set(self.level.limit * gradient + self.level.limit.sqrt());
        }
        // After a lasting slowness, the average would take long to come down.
        if self.long > 2.0 * short {
            self.long *= 0.95;
        }
    }
}
