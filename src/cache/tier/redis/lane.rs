//! One of the connections that carry commands, and how long it has been silent.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fred::clients::{Client, WithOptions};
use fred::interfaces::ClientLike;
use fred::types::config::Options;
use tokio::sync::{Notify, watch};

use super::fault;
use super::link::Session;
use crate::env::{Clock, after};
use crate::error::{Error, ErrorKind, Result};

/// A connection on which nothing was answered for so long, while somebody waited, is given up.
pub(super) const SILENCE: Duration = Duration::from_millis(500);

/// A client whose commands are bounded in time and never tried twice.
pub(super) type Asked = WithOptions<Client>;

#[derive(Clone)]
enum State {
    /// The first attempt is still going on.
    Joining,
    Up(Client),
    Down,
}

/// One connection that carries commands.
pub(super) struct Lane {
    state: watch::Sender<State>,
    clock: Arc<dyn Clock>,
    born: Instant,
    /// Milliseconds since `born` of the first call that got no answer, plus one; 0 while there are answers.
    silent_since: AtomicU64,
    give_up: Notify,
}

impl Lane {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let (state, born) = (watch::Sender::new(State::Joining), clock.now());
        Self { state, clock, born, silent_since: AtomicU64::new(0), give_up: Notify::new() }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up(_))
    }

    /// The connection; at the very start waits for it, later fails at once when there is none.
    async fn client(&self) -> Result<Client> {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| !matches!(state, State::Joining)).await;
        match known.as_deref() {
            Ok(State::Up(client)) => Ok(client.clone()),
            _ => Err(Error::new(ErrorKind::Network, fault::ORIGIN, "not connected")),
        }
    }

    /// Asks, and waits for the answer at most so long.
    ///
    /// fred's own limit is the tighter one: only it takes a command that was not yet written out of fred's queue.
    pub(super) async fn ask<T, F>(&self, budget: Duration, command: impl FnOnce(Asked) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, fred::error::Error>>,
    {
        let asked = self.clock.now();
        let answer = async {
            let client = self.client().await?;
            let options = Options {
                timeout: Some(budget),
                max_attempts: Some(1),
                max_redirections: Some(3),
                fail_fast: true,
                ..Options::default()
            };
            Ok(command(client.with_options(&options)).await)
        };
        let limit = after(asked, budget + budget / 10);
        let answer = tokio::select! {
            answer = answer => answer?.map_err(|error| fault::from(&error)),
            () = self.clock.sleep_until(limit) => Err(Error::new(ErrorKind::Timeout, fault::ORIGIN, "no reply in time")),
        };
        match &answer {
            Err(error) if error.kind() == ErrorKind::Timeout => self.unanswered(asked),
            _ => self.silent_since.store(0, Relaxed),
        }
        answer
    }

    /// Gives the connection up once it has been silent for [`SILENCE`]. fred looks at the time since the last write
    /// only: under load it never finds out.
    fn unanswered(&self, asked: Instant) {
        let since_birth = |at: Instant| at.saturating_duration_since(self.born).as_millis() as u64 + 1;
        let first = self.silent_since.compare_exchange(0, since_birth(asked), Relaxed, Relaxed);
        if first.is_err() && self.is_silent() {
            self.give_up.notify_one();
        }
    }

    fn is_silent(&self) -> bool {
        let (since, now) = (self.silent_since.load(Relaxed), self.clock.now());
        since != 0 && now.saturating_duration_since(self.born + Duration::from_millis(since - 1)) >= SILENCE
    }
}

/// The task that keeps a lane up.
pub(super) struct Carry(pub(super) Arc<Lane>);

impl Session for Carry {
    async fn run(&self, client: Client) {
        let lane = &self.0;
        lane.silent_since.store(0, Relaxed);
        lane.state.send_replace(State::Up(client));
        loop {
            lane.give_up.notified().await;
            // A wish from before this connection does not count.
            if lane.is_silent() {
                return;
            }
        }
    }

    fn lost(&self) {
        self.0.state.send_replace(State::Down);
    }
}
