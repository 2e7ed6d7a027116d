//! The settings of a simulated provider.

use std::fmt;
use std::time::Duration;

use super::answer::Lengths;
use super::latency::{LogNormal, MAX_MEDIAN, MAX_SIGMA};
use super::{PromptCache, Simulated};
use crate::env::Env;
use crate::error::{Error, Result};

/// The longest answer and vector that can be asked for: more is a mistake, not a model.
const MAX_OUTPUT: u32 = 131_072;
pub(super) const MAX_DIMENSIONS: u32 = 4_096;
const MAX_BURST: f64 = 3_600.0;

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) seed: u64,
    pub(super) first_chunk: LogNormal,
    pub(super) tokens_per_second: f64,
    pub(super) rpm: Option<u32>,
    pub(super) tpm: Option<u32>,
    pub(super) burst_seconds: f64,
    pub(super) error_rate: f64,
    pub(super) stream_fault_rate: f64,
    pub(super) prompt_cache: Option<PromptCache>,
    pub(super) lengths: Lengths,
    pub(super) dimensions: u32,
}

/// Settings of a [`Simulated`] provider; see [`Simulated::builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct SimulatedBuilder {
    settings: Settings,
    env: Env,
}

impl SimulatedBuilder {
    pub(super) fn new() -> Self {
        let settings = Settings {
            seed: 0,
            first_chunk: LogNormal { median: Duration::from_millis(350), sigma: 0.35 },
            tokens_per_second: 80.0,
            rpm: None,
            tpm: None,
            burst_seconds: 6.0,
            error_rate: 0.0,
            stream_fault_rate: 0.0,
            prompt_cache: Some(PromptCache::default()),
            lengths: Lengths { min: 40, max: 400 },
            dimensions: 64,
        };
        Self { settings, env: Env::new() }
    }

    /// What all chance comes from: answers, latencies, faults. Any number; default 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// The time from arrival to the first chunk: log-normal with this median (0 to 1 hour) and this standard deviation
    /// of the logarithm (0, always the median, to 3). Default 350 ms and 0.35, a mid-sized hosted model: one call in
    /// forty takes twice the median.
    pub fn first_chunk(mut self, median: Duration, sigma: f64) -> Self {
        self.settings.first_chunk = LogNormal { median, sigma };
        self
    }

    /// Output tokens per second after the first chunk, per choice (choices are written side by side). Above 0; default
    /// 80, a mid-sized hosted model.
    pub fn tokens_per_second(mut self, speed: f64) -> Self {
        self.settings.tokens_per_second = speed;
        self
    }

    /// Requests per minute over all models, 1 or more; default `None`, unlimited. Refused requests do not count.
    pub fn rpm(mut self, limit: impl Into<Option<u32>>) -> Self {
        self.settings.rpm = limit.into();
        self
    }

    /// Tokens per minute over all models, 1 or more; default `None`, unlimited.
    ///
    /// A request reserves its input and the most it may answer: `max_completion_tokens` (or the longest answer of
    /// [`output_tokens`](Self::output_tokens)) times `n`. What it did not use is given back when it ends.
    pub fn tpm(mut self, limit: impl Into<Option<u32>>) -> Self {
        self.settings.tpm = limit.into();
        self
    }

    /// How many seconds' worth of the limits may come at once. Above 0, up to 3,600; default 6, a tenth of a minute.
    ///
    /// The request bucket holds `rpm * burst / 60`, but at least one request. The token bucket holds `tpm * burst / 60`,
    /// but at least 4,096 tokens or a whole minute's limit, whichever is less. A request that reserves more than the
    /// token bucket holds is refused for ever (`Retryability::Never`).
    pub fn burst_seconds(mut self, burst: f64) -> Self {
        self.settings.burst_seconds = burst;
        self
    }

    /// The share of admitted calls that fail with 500 or 503 when the first chunk would be due. 0 to 1; default 0.
    pub fn error_rate(mut self, rate: f64) -> Self {
        self.settings.error_rate = rate;
        self
    }

    /// The share of streams that break after their first chunk of text: with an error event and by a cut, in turn; the
    /// seed says which comes first. 0 to 1; default 0.
    pub fn stream_fault_rate(mut self, rate: f64) -> Self {
        self.settings.stream_fault_rate = rate;
        self
    }

    /// How the provider caches prompts, or `None` not to. Default [`PromptCache::default`], as OpenAI documents it.
    pub fn prompt_cache(mut self, cache: impl Into<Option<PromptCache>>) -> Self {
        self.settings.prompt_cache = cache.into();
        self
    }

    /// The length of answers in tokens: even between both ends, drawn from the request, 1 to 131,072. Default 40 to
    /// 400, a short paragraph to a page. The request's own limit cuts (`finish_reason: length`).
    pub fn output_tokens(mut self, min: u32, max: u32) -> Self {
        self.settings.lengths = Lengths { min, max };
        self
    }

    /// The length of embeddings for requests that do not choose it, 1 to 4,096; default 64, enough to tell texts apart.
    pub fn dimensions(mut self, dimensions: u32) -> Self {
        self.settings.dimensions = dimensions;
        self
    }

    /// Where time and the token counter come from; default [`Env::new`]. Its randomness is not used: see
    /// [`seed`](Self::seed).
    pub fn env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    /// Makes the provider, its buckets full.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a limit, length or size of zero, a rate outside 0 to 1, and
    /// any number that is not in its range.
    pub fn build(self) -> Result<Simulated> {
        self.settings.check()?;
        Ok(Simulated::new(self.settings, self.env))
    }
}

impl Settings {
    fn check(&self) -> Result<()> {
        let LogNormal { median, sigma } = self.first_chunk;
        let Lengths { min, max } = self.lengths;
        require(median <= MAX_MEDIAN, "first_chunk", || format!("{median:?}"), "use a median of at most 1 hour")?;
        require((0.0..=MAX_SIGMA).contains(&sigma), "first_chunk", || sigma, "use a sigma of 0 to 3")?;
        let speed = self.tokens_per_second;
        require(speed.is_finite() && speed > 0.0, "tokens_per_second", || speed, "use a number above 0")?;
        let unlimited = "use at least 1, or None for no limit";
        require(self.rpm != Some(0), "rpm", || 0, unlimited)?;
        require(self.tpm != Some(0), "tpm", || 0, unlimited)?;
        let burst = self.burst_seconds;
        require(burst > 0.0 && burst <= MAX_BURST, "burst_seconds", || burst, "use a number above 0, up to 3600")?;
        for (setting, rate) in [("error_rate", self.error_rate), ("stream_fault_rate", self.stream_fault_rate)] {
            require((0.0..=1.0).contains(&rate), setting, || rate, "use a share of 0 to 1")?;
        }
        if let Some(cache) = &self.prompt_cache {
            require(cache.step > 0, "prompt_cache.step", || 0, "use at least 1 token, or None for no cache")?;
            require(!cache.ttl.is_zero(), "prompt_cache.ttl", || "0s", "use a time above 0, or None for no cache")?;
        }
        let lengths_fit = 1 <= min && min <= max && max <= MAX_OUTPUT;
        require(lengths_fit, "output_tokens", || format!("({min}, {max})"), "use 1 <= min <= max <= 131072")?;
        let dimensions = self.dimensions;
        require((1..=MAX_DIMENSIONS).contains(&dimensions), "dimensions", || dimensions, "use 1 to 4096")
    }
}

fn require<V: fmt::Display>(holds: bool, setting: &str, value: impl FnOnce() -> V, remedy: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::config("simulated", setting, value(), remedy)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn refuses_what_cannot_work() {
        let builder = Simulated::builder;
        let hour = Duration::from_secs(3_600);
        let refused: [(SimulatedBuilder, &str); 15] = [
            (builder().rpm(0), "rpm = 0"),
            (builder().tpm(0), "tpm = 0"),
            (builder().burst_seconds(f64::NAN), "burst_seconds = NaN"),
            (builder().burst_seconds(0.0), "burst_seconds = 0"),
            (builder().error_rate(-0.1), "error_rate = -0.1"),
            (builder().error_rate(f64::NAN), "error_rate = NaN"),
            (builder().stream_fault_rate(1.1), "stream_fault_rate = 1.1"),
            (builder().tokens_per_second(0.0), "tokens_per_second = 0"),
            (builder().tokens_per_second(f64::INFINITY), "tokens_per_second = inf"),
            (builder().first_chunk(hour * 2, 0.3), "first_chunk = 7200s"),
            (builder().first_chunk(hour, f64::NAN), "first_chunk = NaN"),
            (builder().output_tokens(10, 5), "output_tokens = (10, 5)"),
            (builder().output_tokens(0, 5), "output_tokens = (0, 5)"),
            (builder().dimensions(0), "dimensions = 0"),
            (builder().prompt_cache(PromptCache { step: 0, ..PromptCache::default() }), "prompt_cache.step = 0"),
        ];
        for (builder, words) in refused {
            let error = builder.build().unwrap_err();
            assert_eq!((error.kind(), error.origin()), (ErrorKind::Config, "simulated"));
            assert!(error.to_string().contains(words), "{error} lacks {words}");
        }
        assert!(builder().rpm(1).tpm(1).prompt_cache(None).error_rate(1.0).build().is_ok());
    }
}
