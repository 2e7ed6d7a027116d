//! What keeps a limit, and one of them for each key.

use std::collections::HashMap;
use std::time::Duration;

use super::MINUTE;
use super::bucket::Bucket;
use super::correct::Report;
use super::limit::{Limit, LimitKey};
use super::rolling::Rolling;
#[cfg(feature = "redis")]
use crate::schedule::fleet::Leased;

/// Keys of one limit at most. Those beyond share one bucket, and whoever gets a bucket of his own later starts with what
/// that one has left, so nobody gains by coming late.
const KEYS: usize = 10_000;
/// So many keys may be there before the silent ones are looked for.
const FEW: usize = 64;
/// How long nobody looks again once there may be as many as there are, in nanoseconds: a look takes a fraction of a
/// millisecond.
const REST: u64 = 1_000_000_000;

/// What a meter remembers of a debit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mark {
    /// How many takes the bucket had seen, or the slot of the window.
    pub(super) place: u64,
    /// All that had been taken by then, this debit included.
    pub(super) taken: i64,
}

/// A bucket for periods up to a minute, a window for longer ones, or leases of what a fleet shares.
#[derive(Debug)]
pub(super) enum Meter {
    Bucket(Bucket),
    Rolling(Rolling),
    #[cfg(feature = "redis")]
    Leased(Leased),
}

/// The meters of a limit.
#[derive(Debug)]
pub(super) struct Meters {
    /// The only one, or that of the keys beyond the bound.
    shared: Meter,
    keyed: Option<HashMap<u64, Meter>>,
    /// How many were made, so that a new one knows nothing of an old one's debits.
    made: u64,
    /// At this number the silent ones are looked for, and not before then.
    crowd: usize,
    rest: u64,
}

impl Meters {
    /// `burst` is the share of a minute that may be used at once, unless the limit has its own.
    pub(super) fn new(limit: &Limit, burst: Duration) -> Self {
        let shared = if limit.is_rolling() {
            Meter::Rolling(Rolling::new(limit))
        } else {
            Meter::Bucket(Bucket::new(limit, burst_nanos(limit, burst)))
        };
        Self::with(shared, limit)
    }

    /// With this one, or others like it for each key.
    pub(super) fn with(shared: Meter, limit: &Limit) -> Self {
        Self { shared, keyed: limit.by.map(|_: LimitKey| HashMap::new()), made: 0, crowd: FEW, rest: 0 }
    }

    /// The meter of this key, as it is now.
    pub(super) fn of(&mut self, key: u64, at: u64) -> &mut Meter {
        let Some(keyed) = &mut self.keyed else { return &mut self.shared };
        if keyed.len() >= self.crowd && at >= self.rest && !keyed.contains_key(&key) {
            keyed.retain(|_, meter| !meter.is_idle(at));
            // Twice as many before the next look: each look is paid for by as many arrivals.
            self.crowd = (keyed.len() * 2).clamp(FEW, KEYS);
            if self.crowd == KEYS {
                self.rest = at.saturating_add(REST);
            }
        }
        if keyed.len() >= KEYS && !keyed.contains_key(&key) {
            return &mut self.shared;
        }
        let (shared, made) = (&self.shared, &mut self.made);
        keyed.entry(key).or_insert_with(|| {
            *made += 1;
            shared.copy(key, *made << 32)
        })
    }

    /// The limit of this key.
    pub(super) fn limit(&self, key: u64) -> u64 {
        self.keyed.as_ref().and_then(|keyed| keyed.get(&key)).unwrap_or(&self.shared).limit()
    }

    pub(super) fn is_keyed(&self) -> bool {
        self.keyed.is_some()
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> usize {
        self.keyed.as_ref().map_or(0, HashMap::len)
    }
}

/// How much of its period's worth may be used at once, in nanoseconds; `burst` is that of a minute.
pub(super) fn burst_nanos(limit: &Limit, burst: Duration) -> u64 {
    let scaled = burst.as_nanos() * limit.period.as_nanos() / u128::from(MINUTE);
    let nanos = limit.burst.map_or(scaled, |burst| burst.as_nanos());
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

impl Meter {
    fn copy(&self, #[cfg_attr(not(feature = "redis"), allow(unused_variables))] key: u64, first: u64) -> Self {
        match self {
            #[cfg(feature = "redis")]
            Self::Leased(leased) => Self::Leased(leased.of_key(key)),
            Self::Bucket(bucket) => Self::Bucket(bucket.copy(first)),
            Self::Rolling(window) => Self::Rolling(window.copy()),
        }
    }

    fn is_idle(&mut self, at: u64) -> bool {
        match self {
            #[cfg(feature = "redis")]
            Self::Leased(leased) => leased.is_idle(),
            Self::Bucket(bucket) => bucket.is_idle(at),
            Self::Rolling(window) => window.is_idle(at),
        }
    }

    fn limit(&self) -> u64 {
        match self {
            #[cfg(feature = "redis")]
            Self::Leased(leased) => leased.limit(),
            Self::Bucket(bucket) => bucket.limit(),
            Self::Rolling(window) => window.limit(),
        }
    }

    /// Whether so much can be taken now, or when; `given_back`: if all that is out were given back at once.
    pub(super) fn reach(&mut self, amount: u64, given_back: bool, at: u64) -> Result<(), u64> {
        match self {
            Self::Bucket(bucket) => bucket.reach(amount, given_back, at),
            Self::Rolling(window) => window.reach(amount, given_back, at),
            #[cfg(feature = "redis")]
            Self::Leased(leased) => leased.reach(amount, given_back, at),
        }
    }

    /// Takes what [`reach`](Self::reach) has just allowed.
    pub(super) fn take(&mut self, amount: u64) -> Mark {
        match self {
            Self::Bucket(bucket) => bucket.take(amount),
            Self::Rolling(window) => window.take(amount),
            #[cfg(feature = "redis")]
            Self::Leased(leased) => {
                let (place, taken) = leased.take(amount);
                Mark { place, taken }
            }
        }
    }

    /// Puts right what was taken.
    pub(super) fn settle(&mut self, mark: Mark, taken: u64, used: u64, at: u64) {
        match self {
            Self::Bucket(bucket) => bucket.settle(mark, taken, used, at),
            Self::Rolling(window) => window.settle(mark, taken, used, at),
            #[cfg(feature = "redis")]
            Self::Leased(leased) => leased.settle(mark.place, taken, used, at),
        }
    }

    /// Follows what the provider says of a limit per minute.
    pub(super) fn correct(&mut self, report: &Report, mark: Mark, at: u64) {
        match self {
            Self::Bucket(bucket) => bucket.correct(report, mark, at),
            Self::Rolling(_) => {}
            #[cfg(feature = "redis")]
            Self::Leased(leased) => leased.correct(
                |ours| report.believed(ours),
                |limit, taken_since| report.left(limit, taken_since, at),
                (report.heard, report.full_at()),
                mark.taken,
                at,
            ),
        }
    }

    /// Goes back to the configured limit.
    pub(super) fn restore(&mut self) {
        match self {
            Self::Bucket(bucket) => bucket.restore(),
            Self::Rolling(_) => {}
            #[cfg(feature = "redis")]
            Self::Leased(leased) => leased.restore(),
        }
    }
}
