//! A limit of its own for every key, for a service's own endpoints.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::ORIGIN;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result, Retryability};

/// Into so many slots the window is divided. What was spent in a slot counts until the whole slot has left the window, so
/// a key may be held back for up to a sixty-fourth of the window longer than an exact log would, and is never let go
/// sooner.
const SLOTS: u64 = 64;

/// At most so much per key within any window of this length: requests, tokens, or whatever is counted.
///
/// For the service's own users and endpoints; what the provider allows is the business of
/// [`Admission`](super::Admission). Nobody waits: what does not fit is refused at once, with the time to try again.
///
/// It holds for *every* stretch of that length, not for each minute of the clock: a limit by calendar windows lets twice
/// as much through around their border. A key takes up to about 2 KB while it is in use, and nothing from the first
/// [`take`](Self::take) of any key on that comes two windows after its own last one.
///
/// ```
/// # fn main() -> sluicegate::Result<()> {
/// use std::time::Duration;
/// use sluicegate::{Env, schedule::SlidingWindow};
///
/// let limit = SlidingWindow::new(2, Duration::from_secs(60), &Env::new())?;
/// assert_eq!(limit.take("alice", 1)?.left, 1);
/// limit.take("alice", 1)?;
/// let refused = limit.take("alice", 1).unwrap_err();
/// let seconds = refused.retry_after().map(|wait| wait.as_secs());
/// assert!(seconds.is_some_and(|seconds| seconds >= 59), "for the Retry-After of an answer with status 429");
/// limit.take("bob", 1)?;
/// # Ok(()) }
/// ```
pub struct SlidingWindow {
    limit: u64,
    window: Duration,
    /// In nanoseconds.
    slot: u64,
    env: Env,
    started: Instant,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    spent: HashMap<Box<str>, Spent>,
    /// The slot in which silent keys were last dropped.
    swept: u64,
    now: u64,
}

impl Keys {
    /// A clock that goes back is one that stands still: what has been forgotten must not be wanted again.
    fn latest(&mut self, now: u64) -> u64 {
        self.now = self.now.max(now);
        self.now
    }
}

/// What a key has spent, by the slots it was spent in, oldest first.
#[derive(Default)]
struct Spent {
    total: u64,
    slots: VecDeque<(u64, u64)>,
}

/// What a key has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// How much more it may take now.
    pub left: u64,
    /// When it has all of its limit again, if it takes nothing until then.
    pub resets_in: Duration,
}

impl SlidingWindow {
    /// At most `limit`, at least 1, within any stretch of `window`, from 1 ms to 31 days.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a limit of zero and a window out of range.
    pub fn new(limit: u64, window: Duration, env: &Env) -> Result<Self> {
        if limit == 0 {
            return Err(Error::config(
                ORIGIN,
                "sliding window limit",
                0,
                "allow at least 1, or refuse without asking it",
            ));
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(31 * 86_400)).contains(&window) {
            let value = format!("{window:?}");
            return Err(Error::config(ORIGIN, "sliding window", value, "use from 1 ms to 31 days"));
        }
        // Rounded up, so that the slots reach over the whole window.
        let slot = (window.as_nanos() as u64).div_ceil(SLOTS);
        Ok(Self { limit, window, slot, env: env.clone(), started: env.now(), keys: Mutex::default() })
    }

    /// Takes so much for this key; tells what is left.
    ///
    /// # Errors
    /// [`ErrorKind::RateLimited`] when it does not fit now, with [`Error::retry_after`]: nothing was taken. Others may take
    /// what is free by then. [`ErrorKind::InvalidRequest`] when it is more than the whole limit.
    pub fn take(&self, key: &str, amount: u64) -> Result<Left> {
        if amount > self.limit {
            let remedy = format!("more than the limit of {} within {:?}: ask for less", self.limit, self.window);
            return Err(Error::invalid(ORIGIN, "amount", amount, &remedy));
        }
        let mut keys = self.keys.lock();
        let now = keys.latest(self.nanos());
        self.sweep(&mut keys, now);
        if !keys.spent.contains_key(key) {
            keys.spent.insert(key.into(), Spent::default());
        }
        let Some(spent) = keys.spent.get_mut(key) else {
            return Ok(Left { left: self.limit, resets_in: Duration::ZERO });
        };
        spent.forget_before(self.oldest(now));
        // Neither of them is above the limit, but their sum may be above any number.
        let left = self.limit.saturating_sub(spent.total);
        if amount > left {
            let until = spent.free_after(amount - left);
            let wait = self.left_the_window(until).saturating_sub(now);
            let text = format!("the limit of {} within {:?} is used up", self.limit, self.window);
            let error = Error::new(ErrorKind::RateLimited, ORIGIN, text);
            return Err(error.with_retryability(Retryability::After(Some(Duration::from_nanos(wait)))));
        }
        spent.add(now / self.slot, amount);
        Ok(self.tell(spent, now))
    }

    /// What this key has left, without taking anything.
    pub fn left(&self, key: &str) -> Left {
        let mut keys = self.keys.lock();
        let now = keys.latest(self.nanos());
        match keys.spent.get_mut(key) {
            None => Left { left: self.limit, resets_in: Duration::ZERO },
            Some(spent) => {
                spent.forget_before(self.oldest(now));
                self.tell(spent, now)
            }
        }
    }

    fn nanos(&self) -> u64 {
        let passed = self.env.now().saturating_duration_since(self.started);
        u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The first slot that has not left the window whole.
    fn oldest(&self, now: u64) -> u64 {
        now.saturating_sub(self.window.as_nanos() as u64) / self.slot
    }

    /// When this slot has left the window.
    fn left_the_window(&self, slot: u64) -> u64 {
        (slot + 1).saturating_mul(self.slot).saturating_add(self.window.as_nanos() as u64)
    }

    fn tell(&self, spent: &Spent, now: u64) -> Left {
        let resets = spent.slots.back().map_or(0, |(slot, _)| self.left_the_window(*slot).saturating_sub(now));
        Left { left: self.limit.saturating_sub(spent.total), resets_in: Duration::from_nanos(resets) }
    }

    /// Once a window, drops the keys that have been silent for one.
    fn sweep(&self, keys: &mut Keys, now: u64) {
        let (slot, oldest) = (now / self.slot, self.oldest(now));
        if slot >= keys.swept + SLOTS {
            keys.swept = slot;
            keys.spent.retain(|_, spent| spent.slots.back().is_some_and(|(last, _)| *last >= oldest));
        }
    }
}

impl Spent {
    fn forget_before(&mut self, oldest: u64) {
        while let Some((slot, amount)) = self.slots.front()
            && *slot < oldest
        {
            self.total -= amount;
            self.slots.pop_front();
        }
    }

    /// The slot whose leaving frees this much, at least.
    fn free_after(&self, amount: u64) -> u64 {
        let mut freed = 0;
        let enough = self.slots.iter().find(|(_, spent)| {
            freed += spent;
            freed >= amount
        });
        enough.or(self.slots.back()).map_or(0, |(slot, _)| *slot)
    }

    fn add(&mut self, slot: u64, amount: u64) {
        self.total += amount;
        match self.slots.back_mut() {
            Some((last, spent)) if *last == slot => *spent += amount,
            _ => self.slots.push_back((slot, amount)),
        }
    }
}

impl fmt::Debug for SlidingWindow {
    // Keys are somebody's names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlidingWindow")
            .field("limit", &self.limit)
            .field("window", &self.window)
            .field("keys", &self.keys.lock().spent.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::env::{Clock, TokioClock};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Stands where it is put; it may be put back.
    #[derive(Debug, Clone)]
    struct Hand(Instant, Arc<AtomicU64>);

    impl Clock for Hand {
        fn now(&self) -> Instant {
            self.0 + Duration::from_millis(self.1.load(Ordering::Relaxed))
        }
        fn wall(&self) -> std::time::SystemTime {
            TokioClock::new().wall()
        }
        fn sleep_until(&self, until: Instant) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
            TokioClock::new().sleep_until(until)
        }
    }

    fn limit(most: u64, window: Duration) -> (SlidingWindow, Arc<AtomicU64>) {
        let millis = Arc::new(AtomicU64::new(0));
        let env = Env::new().with_clock(Hand(TokioClock::new().now(), Arc::clone(&millis)));
        (SlidingWindow::new(most, window, &env).unwrap(), millis)
    }

    proptest! {
        #[test]
        fn no_stretch_holds_more_than_the_limit(
            steps in prop::collection::vec((0_u64..400, 1_u64..6, any::<bool>()), 1..300),
            most in 5_u64..40,
        ) {
            let (limit, millis) = limit(most, Duration::from_millis(1_000));
            let mut taken: Vec<(u64, u64)> = Vec::new();
            let (mut now, mut seen) = (0_u64, 0_u64);
            for (step, amount, back) in steps {
                // Sometimes the clock goes back a little; what counts is that time has been the latest since.
                now += step;
                millis.store(if back { now.saturating_sub(50) } else { now }, Ordering::Relaxed);
                seen = seen.max(millis.load(Ordering::Relaxed));
                match limit.take("k", amount) {
                    Ok(_) => taken.push((seen, amount)),
                    Err(error) => {
                        // Then it fits, if nobody else takes it.
                        let wait = error.retry_after().unwrap();
                        now = now.max(seen) + wait.as_millis() as u64 + 1;
                        millis.store(now, Ordering::Relaxed);
                        seen = now;
                        prop_assert!(limit.left("k").left >= amount);
                    }
                }
            }
            for (start, _) in &taken {
                let inside = taken.iter().filter(|(at, _)| at >= start && *at < start + 1_000);
                prop_assert!(inside.map(|(_, amount)| amount).sum::<u64>() <= most);
            }
        }
    }

    #[test]
    fn a_key_gets_all_back_within_a_window_and_a_slot() {
        let (limit, millis) = limit(10, Duration::from_secs(64));
        assert_eq!(limit.take("a", 10).unwrap().left, 0);
        let error = limit.take("a", 1).unwrap_err();
        assert_eq!((error.kind(), error.retry_after()), (ErrorKind::RateLimited, Some(Duration::from_secs(65))));
        assert!(!error.to_string().contains('a') || !format!("{limit:?}").contains("\"a\""));
        assert_eq!(limit.take("b", 10).unwrap().resets_in, Duration::from_secs(65), "its own");
        millis.store(64_000, Ordering::Relaxed);
        assert_eq!(limit.left("a").left, 0);
        millis.store(65_000, Ordering::Relaxed);
        assert_eq!(limit.take("a", 10).unwrap().left, 0);
        assert_eq!(limit.take("a", 11).unwrap_err().kind(), ErrorKind::InvalidRequest);
    }

    #[test]
    fn a_limit_as_large_as_it_can_be_is_one() {
        let (limit, _) = limit(u64::MAX, Duration::from_secs(64));
        assert_eq!(limit.take("a", u64::MAX).unwrap().left, 0);
        for amount in [1, u64::MAX] {
            let error = limit.take("a", amount).unwrap_err();
            assert_eq!((error.kind(), error.retry_after()), (ErrorKind::RateLimited, Some(Duration::from_secs(65))));
        }
    }

    #[test]
    fn silent_keys_are_forgotten() {
        let (limit, millis) = limit(10, Duration::from_secs(1));
        for key in 0..1_000 {
            limit.take(&key.to_string(), 1).unwrap();
        }
        millis.store(3_000, Ordering::Relaxed);
        limit.take("one", 1).unwrap();
        assert_eq!(limit.keys.lock().spent.len(), 1);
    }

    #[test]
    fn settings_are_checked() {
        let env = Env::new();
        for (most, window) in [(0, 1_000), (1, 0), (1, 32 * 86_400_000)] {
            let error = SlidingWindow::new(most, Duration::from_millis(window), &env).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
        }
    }
}
