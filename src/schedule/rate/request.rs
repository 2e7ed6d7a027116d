//! The plain limit of requests per minute, on governor.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::{StateInformationMiddleware, StateSnapshot};
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::MINUTE;
use super::correct::{Owner, Report, Trust};

/// The instant that governor is asked about.
#[derive(Debug, Default)]
struct At(Cell<u64>);

impl Clock for At {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.get())
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, At, StateInformationMiddleware>;

/// Requests per minute: governor's cell rate (GCRA), so any 60 s hold at most the limit and one burst.
///
/// Governor cannot give back and cannot be looked at without taking, so it is asked last, when all else is ready. When
/// the provider's word differs, it is made anew with the provider's limit, and requests that are gone there are taken
/// here.
#[derive(Debug)]
pub(super) struct RequestRate {
    limiter: Limiter,
    per_minute: NonZeroU32,
    configured: NonZeroU32,
    burst: Duration,
    /// No request can start before; what the last refusal said.
    pub(super) not_before: u64,
    /// How many requests were taken and not made, and when they were given back.
    spare: (u64, u64),
    /// What governor had left after the last one started; `None` when it is full. How many that are is asked for rarely,
    /// and takes two divisions.
    left: Option<(StateSnapshot, u64)>,
    /// All that were taken.
    taken: i64,
    /// The provider has none left before then.
    dry: u64,
    heard: u64,
    owner: Owner,
}

impl RequestRate {
    /// `burst` is how much of a minute's worth may be used at once.
    pub(super) fn new(per_minute: NonZeroU32, burst: Duration) -> Self {
        let cells = cells(per_minute, burst);
        Self {
            limiter: limiter(per_minute, cells),
            per_minute,
            configured: per_minute,
            burst,
            not_before: 0,
            spare: (0, 0),
            left: None,
            taken: 0,
            dry: 0,
            heard: 0,
            owner: Owner::default(),
        }
    }

    /// Takes a request, or says when to ask again. Returns how many were taken by then.
    pub(super) fn take(&mut self, at: u64) -> Result<i64, u64> {
        if let (spare @ 1.., when) = self.spare
            && when == at
        {
            self.spare.0 = spare - 1;
            self.taken += 1;
            return Ok(self.taken);
        }
        if at < self.dry {
            self.not_before = self.not_before.max(self.dry);
            return Err(self.dry);
        }
        self.limiter.clock().0.set(at);
        match self.limiter.check() {
            Ok(state) => {
                self.left = Some((state, at));
                self.taken += 1;
                Ok(self.taken)
            }
            Err(refusal) => {
                self.not_before = u64::try_from(refusal.earliest_possible().as_nanos()).unwrap_or(u64::MAX);
                Err(self.not_before)
            }
        }
    }

    /// Gives back one that was never made. It is worth something at this moment only: whoever starts now may have it,
    /// but kept for later a minute could hold more than the limit.
    pub(super) fn undo(&mut self, at: u64) {
        let (spare, when) = self.spare;
        self.spare = (if when == at { spare + 1 } else { 1 }, at);
        self.taken -= 1;
    }

    /// Follows what the provider says; `mark` is how many had been taken when its call was admitted.
    pub(super) fn correct(&mut self, report: &Report, model: u32, mark: i64, at: u64) {
        if report.heard < self.heard {
            // Something newer is known.
            return;
        }
        match self.owner.trust(model, report) {
            Trust::Follow => {}
            Trust::Restore => return self.follow(self.configured, at),
            Trust::Ignore => return,
        }
        self.heard = report.heard;
        let limit =
            report.followed(u64::from(self.per_minute.get())).map(|limit| u32::try_from(limit).unwrap_or(u32::MAX));
        if let Some(limit) = limit.and_then(NonZeroU32::new) {
            self.follow(limit, at);
        }
        if let Some(left) = report.left(u64::from(self.per_minute.get()), self.taken - mark, at) {
            self.dry = if left > 0 { 0 } else { self.refilled(left, at).min(report.full_at()) };
            self.lower(u32::try_from(left.max(0)).unwrap_or(u32::MAX), at);
        }
    }

    /// When there is one again, if so many (none, or fewer) are left.
    fn refilled(&self, left: i64, at: u64) -> u64 {
        at.saturating_add(interval(self.per_minute).saturating_mul(1 + left.unsigned_abs()))
    }

    /// How many could start now, or one less.
    fn left(&self, at: u64) -> u32 {
        let most = cells(self.per_minute, self.burst).get();
        let Some((state, then)) = &self.left else { return most };
        let back = at.saturating_sub(*then) / interval(self.per_minute);
        let left = u64::from(state.remaining_burst_capacity()).saturating_add(back);
        u32::try_from(left).unwrap_or(u32::MAX).min(most)
    }

    /// Takes those that are too many.
    fn lower(&mut self, left: u32, at: u64) {
        let Some(many) = NonZeroU32::new(self.left(at).saturating_sub(left)) else { return };
        self.limiter.clock().0.set(at);
        if let Ok(Ok(state)) = self.limiter.check_n(many) {
            self.left = Some((state, at));
        }
    }

    fn follow(&mut self, per_minute: NonZeroU32, at: u64) {
        if per_minute == self.per_minute {
            return;
        }
        let left = self.left(at);
        let cells = cells(per_minute, self.burst);
        (self.per_minute, self.limiter, self.left) = (per_minute, limiter(per_minute, cells), None);
        self.not_before = 0;
        self.lower(left, at);
    }
}

fn limiter(per_minute: NonZeroU32, cells: NonZeroU32) -> Limiter {
    let quota = Quota::with_period(Duration::from_nanos(interval(per_minute)));
    let quota = quota.unwrap_or(Quota::per_minute(per_minute)).allow_burst(cells);
    RateLimiter::direct_with_clock(quota, At::default()).with_middleware()
}

/// Rounded up: `Quota::per_minute` rounds the interval down, which lets a high limit be exceeded.
fn interval(per_minute: NonZeroU32) -> u64 {
    MINUTE.div_ceil(u64::from(per_minute.get()))
}

/// This much of a minute's worth, rounded down, and at least one.
fn cells(per_minute: NonZeroU32, burst: Duration) -> NonZeroU32 {
    let share = u128::from(per_minute.get()) * burst.as_nanos() / u128::from(MINUTE);
    u32::try_from(share).ok().and_then(NonZeroU32::new).unwrap_or(if share == 0 {
        NonZeroU32::MIN
    } else {
        NonZeroU32::MAX
    })
}
