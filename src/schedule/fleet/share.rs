//! What a process may use of a limit by itself.

use super::Terms;

/// The limit by the number of processes: a bucket that refills so much more slowly, exactly, however small the limit is.
///
/// It starts empty: what was in the shared bucket may have been used, and several full ones are more than one.
#[derive(Debug)]
pub(super) struct Share {
    limit: u64,
    processes: u64,
    /// Of the limit, as long as there are processes.
    nanos: u64,
    capacity: i128,
    level: i128,
    seen: u64,
    /// How often it was seen full.
    pub(super) fills: u64,
}

impl Share {
    pub(super) fn new(terms: Terms, processes: usize, at: u64) -> Self {
        let Terms { limit, period, burst, .. } = terms;
        let processes = u64::try_from(processes).unwrap_or(u64::MAX).max(1);
        let nanos = period.saturating_mul(1_000).saturating_mul(processes);
        // At least one, or nothing would ever start.
        let capacity = i128::from((burst / processes).max(1)) * i128::from(nanos);
        Self { limit, processes, nanos, capacity, level: 0, seen: at, fills: 0 }
    }

    /// Goes on with another limit.
    pub(super) fn follow(&mut self, terms: Terms) {
        self.limit = terms.limit;
        self.capacity = i128::from((terms.burst / self.processes).max(1)) * i128::from(self.nanos);
        self.level = self.level.min(self.capacity);
    }

    fn units(&self, amount: u64) -> i128 {
        i128::from(amount) * i128::from(self.nanos)
    }

    /// Whether so much can be taken now, or when.
    pub(super) fn reach(&mut self, amount: u64, refund: u64, at: u64) -> Result<(), u64> {
        let passed = at.saturating_sub(self.seen);
        self.seen = self.seen.max(at);
        self.add(i128::from(passed) * i128::from(self.limit));
        let missing = self.units(amount).min(self.capacity) - self.level - self.units(refund);
        if missing <= 0 {
            return Ok(());
        }
        let rate = i128::from(self.limit.max(1));
        let wait = u64::try_from((missing + rate - 1) / rate).unwrap_or(u64::MAX);
        Err(self.seen.saturating_add(wait))
    }

    fn add(&mut self, amount: i128) {
        self.level = (self.level + amount).min(self.capacity);
        if self.level == self.capacity {
            self.fills += 1;
        }
    }

    pub(super) fn take(&mut self, amount: u64) {
        self.level -= self.units(amount);
    }

    pub(super) fn give_back(&mut self, amount: u64) {
        self.add(self.units(amount));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn terms(limit: u64, burst: u64) -> Terms {
        Terms { limit, period: 60_000_000, burst, worth: 1_000_000, follows: true }
    }

    #[test]
    fn is_an_exact_part_of_the_limit_and_never_nothing() {
        // 3 a minute by 7 processes: one every 140 s each.
        let mut share = Share::new(terms(3, 1), 7, 0);
        assert_eq!(share.reach(1, 0, 0), Err(140 * SECOND));
        assert_eq!(share.reach(1, 0, 140 * SECOND), Ok(()));
        share.take(1);
        assert_eq!(share.reach(1, 0, 200 * SECOND), Err(280 * SECOND));
    }

    #[test]
    fn another_limit_fills_it_at_its_own_rate_and_no_higher() {
        let mut share = Share::new(terms(600, 10), 2, 0);
        assert_eq!(share.reach(5, 0, SECOND), Ok(()));
        share.follow(terms(120, 2));
        assert_eq!(share.reach(1, 0, SECOND), Ok(()));
        share.take(1);
        assert_eq!(share.reach(1, 0, SECOND), Err(2 * SECOND), "one a second each, one at once");
    }

    #[test]
    fn starts_what_is_larger_than_it_when_it_is_full() {
        let mut share = Share::new(terms(600, 10), 2, 0);
        assert_eq!(share.reach(100, 0, 0), Err(SECOND));
        assert_eq!(share.reach(100, 0, SECOND), Ok(()));
        share.take(100);
        assert_eq!(share.reach(1, 0, SECOND), Err(SECOND + 96 * SECOND / 5));
        assert_eq!(share.reach(1, 96, SECOND), Ok(()), "if 96 were given back");
    }
}
