//! The gate that one 429 closes for all.
//!
//! It closes for the calls of that model, or of the first quota group that the model is in, until the time the provider
//! states. Without one it is 1 s, and twice as long each time a call that went after it is refused again, up to a
//! minute. Refusals of calls that had started before it closed belong to the same burst: they can move its time to a
//! later one that the provider states, and do not count.
//!
//! It opens gently: one goes first, and the others a second later, or as soon as that one has been answered. A refusal
//! comes at once, so the second is enough to see it.
//!
//! With limits that a fleet shares, all its processes close it until the same time, and each lets its own first one go.

use std::time::Duration;

use super::Rates;
use super::group::Model;
use crate::error::{Error, ErrorKind, Retryability};

/// Without a time from the provider.
const FIRST: u64 = 1_000_000_000;
const LONGEST: u64 = 60_000_000_000;
/// How long the first one goes alone.
const ALONE: u64 = 1_000_000_000;
/// A time of zero would be asked again at once.
const SHORTEST: u64 = 1_000_000;

/// The gates that are closed; usually none.
#[derive(Debug, Default)]
pub(super) struct ClosedGates(Vec<Closed>);

#[derive(Debug)]
struct Closed {
    gate: u32,
    /// When it closed.
    since: u64,
    until: u64,
    /// How often in a row without a time from the provider.
    strikes: u32,
    /// When the first one went.
    first: Option<u64>,
}

impl ClosedGates {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a call may go, or when to ask again.
    pub(super) fn pass(&self, gate: u32, at: u64) -> Result<(), u64> {
        let Some(closed) = self.0.iter().find(|closed| closed.gate == gate) else { return Ok(()) };
        let opens = match closed.first {
            Some(first) => first.saturating_add(ALONE),
            None => closed.until,
        };
        if at < opens { Err(opens) } else { Ok(()) }
    }

    /// One goes.
    pub(super) fn passed(&mut self, gate: u32, at: u64) {
        let Some(place) = self.0.iter().position(|closed| closed.gate == gate) else { return };
        if self.0[place].first.is_some() {
            // The first one has gone a while ago, and nobody complained.
            self.0.swap_remove(place);
        } else {
            self.0[place].first = Some(at);
        }
    }

    /// A call that started then has been refused, answered, or (`None`) abandoned. Whether that closed the gate, or keeps
    /// it closed for longer.
    pub(super) fn ended(&mut self, gate: u32, started: u64, refusal: Option<Option<&Error>>, at: u64) -> bool {
        let wait = match refusal {
            Some(Some(error)) if is_rate(error) => Some(stated(error)),
            _ => None,
        };
        let place = self.0.iter().position(|closed| closed.gate == gate);
        match (wait, place) {
            (None, None) => false,
            (None, Some(place)) => {
                let closed = &mut self.0[place];
                if closed.first.is_some_and(|first| started >= first) {
                    if refusal.is_some() {
                        self.0.swap_remove(place);
                    } else {
                        closed.first = None;
                    }
                }
                false
            }
            (Some(wait), None) => {
                self.0.push(Closed::new(gate, wait, 0, at));
                true
            }
            (Some(wait), Some(place)) => {
                let closed = &mut self.0[place];
                if started <= closed.since {
                    let until = wait.map_or(0, |wait| at.saturating_add(wait));
                    let longer = until > closed.until;
                    closed.until = closed.until.max(until);
                    longer
                } else {
                    *closed = Closed::new(gate, wait, closed.strikes, at);
                    true
                }
            }
        }
    }

    /// Since when and until when it is closed, and how often in a row without a time from the provider.
    #[cfg(feature = "redis")]
    pub(super) fn times(&self, gate: u32) -> Option<(u64, u64, u32)> {
        let closed = self.0.iter().find(|closed| closed.gate == gate)?;
        Some((closed.since, closed.until, closed.strikes))
    }

    /// Another process was refused: closed until then here, too. What is on its way from here belongs to the same burst.
    #[cfg(feature = "redis")]
    pub(super) fn close(&mut self, gate: u32, until: u64, strikes: u32, at: u64) {
        if until <= at {
            return;
        }
        let theirs = Closed { gate, since: at, until, strikes, first: None };
        match self.0.iter_mut().find(|closed| closed.gate == gate) {
            None => self.0.push(theirs),
            Some(closed) => {
                let (until, strikes) = (closed.until.max(until), closed.strikes.max(strikes));
                *closed = Closed { until, strikes, ..theirs };
            }
        }
    }
}

impl Rates {
    /// A call of this model that started then has been refused, answered, or (`None`) abandoned.
    pub(super) fn ended(&mut self, model: &Model, started: u64, refusal: Option<Option<&Error>>, at: u64) {
        let closed = self.closed.ended(model.gate, started, refusal, at);
        #[cfg(feature = "redis")]
        if closed {
            self.tell_closed(model, at);
        }
        #[cfg(not(feature = "redis"))]
        let _ = closed;
    }
}

impl Closed {
    fn new(gate: u32, stated: Option<u64>, strikes: u32, at: u64) -> Self {
        let own = FIRST.checked_shl(strikes.min(16)).unwrap_or(LONGEST).min(LONGEST);
        let strikes = if stated.is_none() { strikes.saturating_add(1) } else { 0 };
        Self { gate, since: at, until: at.saturating_add(stated.unwrap_or(own)), strikes, first: None }
    }
}

/// Whether it is a rate limit that passes; a request that is too large for ever, or a quota that is used up, is not.
fn is_rate(error: &Error) -> bool {
    error.kind() == ErrorKind::RateLimited && error.retryability() != Retryability::Never
}

/// How long the provider says to wait: in so many words, or until what is used up is back.
fn stated(error: &Error) -> Option<u64> {
    let limits = error.rate_limits();
    let requests =
        limits.filter(|limits| limits.remaining_requests == Some(0)).and_then(|limits| limits.reset_requests);
    let tokens = limits.filter(|limits| limits.remaining_tokens == Some(0)).and_then(|limits| limits.reset_tokens);
    let wait = error.retry_after().or(requests.max(tokens));
    let day = Duration::from_secs(86_400);
    wait.map(|wait| u64::try_from(wait.min(day).as_nanos()).unwrap_or(LONGEST).max(SHORTEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn refused(seconds: Option<u64>) -> Error {
        let hint = Retryability::After(seconds.map(Duration::from_secs));
        Error::new(ErrorKind::RateLimited, "t", "").with_retryability(hint)
    }

    #[test]
    fn closes_until_the_stated_time_and_opens_for_one_first() {
        let mut gates = ClosedGates::default();
        gates.ended(7, 0, Some(Some(&refused(Some(5)))), SECOND);
        assert_eq!(gates.pass(7, SECOND), Err(6 * SECOND));
        assert_eq!(gates.pass(8, SECOND), Ok(()), "another model");
        assert_eq!(gates.pass(7, 6 * SECOND), Ok(()));
        gates.passed(7, 6 * SECOND);
        assert_eq!(gates.pass(7, 6 * SECOND), Err(7 * SECOND), "one goes first");
        gates.ended(7, 6 * SECOND, Some(None), 6 * SECOND + 1);
        assert_eq!(gates.pass(7, 6 * SECOND + 1), Ok(()), "it was answered");
        assert!(gates.0.is_empty());
    }

    #[test]
    fn refusals_of_one_burst_count_once_and_repeated_ones_double() {
        let mut gates = ClosedGates::default();
        for late in 0..20 {
            gates.ended(1, 0, Some(Some(&refused(None))), SECOND + late);
        }
        gates.ended(1, SECOND, Some(Some(&refused(None))), SECOND + 30);
        assert_eq!(gates.pass(1, SECOND), Err(2 * SECOND), "one that started as it closed is of the burst too");
        let (mut now, mut waits) = (2 * SECOND, Vec::new());
        for _ in 0..8 {
            gates.passed(1, now);
            gates.ended(1, now, Some(Some(&refused(None))), now);
            let opens = gates.pass(1, now).unwrap_err();
            waits.push((opens - now) / SECOND);
            now = opens;
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
        gates.ended(1, 0, Some(Some(&refused(Some(90)))), now);
        assert_eq!(gates.pass(1, now), Err(now + 90 * SECOND), "an old call that knows better");
    }

    #[test]
    fn an_abandoned_first_one_lets_the_next_one_try() {
        let mut gates = ClosedGates::default();
        gates.ended(1, 0, Some(Some(&refused(None))), 0);
        gates.passed(1, SECOND);
        gates.ended(1, SECOND, None, SECOND);
        assert_eq!(gates.pass(1, SECOND), Ok(()));
        gates.passed(1, SECOND);
        assert_eq!(gates.pass(1, SECOND), Err(2 * SECOND));
        gates.passed(1, 2 * SECOND);
        assert!(gates.0.is_empty(), "a second without a refusal");
    }

    #[test]
    fn neither_a_used_up_quota_nor_a_request_too_large_closes_it() {
        let mut gates = ClosedGates::default();
        let quota = Error::new(ErrorKind::QuotaExhausted, "t", "");
        let large = refused(None).with_retryability(Retryability::Never);
        for error in [&quota, &large] {
            gates.ended(1, 0, Some(Some(error)), 0);
        }
        assert!(gates.0.is_empty());
    }

    #[cfg(feature = "redis")]
    #[test]
    fn however_often_others_say_it_was_refused() {
        let mut gates = ClosedGates::default();
        gates.close(1, SECOND, u32::MAX, 0);
        gates.passed(1, SECOND);
        gates.ended(1, SECOND, Some(Some(&refused(None))), SECOND);
        assert_eq!(gates.pass(1, SECOND), Err(61 * SECOND));
    }
}
