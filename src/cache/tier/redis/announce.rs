//! What one process removes is told to all, and they say that they have heard.
//!
//! A removal is published with a ticket. Every process that follows drops what the selector takes and counts itself on the
//! ticket; the remover waits until as many have as were listening. So once a removal has returned, no process that is
//! connected serves what was removed, even what it kept in memory and Redis never had.

use std::time::Duration;

use fred::interfaces::{KeysInterface, PubsubInterface};
use fred::types::Value;
use serde::{Deserialize, Serialize};

use super::lane::Asked;
use super::{Redis, fault};
use crate::cache::{CacheKey, Selector};
use crate::env::{Random, ThreadRandom, after};
use crate::error::{Error, ErrorKind, Result};

/// Who has not confirmed within so long is cut off, as far as anybody can tell: two heartbeats of its feed.
const PATIENCE: Duration = Duration::from_secs(1);
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LONGEST_LOOK: Duration = Duration::from_millis(50);
/// How long a ticket is of use, in milliseconds.
const TICKET: i64 = 10_000;

/// What is published.
#[derive(Serialize, Deserialize)]
pub(super) struct Announcement {
    pub(super) ticket: String,
    selector: Wire,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wire {
    Keys(Vec<String>),
    Tag(String),
    Pattern(String),
    Namespace(String),
    All,
}

impl Announcement {
    fn new(ticket: String, selector: &Selector) -> Self {
        let selector = match selector {
            Selector::Key(key) => Wire::Keys(vec![key.to_hex()]),
            Selector::Keys(keys) => Wire::Keys(keys.iter().map(CacheKey::to_hex).collect()),
            Selector::Tag(tag) => Wire::Tag(tag.clone()),
            Selector::Pattern(pattern) => Wire::Pattern(pattern.clone()),
            Selector::Namespace(name) => Wire::Namespace(name.clone()),
            Selector::All => Wire::All,
        };
        Self { ticket, selector }
    }

    /// What was published; none if it is not to be understood, as by a process of another version.
    pub(super) fn parse(text: &[u8]) -> Option<(String, Selector)> {
        let Self { ticket, selector } = serde_json::from_slice(text).ok()?;
        let selector = match selector {
            Wire::Keys(keys) => {
                let keys: Option<Vec<_>> = keys.iter().map(|hex| CacheKey::from_hex(hex.as_bytes())).collect();
                Selector::Keys(keys?)
            }
            Wire::Tag(tag) => Selector::Tag(tag),
            Wire::Pattern(pattern) => Selector::Pattern(pattern),
            Wire::Namespace(name) => Selector::Namespace(name),
            Wire::All => Selector::All,
        };
        Some((ticket, selector))
    }
}

impl Redis {
    /// Publishes a removal and waits until all that listen have dropped what it takes.
    pub(super) async fn tell_all(&self, selector: &Selector) -> Result<()> {
        let (_place, lane) = self.enter()?;
        let (shared, budget) = (&*self.0, self.0.settings.put_timeout);
        let ticket = format!("{:016x}{:016x}", ThreadRandom.next(), ThreadRandom.next());
        let announcement = Announcement::new(ticket.clone(), selector);
        let text = serde_json::to_string(&announcement).map_err(|error| {
            Error::new(ErrorKind::Other, fault::ORIGIN, "the removal cannot be written as JSON").with_source(error)
        })?;
        let channel = shared.names.channel();
        let publish = |client: Asked| async move { client.publish::<i64, _, _>(channel, text).await };
        let listening = lane.ask(budget, publish).await?;
        if listening == 0 {
            return Ok(());
        }
        let clock = &shared.settings.clock;
        let until = after(clock.now(), PATIENCE);
        let mut wait = FIRST_LOOK;
        let name = shared.names.ticket(&ticket);
        loop {
            let asked = name.clone();
            let look = |client: Asked| async move { client.get::<Option<i64>, _>(asked).await };
            let confirmed = lane.ask(budget, look).await?.unwrap_or(0);
            if confirmed >= listening {
                return Ok(());
            }
            if clock.now() >= until {
                let text = format!("{} of {listening} processes have not confirmed the removal", listening - confirmed);
                return Err(Error::new(ErrorKind::Timeout, fault::ORIGIN, text));
            }
            clock.sleep_until(after(clock.now(), wait)).await;
            wait = (wait * 2).min(LONGEST_LOOK);
        }
    }

    /// Says that this process has dropped what was announced.
    pub(super) async fn confirm(&self, ticket: &str) -> Result<()> {
        let (_place, lane) = self.enter()?;
        let (name, budget) = (self.0.names.ticket(ticket), self.0.settings.put_timeout);
        let count = |client: Asked| async move {
            let counted = client.incr::<i64, _>(&name).await?;
            client.pexpire::<Value, _>(&name, TICKET, None).await?;
            Ok(counted)
        };
        lane.ask(budget, count).await.map(drop)
    }
}
