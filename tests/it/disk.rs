//! The disk tier: what it returns is exactly what was stored, whatever happened to the process and to the files.

use std::fs;
use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::{join, join_all};
use parking_lot::Mutex;
use sluicegate::cache::tier::{Disk, DiskBuilder, DiskSync};
use sluicegate::cache::{CacheTier, Entry, MacKey, Probe, Selector};
use sluicegate::env::Clock;
use sluicegate::types::{ChatChunk, ChatCompletion, ChatRequest, Cost};
use sluicegate::{ClientInfo, ErrorKind};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn probe_at(key: u64, now: Instant) -> Probe {
    Probe::chat(&ClientInfo::new("disk"), &ChatRequest::new("m").user(format!("question {key}")), now)
}

pub(crate) fn probe(key: u64) -> Probe {
    probe_at(key, Instant::now())
}

/// An answer that tells which one it is: everything about it follows from `key` and `version`.
pub(crate) fn entry_at(key: u64, version: u64, now: Instant, ttl: Duration) -> Arc<Entry> {
    let words = (0..20 + version % 60).map(|n| format!("{key}-{version}-{:x} ", n.wrapping_mul(version) ^ 0x5bd1_e995));
    let chunks = words.clone().map(|word| Arc::new(ChatChunk::text_delta("m", word)));
    let mut completion = ChatCompletion::text("m", words.collect::<String>());
    completion.id = version.to_string();
    let cost = Some(Cost::from_picos(version));
    Arc::new(Entry::new(&probe_at(key, now), Arc::new(completion), chunks.collect(), now, ttl, cost))
}

pub(crate) fn entry(key: u64, version: u64) -> Arc<Entry> {
    entry_at(key, version, Instant::now(), HOUR)
}

pub(crate) async fn put(disk: &Disk, key: u64, version: u64) {
    disk.put(&probe(key), entry(key, version)).await.unwrap();
}

/// The version that is found; fails if what is found is not exactly what was stored under this key.
pub(crate) async fn get(disk: &Disk, key: u64) -> Option<u64> {
    let found = disk.get(&probe(key)).await.unwrap()?;
    let version = found.completion().unwrap().id.parse().unwrap();
    let stored = entry(key, version);
    assert_eq!(found.completion().unwrap(), stored.completion().unwrap());
    assert_eq!(found.chunks(), stored.chunks());
    assert_eq!(found.cost(), stored.cost());
    Some(version)
}

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

pub(crate) fn open(folder: &Path) -> Disk {
    small(folder).build().unwrap()
}

pub(crate) fn small(folder: &Path) -> DiskBuilder {
    Disk::open(folder).max_bytes(4 << 20).segment_bytes(32 << 10)
}

pub(crate) fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|ending| ending == "seg"));
    found.sort();
    found
}

pub(crate) fn bytes_in(folder: &Path) -> u64 {
    fs::read_dir(folder).unwrap().filter_map(|file| Some(file.ok()?.metadata().ok()?.len())).sum()
}

/// This test binary again, doing only this test, which is to do this task.
pub(crate) fn child_command(test: &str, task: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    command.env("SLUICEGATE_DISK_TASK", task).env("SLUICEGATE_DISK_FOLDER", folder);
    command
}

/// What this process was started for by [`child_command`], if it was.
pub(crate) fn child_task() -> Option<(String, PathBuf)> {
    let folder = std::env::var_os("SLUICEGATE_DISK_FOLDER")?;
    Some((std::env::var("SLUICEGATE_DISK_TASK").ok()?, folder.into()))
}

pub(crate) fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// What the other processes do; nothing when it runs as one of the tests.
#[tokio::test]
async fn child() {
    let Some((task, folder)) = child_task() else { return };
    match task.as_str() {
        "open" => {
            let refused = Disk::open(folder).build().unwrap_err();
            tell(&format!("\nrefused {refused}"));
        }
        // Runs under a limit of the file size: each write beyond it fails, the first one half-way.
        "fill" => {
            let disk = Disk::open(folder).max_bytes(64 << 20).build().unwrap();
            let mut failed = 0;
            for key in 0..400 {
                failed += u64::from(disk.put(&probe(key), entry(key, key)).await.is_err());
            }
            assert!(failed > 100, "{failed} failed");
            assert_eq!(disk.stats().errors, failed);
            let mut found = 0;
            for key in 0..400 {
                found += u64::from(get(&disk, key).await.is_some());
            }
            assert_eq!(found + failed, 400);
            assert!(disk.remove(&Selector::Key(probe(0).key())).await.is_ok());
            assert_eq!(get(&disk, 0).await, None);
            tell(&format!("\nkept {found}"));
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let folder = folder();
    let disk = open(folder.path());
    for key in 0..300 {
        put(&disk, key, key).await;
    }
    put(&disk, 5, 1_000).await;
    let before = disk.stats();
    drop(disk);
    for _ in 0..3 {
        let disk = open(folder.path());
        assert_eq!(disk.stats(), before);
        for key in 0..300 {
            assert_eq!(get(&disk, key).await, Some(if key == 5 { 1_000 } else { key }));
        }
        assert_eq!(get(&disk, 300).await, None);
    }
}

/// Flips a bit or cuts a file, at random.
pub(crate) fn damage(folder: &Path, random: &mut fastrand::Rng) {
    let files = segments(folder);
    let path = &files[random.usize(..files.len())];
    let mut bytes = fs::read(path).unwrap();
    if bytes.is_empty() {
        return;
    }
    let at = random.usize(..bytes.len());
    match random.u8(..4) {
        0 => bytes.truncate(at),
        1 => bytes[at..].iter_mut().take(100).for_each(|byte| *byte = random.u8(..)),
        _ => bytes[at] ^= 1 << random.u8(..8),
    }
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn damaged_files_give_the_exact_bytes_or_a_miss() {
    let mut random = fastrand::Rng::with_seed(7);
    for live in [false, true] {
        for round in 0..8_u64 {
            let folder = folder();
            let mut disk = open(folder.path());
            for key in 0..120 {
                put(&disk, key, key + round).await;
            }
            for _ in 0..random.u8(1..6) {
                damage(folder.path(), &mut random);
            }
            // Damage is found while the log is open, or when it is opened.
            for again in 0..2 {
                if !live || again == 1 {
                    drop(disk);
                    disk = open(folder.path());
                }
                for key in 0..120 {
                    let found = get(&disk, key).await;
                    assert!(found.is_none_or(|version| version == key + round));
                }
            }
            put(&disk, 1, 9_999).await;
            drop(disk);
            assert_eq!(get(&open(folder.path()), 1).await, Some(9_999));
        }
    }
}

#[tokio::test]
async fn one_flipped_bit_costs_one_entry() {
    for seed in 0..60 {
        let (folder, mut random) = (folder(), fastrand::Rng::with_seed(seed));
        let disk = open(folder.path());
        for key in 0..80 {
            put(&disk, key, key).await;
        }
        drop(disk);
        let files = segments(folder.path());
        let path = &files[random.usize(..files.len())];
        let mut bytes = fs::read(path).unwrap();
        let at = random.usize(..bytes.len());
        bytes[at] ^= 1 << random.u8(..8);
        fs::write(path, bytes).unwrap();
        let disk = open(folder.path());
        let mut found = 0;
        for key in 0..80 {
            found += usize::from(get(&disk, key).await.is_some());
        }
        assert_eq!(found, 79, "seed {seed}");
        let stats = disk.stats();
        assert_eq!(stats.refused + stats.damaged, 1, "seed {seed}: {stats:?}");
    }
}

#[tokio::test]
async fn the_cap_is_kept_at_every_moment() {
    let folder = folder();
    let (cap, segment) = (512 << 10, 32 << 10);
    let disk = Disk::open(folder.path()).max_bytes(cap).segment_bytes(segment).build().unwrap();
    let mut largest = 0;
    for key in 0..3_000 {
        put(&disk, key, key).await;
        largest = largest.max(bytes_in(folder.path()));
        assert_eq!(get(&disk, key).await, Some(key));
    }
    assert!(largest <= cap, "{largest} bytes");
    assert!(largest > cap - 2 * segment, "{largest} bytes: room is wasted");
    assert_eq!(disk.stats().bytes, bytes_in(folder.path()));
    assert_eq!(get(&disk, 0).await, None, "the oldest went");
    drop(disk);
    // A smaller cap is kept from the start.
    let disk = Disk::open(folder.path()).max_bytes(100 << 10).segment_bytes(segment).build().unwrap();
    assert!(bytes_in(folder.path()) <= 100 << 10);
    assert_eq!(get(&disk, 2_999).await, Some(2_999));
}

/// A clock that is set by hand, and goes on over restarts.
#[derive(Debug)]
pub(crate) struct Hand {
    started: Instant,
    passed: Mutex<Duration>,
    /// Seconds by which the time of day is wrong.
    wrong: Mutex<i64>,
}

impl Hand {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), passed: Mutex::default(), wrong: Mutex::default() }
    }

    fn set(&self, minutes: u64) {
        *self.passed.lock() = Duration::from_secs(60 * minutes);
    }

    /// Sets the time of day so many seconds off; the monotonic time goes on.
    pub(crate) fn jump(&self, seconds: i64) {
        *self.wrong.lock() = seconds;
    }
}

impl Clock for Hand {
    fn now(&self) -> Instant {
        self.started + *self.passed.lock()
    }

    fn wall(&self) -> SystemTime {
        let seconds = 1_800_000_000_u64.saturating_add_signed(*self.wrong.lock());
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + *self.passed.lock()
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn time_to_live_goes_on_over_a_restart() {
    let folder = folder();
    let clock = Arc::new(Hand::new());
    let reopened = || small(folder.path()).clock(clock.clone()).build().unwrap();
    let alive = async |disk: &Disk, key| disk.get(&probe_at(key, clock.now())).await.unwrap();
    let disk = reopened();
    // The second put of key 2 lives shorter than the first, which must not come back after it.
    for (key, minutes) in [(1, 10), (2, 90), (2, 10), (3, 90)] {
        let entry = entry_at(key, 1, clock.now(), Duration::from_secs(60 * minutes));
        disk.put(&probe_at(key, clock.now()), entry).await.unwrap();
    }
    drop(disk);
    clock.set(9);
    let disk = reopened();
    let found = alive(&disk, 1).await.unwrap();
    assert_eq!(found.expires() - clock.now(), Duration::from_secs(60));
    clock.set(10);
    assert!(alive(&disk, 1).await.is_none() && alive(&disk, 2).await.is_none() && alive(&disk, 3).await.is_some());
    assert_eq!(disk.stats().expired, 2);
    drop(disk);
    let disk = reopened();
    assert!(alive(&disk, 1).await.is_none() && alive(&disk, 2).await.is_none() && alive(&disk, 3).await.is_some());
}

#[tokio::test]
async fn what_is_removed_stays_removed() {
    let folder = folder();
    let disk = open(folder.path());
    for version in 0..3 {
        for key in 0..50 {
            put(&disk, key, version).await;
        }
    }
    for key in 0..25 {
        assert_eq!(disk.remove(&Selector::Key(probe(key).key())).await.unwrap(), 1);
        assert_eq!(disk.remove(&Selector::Key(probe(key).key())).await.unwrap(), 0);
    }
    drop(disk);
    let disk = open(folder.path());
    for key in 0..50 {
        assert_eq!(get(&disk, key).await, (key >= 25).then_some(2));
    }
    assert_eq!(disk.remove(&Selector::All).await.unwrap(), 25);
    assert_eq!(disk.stats().bytes, 0);
    put(&disk, 7, 8).await;
    drop(disk);
    let disk = open(folder.path());
    for key in 0..50 {
        assert_eq!(get(&disk, key).await, (key == 7).then_some(8));
    }
}

#[tokio::test]
async fn one_process_at_a_time() {
    let folder = folder();
    let disk = open(folder.path());
    put(&disk, 1, 1).await;
    let refused = Disk::open(folder.path()).build().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    assert!(refused.to_string().contains("open already"), "{refused}");
    let other = child_command("disk::child", "open", folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&other.stdout).into_owned();
    assert!(said.contains("\nrefused") && said.contains("open already"), "{said}");
    assert_eq!(get(&disk, 1).await, Some(1));
    drop(disk);
    assert_eq!(get(&open(folder.path()), 1).await, Some(1));
}

#[cfg(unix)]
#[tokio::test]
async fn a_full_disk_fails_puts_and_nothing_else() {
    let folder = folder();
    let command = child_command("disk::child", "fill", folder.path());
    // A file may have so many blocks; the write that passes the limit is cut, the next ones fail.
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
    let mut limited = Command::new("sh");
    limited.args(["-c", script]).arg(command.get_program()).args(command.get_args());
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let done = limited.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    let kept: u64 = said.lines().find_map(|line| line.strip_prefix("kept ")).unwrap().parse().unwrap();
    let disk = open(folder.path());
    let mut found = 0;
    for key in 0..400 {
        found += u64::from(get(&disk, key).await.is_some());
    }
    assert_eq!((found + 1, disk.stats().damaged), (kept, 0), "all but the one removed");
    put(&disk, 399, 1).await;
    assert_eq!(get(&disk, 399).await, Some(1));
}

/// Nothing is written before they have come: the only thread for it is taken.
#[test]
fn a_burst_waits_for_its_turn() {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let (folder, (free, taken)) = (folder(), std::sync::mpsc::channel::<()>());
        let disk = open(folder.path());
        let taken = tokio::task::spawn_blocking(move || taken.recv());
        let burst = join_all((0..500).map(|key| put(&disk, key, key)));
        // In this order.
        join(burst, async move { drop(free) }).await;
        assert!(taken.await.unwrap().is_err());
        for key in 0..500 {
            assert_eq!(get(&disk, key).await, Some(key));
        }
        assert_eq!(disk.stats().errors, 0);
    });
}

#[cfg(unix)]
#[tokio::test]
async fn the_folder_is_ours_alone() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let outer = folder();
    let inner = outer.path().join("a/b");
    drop(open(&inner));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&inner), mode(&inner.join("LOCK"))), (0o700, 0o600));
    // A link where a segment would be is neither read nor written nor followed.
    let precious = outer.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    symlink(&precious, inner.join("0000000000000000.seg")).unwrap();
    let disk = open(&inner);
    put(&disk, 1, 1).await;
    assert_eq!(disk.remove(&Selector::All).await.unwrap(), 1);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    drop(disk);
    fs::remove_file(inner.join("LOCK")).unwrap();
    symlink(&precious, inner.join("LOCK")).unwrap();
    assert_eq!(Disk::open(&inner).build().unwrap_err().kind(), ErrorKind::Config);
    // A folder of others is left alone.
    let shared = outer.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(shared.join("thesis.tex"), "").unwrap();
    assert_eq!(Disk::open(&shared).build().unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(mode(&shared), 0o755);
}

#[tokio::test]
async fn only_the_holder_of_the_secret_is_believed() {
    let folder = folder();
    let keyed = |secret: u8| small(folder.path()).mac(MacKey::new(1, [secret; 32])).build().unwrap();
    let disk = open(folder.path());
    put(&disk, 1, 1).await;
    drop(disk);
    let disk = keyed(1);
    assert_eq!(get(&disk, 1).await, None, "not signed");
    put(&disk, 2, 2).await;
    drop(disk);
    let disk = keyed(1);
    assert_eq!(get(&disk, 2).await, Some(2));
    drop(disk);
    let disk = keyed(2);
    assert_eq!(get(&disk, 2).await, None, "signed by another");
    assert_eq!(disk.stats().refused, 1);
}

#[tokio::test]
async fn settings_out_of_range_are_refused() {
    let folder = folder();
    let open = || Disk::open(folder.path());
    for options in [
        open().max_bytes(0),
        open().max_bytes(u64::MAX),
        open().max_bytes(64 << 20).segment_bytes((512 << 10) - 1),
        open().max_bytes((16 << 10) - 1).segment_bytes(4 << 10),
        open().segment_bytes(4095),
        open().segment_bytes(u64::MAX),
        open().max_bytes(1 << 20).segment_bytes((512 << 10) + 1),
        open().sync(DiskSync::Every(Duration::ZERO)),
        open().sync(DiskSync::Every(Duration::MAX)),
    ] {
        let shown = format!("{options:?}");
        assert_eq!(options.build().unwrap_err().kind(), ErrorKind::Config, "{shown}");
    }
    for sync in [DiskSync::System, DiskSync::Every(Duration::from_millis(1)), DiskSync::EachPut] {
        let disk = open().max_bytes(16 << 10).sync(sync).build().unwrap();
        put(&disk, 1, 1).await;
        assert_eq!(get(&disk, 1).await, Some(1));
    }
}
