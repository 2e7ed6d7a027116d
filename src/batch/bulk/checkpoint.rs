//! The file from which a run goes on after it was ended or killed.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::identity::Identity;
use super::record::{self, HEAD, Told};
use crate::batch::ORIGIN;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::offload::LARGE_JSON;
use crate::types::{ChatCompletion, Cost};

/// When recorded answers are forced out of the system's buffers onto the disk.
///
/// A killed process loses nothing under any of them, only a machine that loses power does. The end of a run, drained or
/// not, forces all out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckpointSync {
    /// When the system sees fit, which is within half a minute on Linux.
    System,
    /// By the first answer after so long, from 1 ms to 1 h. One second unless set.
    Every(Duration),
    /// By each answer, before its item is yielded; answers that come together share one. Each item then waits for the
    /// disk.
    EachItem,
}

impl Default for CheckpointSync {
    fn default() -> Self {
        Self::Every(Duration::from_secs(1))
    }
}

/// Where an answer stands in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    at: u64,
    length: usize,
}

#[derive(Debug)]
pub(super) struct Checkpoint {
    /// Holds the lock on the file: it goes with the run, whatever a blocking thread still does with `side`.
    writer: Mutex<Writer>,
    side: Arc<Mutex<File>>,
    known: HashMap<Identity, Place>,
    sync: CheckpointSync,
    synced: tokio::sync::Mutex<(u64, Instant)>,
    env: Env,
}

#[derive(Debug)]
struct Writer {
    file: File,
    length: u64,
    /// Whether something stands behind that which could not be taken back.
    torn: bool,
    first: Option<Identity>,
}

fn failed(what: &str, error: std::io::Error) -> Error {
    let text = format!("the checkpoint cannot be {what}: {}", error.kind());
    Error::new(ErrorKind::Other, ORIGIN, text).with_source(error)
}

fn refused(path: &Path, remedy: &str) -> Error {
    Error::config(ORIGIN, "checkpoint", path.display(), remedy)
}

impl Checkpoint {
    pub(super) async fn open(path: PathBuf, sync: CheckpointSync, env: &Env) -> Result<Self> {
        let opened = blocking(env, move || scan(&path, keep_name)).await.unwrap_or_else(|| Err(lost()));
        let (writer, side, known) = opened?;
        let synced = tokio::sync::Mutex::new((writer.length, env.now()));
        let (writer, side) = (Mutex::new(writer), Arc::new(Mutex::new(side)));
        Ok(Self { writer, side, known, sync, synced, env: env.clone() })
    }

    /// Told of the first item of the input: refuses another input than the one it was written for.
    pub(super) fn begin(&self, first: Identity) -> Result<()> {
        let mut writer = self.writer.lock();
        if let Some(known) = writer.first {
            if known.id == first.id || known.body == first.body || self.known.contains_key(&first) {
                return Ok(());
            }
            let text = "the checkpoint belongs to another input: its first item has another id and another body, and \
                        is not in it; name another file, or remove this one if its answers are not needed";
            return Err(Error::new(ErrorKind::Config, ORIGIN, text));
        }
        writer.first = Some(first);
        writer.append(&record::first(first).map_err(unwritable)?)
    }

    /// Where the answer to exactly this stands.
    pub(super) fn find(&self, identity: Identity) -> Option<Place> {
        self.known.get(&identity).copied()
    }

    /// Reads an answer; `None` when it is damaged by now.
    pub(super) async fn read(&self, place: Place) -> Option<(ChatCompletion, Option<Cost>)> {
        let side = Arc::clone(&self.side);
        let read = move || {
            let mut line = vec![0; place.length];
            let mut file = side.lock();
            file.seek(SeekFrom::Start(place.at)).and_then(|_| file.read_exact(&mut line)).ok()?;
            drop(file);
            record::kept(&line)
        };
        blocking(&self.env, read).await.flatten()
    }

    /// Records an answer: written when this is first polled, or once it is JSON if that takes longer than a poll may,
    /// and forced onto the disk as the policy says.
    pub(super) async fn record(
        &self,
        id: &str,
        body: u128,
        response: &Arc<ChatCompletion>,
        cost: Option<Cost>,
    ) -> Result<()> {
        let (id, kept, is_large) = (id.to_owned(), Arc::clone(response), response.weight(0) > LARGE_JSON);
        let line = move || record::answer(&id, body, &kept, cost);
        let line = self.env.offload(is_large, line).await.map_err(unwritable)?;
        let written = {
            let mut writer = self.writer.lock();
            writer.append(&line)?;
            writer.length
        };
        match self.sync {
            CheckpointSync::System => Ok(()),
            CheckpointSync::EachItem => self.force(written).await,
            CheckpointSync::Every(interval) => {
                // Who finds it locked leaves it to who is at it.
                let due = |synced: &(u64, Instant)| self.env.now().saturating_duration_since(synced.1) >= interval;
                match self.synced.try_lock().map(|synced| due(&synced)) {
                    Ok(true) => self.force(written).await,
                    _ => Ok(()),
                }
            }
        }
    }

    /// Forces onto the disk what was written so far.
    pub(super) async fn sync(&self) -> Result<()> {
        let written = self.writer.lock().length;
        self.force(written).await
    }

    async fn force(&self, written: u64) -> Result<()> {
        let mut synced = self.synced.lock().await;
        if synced.0 >= written {
            return Ok(());
        }
        let length = self.writer.lock().length;
        let side = Arc::clone(&self.side);
        let forced = blocking(&self.env, move || side.lock().sync_data()).await;
        forced.unwrap_or_else(|| Err(std::io::Error::other("the thread is gone"))).map_err(|e| failed("synced", e))?;
        *synced = (length, self.env.now());
        Ok(())
    }
}

impl Writer {
    /// A line that could be written only in part is taken back.
    fn append(&mut self, line: &[u8]) -> Result<()> {
        // Behind a half line the next one would be lost as well.
        if self.torn {
            self.cut()?;
        }
        if let Err(error) = self.file.write_all(line) {
            // If this fails too, the half line is cut before the next one, or when the file is opened again.
            self.torn = self.cut().is_err();
            return Err(failed("written", error));
        }
        self.length += line.len() as u64;
        Ok(())
    }

    fn cut(&mut self) -> Result<()> {
        let cut = self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
        cut.map_err(|error| failed("truncated", error))?;
        self.torn = false;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Closing is not enough: a process that is being started has the file open as well, for a moment.
        let _unlocked = self.file.unlock();
    }
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Other, ORIGIN, "the answer cannot be written as JSON").with_source(error)
}

fn lost() -> Error {
    Error::new(ErrorKind::Other, ORIGIN, "the thread that opened the checkpoint is gone")
}

type Scanned = (Writer, File, HashMap<Identity, Place>);

fn scan(path: &Path, keep_name: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<Scanned> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path).map_err(|error| failed("opened", error))?;
    // Reading a pipe or a device might never end.
    if !file.metadata().map_err(|error| failed("opened", error))?.is_file() {
        return Err(refused(path, "it is no regular file: name another one"));
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            return Err(refused(path, "another run has it open: end that one, or name another file"));
        }
        Err(std::fs::TryLockError::Error(error)) => return Err(failed("locked", error)),
    }
    let side = File::open(path).map_err(|error| failed("opened", error))?;
    // Syncs go through this one: a handle of its own has no part in the lock.
    let mut lines = BufReader::with_capacity(1 << 16, &side);
    let (mut line, mut first, mut known) = (Vec::new(), None, HashMap::new());
    // No more than this of a file of another kind, which may be one long line.
    lines.by_ref().take(HEAD.len() as u64).read_to_end(&mut line).map_err(|error| failed("read", error))?;
    if !HEAD.starts_with(&line) {
        return Err(refused(path, "it is no checkpoint of this version: name another file"));
    }
    let mut length = if line == HEAD { line.len() as u64 } else { 0 };
    loop {
        line.clear();
        let read = lines.read_until(b'\n', &mut line).map_err(|error| failed("read", error))?;
        // The last line, if it was cut, is overwritten.
        if !line.ends_with(b"\n") {
            break;
        }
        match record::told(&line) {
            Some(Told::First(identity)) => first = first.or(Some(identity)),
            Some(Told::Answer(identity)) => {
                known.insert(identity, Place { at: length, length: line.len() });
            }
            // A damaged line, whose item is asked for again.
            None => {}
        }
        length += read as u64;
    }
    let mut writer = Writer { file, length, torn: false, first };
    writer.cut()?;
    if length == 0 {
        writer.append(HEAD)?;
    }
    // Not of a new file only: who made it may have been killed before this.
    keep_name(path).map_err(|error| failed("created", error))?;
    Ok((writer, side, known))
}

/// Forces the name of a file onto the disk. Forcing out the file forces out what is in it, not that its folder has
/// it: after a loss of power all the answers would be there, under no name. Only Unix can, and only there is it needed.
fn keep_name(path: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(folder(path)?)?.sync_all() } else { Ok(()) }
}

/// The folder that has the name of a file which is there: of a link, the one it leads to.
fn folder(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::fs::canonicalize(path)?;
    Ok(path.parent().map_or_else(|| path.clone(), Path::to_path_buf))
}

/// Does on a blocking thread what waits for the disk; here, if there is no runtime. `None` when the thread is gone.
async fn blocking<T: Send + 'static>(env: &Env, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => env.tasks().spawn_blocking_on(work, &runtime).await.ok(),
        Err(_) => Some(work()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_forced_out_whoever_made_the_file_and_a_failure_to_do_so_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run");
        for life in ["made", "opened again"] {
            let mut kept = Vec::new();
            let keep = |path: &Path| {
                assert!(std::fs::read(path).unwrap().starts_with(HEAD), "{life}: what is named is there");
                kept.push(path.to_owned());
                Ok(())
            };
            drop(scan(&file, keep).unwrap());
            assert_eq!(kept, std::slice::from_ref(&file), "{life}");
        }
        let full = |_: &Path| Err(std::io::Error::other("full"));
        assert_eq!(scan(&file, full).unwrap_err().message(), "the checkpoint cannot be created: other error");
    }

    #[cfg(unix)]
    #[test]
    fn the_name_stands_in_the_folder_that_a_link_leads_to() {
        let (links, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (link, file) = (links.path().join("run"), files.path().join("run"));
        std::os::unix::fs::symlink(&file, &link).unwrap();
        drop(scan(&link, keep_name).unwrap());
        let expected = std::fs::canonicalize(files.path()).unwrap();
        assert_eq!((folder(&link).unwrap(), folder(&file).unwrap()), (expected.clone(), expected));
        assert!(folder(&files.path().join("absent")).is_err() && keep_name(Path::new("/")).is_ok());
    }
}
