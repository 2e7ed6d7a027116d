//! Durations counted in buckets whose width grows with the value.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Sixteen buckets for each doubling: a value is known within 1/16 of itself, as in HdrHistogram with one digit.
const SUB_BITS: u32 = 4;
const SUB: u64 = 1 << SUB_BITS;
/// 2^43 ns is 2.4 hours; longer ones count as that.
const TOP: u32 = 43;
const BUCKETS: usize = ((TOP - SUB_BITS + 1) * SUB as u32) as usize;

/// One shard's counts.
#[derive(Debug)]
pub(super) struct Histogram {
    buckets: Box<[AtomicU64]>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect() }
    }
}

fn bucket_of(nanos: u64) -> usize {
    if nanos < SUB {
        return nanos as usize;
    }
    let doubling = nanos.ilog2() - SUB_BITS;
    let within = (nanos >> doubling) - SUB;
    ((u64::from(doubling) + 1) * SUB + within).min(BUCKETS as u64 - 1) as usize
}

/// The middle of a bucket.
fn value_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < SUB {
        return bucket;
    }
    let doubling = bucket / SUB - 1;
    let low = (SUB + bucket % SUB) << doubling;
    low + (1 << doubling) / 2
}

impl Histogram {
    pub(super) fn record(&self, value: Duration) {
        let nanos = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(nanos)].fetch_add(1, Ordering::Relaxed);
    }
}

/// Where durations lie. Each is known within about 3 %.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Percentiles {
    /// How many there are.
    pub count: u64,
    /// Half are shorter.
    pub p50: Duration,
    /// 95 of 100 are shorter.
    pub p95: Duration,
    /// 99 of 100 are shorter.
    pub p99: Duration,
}

impl Percentiles {
    /// Adds all shards up. Nearest rank: the smallest value that so many of the values do not exceed.
    pub(super) fn of<'a>(shards: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut sums = vec![0_u64; BUCKETS];
        for shard in shards {
            for (sum, bucket) in sums.iter_mut().zip(&shard.buckets) {
                *sum += bucket.load(Ordering::Relaxed);
            }
        }
        let count: u64 = sums.iter().sum();
        let at = |percent: u64| {
            let rank = (count * percent).div_ceil(100).max(1);
            let mut seen = 0;
            let bucket = sums.iter().position(|sum| {
                seen += sum;
                seen >= rank
            });
            Duration::from_nanos(bucket.map_or(0, value_of))
        };
        if count == 0 {
            return Self::default();
        }
        Self { count, p50: at(50), p95: at(95), p99: at(99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_known_within_a_sixteenth() {
        for shift in 0..42 {
            for offset in [0, 1, 3, 7] {
                let nanos = (1_u64 << shift) + offset * (1 << shift) / 8;
                let known = value_of(bucket_of(nanos));
                assert!(known.abs_diff(nanos) * 16 <= nanos.max(16), "{nanos} -> {known}");
            }
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let histogram = Histogram::default();
        (1..=100).for_each(|ms| histogram.record(Duration::from_millis(ms)));
        let found = Percentiles::of([&histogram].into_iter());
        let near = |found: Duration, ms: f64| (found.as_secs_f64() * 1e3 / ms - 1.0).abs() < 0.04;
        assert!(near(found.p50, 50.0) && near(found.p95, 95.0) && near(found.p99, 99.0), "{found:?}");
        assert_eq!(Percentiles::of([&Histogram::default()].into_iter()), Percentiles::default());
    }
}
