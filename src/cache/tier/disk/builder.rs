//! Settings of the tier, checked once at `build()`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Disk;
use super::log::SYNC_RANGE;
use crate::cache::MacKey;
use crate::env::{Clock, TokioClock};
use crate::error::{Error, Result};

/// When what was written is forced out of the system's buffers onto the disk.
///
/// A killed process loses nothing under any of them, only a machine that loses power does. Removals are forced out at
/// once, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DiskSync {
    /// When the system sees fit, which is within half a minute on Linux. The default: a lost entry costs one upstream call,
    /// while a sync costs from 0.1 ms to 10 ms.
    #[default]
    System,
    /// By the first put after so long, from 1 ms to 1 h. Without puts nothing is forced out: no task runs for it.
    Every(Duration),
    /// By each put, before it returns.
    EachPut,
}

/// Settings of a [`Disk`] tier. Nothing is checked or touched before [`build`](Self::build).
#[derive(Clone)]
#[must_use = "nothing is opened before build()"]
pub struct DiskBuilder {
    pub(super) folder: PathBuf,
    pub(super) max_bytes: u64,
    pub(super) segment_bytes: Option<u64>,
    pub(super) sync: DiskSync,
    pub(super) mac: Option<MacKey>,
    pub(super) clock: Arc<dyn Clock>,
}

const LARGEST_SEGMENT: u64 = 1 << 30;
/// As many segments as there may be half-full ones.
const MOST_BYTES: u64 = 128 << 30;

impl DiskBuilder {
    pub(super) fn new(folder: PathBuf) -> Self {
        let (sync, clock) = (DiskSync::default(), Arc::new(TokioClock::default()));
        Self { folder, max_bytes: 1 << 30, segment_bytes: None, sync, mac: None, clock }
    }

    /// Bytes of all files together at most; from 16 KiB to 128 GiB; 1 GiB unless set, which holds some 500,000 short answers
    /// and 60 MB of index. It is never passed, not even for a moment: the oldest segment goes first.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Bytes of one file of the log at most: from a 128th of [`max_bytes`](Self::max_bytes), 4 KiB at least, to half of it,
    /// 1 GiB at most. An eighth of `max_bytes` unless set, and no more than 64 MiB or a 128th: this much is forgotten at a
    /// time when there is no room. An answer that does not fit into one segment is not kept. Each segment holds a file open;
    /// there are never more than 256.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = Some(bytes);
        self
    }

    /// When writes are forced onto the disk; [`DiskSync::System`] unless set.
    pub fn sync(mut self, sync: DiskSync) -> Self {
        self.sync = sync;
        self
    }

    /// Marks entries as our own and serves no others. Off unless set: who can write to a folder of mode 0700 can replace
    /// the program too. Set it where the folder lies on a disk that others mount.
    pub fn mac(mut self, key: MacKey) -> Self {
        self.mac = Some(key);
        self
    }

    /// Where the time comes from; Tokio's clock unless set. It should be the one the client goes by.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Opens the tier: makes the folder, takes it for this process alone, and reads the heads of all records. This waits
    /// for the disk, about 1 us per entry if the system has it cached: open it at start, or through
    /// `tokio::task::spawn_blocking`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a setting out of its range, a folder that cannot be made, read
    /// or written, one that holds other things and that others may enter, and one that is open already, here or in
    /// another process.
    pub fn build(self) -> Result<Disk> {
        let least = (self.max_bytes / 128).max(4 << 10);
        let segment_bytes = self.segment_bytes.unwrap_or((self.max_bytes / 8).clamp(4 << 10, 64 << 20).max(least));
        if self.max_bytes < 16 << 10 {
            return Err(Error::config("disk", "max_bytes", self.max_bytes, "allow at least 16 KiB"));
        }
        if self.max_bytes > MOST_BYTES {
            return Err(Error::config("disk", "max_bytes", self.max_bytes, "allow at most 128 GiB"));
        }
        if !(least..=LARGEST_SEGMENT.min(self.max_bytes / 2)).contains(&segment_bytes) {
            let advice = "take from a 128th to half of max_bytes, at least 4 KiB, at most 1 GiB";
            return Err(Error::config("disk", "segment_bytes", segment_bytes, advice));
        }
        if let DiskSync::Every(interval) = self.sync
            && !(SYNC_RANGE.0..=SYNC_RANGE.1).contains(&interval)
        {
            return Err(Error::config("disk", "sync", format!("{interval:?}"), "sync every 1 ms to 1 h"));
        }
        Disk::start(self, segment_bytes)
    }
}

impl fmt::Debug for DiskBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { folder, max_bytes, segment_bytes, sync, mac, clock: _ } = self;
        f.debug_struct("DiskBuilder")
            .field("folder", folder)
            .field("max_bytes", max_bytes)
            .field("segment_bytes", segment_bytes)
            .field("sync", sync)
            .field("mac", mac)
            .finish_non_exhaustive()
    }
}
