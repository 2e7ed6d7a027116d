//! Whose turn it is at a limit that not all calls share.
//!
//! A call that such a limit holds back lets others by, but not those under the same key: they would take what it waits
//! for, again and again, and a large call among small ones would wait for ever. So it claims the key until its time, or
//! until something is given back. A higher class goes on all the same.

use std::collections::HashMap;
use std::time::Instant;

use super::ask::{Ask, of};
use super::{Limited, Rates};

/// Of each key until when it is claimed, and for which class: 0 is the highest. There is at most one for each waiter.
pub(super) type Claims = HashMap<u64, (u64, u8)>;

impl Limited {
    /// Whether it holds back only those who share a key.
    pub(super) fn lets_others_by(&self) -> bool {
        self.meters.is_keyed() || self.models.is_some()
    }
}

impl Rates {
    /// Until when somebody else's claim holds this one back.
    pub(in crate::schedule) fn claimed(&mut self, ask: &Ask, class: u8, now: Instant) -> Option<Instant> {
        let at = self.nanos(now);
        let holds = |limited: &mut Limited| {
            let (until, of_class) = limited.claims.get(&limited.key(ask)).copied()?;
            (at < until && of_class <= class).then_some(until)
        };
        let until = of(&mut self.limits, &ask.model).filter_map(|(_, limited)| holds(limited)).max();
        until.map(|until| self.instant(until))
    }

    /// Claims what holds this one back until then.
    pub(in crate::schedule) fn claim(&mut self, ask: &Ask, class: u8, until: Instant) {
        let (at, started) = (self.seen, self.started);
        for (_, limited) in of(&mut self.limits, &ask.model).filter(|(_, limited)| limited.lets_others_by()) {
            let (key, amount) = (limited.key(ask), ask.amount(limited.limit.measure));
            if let Err(ready) = limited.meters.of(key, at).reach(amount, false, at)
                && crate::env::after(started, std::time::Duration::from_nanos(ready)) == until
            {
                limited.claims.insert(key, (ready, class));
            }
        }
    }

    /// Ends the claims on what this one needs; until when they were.
    pub(in crate::schedule) fn unclaim(&mut self, ask: &Ask) -> Option<Instant> {
        let ended = |limited: &mut Limited| limited.claims.remove(&limited.key(ask)).map(|(until, _)| until);
        let until = of(&mut self.limits, &ask.model).filter_map(|(_, limited)| ended(limited)).max();
        until.map(|until| self.instant(until))
    }

    /// Ends all claims.
    #[cfg(feature = "redis")]
    pub(in crate::schedule) fn unclaim_all(&mut self) {
        self.limits.iter_mut().for_each(|limited| limited.claims.clear());
    }
}
