//! What is in memory as lines of JSON, and back.
//!
//! A line is `{"sluicegate":1,"sum":"…",…}`: the version of the form, and the xxh3-64 of everything in the line after the
//! sum's comma, so that a line that was changed on its way is seen to be.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use twox_hash::XxHash3_64;

use super::canonical::Kind;
use super::space::Space;
use super::{CacheHandle, Entry, Labels, Payload, Probe, canonical, wire};
use crate::error::{Error, ErrorKind, Result};
use crate::lines::Lines;
use crate::offload::LARGE_JSON;

/// Raised whenever the form changes: lines of other versions are passed over.
const VERSION: u64 = 1;
const OPENING: &str = r#"{"sluicegate":1,"sum":""#;
const SUM: usize = 16;
/// After so many lines others get their turn: writing to memory never waits by itself.
const TURN: usize = 64;

/// What became of the lines of an import.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// Entries that are in memory now.
    pub stored: u64,
    /// Entries that were left out because memory had a newer one of the same request.
    pub older: u64,
    /// Entries whose time was over.
    pub expired: u64,
    /// Lines of another version, for a namespace the cache does not have, or with contents this version does not know.
    pub unknown: u64,
    /// Lines that are no JSON, are longer than 64 MiB, or were changed since they were written.
    pub damaged: u64,
}

/// What stands in a line after its sum.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    name: Box<str>,
    tags: Box<[Box<str>]>,
    /// Milliseconds of the Unix epoch.
    created: u64,
    fresh: u64,
    expires: u64,
    /// The canonical bytes in base64: they are what a request is compared with.
    request: String,
    #[serde(borrow, default, skip_serializing)]
    payload: Option<&'a RawValue>,
}

/// Two clocks read together.
#[derive(Clone, Copy)]
struct Clocks {
    now: Instant,
    /// Since the Unix epoch.
    wall: Duration,
}

impl CacheHandle {
    /// Writes every live entry in memory as a line of JSON; how many. Of every namespace, stale ones included; failures
    /// that are remembered are not. An entry that cannot be written, such as one of more than 16 MiB, is left out.
    ///
    /// What it writes holds prompts and answers, tenants and tags in clear text: keep it as you keep those. Lines may be
    /// picked out or put in another order, not edited. The writer is flushed, not closed.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
    /// use sluicegate::{OptimizedClient, cache::Cache, testing::Scripted, types::ChatRequest};
    /// let client = || OptimizedClient::builder(Scripted::new()).cache(Cache::memory(100)).build();
    /// let (one, other) = (client()?, client()?);
    /// one.chat(ChatRequest::new("gpt-5-mini").user("hi")).await?;
    ///
    /// let mut file = Vec::new();
    /// assert_eq!(one.cache().unwrap().export(&mut file).await?, 1);
    /// assert_eq!(other.cache().unwrap().import(&file[..]).await?.stored, 1);
    /// assert_eq!(other.chat(ChatRequest::new("gpt-5-mini").user("hi")).await?.trace().attempts, 0);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// What the writer says, with kind [`ErrorKind::Other`](crate::ErrorKind::Other): then some lines may be written.
    pub async fn export(&self, writer: impl AsyncWrite + Send + Unpin) -> Result<u64> {
        self.enter(self.write_out(writer)).await
    }

    async fn write_out(&self, mut writer: impl AsyncWrite + Send + Unpin) -> Result<u64> {
        let entries: Vec<_> = self.held.shared.tiers.memories().flat_map(|memory| memory.all()).collect();
        let mut written = 0;
        for (n, entry) in entries.into_iter().enumerate() {
            let (clocks, is_large) = (self.clocks(), entry.payload().weight() > LARGE_JSON);
            let line = self.held.env.offload(is_large, move || line(&entry, clocks)).await;
            if let Some(line) = line {
                writer.write_all(&line).await.map_err(failed)?;
                written += 1;
            }
            if n % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
        writer.flush().await.map_err(failed)?;
        Ok(written)
    }

    /// Puts what [`export`](Self::export) wrote into memory, with the life that is left. Lines that cannot be taken are
    /// counted and passed over.
    ///
    /// Whoever writes the file decides what is answered: import only what you wrote.
    ///
    /// # Errors
    /// What the reader says, with kind [`ErrorKind::Other`](crate::ErrorKind::Other): what was read before stays.
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when the cache has no memory.
    pub async fn import(&self, reader: impl AsyncRead + Send + Unpin) -> Result<Imported> {
        self.enter(self.read_in(reader)).await
    }

    async fn read_in(&self, reader: impl AsyncRead + Send + Unpin) -> Result<Imported> {
        if !self.held.shared.tiers.responses().has_memory() {
            let text = "this cache has no memory; build it with Cache::memory";
            return Err(Error::new(ErrorKind::Unsupported, "cache", text));
        }
        let mut imported = Imported::default();
        let mut lines = Lines::new(BufReader::new(reader));
        let mut read = 0_usize;
        while let Some(line) = lines.next().await.map_err(failed)? {
            let clocks = self.clocks();
            let found = match line {
                Some(line) if line.len() > LARGE_JSON => {
                    let line = lines.take();
                    Some(self.held.env.offload(true, move || parse(&line, clocks)).await)
                }
                line => line.map(|line| parse(line, clocks)),
            };
            let count = match found.map(|found| self.take(found)) {
                None => &mut imported.damaged,
                Some(Taken::Blank) => continue,
                Some(Taken::Stored) => &mut imported.stored,
                Some(Taken::Older) => &mut imported.older,
                Some(Taken::Expired) => &mut imported.expired,
                Some(Taken::Unknown) => &mut imported.unknown,
                Some(Taken::Damaged) => &mut imported.damaged,
            };
            *count += 1;
            read += 1;
            if read.is_multiple_of(TURN) {
                tokio::task::yield_now().await;
            }
        }
        Ok(imported)
    }

    fn clocks(&self) -> Clocks {
        let wall = self.held.env.wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Clocks { now: self.held.env.now(), wall }
    }

    fn take(&self, found: Result<Found, Taken>) -> Taken {
        let Found { namespace, probe, entry } = match found {
            Ok(found) => found,
            Err(taken) => return taken,
        };
        let Ok(space) = self.held.shared.tiers.near().space(&namespace) else { return Taken::Unknown };
        match entry {
            Ok(entry) => self.keep(space, &probe, entry),
            Err(taken) => taken,
        }
    }

    fn keep(&self, space: &Space, probe: &Probe, entry: Entry) -> Taken {
        let known = space.memory().and_then(|memory| memory.peek(probe));
        if known.is_some_and(|known| known.created() > entry.created()) {
            return Taken::Older;
        }
        let tiers = &self.held.shared.tiers;
        tiers.near().keep(space, probe, &Arc::new(entry), tiers.near().now());
        Taken::Stored
    }
}

/// What stands in a line.
struct Found {
    namespace: String,
    probe: Probe,
    entry: Result<Entry, Taken>,
}

fn parse(text: &[u8], clocks: Clocks) -> Result<Found, Taken> {
    if text.trim_ascii().is_empty() {
        return Err(Taken::Blank);
    }
    if !is_whole(text) {
        let other = serde_json::from_slice::<Value>(text).is_ok_and(|value| value["sluicegate"] != VERSION);
        return Err(if other { Taken::Unknown } else { Taken::Damaged });
    }
    let line = serde_json::from_slice::<Line<'_>>(text).map_err(|_| Taken::Unknown)?;
    let canonical = STANDARD.decode(&line.request).map_err(|_| Taken::Unknown)?;
    let probe = Probe::of_bytes(&canonical, clocks.now);
    let entry = entry(&line, &probe, clocks);
    Ok(Found { namespace: line.namespace.into_owned(), probe, entry })
}

enum Taken {
    Blank,
    Stored,
    Older,
    Expired,
    Unknown,
    Damaged,
}

fn failed(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Other, "cache", "reading or writing the lines failed").with_source(error)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The line of this entry; none if it has expired or cannot be written.
fn line(entry: &Entry, Clocks { now, wall }: Clocks) -> Option<Vec<u8>> {
    let until = |time: Instant| millis(wall.saturating_add(time.saturating_duration_since(now)));
    if entry.expires() <= now {
        return None;
    }
    let mut payload = wire::write(entry.payload(), entry.cost(), entry.took()).ok()?;
    // A value's JSON is its owner's, who may have set it in lines: between tokens they mean nothing.
    payload.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    let Labels { name, tags } = entry.labels().clone();
    let head = Line {
        namespace: entry.namespace().into(),
        name,
        tags,
        created: millis(wall.saturating_sub(entry.age(now))),
        fresh: until(entry.fresh_until()),
        expires: until(entry.expires()),
        request: STANDARD.encode(entry.canonical()),
        payload: None,
    };
    let head = serde_json::to_vec(&head).ok()?;
    // The head without its braces, then the payload as it is: it need not be read again to be written.
    let rest = [head.get(1..head.len() - 1)?, br#","payload":"#, &payload, b"}"].concat();
    Some([OPENING.as_bytes(), format!("{:016x}\",", XxHash3_64::oneshot(&rest)).as_bytes(), &rest, b"\n"].concat())
}

/// Whether this is a line of this version, as it was written.
fn is_whole(text: &[u8]) -> bool {
    let sealed = text.trim_ascii().strip_prefix(OPENING.as_bytes()).and_then(|rest| rest.split_at_checked(SUM));
    let rest = sealed.and_then(|(sum, rest)| Some((sum, rest.strip_prefix(b"\",")?)));
    rest.is_some_and(|(sum, rest)| *sum == *format!("{:016x}", XxHash3_64::oneshot(rest)).as_bytes())
}

/// The entry of this line: never with a longer life than it was given, even if a clock was, or is, wrong.
fn entry(line: &Line<'_>, probe: &Probe, Clocks { now, wall }: Clocks) -> Result<Entry, Taken> {
    let payload = line.payload.ok_or(Taken::Unknown)?;
    let parsed = wire::parse(payload.get().as_bytes()).map_err(|_| Taken::Unknown)?;
    let fits = matches!(
        (canonical::kind(probe.bytes()), &parsed.payload),
        (Some(Kind::Chat), Payload::Chat { .. })
            | (Some(Kind::Embedding), Payload::Vector(_))
            | (Some(Kind::Value), Payload::Value(_))
    );
    if !fits || probe.namespace() != line.namespace {
        return Err(Taken::Unknown);
    }
    let created = Duration::from_millis(line.created);
    let left = |ms: u64| {
        let until = Duration::from_millis(ms);
        until.saturating_sub(wall).min(until.saturating_sub(created))
    };
    let (fresh, expires) = (left(line.fresh).min(left(line.expires)), left(line.expires));
    if expires.is_zero() {
        return Err(Taken::Expired);
    }
    let age = wall.saturating_sub(created);
    let (made, age) = now.checked_sub(age).map_or((now, Duration::ZERO), |made| (made, age));
    let labels = Labels { name: line.name.clone(), tags: line.tags.clone() };
    Ok(Entry::of(probe, parsed.payload, made, age.saturating_add(fresh))
        .with_grace(expires.saturating_sub(fresh))
        .with_took(Duration::from_millis(parsed.took_ms))
        .with_cost(parsed.cost)
        .with_labels(labels))
}
