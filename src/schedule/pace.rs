//! How fast the queue moves.

use std::time::{Duration, Instant};

use crate::env::after;

/// Below so many turns, a measurement says little.
const FEWEST: u32 = 32;
/// What was measured longer ago says nothing about now, unless measuring took longer.
const FRESH: Duration = Duration::from_secs(60);

/// The time between two turns while somebody waits, over at least two rounds of all places: answers that end together
/// would otherwise look like a fast queue and then like a slow one. Limits per minute slow it as well, so that it knows
/// of them without being told.
#[derive(Debug, Default)]
pub(super) struct Pace {
    since: Option<Instant>,
    turns: u32,
    measured: Option<Measured>,
}

#[derive(Debug)]
struct Measured {
    /// Of a turn.
    each: Duration,
    until: Instant,
}

impl Pace {
    /// The queue was empty: what passes until somebody waits again is no part of it.
    pub(super) fn rest(&mut self) {
        self.since = None;
    }

    /// Somebody waits, and did not before.
    pub(super) fn begin(&mut self, now: Instant) {
        (self.since, self.turns) = (Some(now), 0);
    }

    /// One of those who wait is let in; `places` may be in flight.
    pub(super) fn turn(&mut self, places: Option<usize>, now: Instant) {
        let Some(since) = self.since else { return };
        self.turns += 1;
        let round = places.map_or(FEWEST, |places| u32::try_from(places).unwrap_or(u32::MAX).saturating_mul(2));
        if self.turns >= round.max(FEWEST) {
            let took = now.saturating_duration_since(since);
            let each = took / self.turns;
            let before = self.measured.as_ref().map_or(each, |measured| measured.each);
            self.measured = Some(Measured { each: (each + before) / 2, until: after(now, took.max(FRESH)) });
            self.begin(now);
        }
    }

    /// How long so many turns take at least: half of what they would at the pace of late. Zero when that is not known.
    pub(super) fn at_least(&self, turns: usize, now: Instant) -> Duration {
        let fresh = self.measured.as_ref().filter(|measured| now <= measured.until);
        let turns = u32::try_from(turns).unwrap_or(u32::MAX);
        fresh.map_or(Duration::ZERO, |measured| measured.each.saturating_mul(turns) / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any instant will do as the start")]
    fn measures_whole_rounds_while_somebody_waits_and_forgets() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.begin(start);
        for turn in 1..=32 {
            assert_eq!(pace.at_least(100, start), Duration::ZERO);
            // Four at a time, every four seconds.
            pace.turn(Some(4), start + turn / 4 * 4 * SECOND);
        }
        let end = start + 32 * SECOND;
        assert_eq!(pace.at_least(100, end), 50 * SECOND);
        pace.rest();
        assert_eq!(pace.at_least(100, end + 60 * SECOND), 50 * SECOND);
        assert_eq!(pace.at_least(100, end + 61 * SECOND), Duration::ZERO);

        // One at a time, every ten seconds: measuring that takes longer than a minute, and so long it holds.
        let mut pace = Pace::default();
        pace.begin(start);
        (1..=32).for_each(|turn| pace.turn(Some(1), start + 10 * turn * SECOND));
        let end = start + 320 * SECOND;
        assert_eq!(pace.at_least(10, end + 320 * SECOND), 50 * SECOND);
        assert_eq!(pace.at_least(10, end + 321 * SECOND), Duration::ZERO);
    }
}
