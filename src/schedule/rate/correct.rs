//! The provider's word: what its `x-ratelimit-*` headers say against what we know.
//!
//! An answer's headers are as old as the moment the provider wrote them: when the call arrived there (OpenAI does so, and
//! every stream), or when the answer was done. We know both ends and what was taken between them, so of what it says is
//! left the lower of two is believed: as it stands, if written last; less what was taken since and more what came back
//! by time, if written first. A call that is on its way, reserved here and not yet counted there, is thus not forgotten.

use super::MINUTE;
use super::limit::Measure;
use crate::types::RateLimits;

/// What the provider says of one measure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Report {
    limit: Option<u64>,
    remaining: Option<u64>,
    /// In nanoseconds.
    reset: Option<u64>,
    /// When its call was admitted.
    asked: u64,
    /// When it was heard.
    pub(super) heard: u64,
}

/// Above this a limit is a mistake of whoever states it; below 2^63 with every sum.
const ABSURD: u64 = 1_000_000_000_000;
/// A limit whose bucket takes longer than this to fill is not one per minute.
const TOO_LONG: u128 = 2 * MINUTE as u128;
/// Resets come rounded, to whole seconds at worst.
const ROUNDING: u64 = 1_000_000_000;

impl Report {
    /// What these limits say of requests or tokens per minute; `None` when they say nothing usable.
    pub(super) fn of(limits: &RateLimits, measure: Measure, asked: u64, heard: u64) -> Option<Self> {
        let (limit, remaining, reset) = match measure {
            Measure::Requests => (limits.limit_requests, limits.remaining_requests, limits.reset_requests),
            Measure::Tokens => (limits.limit_tokens, limits.remaining_tokens, limits.reset_tokens),
            Measure::Input | Measure::Output | Measure::Dollars => return None,
        };
        let reset = reset.map(|reset| u64::try_from(reset.as_nanos()).unwrap_or(u64::MAX));
        let limit = limit.filter(|limit| (1..=ABSURD).contains(limit));
        let report = Self { limit, remaining: remaining.map(|left| left.min(ABSURD)), reset, asked, heard };
        (report.is_of_a_minute() && (limit.is_some() || remaining.is_some())).then_some(report)
    }

    /// Some providers state requests per day in the same headers: then what is missing takes far too long to come back.
    fn is_of_a_minute(&self) -> bool {
        let (Some(limit), Some(remaining), Some(reset)) = (self.limit, self.remaining, self.reset) else { return true };
        let missing = u128::from(limit.saturating_sub(remaining));
        u128::from(reset.saturating_sub(ROUNDING)) * u128::from(limit) <= TOO_LONG * missing.max(1)
    }

    /// The limit to follow instead of this one. A higher one is believed only with a reset beside it, which is what
    /// tells a limit per minute from one per day.
    pub(super) fn followed(&self, ours: u64) -> Option<u64> {
        self.limit.filter(|limit| *limit < ours || (*limit > ours && self.reset.is_some()))
    }

    /// The limit it states, if it is the one that holds or [to follow](Self::followed).
    #[cfg(feature = "redis")]
    pub(super) fn believed(&self, ours: u64) -> Option<u64> {
        self.followed(ours).or(self.limit.filter(|limit| *limit == ours))
    }

    pub(super) fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// What is left there now, at this limit per minute, when so much was taken here since the call was admitted.
    pub(super) fn left(&self, limit: u64, taken_since: i64, at: u64) -> Option<i64> {
        let remaining = i64::try_from(self.remaining?).unwrap_or(i64::MAX);
        let passed = u128::from(at.saturating_sub(self.asked));
        let refill = i64::try_from(u128::from(limit) * passed / u128::from(MINUTE)).unwrap_or(i64::MAX);
        let written_first = remaining.saturating_add(refill).saturating_sub(taken_since);
        Some(if self.heard == at { written_first.min(remaining) } else { written_first })
    }

    /// When all of it is back there by its own word; a minute at most.
    pub(super) fn full_at(&self) -> u64 {
        self.heard.saturating_add(self.reset.unwrap_or(MINUTE).min(MINUTE))
    }
}

/// Whose limits a plain limit's headers state.
///
/// A limit by model, or of a group of models, has its headers to itself. A plain limit counts all models: as long as
/// they state the same limit it is followed, and when they differ each has its own at the provider, none of which is
/// ours.
#[derive(Debug, Default)]
pub(super) struct Owner {
    stated: Option<(u32, u64)>,
    differs: bool,
}

/// What to do with a report.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trust {
    Follow,
    /// Now it is known that it was never ours.
    Restore,
    Ignore,
}

impl Owner {
    pub(super) fn trust(&mut self, model: u32, report: &Report) -> Trust {
        if self.differs {
            return Trust::Ignore;
        }
        let Some(limit) = report.limit() else { return Trust::Follow };
        match &mut self.stated {
            Some((first, stated)) if *first != model && *stated != limit => {
                self.differs = true;
                Trust::Restore
            }
            stated => {
                let first = stated.map_or(model, |(first, _)| first);
                // A limit that its first model states anew has been changed there.
                if first == model {
                    *stated = Some((model, limit));
                }
                Trust::Follow
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn requests(limit: u64, remaining: u64, reset: Duration) -> Option<Report> {
        let limits = RateLimits {
            limit_requests: Some(limit),
            remaining_requests: Some(remaining),
            reset_requests: Some(reset),
            ..RateLimits::default()
        };
        Report::of(&limits, Measure::Requests, 0, MINUTE)
    }

    #[test]
    fn requests_per_day_are_not_followed() {
        assert!(requests(14_400, 14_399, Duration::from_secs(6)).is_none());
        assert!(requests(14_400, 14_370, Duration::from_millis(179_560)).is_none());
        for (remaining, reset) in [(499, 120), (0, 60_000), (499, 1_000), (500, 0)] {
            assert!(requests(500, remaining, Duration::from_millis(reset)).is_some());
        }
    }

    #[test]
    fn a_higher_limit_needs_a_reset_beside_it() {
        let stated = RateLimits { limit_requests: Some(600), ..RateLimits::default() };
        let report = Report::of(&stated, Measure::Requests, 0, 0).unwrap();
        assert_eq!((report.followed(1_200), report.followed(600), report.followed(300)), (Some(600), None, None));
        let report = requests(600, 599, Duration::from_millis(100)).unwrap();
        assert_eq!(report.followed(300), Some(600));
        assert!(requests(0, 0, Duration::ZERO).unwrap().followed(300).is_none(), "nonsense");
    }

    #[test]
    fn what_is_left_is_the_lower_of_both_ends() {
        let report = requests(60, 40, Duration::from_secs(20)).unwrap();
        assert_eq!(report.left(60, 70, MINUTE), Some(30), "written first: 40 and 60 back, less 70");
        assert_eq!(report.left(60, 10, MINUTE), Some(40), "written last");
        assert_eq!(report.left(60, 10, MINUTE + 1), Some(90), "an opening that was heard before");
    }

    #[test]
    fn models_that_state_different_limits_are_not_one() {
        let (small, large) = (requests(60, 60, Duration::ZERO).unwrap(), requests(90, 90, Duration::ZERO).unwrap());
        let mut owner = Owner::default();
        assert_eq!(owner.trust(0, &small), Trust::Follow);
        assert_eq!(owner.trust(1, &small), Trust::Follow);
        assert_eq!(owner.trust(0, &large), Trust::Follow, "raised there");
        assert_eq!(owner.trust(1, &small), Trust::Restore);
        assert_eq!(owner.trust(0, &large), Trust::Ignore);
    }
}
