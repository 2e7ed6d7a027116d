//! Settings of the tier, checked once at `build()`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Redis;
use crate::cache::MacKey;
use crate::env::{Clock, TokioClock};
use crate::error::{Error, Result};
use crate::redis::{Connection, ORIGIN, Pace, RedisServer};

/// Settings of a [`Redis`] tier. Nothing is checked before [`build`](Self::build).
#[derive(Clone)]
#[must_use]
pub struct RedisBuilder {
    server: RedisServer,
    pub(super) prefix: String,
    pub(super) get_timeout: Duration,
    pub(super) put_timeout: Duration,
    pub(super) mac: Option<MacKey>,
    pub(super) clock: Arc<dyn Clock>,
}

impl RedisBuilder {
    pub(super) fn new(server: RedisServer) -> Self {
        Self {
            server,
            prefix: "sluicegate:".to_owned(),
            get_timeout: Duration::from_millis(50),
            put_timeout: Duration::from_millis(50),
            mac: None,
            clock: Arc::new(TokioClock::new()),
        }
    }

    /// As [`RedisServer::username`].
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.server = self.server.username(username);
        self
    }

    /// As [`RedisServer::password`].
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.server = self.server.password(password);
        self
    }

    /// As [`RedisServer::ca_file`].
    pub fn ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.server = self.server.ca_file(file);
        self
    }

    /// As [`RedisServer::identity`].
    pub fn identity(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.server = self.server.identity(certificate, key);
        self
    }

    /// What every key starts with: 1 to 128 visible ASCII characters, `sluicegate:` unless set. Two caches that must not
    /// share answers, or not be cleared together, need prefixes of which none starts with the other.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// As [`RedisServer::pool`]: connections that carry commands, 2 unless set.
    pub fn pool(mut self, connections: usize) -> Self {
        self.server = self.server.pool(connections);
        self
    }

    /// Longest wait of a `get`, 1 ms to 10 s; 50 ms unless set: far below what a model takes, far above what Redis takes.
    /// A `get` comes back within this and a tenth of it, whatever happens to Redis.
    pub fn get_timeout(mut self, wait: Duration) -> Self {
        self.get_timeout = wait;
        self
    }

    /// Longest wait of a `put`, 1 ms to 60 s; 50 ms unless set: the first caller waits for it, and the cache's own
    /// [`tier_timeout`](crate::cache::Cache::tier_timeout), 100 ms unless set, should be longer. The removal of a key, and
    /// each step of removing all, may take at least 250 ms.
    pub fn put_timeout(mut self, wait: Duration) -> Self {
        self.put_timeout = wait;
        self
    }

    /// As [`RedisServer::connect_timeout`]: 1 s unless set.
    pub fn connect_timeout(mut self, wait: Duration) -> Self {
        self.server = self.server.connect_timeout(wait);
        self
    }

    /// As [`RedisServer::max_in_flight`]: 10,000 unless set.
    pub fn max_in_flight(mut self, commands: usize) -> Self {
        self.server = self.server.max_in_flight(commands);
        self
    }

    /// Marks entries as this fleet's own: whoever else can write to Redis can then delete answers, but not forge or exchange
    /// them. None unless set, because every process of the fleet needs the secret. Entries without a valid mark are
    /// misses.
    pub fn mac(mut self, key: MacKey) -> Self {
        self.mac = Some(key);
        self
    }

    /// Where time comes from; Tokio's clock unless set. Tests with a paused clock and a real server do not mix.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The tier. It does not wait for Redis: inside a Tokio runtime it starts to connect now, outside of one at its first
    /// use, and it joins, and joins again, whenever the server can be reached.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a setting out of its range, a URL that cannot be understood,
    /// certificates that cannot be read, or files of them with a URL without TLS.
    pub fn build(self) -> Result<Redis> {
        let ms = Duration::from_millis;
        Error::unless_within(ORIGIN, "get_timeout", self.get_timeout, ms(1)..=ms(10_000))?;
        Error::unless_within(ORIGIN, "put_timeout", self.put_timeout, ms(1)..=ms(60_000))?;
        if self.prefix.is_empty() || self.prefix.len() > 128 || !self.prefix.bytes().all(|b| b.is_ascii_graphic()) {
            let advice = "use 1 to 128 visible ASCII characters";
            return Err(Error::config(ORIGIN, "prefix", format_args!("{} bytes", self.prefix.len()), advice));
        }
        let (clock, grace) = (Arc::clone(&self.clock), self.get_timeout / 10);
        let connection = Connection::new(&self.server, Pace { clock, grace, slowest: self.put_timeout })?;
        Ok(Redis::new(self, connection))
    }
}

impl fmt::Debug for RedisBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBuilder")
            .field("server", &self.server)
            .field("get_timeout", &self.get_timeout)
            .field("put_timeout", &self.put_timeout)
            .field("mac", &self.mac)
            .finish_non_exhaustive()
    }
}
