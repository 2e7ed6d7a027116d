//! One of the connections that carry commands, and what is done when it falls silent.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fred::clients::{Client, WithOptions};
use fred::interfaces::ClientLike;
use fred::types::Value;
use fred::types::config::{Options, Server};
use futures_util::future::join_all;
use tokio::sync::{Notify, watch};

use super::fault;
use super::link::Session;
use crate::env::{Clock, after};
use crate::error::{Error, ErrorKind, Result};

/// A connection that gave no sign of life for so long, after somebody had waited in vain, is given up.
pub(crate) const SILENCE: Duration = Duration::from_millis(500);
/// A connection that is younger is kept although its server takes no writes: a new one would lead to the same server.
const SETTLED: Duration = Duration::from_secs(5);
/// Distance of the looks at a queue that has no room for the question whether the server lives.
const FULL: Duration = Duration::from_millis(5);

/// A client whose commands are bounded in time and never tried twice.
pub(crate) type Asked = WithOptions<Client>;

#[derive(Clone)]
enum State {
    /// The first attempt is still going on.
    Joining,
    Up(Client),
    /// Connected, but somebody waited in vain, and the server has not answered since.
    Silent,
    Down,
}

/// What the lanes of one user tell each other: where one is cut off, all may be.
#[derive(Default)]
pub(crate) struct News {
    /// When the first call began to wait for the first connection.
    first_wait: OnceLock<Instant>,
    /// Somebody waited in vain.
    doubt: Notify,
}

/// One connection that carries commands.
pub(crate) struct Lane {
    state: watch::Sender<State>,
    clock: Arc<dyn Clock>,
    /// How long the server has to give a sign of life before calls stop waiting for it.
    grace: Duration,
    news: Arc<News>,
    /// The server takes no writes: it may not be the master any more.
    demoted: Notify,
}

impl Lane {
    pub(crate) fn new(clock: Arc<dyn Clock>, grace: Duration, news: Arc<News>) -> Self {
        let state = watch::Sender::new(State::Joining);
        Self { state, clock, grace, news, demoted: Notify::new() }
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up(_))
    }

    /// Asks, and waits for the answer at most so long.
    ///
    /// fred's own limit is the tighter one: only it takes a command that was not yet written out of fred's queue.
    pub(crate) async fn ask<T, F>(&self, budget: Duration, command: impl FnOnce(Asked) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, fred::error::Error>>,
    {
        let asked = self.clock.now();
        let mut waiting = Waiting { lane: self, asked, answered: false };
        let answer = async {
            let mut state = self.state.subscribe();
            let client = self.client(&mut state, asked, budget).await?;
            tokio::select! {
                biased;
                answer = command(bounded(&client, budget, None)) => answer.map_err(|error| fault::from(&error)),
                _ = state.wait_for(|state| !matches!(state, State::Up(_))) => Err(cut_off()),
            }
        };
        let limit = after(asked, budget + budget / 10);
        let answer = tokio::select! {
            answer = answer => answer,
            () = self.clock.sleep_until(limit) => Err(Error::new(ErrorKind::Timeout, fault::ORIGIN, "no reply in time")),
        };
        waiting.answered = true;
        match &answer {
            Err(error) if error.kind() == ErrorKind::Timeout => self.news.doubt.notify_waiters(),
            Err(error) if error.code() == Some("READONLY") => self.demoted.notify_one(),
            _ => {}
        }
        answer
    }

    /// The connection. At the very start calls wait for it, all together no longer than one of them may; later they fail
    /// at once when there is none.
    async fn client(&self, state: &mut watch::Receiver<State>, asked: Instant, budget: Duration) -> Result<Client> {
        if matches!(*state.borrow(), State::Joining) {
            let until = after(*self.news.first_wait.get_or_init(|| asked), budget);
            tokio::select! {
                biased;
                _ = state.wait_for(|state| !matches!(state, State::Joining)) => {}
                () = self.clock.sleep_until(until) => {}
            }
        }
        match &*state.borrow() {
            State::Up(client) => Ok(client.clone()),
            _ => Err(cut_off()),
        }
    }

    /// Whether every node gives any answer at all, be it an error.
    async fn lives(&self, client: &Client) -> bool {
        let nodes: Vec<Option<Server>> = match client.is_clustered() {
            true => client.active_connections().into_iter().map(Some).collect(),
            false => vec![None],
        };
        let answers = nodes.into_iter().map(|node| async {
            let node = bounded(client, SILENCE, node);
            loop {
                match node.ping::<Value>(None).await.map_err(|error| fault::from(&error)) {
                    Ok(_) => return true,
                    Err(error) if error.kind() == ErrorKind::Overloaded => {
                        self.clock.sleep_until(after(self.clock.now(), FULL)).await;
                    }
                    Err(error) => return error.code().is_some(),
                }
            }
        });
        join_all(answers).await.into_iter().all(|lives| lives)
    }

    /// Whether the connection is worth keeping. Nobody has to ask for that to be found out: fred's own check looks at
    /// the time since the last write only, so under load it never fires.
    async fn proves_itself(&self, client: &Client) -> bool {
        let now = self.clock.now();
        let mut lives = pin!(self.lives(client));
        tokio::select! {
            biased;
            lives = &mut lives => return lives,
            () = self.clock.sleep_until(after(now, self.grace)) => {}
        }
        self.state.send_replace(State::Silent);
        let lives = tokio::select! {
            biased;
            lives = &mut lives => lives,
            () = self.clock.sleep_until(after(now, SILENCE)) => false,
        };
        if lives {
            self.state.send_replace(State::Up(client.clone()));
        }
        lives
    }
}

/// The client with the limits of one command, for this node of a cluster or for whichever the command belongs to.
pub(crate) fn bounded(client: &Client, budget: Duration, node: Option<Server>) -> Asked {
    client.with_options(&Options {
        timeout: Some(budget),
        max_attempts: Some(1),
        max_redirections: Some(3),
        fail_fast: true,
        cluster_node: node,
        ..Options::default()
    })
}

fn cut_off() -> Error {
    Error::new(ErrorKind::Network, fault::ORIGIN, "not connected")
}

/// A call under way. One that is dropped after a while has waited in vain too.
struct Waiting<'a> {
    lane: &'a Lane,
    asked: Instant,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let lane = self.lane;
        if !self.answered && lane.clock.now().saturating_duration_since(self.asked) >= lane.grace {
            lane.news.doubt.notify_waiters();
        }
    }
}

/// The task that keeps a lane up.
pub(crate) struct Carry(pub(crate) Arc<Lane>);

impl Session for Carry {
    async fn run(&self, client: Client) {
        let lane = &self.0;
        let since = lane.clock.now();
        lane.state.send_replace(State::Up(client.clone()));
        loop {
            tokio::select! {
                () = lane.news.doubt.notified() => {
                    if !lane.proves_itself(&client).await {
                        return;
                    }
                }
                () = lane.demoted.notified() => {
                    if lane.clock.now().saturating_duration_since(since) >= SETTLED {
                        return;
                    }
                }
            }
        }
    }

    fn lost(&self) {
        self.0.state.send_replace(State::Down);
    }
}
