//! Answers on disk: an append-only log in segments, with its index in memory.
//!
//! # What it does
//!
//! An entry is appended, in its envelope, to the newest segment; its place is remembered in memory under its key, some
//! 100 bytes per entry. A look-up reads exactly that place, and what it reads must carry the right checksum and the
//! full key. When the cap is reached the oldest segment goes: first in, first out, without rewriting anything.
//!
//! What was replaced, removed or has expired takes room, on disk and in the index, until its segment goes. Nothing is
//! compacted: answers are seldom replaced before they expire, and a segment in which nothing is alive goes as soon as
//! it is the oldest. Whoever gives lives of very different length keeps long ones no longer than the cap holds out.
//!
//! # Why a log of our own
//!
//! redb 4.4 was measured doing the same work: evicting the oldest, checking and parsing, off the threads of the runtime
//! (`cargo bench --bench disk --features disk`; 2 KB answers in the page cache, two cores):
//!
//! | | log | redb |
//! |---|--:|--:|
//! | look-up, p50 | 3.9 us | 3.4 us on the runtime's thread, where a cold page blocks it; 15 us off it |
//! | put, p50 | 67 us | 80 us without fsync |
//! | put with fsync, p50 | 255 us | 418 us |
//! | kill -9 loses | nothing | all since the last fsync |
//! | reopening 100,000 after a clean end | 44 ms | 4 ms |
//! | the same after kill -9 | 47 ms | 494 ms |
//! | files after five times a cap of 16 MiB | 16.0 MiB at most | 64.3 MiB; 33.0 after a stop of 0.1 s to compact |
//!
//! redb has no cap on its file: the one above is
//! kept by its contents alone. What it would buy is an index that needs no memory, opens at once after a clean end, and
//! takes back the room of single entries.
//!
//! # Cost
//!
//! A look-up reads what the system has cached at once, in about a microsecond; on Linux it can tell. What is not cached
//! is read on a blocking thread, so that a slow disk stops nobody else. Answers are packed and parsed on the caller's
//! thread; those of more than 256 KiB, which take a millisecond, are packed where they are written and parsed on a
//! blocking thread.
//!
//! Puts and removals are done on a blocking thread one by one, in the order they were asked for; those that come while
//! one is under way share its hop, which costs some 7 us. The hop stays, for a write waits for the disk whenever the
//! system has too much unwritten. At most 64 may wait: when the disk does not keep up, puts are declined with an error.
//!
//! # When things go wrong
//!
//! A process killed at any moment leaves at worst a cut record at the end, which is taken away. Damage elsewhere is a
//! miss; reading goes on at the next good record. What is removed is marked in place and by a new record, so that it
//! stays removed; what is replaced is marked in place, so that damage to the new entry does not bring the old one back.
//! The marks of replaced entries are not forced out: after a loss of power and damage the older entry, if it is still
//! alive, may be served. Full or read-only disks fail puts, which then change nothing, and what is there is still
//! found. Only one process can have the folder open; it is free when the last write has ended. A file removed under a
//! reader takes its room until that read is done.
//!
//! A clock that is set ahead makes entries expire, and the next put may remove them for good. Set back, it hides the
//! entries from the future, whose age nobody knows, until it has caught up.
//!
//! # Cancellation
//!
//! A put or removal that is dropped once it has its place is completed all the same, unless its runtime ends before; with
//! fewer than 64 waiting it has it at its first poll.

mod builder;
mod files;
mod index;
mod log;
mod queue;
mod record;
mod scan;
mod select;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::task::TaskTracker;

pub use builder::{DiskBuilder, DiskSync};

use crate::cache::envelope::{Envelopes, Refusals, Refused, Sealing};
use crate::cache::{CacheKey, CacheTier, Entry, Probe, Selector};
use crate::env::Clock;
use crate::error::{Error, ErrorKind, Result};
use log::{Log, Now};
use queue::Queue;
use record::Life;

/// Answers on disk that survive a restart and a kill.
///
/// ```
/// use sluicegate::cache::{Cache, tier::Disk};
/// # fn main() -> sluicegate::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("answers");
/// let cache = Cache::on(Disk::open(path).max_bytes(256 << 20).build()?);
/// # let _ = cache; Ok(()) }
/// ```
pub struct Disk {
    log: Arc<Log>,
    envelopes: Envelopes,
    clock: Arc<dyn Clock>,
    writes: Queue,
    places: Arc<Semaphore>,
    refusals: Arc<Refusals>,
    errors: AtomicU64,
    damaged: u64,
}

/// What a [`Disk`] holds and what befell it since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DiskStats {
    /// Entries, the expired included until their segment goes.
    pub entries: usize,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Files of the log.
    pub segments: usize,
    /// Look-ups that found their entry expired.
    pub expired: u64,
    /// Entries that were refused and removed, or too large to be kept: damaged, of another version, not authentic.
    pub refused: u64,
    /// Damaged places that were passed over when the log was opened; a cut record at its end counts too.
    pub damaged: u64,
    /// Reads, writes and removals that the system failed.
    pub errors: u64,
}

/// So many reads and writes may wait for the disk with what they are to write: a bound on memory behind a slow disk. A
/// burst beyond it waits for a place, for an answer that is not kept is paid for again.
const WAITING: usize = 64;

impl Disk {
    /// A tier in this folder, which is made if it is not there. Nothing is touched before
    /// [`build`](DiskBuilder::build).
    pub fn open(folder: impl Into<PathBuf>) -> DiskBuilder {
        DiskBuilder::new(folder.into())
    }

    fn start(settings: DiskBuilder, segment_bytes: u64) -> Result<Self> {
        let DiskBuilder { folder, max_bytes, segment_bytes: _, sync, mac, clock } = settings;
        let envelopes = Envelopes::new(Arc::clone(&clock), mac, TaskTracker::new());
        let refuse = |advice: &str| Error::config("disk", "folder", folder.display(), advice);
        let failed = |error: io::Error| refuse(&format!("cannot be used: {error}")).with_source(error);
        let lock = files::hold(&folder).map_err(failed)?;
        let Some(lock) = lock else {
            let advice = "is open already, here or in another process: one folder each, or a shared tier such as Redis";
            return Err(refuse(advice));
        };
        let found = scan::scan(&folder, envelopes.wall_ms(), segment_bytes).map_err(failed)?;
        let damaged = found.damaged;
        let now = Now { monotonic: clock.now(), wall_ms: envelopes.wall_ms() };
        let log = Log::new((folder.clone(), lock), (max_bytes, segment_bytes, sync), found, now.monotonic);
        log.fit(now).map_err(failed)?;
        Ok(Self {
            log: Arc::new(log),
            envelopes,
            clock,
            writes: Queue::default(),
            places: Arc::new(Semaphore::new(WAITING)),
            refusals: Arc::default(),
            errors: AtomicU64::new(0),
            damaged,
        })
    }

    /// What it holds and what befell it.
    pub fn stats(&self) -> DiskStats {
        let (entries, bytes, segments) = self.log.size();
        let expired = self.refusals.of(Refused::Expired);
        let errors = self.errors.load(Ordering::Relaxed);
        DiskStats { entries, bytes, segments, expired, refused: self.refusals.faults(), damaged: self.damaged, errors }
    }

    fn now(&self) -> Now {
        Now { monotonic: self.clock.now(), wall_ms: self.envelopes.wall_ms() }
    }

    fn life(&self, entry: &Entry, now: Now) -> Life {
        let age = u64::try_from(entry.age(now.monotonic).as_millis()).unwrap_or(u64::MAX);
        Life { created: now.wall_ms.saturating_sub(age), expires: self.envelopes.expires_ms(entry) }
    }

    /// One of the places of those who wait for the disk, in the order they came.
    async fn place(&self) -> Result<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        place.map_err(|_| Error::new(ErrorKind::Shutdown, "disk", "closed"))
    }

    /// Writes when its turn comes, whether or not this is still waited for.
    async fn write<T: Send + 'static>(
        &self,
        place: OwnedSemaphorePermit,
        work: impl FnOnce(&Log) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (tell, told) = oneshot::channel();
        let log = Arc::clone(&self.log);
        self.writes.push(Box::new(move || {
            let done = work(&log);
            // First, so that whoever is told can open the folder anew.
            drop((log, place));
            let _ = tell.send(done);
        }));
        self.counted(told.await.unwrap_or_else(|lost| Err(io::Error::other(lost))))
    }

    /// Does on a blocking thread what waits for the disk; here, if there is no runtime.
    async fn blocking<T: Send + 'static>(
        &self,
        place: OwnedSemaphorePermit,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let work = move || {
            let done = work();
            drop(place);
            done
        };
        self.counted(match tokio::runtime::Handle::try_current() {
            Ok(runtime) => runtime.spawn_blocking(work).await.unwrap_or_else(|lost| Err(io::Error::other(lost))),
            Err(_) => work(),
        })
    }

    fn counted<T>(&self, done: io::Result<T>) -> Result<T> {
        done.map_err(|error| {
            self.errors.fetch_add(1, Ordering::Relaxed);
            Error::new(ErrorKind::Other, "disk", format!("input or output failed: {}", error.kind())).with_source(error)
        })
    }

    /// The bytes at this slot; `None` if the file ends before them.
    async fn read(&self, slot: index::Slot, segment: Arc<files::Segment>) -> Result<Option<Vec<u8>>> {
        let (at, length) = (u64::from(slot.at) + record::HEAD as u64, slot.length as usize);
        if let Some(bytes) = segment.read_cached(at, length) {
            return Ok(Some(bytes));
        }
        let read = move || match segment.read(at, length) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        };
        self.blocking(self.place().await?, read).await
    }

    async fn refuse(&self, key: CacheKey, slot: index::Slot, reason: Refused) {
        self.refusals.count(reason);
        if reason == Refused::Expired {
            return;
        }
        // It is a miss whether or not it can be removed; an error has been counted.
        if let Ok(place) = self.place().await {
            let now = self.now();
            let _ = self.write(place, move |log| log.remove(&key, Some(slot), now)).await;
        }
    }
}

#[async_trait]
impl CacheTier for Disk {
    fn name(&self) -> &'static str {
        "disk"
    }

    async fn get(&self, probe: &Probe) -> Result<Option<Arc<Entry>>> {
        let key = probe.key();
        let Some((slot, segment)) = self.log.find(&key) else { return Ok(None) };
        let decoded = match slot.life.is_on(self.envelopes.wall_ms()) {
            false => Err(Refused::Expired),
            true => match self.read(slot, segment).await? {
                Some(bytes) => self.envelopes.decode(bytes, probe).await,
                None => Err(Refused::Checksum),
            },
        };
        match decoded {
            Ok(entry) => Ok(Some(Arc::new(entry))),
            Err(reason) => {
                self.refuse(key, slot, reason).await;
                Ok(None)
            }
        }
    }

    /// An answer that is too large for an envelope (4 MiB) or a segment is not kept, and counted; what it was to
    /// replace goes. A put that fails changes nothing.
    async fn put(&self, probe: &Probe, entry: Arc<Entry>) -> Result<()> {
        let (key, place) = (probe.key(), self.place().await?);
        let now = self.now();
        let life = self.life(&entry, now);
        let envelope: Box<dyn FnOnce() -> _ + Send> = match self.envelopes.sealing(probe, &entry) {
            // Made where it is written, in its turn: what is asked for after this comes after this.
            Ok(sealing) if sealing.is_large() => Box::new(|| sealing.seal()),
            sealing => {
                let envelope = sealing.and_then(Sealing::seal);
                Box::new(|| envelope)
            }
        };
        let refusals = Arc::clone(&self.refusals);
        let write = move |log: &Log| {
            let record = envelope().map(|envelope| log::record(&envelope, life, &key));
            match record.and_then(|record| if log.takes(record.len()) { Ok(record) } else { Err(Refused::TooLarge) }) {
                Ok(record) => log.append(&record, &key, now),
                Err(reason) => {
                    refusals.count(reason);
                    if reason == Refused::WrongKey { Ok(()) } else { log.remove(&key, None, now).map(drop) }
                }
            }
        };
        self.write(place, write).await
    }

    /// Waits until the removal is on the disk itself. A tag, a pattern or a namespace takes a read of the head of every
    /// entry; all of them is the fastest.
    async fn remove(&self, selector: &Selector) -> Result<u64> {
        let place = self.place().await?;
        let now = self.now();
        let selector = selector.clone();
        self.write(place, move |log| select::remove(log, &selector, now)).await
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
