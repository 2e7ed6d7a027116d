//! Leases: one process asks upstream for a key, the others wait for its answer.
//!
//! A lease is a value of its own beside the entry, with a token only its holder knows and its term as expiry. Renewing it,
//! giving it back and writing under it compare the token and act in one script, so that nobody's late word undoes his
//! successor's. Both names hash to the same slot of a cluster.

use std::time::Duration;

use fred::bytes::Bytes;
use fred::interfaces::KeysInterface;
use fred::types::{Expiration, SetOptions, Value};

use super::Redis;
use crate::cache::fleet::{Lease, Leasing};
use crate::cache::{CacheKey, Entry, Probe};
use crate::env::{Random, ThreadRandom};
use crate::error::Result;
use crate::redis::Asked;

const RENEW: &str = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])";

const RELEASE: &str = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], 'open', 'PX', ARGV[2]) end
return 1";

/// A lease that ended while its holder was away is still good where nobody has asked since: there is no lease, and no
/// answer.
const PUT: &str = "local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] and (held or redis.call('EXISTS', KEYS[2]) == 1) then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[1])
return 1";

/// For how long everybody may ask for what cannot be kept here.
const OPEN_FOR: Duration = Duration::from_secs(1);

/// What stands in the place of a token when everybody may ask.
const OPEN: &[u8] = b"open";

fn token(lease: &Lease) -> String {
    format!("{:032x}", lease.token)
}

fn millis(time: Duration) -> i64 {
    // Redis refuses an expiry of zero.
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX).max(1)
}

impl Redis {
    pub(super) async fn take_lease(&self, key: &CacheKey, term: Duration) -> Result<Leasing> {
        let connection = &self.0.connection;
        let (name, budget) = (self.0.names.lease(key), self.0.settings.get_timeout);
        let lease = Lease { key: *key, token: u128::from(ThreadRandom.next()) << 64 | u128::from(ThreadRandom.next()) };
        let (value, taking) = (token(&lease), name.clone());
        let expiry = Some(Expiration::PX(millis(term)));
        let set = |client: Asked| async move {
            client.set::<Option<String>, _, _>(taking, value, expiry, Some(SetOptions::NX), false).await
        };
        if connection.call(budget, set).await?.is_some() {
            return Ok(Leasing::Held(lease));
        }
        let held = connection.call(budget, |client| async move { client.get::<Option<Bytes>, _>(name).await }).await?;
        Ok(if held.is_some_and(|held| *held == *OPEN) { Leasing::Open } else { Leasing::Taken })
    }

    pub(super) async fn renew_lease(&self, lease: &Lease, term: Duration) -> Result<bool> {
        let arguments: Vec<Value> = vec![token(lease).into(), millis(term).into()];
        self.script(RENEW, vec![self.0.names.lease(&lease.key)], arguments, self.0.settings.get_timeout).await
    }

    pub(super) async fn release_lease(&self, lease: &Lease, open_for: Duration) -> Result<()> {
        // Of no time at all there is none: in a single millisecond all who wait might find it open.
        let open_for = if open_for.is_zero() { 0 } else { millis(open_for) };
        let arguments: Vec<Value> = vec![token(lease).into(), open_for.into()];
        let names = vec![self.0.names.lease(&lease.key)];
        self.script(RELEASE, names, arguments, self.0.settings.get_timeout).await.map(drop)
    }

    pub(super) async fn keep_leased(&self, probe: &Probe, entry: &Entry, lease: &Lease) -> Result<bool> {
        let budget = self.0.settings.put_timeout;
        let value = self.0.envelopes.encode(probe, entry).await;
        let life = entry.expires().saturating_duration_since(self.0.settings.clock.now());
        // Too large, too deep, or over already: declined, as any tier may, and nobody is to wait for it.
        let (Ok(value), false) = (value, life.as_millis() == 0) else {
            self.release_lease(lease, OPEN_FOR).await?;
            return Ok(true);
        };
        let names = vec![self.0.names.lease(&lease.key), self.0.names.of(&lease.key)];
        let arguments: Vec<Value> = vec![token(lease).into(), Bytes::from(value).into(), millis(life).into()];
        self.script(PUT, names, arguments, budget).await
    }

    /// Whether the script said yes.
    async fn script(
        &self,
        text: &'static str,
        names: Vec<String>,
        values: Vec<Value>,
        budget: Duration,
    ) -> Result<bool> {
        self.0.connection.script::<i64>(text, names, values, budget).await.map(|answer| answer == 1)
    }
}
