//! Chance without a generator: every draw is a hash of the seed, the request and its place in the order of calls.

use twox_hash::XxHash3_64;

/// What a draw decides. Each has a stream of its own, so that a draw more for one changes no other.
#[derive(Debug, Clone, Copy)]
pub(super) enum Draw {
    Length,
    Words,
    Latency,
    LatencyToo,
    Fault,
    FaultStatus,
    StreamFault,
    StreamFaultPlace,
    Id,
}

/// The draws of one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dice {
    seed: u64,
    request: u64,
    order: u64,
}

impl Dice {
    /// What depends on the request alone: what is answered.
    pub(super) fn of_request(seed: u64, request: u64) -> Self {
        Self { seed, request, order: 0 }
    }

    /// What differs from call to call: how long it takes, whether it fails. `order` counts from 1.
    pub(super) fn of_call(self, order: u64) -> Self {
        Self { order, ..self }
    }

    /// 64 even bits; `index` tells draws of the same kind apart.
    pub(super) fn bits(&self, draw: Draw, index: u64) -> u64 {
        let mut bytes = [0; 32];
        let words = [self.request, self.order, draw as u64, index];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        XxHash3_64::oneshot_with_seed(self.seed, &bytes)
    }

    /// From 0 to 1, 1 excluded.
    pub(super) fn unit(&self, draw: Draw) -> f64 {
        // 53 bits fill a double's mantissa.
        (self.bits(draw, 0) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Whether something that happens at this rate happens now.
    pub(super) fn happens(&self, draw: Draw, rate: f64) -> bool {
        self.unit(draw) < rate
    }
}
