//! How long it takes until the first chunk.

use std::time::Duration;

/// A log-normal distribution: half of all draws are below the median, and the right tail is long, as measured times to
/// the first token are.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogNormal {
    pub(super) median: Duration,
    /// The standard deviation of the logarithm; 0 makes every draw the median.
    pub(super) sigma: f64,
}

/// Above it nothing is simulated any more, only overflowed.
pub(super) const MAX_MEDIAN: Duration = Duration::from_secs(3600);
pub(super) const MAX_SIGMA: f64 = 3.0;

impl LogNormal {
    /// A draw from two even numbers of 0 to 1, 1 excluded.
    pub(super) fn draw(&self, first: f64, second: f64) -> Duration {
        // Box and Muller. `1 - first` is never 0, so the logarithm is finite: normal is at most 8.6 in size.
        let normal = (-2.0 * (1.0 - first).ln()).sqrt() * (std::f64::consts::TAU * second).cos();
        // At most an hour times e^26: far below what a Duration holds.
        self.median.mul_f64((self.sigma * normal).exp())
    }
}

/// The time so many tokens take at this many per second.
pub(super) fn pace(tokens: f64, tokens_per_second: f64) -> Duration {
    Duration::try_from_secs_f64(tokens / tokens_per_second).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::dice::{Dice, Draw};
    use super::*;

    #[test]
    fn half_is_below_the_median_and_the_spread_is_sigma() {
        let latency = LogNormal { median: Duration::from_millis(350), sigma: 0.35 };
        let mut draws: Vec<_> = (1..=10_000)
            .map(|order| {
                let dice = Dice::of_request(7, 1).of_call(order);
                latency.draw(dice.unit(Draw::Latency), dice.unit(Draw::LatencyToo)).as_secs_f64()
            })
            .collect();
        draws.sort_by(f64::total_cmp);
        assert!((0.34..0.36).contains(&draws[5_000]), "{}", draws[5_000]);
        // One sigma above the median: the 84.13th percentile.
        let sigma = (draws[8_413] / draws[5_000]).ln();
        assert!((0.33..0.37).contains(&sigma), "{sigma}");
    }

    #[test]
    fn the_extremes_do_not_panic() {
        let latency = LogNormal { median: MAX_MEDIAN, sigma: MAX_SIGMA };
        assert!(latency.draw(1.0 - f64::EPSILON / 2.0, 0.0) > MAX_MEDIAN);
        assert_eq!(pace(1.0, f64::MIN_POSITIVE), Duration::MAX);
        assert_eq!(LogNormal { median: MAX_MEDIAN, sigma: 0.0 }.draw(0.9, 0.1), MAX_MEDIAN);
    }
}
