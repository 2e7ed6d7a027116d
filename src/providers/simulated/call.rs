//! A call from its admission to its settlement, and the account it settles with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::builder::Settings;
use super::dice::{Dice, Draw};
use super::errors;
use super::latency::pace;
use super::limits::Limits;
use super::prompt_cache::{Known, Prefix};
use crate::client::ClientInfo;
use crate::env::{Env, after};
use crate::error::Result;

/// What a simulated provider has done so far. Tokens are counted when a call ends, dropped calls with what they had
/// used by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SimulatedStats {
    /// Calls that arrived, refused ones included.
    pub requests: u64,
    /// Calls that passed the limits.
    pub accepted: u64,
    /// Calls refused by the limits.
    pub rejected_429: u64,
    /// Faults played: 500 and 503 before the first chunk, and broken streams.
    pub faults: u64,
    /// Input tokens, cached ones included; none for calls that failed with 500 or 503.
    pub input_tokens: u64,
    /// Of them from the prompt cache.
    pub cached_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Calls and streams open now.
    pub in_flight: u64,
    /// The most that were open at once.
    pub peak_in_flight: u64,
}

/// What all clones of a simulated provider share.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) settings: Settings,
    pub(super) env: Env,
    pub(super) info: ClientInfo,
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) stats: SimulatedStats,
    pub(super) limits: Limits,
    known: Known,
    stream_faults: u64,
}

/// What a call asks for, and what its answer will take.
#[derive(Debug, Default)]
pub(super) struct Demand {
    /// Input tokens.
    pub(super) input: u64,
    /// The most output tokens it may use, over all choices.
    pub(super) most_output: u64,
    /// The output tokens it will use, over all choices.
    pub(super) output: u64,
    /// Those of its longest choice.
    pub(super) longest: u64,
    /// What the prompt cache may know of it.
    pub(super) prefixes: Vec<Prefix>,
}

/// How a call is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Charge {
    /// The input, and the output that was written by now.
    SoFar,
    Whole,
    Nothing,
}

/// An admitted call. Dropping it settles it.
#[derive(Debug)]
pub(super) struct Call {
    account: Arc<Account>,
    demand: Demand,
    pub(super) cached: u64,
    /// When the first chunk is due.
    pub(super) first_at: Instant,
    charge: Charge,
}

/// A refusal, and a stream's opening, take this long: what a round trip to a near data centre takes.
pub(super) const FRONT_DOOR: Duration = Duration::from_millis(20);

impl Account {
    pub(super) fn new(settings: Settings, env: Env, info: ClientInfo) -> Self {
        let limits = Limits::new(env.now(), settings.rpm, settings.tpm, settings.burst_seconds);
        let state = State { stats: SimulatedStats::default(), limits, known: Known::default(), stream_faults: 0 };
        Self { settings, env, info, state: Mutex::new(state) }
    }

    /// Counts an arrival; its place in the order of calls, from 1.
    pub(super) fn arrive(&self) -> u64 {
        let mut state = self.state.lock();
        state.stats.requests += 1;
        state.stats.requests
    }

    /// Admits a call, or refuses it with 429 after a round trip.
    pub(super) async fn admit(self: &Arc<Self>, model: &str, demand: Demand, dice: &Dice) -> Result<Call> {
        let reserve = demand.input.saturating_add(demand.most_output);
        if let Some(call) = self.try_admit(reserve, demand, dice) {
            return Ok(call);
        }
        self.env.sleep(FRONT_DOOR).await;
        // The hint is for whoever reads it now, not for when the call came.
        let now = self.env.now();
        let (wait, report) = {
            let mut state = self.state.lock();
            (state.limits.wait(now, reserve), state.limits.report(now))
        };
        Err(errors::rate_limited(model, reserve, wait, report))
    }

    fn try_admit(self: &Arc<Self>, reserve: u64, demand: Demand, dice: &Dice) -> Option<Call> {
        let now = self.env.now();
        let mut state = self.state.lock();
        if state.limits.admit(now, reserve).is_err() {
            state.stats.rejected_429 += 1;
            return None;
        }
        state.stats.accepted += 1;
        state.stats.in_flight += 1;
        state.stats.peak_in_flight = state.stats.peak_in_flight.max(state.stats.in_flight);
        let cached = state.known.longest(now, &demand.prefixes);
        drop(state);
        let wait = self.settings.first_chunk.draw(dice.unit(Draw::Latency), dice.unit(Draw::LatencyToo));
        let first_at = after(now, wait);
        Some(Call { account: Arc::clone(self), demand, cached, first_at, charge: Charge::SoFar })
    }
}

impl Call {
    /// Waits until the first chunk is due. The prompt has been read by then, so the cache knows it.
    pub(super) async fn first_chunk(&mut self) {
        self.wait_until(self.first_at).await;
        let prefixes = std::mem::take(&mut self.demand.prefixes);
        if let Some(cache) = &self.account.settings.prompt_cache {
            self.account.state.lock().known.remember(self.account.env.now(), cache.ttl, &prefixes);
        }
    }

    pub(super) async fn wait_until(&self, due: Instant) {
        if self.account.env.now() < due {
            self.account.env.sleep_until(due).await;
        }
    }

    /// When so many tokens of one choice are written.
    pub(super) fn written_at(&self, tokens: f64) -> Instant {
        after(self.first_at, pace(tokens, self.account.settings.tokens_per_second))
    }

    /// When the whole answer is written.
    pub(super) fn done_at(&self) -> Instant {
        self.written_at(self.demand.longest as f64)
    }

    /// It was answered in full: charges all of it.
    pub(super) fn complete(&mut self) {
        self.charge = Charge::Whole;
    }

    /// It failed before the first byte: costs nothing but its place in requests per minute.
    pub(super) fn fail(&mut self) {
        self.charge = Charge::Nothing;
        self.count_fault();
    }

    pub(super) fn count_fault(&self) {
        self.account.state.lock().stats.faults += 1;
    }

    /// Whether the next stream fault is a cut; an error event otherwise. They take turns.
    pub(super) fn next_fault_is_cut(&self) -> bool {
        let mut state = self.account.state.lock();
        state.stream_faults += 1;
        (self.account.settings.seed ^ state.stream_faults) & 1 == 0
    }

    fn written_by(&self, now: Instant) -> u64 {
        let whole = self.done_at().saturating_duration_since(self.first_at).as_secs_f64();
        let passed = now.saturating_duration_since(self.first_at).as_secs_f64();
        if passed >= whole { self.demand.output } else { (self.demand.output as f64 * passed / whole) as u64 }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let now = self.account.env.now();
        let (input, cached, output) = match self.charge {
            Charge::Nothing => (0, 0, 0),
            // Before the first chunk is due, nothing of the answer is written.
            Charge::SoFar if now < self.first_at => (self.demand.input, self.cached, 0),
            Charge::SoFar => (self.demand.input, self.cached, self.written_by(now)),
            Charge::Whole => (self.demand.input, self.cached, self.demand.output),
        };
        let reserved = self.demand.input.saturating_add(self.demand.most_output);
        let mut state = self.account.state.lock();
        state.stats.in_flight -= 1;
        state.stats.input_tokens += input;
        state.stats.cached_tokens += cached;
        state.stats.output_tokens += output;
        state.limits.refund(now, reserved.saturating_sub(input).saturating_sub(output));
    }
}
