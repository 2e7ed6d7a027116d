//! How an entry is written into Redis, and read back.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::cache::{Entry, Probe};
use crate::env::Clock;
use crate::types::Cost;

/// A value that is not an entry for this request.
#[derive(Debug)]
pub(super) struct Refused;

pub(super) fn encode(probe: &Probe, entry: &Entry, clock: &dyn Clock) -> Vec<u8> {
    let left = entry.expires().saturating_duration_since(clock.now()).as_millis() as u64;
    let now = clock.wall().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let cost = entry.cost().map(|cost| cost.picos().to_string());
    let parts = (
        probe.key().to_hex(),
        now + left,
        cost,
        entry.completion().as_ref(),
        entry.chunks().iter().map(|c| (**c).clone()).collect::<Vec<_>>(),
    );
    serde_json::to_vec(&parts).unwrap_or_default()
}

pub(super) fn decode(bytes: &[u8], probe: &Probe, clock: &dyn Clock) -> Result<Entry, Refused> {
    type Parts = (String, u64, Option<String>, crate::types::ChatCompletion, Vec<crate::types::ChatChunk>);
    let (key, until, cost, completion, chunks): Parts = serde_json::from_slice(bytes).map_err(|_| Refused)?;
    let now = clock.wall().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    if key != probe.key().to_hex() || until <= now {
        return Err(Refused);
    }
    let cost = cost.and_then(|c| c.parse().ok()).map(Cost::from_picos);
    let ttl = Duration::from_millis(until - now);
    Ok(Entry::new(probe, Arc::new(completion), chunks.into_iter().map(Arc::new).collect(), clock.now(), ttl, cost))
}
