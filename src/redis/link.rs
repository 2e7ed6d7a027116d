//! One connection that is made again whenever it is lost.
//!
//! fred could reconnect by itself, but then it keeps what was asked during an outage and sends it afterwards, sees a
//! silent server only when nobody asks for half a second, and hangs for good on a write into a full socket. So fred gets
//! no reconnect policy here: a connection that ends, ends whole, with everything that waited on it, and a new client
//! takes its place.

use std::sync::Arc;
use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::config::ServerConfig;
use fred::types::{Builder, ConnectHandle};
use tokio_util::sync::CancellationToken;

use crate::env::{Clock, Random, ThreadRandom, after};

/// First wait after a connection was lost; doubled with each failure, each time between half of it and all of it.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between two attempts. An attempt that was lost in the network just before that recovered takes a second
/// to fail; this and the pause of the cache's own breaker still come to less than 2 s.
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// A connection that lasted so long was a success: a server may take everybody in and then throw them out.
const LASTING: Duration = Duration::from_secs(1);

/// What every connection of one user needs.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) builder: Builder,
    /// Bounds one attempt as a whole, all nodes of a cluster included.
    pub(crate) patience: Duration,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) closing: CancellationToken,
}

/// What is done with a connection.
pub(crate) trait Session: Send + Sync + 'static {
    /// Uses it until it is of no more use.
    fn run(&self, client: Client) -> impl Future<Output = ()> + Send;

    /// It ended, or could not be made.
    fn lost(&self);
}

/// fred's own task: it ends with this.
struct Running(ConnectHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Running {
    /// Ends it, and waits until it has ended.
    async fn stop(mut self) {
        if !self.0.is_finished() {
            self.0.abort();
            let _ = (&mut self.0).await;
        }
    }
}

impl Dialer {
    /// Connects, lets the session use the connection, and connects again, until it is to close.
    pub(crate) async fn keep(self, session: impl Session) {
        let mut failures: u32 = 0;
        let mut attempts: usize = 0;
        while !self.closing.is_cancelled() {
            let dialled = self.dial(attempts).await;
            attempts = attempts.wrapping_add(1);
            match dialled {
                Some((client, mut running)) => {
                    let since = self.clock.now();
                    tokio::select! {
                        () = self.closing.cancelled() => {}
                        () = session.run(client) => {}
                        _ = &mut running.0 => {}
                    }
                    running.stop().await;
                    let lasted = self.clock.now().saturating_duration_since(since) >= LASTING;
                    failures = if lasted { 0 } else { failures.saturating_add(1) };
                }
                None => failures = failures.saturating_add(1),
            }
            session.lost();
            tokio::select! {
                () = self.closing.cancelled() => break,
                () = self.clock.sleep_until(after(self.clock.now(), wait(failures))) => {}
            }
        }
    }

    async fn dial(&self, attempt: usize) -> Option<(Client, Running)> {
        let mut builder = self.builder.clone();
        builder.with_config(|config| turn(&mut config.server, attempt));
        let client = builder.build().ok()?;
        let starting = client.clone();
        let waiting = starting.wait_for_connect();
        let mut waiting = std::pin::pin!(waiting);
        // Polled before connecting: it must not miss what it waits for.
        if futures_util::poll!(waiting.as_mut()).is_ready() {
            return None;
        }
        let running = Running(client.connect());
        let connected = tokio::select! {
            () = self.closing.cancelled() => false,
            () = self.clock.sleep_until(after(self.clock.now(), self.patience)) => false,
            connected = waiting => connected.is_ok(),
        };
        if connected {
            return Some((client, running));
        }
        running.stop().await;
        None
    }
}

/// Asks another of several hosts first, each time. fred waits for each as long as for a whole attempt, sentinels in their
/// order, nodes of a cluster sorted: one that is silent would keep it from all behind it, for ever.
fn turn(server: &mut ServerConfig, attempt: usize) {
    let (hosts, all) = match server {
        ServerConfig::Sentinel { hosts, .. } => (hosts, true),
        ServerConfig::Clustered { hosts, .. } => (hosts, false),
        ServerConfig::Centralized { .. } => return,
    };
    let first = attempt.checked_rem(hosts.len()).unwrap_or(0);
    hosts.rotate_left(first);
    if !all {
        hosts.truncate(1);
    }
}

fn wait(failures: u32) -> Duration {
    let longest = FIRST_WAIT.saturating_mul(1 << failures.min(8)).min(LONGEST_WAIT);
    let half = longest / 2;
    let share = (ThreadRandom.next() >> 11) as f64 / (1_u64 << 53) as f64;
    half + half.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_half_a_second_and_differ() {
        for (failures, longest) in [(0, 100), (1, 200), (2, 400), (3, 500), (u32::MAX, 500)] {
            let longest = Duration::from_millis(longest);
            let waits: Vec<_> = (0..50).map(|_| wait(failures)).collect();
            assert!(waits.iter().all(|wait| (longest / 2..=longest).contains(wait)), "{failures}: {waits:?}");
            assert!(waits.iter().any(|wait| *wait != waits[0]));
        }
    }

    #[test]
    fn each_attempt_begins_with_another_host() {
        let hosts = || ["a", "b", "c"].map(|host| (host, 1)).to_vec();
        let turned = |mut server: ServerConfig, attempt| {
            turn(&mut server, attempt);
            server.hosts().iter().map(|server| server.host.to_string()).collect::<String>()
        };
        for (attempt, (sentinels, seed)) in [("abc", "a"), ("bca", "b"), ("cab", "c"), ("abc", "a")].iter().enumerate()
        {
            assert_eq!(turned(ServerConfig::new_sentinel(hosts(), "main"), attempt), *sentinels);
            assert_eq!(turned(ServerConfig::new_clustered(hosts()), attempt), *seed);
            assert_eq!(turned(ServerConfig::new_centralized("a", 1), attempt), "a");
        }
        assert_eq!(turned(ServerConfig::new_clustered(Vec::<(String, u16)>::new()), 1), "");
    }
}
