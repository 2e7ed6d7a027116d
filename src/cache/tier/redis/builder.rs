//! Settings of the tier, checked once at `build()`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fred::types::Builder;
use fred::types::RespVersion;
use fred::types::config::{Config, TcpConfig, UnresponsiveConfig};
use tokio_util::sync::CancellationToken;

use super::lane::SILENCE;
use super::link::Dialer;
use super::{Redis, fault::ORIGIN, tls};
use crate::cache::MacKey;
use crate::env::{Clock, TokioClock};
use crate::error::{Error, Result};

const SCHEMES: [&str; 6] = ["redis", "rediss", "redis-sentinel", "rediss-sentinel", "redis-cluster", "rediss-cluster"];
const HIDDEN: &str = "(not shown)";

/// Settings of a [`Redis`] tier. Nothing is checked before [`build`](Self::build).
#[derive(Clone)]
#[must_use]
pub struct RedisBuilder {
    url: String,
    username: Option<String>,
    password: Option<String>,
    tls: tls::Files,
    pub(super) prefix: String,
    pub(super) pool: usize,
    pub(super) get_timeout: Duration,
    pub(super) put_timeout: Duration,
    connect_timeout: Duration,
    pub(super) max_in_flight: usize,
    pub(super) mac: Option<MacKey>,
    pub(super) clock: Arc<dyn Clock>,
}

impl RedisBuilder {
    pub(super) fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            username: None,
            password: None,
            tls: tls::Files::default(),
            prefix: "sluicegate:".to_owned(),
            pool: 2,
            get_timeout: Duration::from_millis(50),
            put_timeout: Duration::from_millis(50),
            connect_timeout: Duration::from_secs(1),
            max_in_flight: 10_000,
            mac: None,
            clock: Arc::new(TokioClock::new()),
        }
    }

    /// The ACL user; taken instead of the URL's. None unless set.
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// The password; taken instead of the URL's, and needs no percent-encoding. None unless set.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Trusts the certificates in this PEM file instead of the system's roots; read at [`build`](Self::build). None unless
    /// set. For a private authority: `SSL_CERT_FILE` replaces the roots of the whole process, those that the model's
    /// provider is known by too.
    pub fn ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.tls.ca = Some(file.into());
        self
    }

    /// Shows this certificate, signed with this private key, both PEM files, read at [`build`](Self::build). None unless
    /// set; a `redis-server` with TLS asks for one unless it is told `tls-auth-clients no`.
    pub fn identity(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls.identity = Some((certificate.into(), key.into()));
        self
    }

    /// What every key starts with: 1 to 128 visible ASCII characters, `sluicegate:` unless set. Two caches that must not
    /// share answers, or not be cleared together, need prefixes of which none starts with the other.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Connections that carry commands, 1 to 64; 2 unless set. Each carries any number of commands at a time; a second
    /// one keeps small answers from waiting behind a large one.
    pub fn pool(mut self, connections: usize) -> Self {
        self.pool = connections;
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

    /// Longest time for one attempt to connect, with TLS handshake and sign-on, 10 ms to 60 s; 1 s unless set, so that a
    /// server that comes back is in use again within 2 s.
    pub fn connect_timeout(mut self, wait: Duration) -> Self {
        self.connect_timeout = wait;
        self
    }

    /// Commands under way at most, 1 to 1,000,000; 10,000 unless set. What comes on top fails at once with
    /// [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded), so that an outage under load takes bounded memory.
    pub fn max_in_flight(mut self, commands: usize) -> Self {
        self.max_in_flight = commands;
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
        Error::unless_within(ORIGIN, "connect_timeout", self.connect_timeout, ms(10)..=ms(60_000))?;
        Error::unless_within(ORIGIN, "pool", self.pool, 1..=64)?;
        Error::unless_within(ORIGIN, "max_in_flight", self.max_in_flight, 1..=1_000_000)?;
        if self.prefix.is_empty() || self.prefix.len() > 128 || !self.prefix.bytes().all(|b| b.is_ascii_graphic()) {
            let advice = "use 1 to 128 visible ASCII characters";
            return Err(Error::config(ORIGIN, "prefix", format_args!("{} bytes", self.prefix.len()), advice));
        }
        let dialer = Dialer {
            builder: self.fred(self.config()?),
            patience: self.connect_timeout,
            clock: Arc::clone(&self.clock),
            closing: CancellationToken::new(),
        };
        Ok(Redis::new(self, dialer))
    }

    fn config(&self) -> Result<Config> {
        let wrong = |advice| Error::config(ORIGIN, "url", HIDDEN, advice);
        let (scheme, rest) = self.url.split_once("://").ok_or_else(|| wrong("start it with redis:// or rediss://"))?;
        if !SCHEMES.contains(&scheme) {
            return Err(wrong("use redis://, rediss://, or either with -sentinel or -cluster behind the scheme"));
        }
        // TLS is set up here: fred would panic where the user's program links two providers of cryptography.
        let secure = scheme.starts_with("rediss");
        let plain = if secure { scheme.replacen("rediss", "redis", 1) } else { scheme.to_owned() };
        let mut config = Config::from_url(&format!("{plain}://{rest}"))
            .map_err(|_| wrong("check host, port, database, and for Sentinel the sentinelServiceName"))?;
        if config.server.hosts().iter().any(|server| server.host.is_empty()) {
            return Err(wrong("name a host"));
        }
        if !secure && self.tls.are_named() {
            return Err(wrong("start it with rediss for TLS, or leave ca_file and identity out"));
        }
        config.tls = if secure { Some(self.tls.connector()?) } else { None };
        config.username = self.username.clone().or(config.username);
        config.password = self.password.clone().or(config.password);
        config.fail_fast = true;
        config.version = RespVersion::RESP2;
        Ok(config)
    }

    fn fred(&self, config: Config) -> Builder {
        let mut builder = Builder::from_config(config);
        builder.with_connection_config(|connection| {
            connection.connection_timeout = self.connect_timeout;
            connection.internal_command_timeout = self.connect_timeout;
            connection.max_command_attempts = 1;
            connection.max_command_buffer_len = self.max_in_flight;
            // The lanes and the feed find out by themselves, under load too.
            connection.unresponsive = UnresponsiveConfig { max_timeout: None, ..UnresponsiveConfig::default() };
            connection.tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() };
        });
        builder.with_performance_config(|performance| {
            performance.default_command_timeout = self.put_timeout.max(SILENCE);
            performance.broadcast_channel_capacity = 1024;
        });
        builder
    }
}

impl fmt::Debug for RedisBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBuilder")
            .field("pool", &self.pool)
            .field("get_timeout", &self.get_timeout)
            .field("put_timeout", &self.put_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("max_in_flight", &self.max_in_flight)
            .field("mac", &self.mac)
            .finish_non_exhaustive()
    }
}
