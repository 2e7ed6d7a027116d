//! A server and how to reach it, checked when something connects to it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use fred::types::Builder;
use fred::types::RespVersion;
use fred::types::config::{Config, TcpConfig, UnresponsiveConfig};

use super::fault::ORIGIN;
use super::lane::SILENCE;
use super::tls;
use crate::error::{Error, Result};

const SCHEMES: [&str; 6] = ["redis", "rediss", "redis-sentinel", "rediss-sentinel", "redis-cluster", "rediss-cluster"];
const HIDDEN: &str = "(not shown)";

/// A Redis server, Sentinel or Cluster, and how to reach it. Nothing is checked, and nothing connects, before it is built
/// into something that uses it. Its `Debug` shows neither address nor user nor password.
///
/// ```
/// use sluicegate::{cache::tier::Redis, redis::RedisServer};
/// # fn main() -> sluicegate::Result<()> {
/// let server = RedisServer::at("redis://cache.internal:6379/0").password("…").pool(4);
/// let tier = Redis::on(server).prefix("support-desk:").build()?;
/// # let _ = tier; Ok(()) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct RedisServer {
    url: String,
    username: Option<String>,
    password: Option<String>,
    tls: tls::Files,
    pub(super) pool: usize,
    pub(super) connect_timeout: Duration,
    pub(super) max_in_flight: usize,
}

impl RedisServer {
    /// The server of this URL, in one of these forms; user, password and database are optional:
    ///
    /// - `redis://user:password@host:6379/0`, one node;
    /// - `redis-sentinel://user:password@host:26379/0?sentinelServiceName=main&node=host2:26379`, whatever node the
    ///   sentinels name; `sentinelUsername` and `sentinelPassword` when they ask for others;
    /// - `redis-cluster://user:password@host:6379?node=host2:6379`, a cluster, found through any of its nodes.
    ///
    /// With `rediss` instead of `redis` it speaks TLS and trusts the certificates of [`ca_file`](Self::ca_file), else
    /// those in the file that `SSL_CERT_FILE` names, else the system's roots. User and password in a URL are
    /// percent-encoded.
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            username: None,
            password: None,
            tls: tls::Files::default(),
            pool: 2,
            connect_timeout: Duration::from_secs(1),
            max_in_flight: 10_000,
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

    /// Trusts the certificates in this PEM file instead of the system's roots; read when something is built on it. None
    /// unless set. For a private authority: `SSL_CERT_FILE` replaces the roots of the whole process, those that the
    /// model's provider is known by too.
    pub fn ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.tls.ca = Some(file.into());
        self
    }

    /// Shows this certificate, signed with this private key, both PEM files, read when something is built on it. None
    /// unless set; a `redis-server` with TLS asks for one unless it is told `tls-auth-clients no`.
    pub fn identity(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Connections that carry commands, 1 to 64; 2 unless set. Each carries any number of commands at a time; a second
    /// one keeps small answers from waiting behind a large one.
    pub fn pool(mut self, connections: usize) -> Self {
        self.pool = connections;
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

    /// What fred needs to know, once all is checked. `slowest` bounds the slowest command.
    pub(super) fn fred(&self, slowest: Duration) -> Result<Builder> {
        let ms = Duration::from_millis;
        Error::unless_within(ORIGIN, "connect_timeout", self.connect_timeout, ms(10)..=ms(60_000))?;
        Error::unless_within(ORIGIN, "pool", self.pool, 1..=64)?;
        Error::unless_within(ORIGIN, "max_in_flight", self.max_in_flight, 1..=1_000_000)?;
        let mut builder = Builder::from_config(self.config()?);
        builder.with_connection_config(|connection| {
            connection.connection_timeout = self.connect_timeout;
            connection.internal_command_timeout = self.connect_timeout;
            connection.max_command_attempts = 1;
            connection.max_command_buffer_len = self.max_in_flight;
            // Whoever uses a connection finds out by itself, under load too.
            connection.unresponsive = UnresponsiveConfig { max_timeout: None, ..UnresponsiveConfig::default() };
            connection.tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() };
        });
        builder.with_performance_config(|performance| {
            performance.default_command_timeout = slowest.max(SILENCE);
            performance.broadcast_channel_capacity = 1024;
        });
        Ok(builder)
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
}

impl fmt::Debug for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisServer")
            .field("pool", &self.pool)
            .field("connect_timeout", &self.connect_timeout)
            .field("max_in_flight", &self.max_in_flight)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_no_secret() {
        let server = RedisServer::at("redis://me:hidden@secret.host").username("secret-user").password("secret-word");
        let shown = format!("{server:?}");
        assert!(shown.contains("pool") && !shown.contains("secret") && !shown.contains("hidden"), "{shown}");
    }
}
