//! Who sees every call, and says afterwards whether any stretch held too many.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{BURST, PERIOD, REQUESTS, TOKENS};

/// A call is seen this much after it was let in, at most, on a machine under load.
const LATE: Duration = Duration::from_millis(250);

pub(super) struct Oracle {
    calls: Mutex<Vec<(Instant, u64)>>,
}

pub(super) struct Seen(Vec<(Instant, u64)>, Instant);

impl Oracle {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { calls: Mutex::default() })
    }

    pub(super) fn saw(&self, tokens: u64) {
        let mut calls = self.calls.lock();
        calls.push((Instant::now(), tokens));
    }

    pub(super) fn count(&self) -> usize {
        self.calls.lock().len()
    }

    pub(super) fn end(&self) -> Seen {
        Seen(self.calls.lock().clone(), Instant::now())
    }
}

impl Seen {
    /// No stretch holds more than the limit and so many bursts, of requests or of tokens.
    pub(super) fn assert_within(&self, bursts: f64, what: &str) {
        let most = |limit: u64| limit as f64 * (1.0 + bursts * BURST.as_secs_f64() / PERIOD.as_secs_f64());
        let (mut requests, mut tokens) = (0, 0);
        for (place, (from, _)) in self.0.iter().enumerate() {
            let window = self.0[place..].iter().take_while(|(at, _)| *at <= *from + PERIOD - LATE);
            let (count, sum) = window.fold((0_u64, 0_u64), |(count, sum), (_, used)| (count + 1, sum + used));
            (requests, tokens) = (requests.max(count), tokens.max(sum));
        }
        assert!(requests as f64 <= most(REQUESTS), "{what}: {requests} requests");
        assert!(tokens as f64 <= most(TOKENS), "{what}: {tokens} tokens");
    }

    /// How much was used of what the scarcer limit allowed, from the first call to the end.
    pub(super) fn share_used(&self) -> f64 {
        let first = self.0.first().expect("there were calls").0;
        let periods = self.1.duration_since(first).as_secs_f64() / PERIOD.as_secs_f64();
        let requests = self.0.len() as f64 / (REQUESTS as f64 * periods);
        let tokens = self.0.iter().map(|(_, used)| *used).sum::<u64>() as f64 / (TOKENS as f64 * periods);
        requests.max(tokens)
    }
}
