//! The disk tier under bad input: other versions, foreign files, folders that cannot be written, clocks that jump, answers
//! that are too large, damage to exactly the wrong record.
//!
//! A full disk is in `disk.rs`: a limit on the size of files stands in for it, since a small file system cannot be mounted
//! everywhere tests run.

use std::fs;
use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use futures_util::FutureExt;
use sluicegate::ErrorKind;
use sluicegate::cache::tier::Disk;
use sluicegate::cache::{CacheTier, Entry, Selector};
use sluicegate::env::Clock;
use sluicegate::types::ChatCompletion;
use twox_hash::XxHash3_64;

use crate::disk::{HOUR, Hand, bytes_in, entry_at, folder, get, open, probe, probe_at, put, segments, small};

const HEAD: usize = 68;

/// Where each record of this segment starts, and where it ends.
fn records(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        found.push((at, at + HEAD + length));
        at += HEAD + length;
    }
    found
}

#[tokio::test]
async fn damage_to_the_newer_does_not_bring_the_older_back() {
    for killed_before_the_mark in [false, true] {
        let folder = folder();
        let disk = open(folder.path());
        put(&disk, 1, 1).await;
        let path = segments(folder.path())[0].clone();
        let older = fs::read(&path).unwrap();
        put(&disk, 1, 2).await;
        drop(disk);
        let mut bytes = fs::read(&path).unwrap();
        assert_ne!(bytes[..older.len()], older, "marked in place");
        if killed_before_the_mark {
            bytes[..older.len()].copy_from_slice(&older);
            fs::write(&path, &bytes).unwrap();
            assert_eq!(get(&open(folder.path()), 1).await, Some(2));
            bytes = fs::read(&path).unwrap();
        }
        bytes[older.len() + 20] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let disk = open(folder.path());
        assert_eq!(disk.stats().damaged, 1);
        assert_eq!(get(&disk, 1).await, None);
    }
}

#[tokio::test]
async fn entries_of_other_versions_are_misses() {
    // The version of the envelope is its fifth byte; whoever wrote it also summed it up.
    for version in [0, 1, 3, 255] {
        let folder = folder();
        let disk = open(folder.path());
        put(&disk, 1, 1).await;
        put(&disk, 2, 2).await;
        drop(disk);
        let path = &segments(folder.path())[0];
        let mut bytes = fs::read(path).unwrap();
        let (start, end) = records(&bytes)[0];
        bytes[start + HEAD + 4] = version;
        let sum = XxHash3_64::oneshot(&bytes[start + HEAD..end - 8]);
        bytes[end - 8..end].copy_from_slice(&sum.to_le_bytes());
        fs::write(path, bytes).unwrap();
        let disk = open(folder.path());
        assert_eq!((get(&disk, 1).await, get(&disk, 2).await), (None, Some(2)));
        assert_eq!((disk.stats().refused, disk.stats().damaged), (1, 0));
        put(&disk, 1, 3).await;
        drop(disk);
        assert_eq!(get(&open(folder.path()), 1).await, Some(3));
    }
}

#[tokio::test]
async fn segments_of_other_versions_are_removed() {
    let folder = folder();
    let disk = open(folder.path());
    for key in 0..5 {
        put(&disk, key, key).await;
    }
    drop(disk);
    let path = &segments(folder.path())[0];
    let mut bytes = fs::read(path).unwrap();
    for (start, _) in records(&bytes) {
        bytes[start + 3] = 2;
        let sum = XxHash3_64::oneshot(&bytes[start..start + HEAD - 8]);
        bytes[start + HEAD - 8..start + HEAD].copy_from_slice(&sum.to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
    let disk = open(folder.path());
    assert_eq!((disk.stats().entries, disk.stats().damaged, bytes_in(folder.path())), (0, 1, 0));
    put(&disk, 1, 1).await;
    assert_eq!(get(&disk, 1).await, Some(1));
}

#[tokio::test]
async fn names_that_only_look_like_ours_are_left_alone() {
    let folder = folder();
    let disk = open(folder.path());
    put(&disk, 1, 1).await;
    drop(disk);
    let foreign = ["0.seg", "+000000000000000.seg", "000000000000000A.seg", "0000000000000000.segment"];
    for name in foreign {
        fs::write(folder.path().join(name), "precious").unwrap();
    }
    fs::create_dir(folder.path().join("0000000000000007.seg")).unwrap();
    let disk = open(folder.path());
    assert_eq!((disk.stats().segments, disk.stats().damaged), (1, 1), "the folder counts as damage");
    put(&disk, 2, 2).await;
    assert_eq!((get(&disk, 1).await, get(&disk, 2).await), (Some(1), Some(2)));
    disk.remove(&Selector::All).await.unwrap();
    assert_eq!((disk.stats().bytes, disk.stats().segments), (0, 0));
    for name in foreign {
        assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), "precious");
    }
}

#[tokio::test]
async fn no_more_files_are_held_open_than_a_process_may_have() {
    let folder = folder();
    let disk = open(folder.path());
    put(&disk, 1, 1).await;
    drop(disk);
    let bytes = fs::read(&segments(folder.path())[0]).unwrap();
    for id in 1..600 {
        fs::write(folder.path().join(format!("{id:016x}.seg")), &bytes).unwrap();
    }
    let disk = open(folder.path());
    assert!(disk.stats().segments <= 256, "{:?}", disk.stats());
    assert_eq!(get(&disk, 1).await, Some(1));
    for key in 0..100 {
        put(&disk, key, key).await;
        assert!(disk.stats().segments <= 256);
    }
    assert_eq!(segments(folder.path()).len(), disk.stats().segments);
}

#[tokio::test]
async fn an_answer_of_100_mib_is_declined_and_hides_the_older() {
    let folder = folder();
    let disk = open(folder.path());
    put(&disk, 1, 1).await;
    let huge = Arc::new(ChatCompletion::text("m", "x".repeat(100 << 20)));
    let huge = Arc::new(Entry::new(&probe(1), huge, Arc::from([]), Instant::now(), HOUR, None));
    disk.put(&probe(1), huge).await.unwrap();
    assert_eq!(disk.stats().refused, 1);
    assert_eq!(get(&disk, 1).await, None, "neither the new nor the old");
    drop(disk);
    assert_eq!(get(&open(folder.path()), 1).await, None);
}

#[tokio::test]
async fn a_clock_that_jumps_lengthens_no_life() {
    let folder = folder();
    let clock = Arc::new(Hand::new());
    let reopened = || small(folder.path()).clock(clock.clone()).build().unwrap();
    let put = async |disk: &Disk, key| {
        disk.put(&probe_at(key, clock.now()), entry_at(key, 1, clock.now(), HOUR)).await.unwrap();
    };
    let alive = async |disk: &Disk, key| disk.get(&probe_at(key, clock.now())).await.unwrap().is_some();
    let mut disk = reopened();
    put(&disk, 1).await;
    put(&disk, 2).await;
    for restart in [false, true] {
        let again = |disk: Disk| {
            if restart {
                drop(disk);
                reopened()
            } else {
                disk
            }
        };
        // Ten years ahead: all has expired, and what is removed there stays removed here.
        clock.jump(10 * 365 * 24 * 3600);
        disk = again(disk);
        assert!(!alive(&disk, 1).await && !alive(&disk, 2).await);
        assert_eq!(disk.remove(&Selector::Key(probe(2).key())).await.unwrap(), 0);
        clock.jump(0);
        disk = again(disk);
        assert!(alive(&disk, 1).await && !alive(&disk, 2).await);
        // A day back: nobody knows how old an entry from the future is.
        clock.jump(-24 * 3600);
        disk = again(disk);
        assert!(!alive(&disk, 1).await);
        put(&disk, 3).await;
        assert!(alive(&disk, 3).await);
        // Two hours before the entry was made, its life is not what is left until it expires.
        clock.jump(-2 * 3600);
        disk = again(disk);
        assert!(!alive(&disk, 1).await && !alive(&disk, 3).await);
        clock.jump(0);
        put(&disk, 2).await;
    }
    clock.jump(10 * 365 * 24 * 3600);
    put(&disk, 4).await;
    clock.jump(0);
    assert!(!alive(&disk, 4).await, "it would live for ten years");
}

#[tokio::test]
async fn a_removal_comes_after_the_puts_that_nobody_waits_for() {
    let folder = folder();
    let disk = open(folder.path());
    for key in 0..50 {
        {
            let (probe, entry) = (probe(key), crate::disk::entry(key, key));
            let mut dropped = pin!(disk.put(&probe, entry));
            poll_fn(|cx| Poll::Ready(dropped.as_mut().poll(cx).is_ready())).await;
        }
        disk.remove(&Selector::Key(probe(key).key())).await.unwrap();
        assert_eq!(get(&disk, key).await, None);
    }
    drop(disk);
    assert_eq!(open(folder.path()).stats().entries, 0);
}

/// A runtime that has ended drops what it is given to do; the tier goes on in another one.
#[test]
fn a_runtime_that_ended_takes_only_its_own_puts_along() {
    let folder = folder();
    let disk = open(folder.path());
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    let ended = runtime().handle().clone();
    {
        let _inside = ended.enter();
        let put = disk.put(&probe(1), crate::disk::entry(1, 1)).now_or_never();
        assert!(matches!(put, Some(Err(_))), "whoever waits is told: {put:?}");
    }
    runtime().block_on(async {
        put(&disk, 2, 2).await;
        assert_eq!((get(&disk, 1).await, get(&disk, 2).await), (None, Some(2)));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_go_on_while_segments_are_removed() {
    let folder = folder();
    let disk = Arc::new(Disk::open(folder.path()).max_bytes(32 << 10).segment_bytes(8 << 10).build().unwrap());
    let writer = tokio::spawn({
        let disk = Arc::clone(&disk);
        async move {
            for version in 0..1_500 {
                put(&disk, version % 10, version).await;
            }
        }
    });
    let mut hits = 0;
    while !writer.is_finished() {
        for key in 0..10 {
            hits += u64::from(get(&disk, key).await.is_some());
        }
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    assert!(hits > 0 && bytes_in(folder.path()) <= 32 << 10);
    assert_eq!(disk.stats().refused, 0, "nobody read what was half written");
}

/// The parts of `a_folder_that_cannot_be_written` that root would pass; nothing when it runs as one of the tests.
#[cfg(unix)]
#[tokio::test]
async fn child() {
    use std::os::unix::fs::PermissionsExt;
    let Some((_, folder)) = crate::disk::child_task() else { return };
    let allow = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let disk = Disk::open(&folder).max_bytes(16 << 10).segment_bytes(4 << 10).build().unwrap();
    put(&disk, 0, 0).await;
    allow(&folder, 0o500);
    let mut failed = 0;
    for key in 0..30 {
        let done = disk.put(&probe(key), crate::disk::entry(key, key)).await;
        failed += u64::from(done.is_err());
    }
    assert!(failed > 0 && disk.stats().errors == failed, "{failed}: no new segment can be made");
    assert_eq!(get(&disk, 0).await, Some(0), "what is there is found");
    assert!(disk.remove(&Selector::Key(probe(0).key())).await.is_ok(), "marked in place");
    assert_eq!(get(&disk, 0).await, None);
    allow(&folder, 0o700);
    put(&disk, 7, 7).await;
    assert_eq!(get(&disk, 7).await, Some(7), "it comes back by itself");
    drop(disk);
    for path in segments(&folder) {
        allow(&path, 0o400);
    }
    assert_eq!(Disk::open(&folder).build().unwrap_err().kind(), ErrorKind::Config);
    allow(&folder, 0o500);
    let inside = folder.join("inside");
    assert_eq!(Disk::open(&inside).build().unwrap_err().kind(), ErrorKind::Config);
    crate::disk::tell("\nwell");
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_that_cannot_be_written() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    let outer = folder();
    let (inner, program) = (outer.path().join("inner"), outer.path().join("program"));
    fs::create_dir(&inner).unwrap();
    let mut command = crate::disk::child_command("disk_faults::child", "-", &inner);
    if fs::metadata(&inner).unwrap().uid() == 0 {
        // Root may write everywhere: somebody else tries, with a copy of this program that he can reach.
        let nobody = 65_534;
        fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        chown(&inner, Some(nobody), Some(nobody)).unwrap();
        let mut other = std::process::Command::new(&program);
        other.args(command.get_args()).envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        other.current_dir(&inner).uid(nobody).gid(nobody);
        command = other;
    }
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("\nwell"), "{said}");
}
