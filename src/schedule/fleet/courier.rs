//! The task that makes the trips.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::account::{Account, REPORT};
use super::trip::{Line, Traveller};
use super::{FleetLimits, FleetMode, News, Parts};
use crate::env::after;
use crate::error::Result;
use crate::redis::Connection;
use std::time::Duration;

/// A process that does nothing is heard of so often.
const HEARTBEAT: u64 = 1_000_000_000;
/// For so long after Redis is back a process keeps to its share: all others are back by then, too.
const RETURN: u64 = 1_000_000_000;
/// Limits on one trip at most.
const LOAD: usize = 64;

type Shared = Arc<Mutex<Account>>;

/// Ends when it is told to, or when nobody is left whom it could tell anything.
pub(super) struct Courier {
    parts: Arc<Parts>,
    traveller: Traveller,
    closing: CancellationToken,
    last: u64,
    /// Since when Redis answers again.
    back: u64,
}

impl Courier {
    pub(super) fn new(
        parts: Arc<Parts>,
        connection: Connection,
        settings: &FleetLimits,
        me: String,
        digest: String,
        closing: CancellationToken,
    ) -> Self {
        let prefix = format!("sluicegate:limits:{{{}}}:", settings.name);
        let traveller = Traveller { connection, patience: settings.patience, prefix, me, digest };
        Self { parts, traveller, closing, last: 0, back: 0 }
    }

    pub(super) async fn run(mut self, news: News) {
        let closing = self.closing.clone();
        // At once: how many there are is good to know before Redis is lost.
        let mut next = 0;
        loop {
            if next > self.parts.nanos() {
                let until = after(self.parts.started, Duration::from_nanos(next));
                tokio::select! {
                    biased;
                    () = closing.cancelled() => break,
                    () = self.parts.bell.notified() => {}
                    () = self.parts.env.sleep_until(until) => {}
                }
            } else {
                let done = tokio::select! {
                    biased;
                    () = closing.cancelled() => break,
                    done = self.trips(&news) => done,
                };
                if done && !news() {
                    break;
                }
            }
            next = self.due();
        }
        self.leave().await;
        self.traveller.connection.shutdown().await;
    }

    /// The accounts that are still in use.
    fn accounts(&self) -> Vec<Shared> {
        let mut accounts = self.parts.accounts.lock();
        accounts.retain(|account| account.strong_count() > 0);
        accounts.iter().filter_map(Weak::upgrade).collect()
    }

    /// When the next trip is due.
    fn due(&self) -> u64 {
        let own = match self.parts.status.lock().mode {
            FleetMode::Starting | FleetMode::Shared => HEARTBEAT,
            FleetMode::Returning | FleetMode::Alone => REPORT,
        };
        let accounts = self.accounts();
        let dues = accounts.iter().filter_map(|account| account.lock().due(self.last));
        let dues = dues.chain(self.parts.closings.lock().due(self.last));
        dues.fold(self.last.saturating_add(own), u64::min)
    }

    /// Tells and asks all there is. Whether anybody has to hear of it.
    async fn trips(&mut self, news: &News) -> bool {
        let set_out = self.parts.nanos();
        let processes = self.parts.status.lock().share_of();
        let told = |account: Shared| {
            let line = account.lock().tell(processes, set_out);
            line.map(|line| (account, line))
        };
        let lines: Vec<_> = self.accounts().into_iter().filter_map(told).collect();
        let mut heard = false;
        let mut result = Ok(());
        // With nothing to say, it is heard of all the same.
        let mut loads: Vec<&[(Shared, Line)]> = lines.chunks(LOAD).collect();
        if loads.is_empty() {
            loads.push(&[]);
        }
        for load in loads {
            match &result {
                Ok(()) => match self.trip(load, set_out, news).await {
                    Ok(more) => heard |= more,
                    Err(error) => {
                        load.iter().for_each(|(account, _)| account.lock().fail());
                        result = Err(error);
                    }
                },
                Err(_) => load.iter().for_each(|(account, _)| account.lock().fail()),
            }
        }
        self.last = self.parts.nanos();
        self.follow(result) | heard
    }

    async fn trip(&self, load: &[(Shared, Line)], set_out: u64, told: &News) -> Result<bool> {
        let names: Vec<String> = load.iter().map(|(account, _)| account.lock().name.clone()).collect();
        let lines = names.iter().zip(load).map(|(name, (_, line))| (name.as_str(), line));
        self.parts.status.lock().trips += 1;
        let closings = self.parts.closings.lock().go(set_out);
        let reply = match self.traveller.go(lines, &closings, false, set_out).await {
            Ok(reply) => reply,
            Err(error) => {
                self.parts.closings.lock().fail();
                return Err(error);
            }
        };
        {
            let mut status = self.parts.status.lock();
            (status.processes, status.differing) = (reply.processes, reply.differing);
        }
        let at = self.parts.nanos();
        if self.parts.closings.lock().hear(reply.closed, at) {
            // Before anybody starts with what it brings.
            told();
        }
        let mut news = false;
        for ((account, line), grant) in load.iter().zip(&reply.grants) {
            news |= account.lock().hear(line, grant, set_out, at);
        }
        Ok(news)
    }

    /// Goes on as the trips went. Whether anything has changed.
    fn follow(&mut self, result: Result<()>) -> bool {
        let at = self.last;
        let (mode, processes) = {
            let mut status = self.parts.status.lock();
            let mode = match (status.mode, &result) {
                (_, Err(_)) => FleetMode::Alone,
                (FleetMode::Alone, Ok(())) => FleetMode::Returning,
                (FleetMode::Returning, Ok(())) if at.saturating_sub(self.back) < RETURN => FleetMode::Returning,
                (_, Ok(())) => FleetMode::Shared,
            };
            if let Err(error) = result {
                status.failed += 1;
                status.last_error = Some(error.kind());
            }
            if status.mode == mode {
                return false;
            }
            if mode == FleetMode::Returning {
                self.back = at;
            }
            status.mode = mode;
            (mode, status.share_of())
        };
        self.accounts().iter().for_each(|account| account.lock().enter(mode, processes, at));
        true
    }

    /// Gives back what it holds, as far as Redis hears it in time; the rest expires.
    async fn leave(&self) {
        let at = self.parts.nanos();
        let (mode, processes) = {
            let status = self.parts.status.lock();
            (status.mode, status.share_of())
        };
        for account in self.accounts() {
            let mut account = account.lock();
            // A trip may have been cut short: what it told is told again.
            account.fail();
            if mode != FleetMode::Alone {
                account.enter(FleetMode::Returning, processes, at);
            }
        }
        let told = |account: Shared| {
            let line = account.lock().tell(processes, at);
            line.map(|line| (account, line))
        };
        let lines: Vec<_> = self.accounts().into_iter().filter_map(told).collect();
        let names: Vec<String> = lines.iter().map(|(account, _)| account.lock().name.clone()).collect();
        let mut loads = names.chunks(LOAD).zip(lines.chunks(LOAD));
        let mut load = loads.next().unwrap_or((&[], &[]));
        let closings = {
            let mut closings = self.parts.closings.lock();
            closings.fail();
            closings.go(at)
        };
        loop {
            let lines = load.0.iter().zip(load.1).map(|(name, (_, line))| (name.as_str(), line));
            let heard = self.traveller.go(lines, &closings, true, at).await.is_ok();
            match loads.next() {
                Some(next) if heard => load = next,
                _ => return,
            }
        }
    }
}
