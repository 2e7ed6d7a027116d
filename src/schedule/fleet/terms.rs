//! How much within what time.

/// A limit in units, and its time in microseconds. The script counts in doubles, which are exact to 2^53.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::schedule) struct Terms {
    pub(in crate::schedule) limit: u64,
    pub(in crate::schedule) period: u64,
    pub(in crate::schedule) burst: u64,
    /// The burst in microseconds: what it is of another limit.
    pub(in crate::schedule) worth: u64,
    /// Whether the provider's word may change the limit.
    pub(in crate::schedule) follows: bool,
}

impl Terms {
    /// The same of another limit.
    pub(super) fn at(self, limit: u64) -> Self {
        let burst = u128::from(limit) * u128::from(self.worth) / u128::from(self.period.max(1));
        Self { limit, burst: u64::try_from(burst).unwrap_or(u64::MAX).max(1), ..self }
    }
}
