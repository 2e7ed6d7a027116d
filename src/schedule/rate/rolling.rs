//! A limit for longer than a minute: what was spent in the window that ends now.

use std::collections::VecDeque;

use super::limit::Limit;
use super::meter::Mark;

/// Into so many slots the window is divided. What was spent in a slot counts until the whole slot has left the window.
const SLOTS: u64 = 64;

/// A call counts in the slot it started in, with its estimate until it has ended and with what it used from then on.
/// What it used above its estimate counts when that is known.
#[derive(Debug, Clone)]
pub(super) struct Rolling {
    limit: u64,
    window: u64,
    slot: u64,
    total: u64,
    /// Oldest first, at most one more than there are slots.
    spent: VecDeque<(u64, u64)>,
    seen: u64,
    /// The estimates of the calls in flight.
    out: u64,
}

impl Rolling {
    pub(super) fn new(limit: &Limit) -> Self {
        let window = limit.period_nanos();
        // Rounded up, so that the slots reach over the whole window.
        let slot = window.div_ceil(SLOTS);
        Self { limit: limit.amount, window, slot, total: 0, spent: VecDeque::new(), seen: 0, out: 0 }
    }

    /// The same window for somebody else.
    pub(super) fn copy(&self) -> Self {
        Self { out: 0, ..self.clone() }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn is_idle(&mut self, at: u64) -> bool {
        self.forget(at);
        self.out == 0 && self.total == 0
    }

    fn forget(&mut self, at: u64) {
        self.seen = self.seen.max(at);
        let oldest = self.seen.saturating_sub(self.window) / self.slot;
        while let Some((slot, amount)) = self.spent.front()
            && *slot < oldest
        {
            self.total = self.total.saturating_sub(*amount);
            self.spent.pop_front();
        }
    }

    /// Whether so much can be taken now, or when; `given_back`: if all that is out were given back at once.
    pub(super) fn reach(&mut self, amount: u64, given_back: bool, at: u64) -> Result<(), u64> {
        self.forget(at);
        let refund = if given_back { self.out } else { 0 };
        let wanted = self.total.saturating_sub(refund).saturating_add(amount);
        let Some(missing) = wanted.checked_sub(self.limit).filter(|missing| *missing > 0) else { return Ok(()) };
        let mut freed = 0_u64;
        let enough = self.spent.iter().find(|(_, amount)| {
            freed = freed.saturating_add(*amount);
            freed >= missing
        });
        let last = enough.or(self.spent.back()).map_or(0, |(slot, _)| *slot);
        Err((last + 1).saturating_mul(self.slot).saturating_add(self.window))
    }

    /// Takes what [`reach`](Self::reach) has just allowed.
    pub(super) fn take(&mut self, amount: u64) -> Mark {
        self.out = self.out.saturating_add(amount);
        self.add(amount);
        Mark { place: self.seen / self.slot, taken: 0 }
    }

    /// Puts right what was taken.
    pub(super) fn settle(&mut self, mark: Mark, taken: u64, used: u64, at: u64) {
        self.forget(at);
        self.out = self.out.saturating_sub(taken);
        // A provider that reports nonsense may cost a window at most.
        let used = used.min(self.limit.max(taken));
        if used > taken {
            self.add(used - taken);
        } else if let Ok(place) = self.spent.binary_search_by_key(&mark.place, |(slot, _)| *slot) {
            let spent = &mut self.spent[place].1;
            let refund = (taken - used).min(*spent);
            *spent -= refund;
            self.total = self.total.saturating_sub(refund);
        }
    }

    fn add(&mut self, amount: u64) {
        let slot = self.seen / self.slot;
        self.total = self.total.saturating_add(amount);
        match self.spent.back_mut() {
            Some((last, spent)) if *last == slot => *spent = spent.saturating_add(amount),
            _ => self.spent.push_back((slot, amount)),
        }
    }
}
