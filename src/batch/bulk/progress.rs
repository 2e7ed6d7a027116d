//! How far a run is.

use std::fmt;
use std::time::{Duration, Instant};

use super::BulkItem;
use crate::types::{Cost, Source};

/// How far a bulk run is. `done + failed` items are finished; `recorded` and `cached` are parts of `done`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct Progress {
    /// Items answered, by whomever.
    pub done: u64,
    /// Items without an answer.
    pub failed: u64,
    /// Of those done, answered by the checkpoint: nothing was asked.
    pub recorded: u64,
    /// Of those done, answered by a cache tier or another caller's flight: asked, and nothing paid.
    pub cached: u64,
    /// Items taken from the source and not finished.
    pub under_way: u64,
    /// Input tokens of answers that came from upstream in this run, cached ones of the provider included, and of
    /// failures that told their usage.
    pub tokens_in: u64,
    /// Output tokens of the same.
    pub tokens_out: u64,
    /// What this run was billed, as far as the prices are known.
    pub cost: Cost,
    /// What the recorded answers were billed in earlier runs.
    pub recorded_cost: Cost,
    /// Answers from upstream whose cost is unknown: by so many [`cost`](Self::cost) is too small.
    pub unpriced: u64,
    /// How long the run had been going when an item last finished; this, the rate and the time left stand still in
    /// between.
    pub elapsed: Duration,
    /// Items finished per second, recorded ones left out: a mean in which an item counts by e^(-age / 10 s).
    pub rate: f64,
    /// How many items there are, if the source or the caller says so.
    pub total: Option<u64>,
    /// Until the rest is finished at this rate; `None` without a total or a rate.
    pub eta: Option<Duration>,
    /// Whether the stream has ended.
    pub ended: bool,
    /// Whether it ended, or ends, before the source did: it was drained, or the checkpoint failed.
    pub stopped: bool,
}

impl Progress {
    /// Items answered or failed.
    pub fn finished(&self) -> u64 {
        self.done.saturating_add(self.failed)
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.finished())?;
        if let Some(total) = self.total {
            write!(f, " of {total}")?;
        }
        write!(f, ", {} failed, {} recorded, {} cached", self.failed, self.recorded, self.cached)?;
        write!(f, ", {} + {} tokens, {}, {:.1}/s", self.tokens_in, self.tokens_out, self.cost, self.rate)?;
        match self.eta {
            Some(eta) if !self.ended => write!(f, ", {} s left", eta.as_secs()),
            _ => Ok(()),
        }
    }
}

/// The memory of the rate, in seconds.
const MEMORY: f64 = 10.0;

/// Adds items up.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) progress: Progress,
    started: Instant,
    counted: Instant,
    recent: f64,
}

impl Tally {
    pub(super) fn new(total: Option<u64>, now: Instant) -> Self {
        Self { progress: Progress { total, ..Progress::default() }, started: now, counted: now, recent: 0.0 }
    }

    pub(super) fn count(&mut self, item: &BulkItem, now: Instant) {
        let progress = &mut self.progress;
        let mut usage = None;
        match &item.result {
            Ok(answer) => {
                progress.done += 1;
                if item.recorded {
                    progress.recorded += 1;
                    progress.recorded_cost += item.cost.unwrap_or_default();
                } else if answer.trace().source == Source::Upstream {
                    usage = answer.usage.as_ref();
                    progress.cost += item.cost.unwrap_or_default();
                    progress.unpriced += u64::from(item.cost.is_none());
                } else {
                    progress.cached += 1;
                }
            }
            Err(error) => {
                progress.failed += 1;
                usage = error.usage();
            }
        }
        if let Some(usage) = usage {
            progress.tokens_in = progress.tokens_in.saturating_add(usage.prompt_tokens);
            progress.tokens_out = progress.tokens_out.saturating_add(usage.completion_tokens);
        }
        self.fade(now);
        self.recent += f64::from(u8::from(!item.recorded));
        self.measure(now);
    }

    fn fade(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.counted).as_secs_f64();
        self.recent *= (-passed / MEMORY).exp();
        self.counted = now;
    }

    /// A steady rate r leaves r * MEMORY * (1 - e^(-elapsed / MEMORY)) in `recent`, so this is without bias from the
    /// first second on.
    fn measure(&mut self, now: Instant) {
        let progress = &mut self.progress;
        progress.elapsed = now.saturating_duration_since(self.started);
        let weight = MEMORY * -(-progress.elapsed.as_secs_f64() / MEMORY).exp_m1();
        progress.rate = if weight > 0.0 { self.recent / weight } else { 0.0 };
        let left =
            |total: u64| Duration::try_from_secs_f64(total.saturating_sub(progress.finished()) as f64 / progress.rate);
        progress.eta = progress.total.and_then(|total| left(total).ok());
    }

    pub(super) fn end(&mut self, now: Instant) {
        self.fade(now);
        self.measure(now);
        self.progress.ended = true;
        self.progress.under_way = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;
    use crate::types::ChatResponse;

    #[test]
    fn a_steady_rate_is_told_as_it_is_from_the_beginning_and_follows_a_change() {
        let start = Env::new().now();
        let mut tally = Tally::new(Some(10_000), start);
        let result = Ok(ChatResponse::from_text("x"));
        let item = BulkItem { index: 0, id: "a".into(), line: None, result, cost: None, recorded: false };
        let mut at = start;
        for n in 1..=1_000_u32 {
            at += Duration::from_millis(100);
            tally.count(&item, at);
            if n >= 10 {
                assert!((9.0..11.5).contains(&tally.progress.rate), "{n}: {}", tally.progress.rate);
            }
        }
        let eta = tally.progress.eta.unwrap().as_secs_f64();
        assert!((eta - 9_000.0 / tally.progress.rate).abs() < 1.0);
        for _ in 0..100 {
            at += Duration::from_secs(1);
            tally.count(&item, at);
        }
        assert!((0.9..1.2).contains(&tally.progress.rate), "{}", tally.progress.rate);
        let recorded = BulkItem { recorded: true, ..item };
        let before = tally.progress.rate;
        tally.count(&recorded, at);
        assert_eq!(tally.progress.rate, before, "what is read is not asked");
    }
}
