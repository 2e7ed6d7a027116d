//! Whose turn it is at a limit that not all calls share.
//!
//! A call that such a limit holds back lets others by, but not those under the same key: they would take what it waits
//! for, again and again, and a large call among small ones would wait for ever. So it claims the key until it starts or
//! leaves. When its time has come, or something was given back, and one of the others has its turn, it is asked first: its
//! time may have been a guess, and then it claims the key for longer. A higher class goes on all the same.

use std::collections::HashMap;
use std::time::Instant;

use super::ask::{Ask, of};
use super::{Limited, Rates};

/// Of each key whose it is. There is at most one for each waiter.
pub(super) type Claims = HashMap<u64, Claim>;

/// Who waits for a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    /// Whose it is.
    who: u32,
    /// Its class: 0 is the highest.
    class: u8,
    /// When it may start.
    until: u64,
    /// Whether it may start earlier than that.
    pub(super) is_due: bool,
}

/// What somebody else's claim means for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::schedule) enum Claimed {
    /// It is held back until then.
    Until(Instant),
    /// This one is to be asked first.
    Due(u32),
}

impl Limited {
    /// Whether it holds back only those who share a key.
    pub(super) fn lets_others_by(&self) -> bool {
        self.meters.is_keyed() || self.models.is_some()
    }
}

impl Rates {
    /// What others have claimed of what this one needs.
    pub(in crate::schedule) fn claimed(&mut self, who: u32, ask: &Ask, class: u8, now: Instant) -> Option<Claimed> {
        let at = self.nanos(now);
        let mut until = 0;
        for (_, limited) in of(&mut self.limits, &ask.model) {
            let Some(claim) = limited.claims.get(&limited.key(ask)) else { continue };
            if claim.who == who || claim.class > class {
                continue;
            }
            if claim.is_due || claim.until <= at {
                return Some(Claimed::Due(claim.who));
            }
            until = claim.until.max(until);
        }
        (until > 0).then(|| Claimed::Until(self.instant(until)))
    }

    /// Claims what holds this one back until then.
    pub(in crate::schedule) fn claim(&mut self, who: u32, ask: &Ask, class: u8, until: Instant) {
        let (at, started) = (self.seen, self.started);
        for (_, limited) in of(&mut self.limits, &ask.model).filter(|(_, limited)| limited.lets_others_by()) {
            let (key, amount) = (limited.key(ask), ask.amount(limited.limit.measure));
            if let Err(ready) = limited.meters.of(key, at).reach(amount, false, at)
                && crate::env::after(started, std::time::Duration::from_nanos(ready)) == until
            {
                // Later than now, or it would be asked about for ever.
                limited.claims.insert(key, Claim { who, class, until: ready.max(at + 1), is_due: false });
            }
        }
    }

    /// Ends the claims of this one; until when they were.
    pub(in crate::schedule) fn unclaim(&mut self, who: u32, ask: &Ask) -> Option<Instant> {
        let mut until = None;
        for (_, limited) in of(&mut self.limits, &ask.model) {
            let key = limited.key(ask);
            if limited.claims.get(&key).is_some_and(|claim| claim.who == who) {
                until = until.max(limited.claims.remove(&key).map(|claim| claim.until));
            }
        }
        until.map(|until| self.instant(until))
    }

    /// All who claimed something may start earlier than they were told.
    #[cfg(feature = "redis")]
    pub(in crate::schedule) fn claims_are_due(&mut self) {
        self.limits.iter_mut().flat_map(|limited| limited.claims.values_mut()).for_each(|claim| claim.is_due = true);
    }

    /// Ends the claims of one who is not there any more.
    pub(in crate::schedule) fn disown(&mut self, who: u32) {
        self.limits.iter_mut().for_each(|limited| limited.claims.retain(|_, claim| claim.who != who));
    }
}
