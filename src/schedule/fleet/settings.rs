//! Where the shared limits are kept, and by how many they are used.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::redis::RedisServer;
use crate::schedule::ORIGIN;

/// Where a fleet keeps the limits it shares ([`Admission::shared`](crate::schedule::Admission::shared)).
///
/// ```
/// use sluicegate::redis::RedisServer;
/// use sluicegate::schedule::{Admission, FleetLimits};
///
/// let redis = RedisServer::at("redis://cache.internal:6379/0");
/// let shared = FleetLimits::at(redis).name("openai-prod").expected_processes(4);
/// let admission = Admission::new().rpm(600).tpm(90_000).shared(shared);
/// # let _ = admission;
/// ```
#[derive(Clone)]
#[must_use]
pub struct FleetLimits {
    pub(super) server: RedisServer,
    pub(super) name: String,
    pub(super) expected: usize,
    pub(super) patience: Duration,
}

impl FleetLimits {
    /// On this server, under the name `default`, for one process at least.
    pub fn at(server: RedisServer) -> Self {
        Self { server, name: "default".to_owned(), expected: 1, patience: Duration::from_millis(100) }
    }

    /// Whose limits these are: processes share what has the same name. One per key of a provider; 1 to 100 bytes,
    /// without braces. `default` unless set.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How many processes use the limits, at least, 1 to 10,000; 1 unless set. Without Redis each has its part of the
    /// limits by the larger of this and the number last seen. A fleet that starts while Redis is down knows no other
    /// number: with 1, every process would use all of the limits.
    pub fn expected_processes(mut self, processes: usize) -> Self {
        self.expected = processes;
        self
    }

    /// How long a trip to Redis may take, 5 ms to 1 s; 100 ms unless set. After one that takes longer, the process keeps to
    /// its own share until Redis answers again. Calls that have a lease do not wait for trips.
    pub fn patience(mut self, wait: Duration) -> Self {
        self.patience = wait;
        self
    }

    pub(in crate::schedule) fn told_name(&self) -> &str {
        &self.name
    }

    pub(in crate::schedule) fn processes(&self) -> u64 {
        u64::try_from(self.expected).unwrap_or(u64::MAX).max(1)
    }

    pub(super) fn check(&self) -> Result<()> {
        let length = self.name.len();
        if !(1..=100).contains(&length) || self.name.contains(['{', '}']) {
            return Err(Error::config(ORIGIN, "fleet name", &self.name, "use 1 to 100 bytes, without braces"));
        }
        let ms = Duration::from_millis;
        Error::unless_within(ORIGIN, "expected_processes", self.expected, 1..=10_000)?;
        Error::unless_within(ORIGIN, "fleet patience", self.patience, ms(5)..=ms(1_000))
    }
}

impl From<RedisServer> for FleetLimits {
    fn from(server: RedisServer) -> Self {
        Self::at(server)
    }
}

impl fmt::Debug for FleetLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetLimits")
            .field("server", &self.server)
            .field("name", &self.name)
            .field("expected_processes", &self.expected)
            .field("patience", &self.patience)
            .finish()
    }
}

impl fmt::Display for FleetLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shared as {} by at least {}", self.name, self.expected)
    }
}
