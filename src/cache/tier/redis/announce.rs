//! What one process removes is told to all, and they say that they have heard.
//!
//! A removal is published with a ticket. Every process that follows drops what the selector takes and counts itself on the
//! ticket; the remover waits until as many have as were listening. So once a removal has returned, no process that is
//! connected serves what was removed, even what it kept in memory and Redis never had.

use std::time::{Duration, Instant};

use fred::interfaces::PubsubInterface;
use fred::types::Value;
use serde::{Deserialize, Serialize};

use super::Redis;
use crate::cache::{CacheKey, Selector};
use crate::env::{Random, ThreadRandom, after};
use crate::error::{Error, ErrorKind, Result};
use crate::redis::{Asked, ORIGIN};

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

/// Counted by name, not by word: in a cluster a listener hears each removal once from every master.
const CONFIRM: &str = "redis.call('SADD', KEYS[1], ARGV[1])
return redis.call('PEXPIRE', KEYS[1], ARGV[2])";

const CONFIRMED: &str = "return redis.call('SCARD', KEYS[1])";

/// So many keys are announced at a time: Redis ends the connection of a listener for whom too many bytes wait.
const KEYS: usize = 1_000;

/// A removal on its way: its ticket, and how many were listening.
struct Published {
    ticket: String,
    listening: i64,
}

impl Redis {
    /// Publishes a removal and waits until all that listen have dropped what it takes.
    pub(super) async fn tell_all(&self, selector: &Selector) -> Result<()> {
        let mut published = Vec::new();
        match selector {
            Selector::Keys(keys) => {
                for keys in keys.chunks(KEYS) {
                    published.push(self.publish(&Selector::Keys(keys.to_vec())).await?);
                }
            }
            other => published.push(self.publish(other).await?),
        }
        // What is published already is waited for as a whole.
        let until = after(self.0.settings.clock.now(), PATIENCE);
        for one in &published {
            self.heard(one, until).await?;
        }
        Ok(())
    }

    async fn publish(&self, selector: &Selector) -> Result<Published> {
        let ticket = format!("{:016x}{:016x}", ThreadRandom.next(), ThreadRandom.next());
        let announcement = Announcement::new(ticket.clone(), selector);
        let text = serde_json::to_string(&announcement).map_err(|error| {
            Error::new(ErrorKind::Other, ORIGIN, "the removal cannot be written as JSON").with_source(error)
        })?;
        let channel = self.0.names.channel();
        let publish = |client: Asked| async move { client.publish::<i64, _, _>(channel, text).await };
        let listening = self.0.connection.call(self.0.settings.put_timeout, publish).await?;
        Ok(Published { ticket, listening })
    }

    async fn heard(&self, Published { ticket, listening }: &Published, until: Instant) -> Result<()> {
        if *listening == 0 {
            return Ok(());
        }
        let (clock, budget) = (&self.0.settings.clock, self.0.settings.put_timeout);
        let mut wait = FIRST_LOOK;
        loop {
            let name = vec![self.0.names.ticket(ticket)];
            let confirmed = self.0.connection.script::<i64>(CONFIRMED, name, Vec::new(), budget).await?;
            if confirmed >= *listening {
                return Ok(());
            }
            if clock.now() >= until {
                let text = format!("{} of {listening} processes have not confirmed the removal", listening - confirmed);
                return Err(Error::new(ErrorKind::Timeout, ORIGIN, text));
            }
            clock.sleep_until(after(clock.now(), wait)).await;
            wait = (wait * 2).min(LONGEST_LOOK);
        }
    }

    /// Says that this listener has dropped what was announced.
    pub(super) async fn confirm(&self, ticket: &str, listener: String) -> Result<()> {
        let (name, budget) = (vec![self.0.names.ticket(ticket)], self.0.settings.put_timeout);
        let arguments: Vec<Value> = vec![listener.into(), TICKET.into()];
        self.0.connection.script::<i64>(CONFIRM, name, arguments, budget).await.map(drop)
    }
}
