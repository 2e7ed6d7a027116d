//! How long an answer lives, and who takes it when it is stale.
//!
//! An entry is fresh until [`Entry::fresh_until`], then stale until [`Entry::expires`], then gone. Its age counts from
//! its storing, its staleness from the end of its freshness; SWR is `stale_while_revalidate`, SIE `stale_if_error`, both
//! zero unless set. What a call does with what it found, the first line that fits:
//!
//! | The call | The entry | What happens |
//! |---|---|---|
//! | `no_cache` | any | asks upstream; a failure is told, whatever is stored |
//! | `max_age` | older than that | asks upstream; a failure is told, unless something younger has come meanwhile |
//! | any | fresh | served |
//! | any | fresh, near its end (`early_refresh`, `predict`) | served, and a refresh starts in the background |
//! | `max_stale` | staler than that | asks upstream; a failure is told |
//! | any | staleness < SWR | served stale, and a refresh starts in the background |
//! | `max_stale` | staleness <= that | served stale, nothing is asked |
//! | `only_if_cached` | otherwise | fails with `CacheMiss`, nothing is asked |
//! | any | staleness < SWR or SIE | asks upstream; after a failure that [passes](passes) it is served stale |
//! | any | otherwise | asks upstream; a failure is told |
//!
//! So `max_stale` bounds what a call takes, it does not add to the windows: a call that says ten seconds is not given
//! what has been stale for a minute, neither by SWR nor after a failure. `only_if_cached` asks nothing upstream, not in
//! the background either; nor does a call whose answer would not be kept (`no_store`, a `ttl` of zero). Where there is
//! no runtime to refresh in the background, a call within SWR asks by itself, and takes the stale answer if that fails.
//!
//! After a failure the tiers are asked again, by the time it is then: what expired or was removed while the provider was
//! hanging is not served. Once a stream has handed out a chunk, its failure is told.

use std::time::{Duration, Instant};

use super::Entry;
use crate::env::{Env, after};
use crate::error::{Error, ErrorKind, Result};
use crate::types::CacheControl;

/// Beyond so many times `took * beta` before its end no entry is refreshed early: `-ln` of the smallest number drawn.
const EARLIEST: f64 = 37.0;

/// What a user says about freshness.
#[derive(Debug, Clone)]
pub(super) struct Freshness {
    pub(super) jitter: f64,
    pub(super) while_revalidate: Duration,
    pub(super) if_error: Duration,
    pub(super) early: f64,
}

/// What to do with an entry that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Serve,
    ServeAndRefresh,
    Ask,
}

impl Default for Freshness {
    fn default() -> Self {
        Self { jitter: 0.1, while_revalidate: Duration::ZERO, if_error: Duration::ZERO, early: 0.0 }
    }
}

/// Whether a failure of this kind passes by itself, so that a stale answer is better: the provider or the way to it is
/// in trouble or too slow (`Server`, `Network`, `Timeout`, `Truncated`, `Decode`), somebody is full (`RateLimited`,
/// `Overloaded`), or time is short (`Deadline`). Not when the request is at fault, when somebody has to act
/// (`Auth`, `QuotaExhausted`), or when the client is shut down.
pub(super) fn passes(kind: ErrorKind) -> bool {
    use ErrorKind::{Deadline, Decode, Network, Overloaded, RateLimited, Server, Timeout, Truncated};
    matches!(kind, Server | Network | Timeout | Truncated | Decode | RateLimited | Overloaded | Deadline)
}

impl Freshness {
    pub(super) fn check(&self) -> Result<()> {
        if !(0.0..=0.5).contains(&self.jitter) {
            let advice = "give a share from 0 to 0.5";
            return Err(Error::config("cache", "jitter", self.jitter, advice));
        }
        if !(0.0..=100.0).contains(&self.early) {
            let advice = "give 1, more to refresh earlier, at most 100, or 0 to switch it off";
            return Err(Error::config("cache", "early_refresh", self.early, advice));
        }
        Ok(())
    }

    /// In words, what is not as it is unless set.
    pub(super) fn settings(&self) -> String {
        let mut text = String::new();
        if self.jitter != Self::default().jitter {
            text += &format!(", jitter {}", self.jitter);
        }
        for (what, window) in [("stale while revalidate", self.while_revalidate), ("stale if error", self.if_error)] {
            if !window.is_zero() {
                text += &format!(", {what} {window:?}");
            }
        }
        if self.early > 0.0 {
            text += &format!(", early refresh {}", self.early);
        }
        text
    }

    /// This life, shortened by chance.
    pub(super) fn jittered(&self, life: Duration, env: &Env) -> Duration {
        if self.jitter == 0.0 {
            return life;
        }
        life.saturating_sub(life.mul_f64(self.jitter * env.unit()))
    }

    /// For how long after its freshness an entry is kept.
    pub(super) fn grace(&self) -> Duration {
        self.while_revalidate.max(self.if_error)
    }

    /// What this call does with this entry, which has not expired.
    #[inline]
    pub(super) fn judge(&self, entry: &Entry, control: Option<&CacheControl>, now: Instant, env: &Env) -> Verdict {
        // Most hits need no more than this.
        if control.is_none() && now < entry.fresh_until() && self.early == 0.0 {
            return Verdict::Serve;
        }
        self.judge_closely(entry, control, now, env)
    }

    fn judge_closely(&self, entry: &Entry, control: Option<&CacheControl>, now: Instant, env: &Env) -> Verdict {
        if !control.is_none_or(|control| is_young_enough(entry, control, now)) {
            return Verdict::Ask;
        }
        let refreshes = || control.is_none_or(refreshes);
        let Some(staleness) = now.checked_duration_since(entry.fresh_until()) else {
            let early = self.early > 0.0 && refreshes() && self.is_early(entry, now, env);
            return if early { Verdict::ServeAndRefresh } else { Verdict::Serve };
        };
        let bound = control.and_then(|control| control.max_stale);
        match bound {
            Some(bound) if staleness > bound => Verdict::Ask,
            _ if staleness < self.while_revalidate && refreshes() => Verdict::ServeAndRefresh,
            _ if staleness < self.while_revalidate || bound.is_some() => Verdict::Serve,
            _ => Verdict::Ask,
        }
    }

    /// Whether this call takes this entry after it asked and failed with such an error.
    pub(super) fn consoles(&self, entry: &Entry, control: Option<&CacheControl>, now: Instant) -> bool {
        let Some(staleness) = now.checked_duration_since(entry.fresh_until()) else {
            return control.is_none_or(|control| is_young_enough(entry, control, now));
        };
        let takes = |control: &CacheControl| {
            is_young_enough(entry, control, now) && control.max_stale.is_none_or(|bound| staleness <= bound)
        };
        staleness < self.grace() && control.is_none_or(takes)
    }

    /// XFetch: the nearer the end and the slower the answer, the likelier; many callers rarely decide so at once.
    fn is_early(&self, entry: &Entry, now: Instant, env: &Env) -> bool {
        let left = entry.fresh_until().saturating_duration_since(now).as_secs_f64();
        let scale = entry.took().as_secs_f64() * self.early;
        // Mostly the end is so far away that no draw could reach it.
        left <= scale * EARLIEST && scale * -(1.0 - env.unit()).ln() >= left
    }
}

/// Whether this call takes anything stored, and something of this age.
pub(super) fn is_young_enough(entry: &Entry, control: &CacheControl, now: Instant) -> bool {
    !control.no_cache && control.max_age.is_none_or(|max| entry.age(now) <= max)
}

/// Whether this call may have an answer asked for in the background.
pub(super) fn refreshes(control: &CacheControl) -> bool {
    !control.only_if_cached && keeps(control)
}

/// Whether an answer that this call asked for would be kept.
pub(super) fn keeps(control: &CacheControl) -> bool {
    !control.no_store && control.ttl.is_none_or(|ttl| !ttl.is_zero())
}

/// Whether this is another entry than the one seen, and a fresher one. Two readings of one entry from outside the process
/// differ a little.
pub(super) fn is_fresher(entry: &Entry, seen: &Entry, now: Instant) -> bool {
    const READINGS: Duration = Duration::from_millis(100);
    now < entry.fresh_until() && entry.fresh_until() > after(seen.fresh_until(), READINGS)
}
