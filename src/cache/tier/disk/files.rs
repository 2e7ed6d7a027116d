//! The folder and its files: ours alone, no links followed, read and written by offset.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

const LOCK: &str = "LOCK";
const ENDING: &str = "seg";

/// One file of the log. Readers keep it open, so that it can be removed under them.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: u64,
    pub(super) file: File,
}

pub(super) fn segment_path(folder: &Path, id: u64) -> PathBuf {
    folder.join(format!("{id:016x}.{ENDING}"))
}

/// The ids of the segments in the folder, oldest first.
pub(super) fn segment_ids(folder: &Path) -> io::Result<Vec<u64>> {
    let mut ids = Vec::new();
    for entry in folder.read_dir()? {
        let path = entry?.path();
        let id = path.file_stem().and_then(|stem| u64::from_str_radix(stem.to_str()?, 16).ok());
        // `1.seg` and `+1.seg` mean the same number, but are none of ours.
        ids.extend(id.filter(|id| path == segment_path(folder, *id)));
    }
    ids.sort_unstable();
    Ok(ids)
}

impl Segment {
    pub(super) fn create(folder: &Path, id: u64) -> io::Result<Self> {
        let file = ours(OpenOptions::new().read(true).write(true).create_new(true)).open(segment_path(folder, id))?;
        Ok(Self { id, file })
    }

    /// `None` for what is no file: a link, a folder.
    pub(super) fn open(folder: &Path, id: u64) -> io::Result<Option<Self>> {
        let path = segment_path(folder, id);
        if !path.symlink_metadata()?.is_file() {
            return Ok(None);
        }
        let file = ours(OpenOptions::new().read(true).write(true)).open(path)?;
        Ok(Some(Self { id, file }))
    }

    /// So many bytes from here on, all of them.
    pub(super) fn read(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        read_exact_at(&self.file, &mut bytes, at)?;
        Ok(bytes)
    }

    /// The same if the page cache has them, so that no disk is waited for.
    #[cfg(target_os = "linux")]
    pub(super) fn read_cached(&self, at: u64, length: usize) -> Option<Vec<u8>> {
        use rustix::io::{ReadWriteFlags, preadv2};
        let mut bytes = vec![0; length];
        let read = preadv2(&self.file, &mut [io::IoSliceMut::new(&mut bytes)], at, ReadWriteFlags::NOWAIT);
        (read == Ok(length)).then_some(bytes)
    }

    /// Other systems do not tell what is cached.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn read_cached(&self, _: u64, _: usize) -> Option<Vec<u8>> {
        None
    }

    /// At most so many bytes: fewer at the end of the file.
    pub(super) fn read_some(&self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            match read_at(&self.file, &mut bytes[done..], at + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        write_all_at(&self.file, bytes, at)
    }
}

#[cfg(unix)]
use unix::{ours, private};
#[cfg(unix)]
mod unix {
    use super::*;
    use rustix::fs::OFlags;
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};

    pub(super) fn ours(options: &mut OpenOptions) -> &mut OpenOptions {
        options.mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32)
    }

    /// Makes the folder if there is none, and makes it ours alone if it is empty or a log's already.
    pub(super) fn private(folder: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        if folder.metadata()?.mode() & 0o077 == 0 {
            return Ok(());
        }
        if folder.read_dir()?.next().is_some() && !folder.join(LOCK).exists() {
            let told = "others may enter this folder and it holds other things: give the cache a folder of its own";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, told));
        }
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
    }
}

#[cfg(unix)]
use std::os::unix::fs::FileExt;
#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    file.read_exact_at(bytes, at)
}
#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    file.read_at(bytes, at)
}
#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    file.write_all_at(bytes, at)
}

#[cfg(windows)]
use windows::{ours, private, read_at, read_exact_at, write_all_at};
#[cfg(windows)]
mod windows {
    use super::*;
    use std::os::windows::fs::FileExt;

    pub(super) fn ours(options: &mut OpenOptions) -> &mut OpenOptions {
        options
    }

    /// Who may enter is inherited from the folder above.
    pub(super) fn private(folder: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).create(folder)
    }

    pub(super) fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        file.seek_read(bytes, at)
    }

    pub(super) fn read_exact_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match file.seek_read(bytes, at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => (bytes, at) = (&mut bytes[read..], at + read as u64),
            }
        }
        Ok(())
    }

    pub(super) fn write_all_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match file.seek_write(bytes, at)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => (bytes, at) = (&bytes[written..], at + written as u64),
            }
        }
        Ok(())
    }
}

/// A folder that is ours until this is dropped, or the process is gone.
#[derive(Debug)]
pub(super) struct Held(File);

impl Drop for Held {
    fn drop(&mut self) {
        // Closing is not enough: a child that was being started meanwhile has the file open too, until it runs its own
        // program. Unlocking lets go for all of them.
        let _ = self.0.unlock();
    }
}

/// Makes the folder ours. `None` if another holds it.
pub(super) fn hold(folder: &Path) -> io::Result<Option<Held>> {
    private(folder)?;
    let file = ours(OpenOptions::new().read(true).write(true).create(true).truncate(false)).open(folder.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Held(file))),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Makes new and removed names last. Only Unix can.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
