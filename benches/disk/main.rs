//! What an answer on disk costs, beside the same on redb and in plain files.
//!
//! `cargo bench --bench disk --features disk` prints the times; the tables at its end give medians and 99th percentiles of
//! one run, what reopening takes after a clean end and after kill -9, and what the files weigh under a cap.
//!
//! redb has to do what the tier does: evict the oldest under a cap, check and parse what it reads, stay off the threads of
//! the runtime. It is spared the envelope: neither lz4 nor the comparison of the key.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

mod rival;

use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redb::Durability;
use rival::Rival;
use sluicegate::ClientInfo;
use sluicegate::cache::tier::{Disk, DiskSync};
use sluicegate::cache::{CacheTier, Entry, Probe};
use sluicegate::types::{ChatCompletion, ChatRequest, Usage};
use tokio::runtime::Runtime;

const BYTES: usize = 2048;
const ENTRIES: u64 = 20_000;
const CAP: u64 = 16 << 20;
/// redb loses what no fsync followed when the process is killed, so one follows so many puts.
const GROUP: u64 = 1000;
const CHILD: &str = "SLUICEGATE_BENCH_CHILD";

fn probe(key: u64) -> Probe {
    Probe::chat(&ClientInfo::new("bench"), &ChatRequest::new("m").user(format!("question {key}")), Instant::now())
}

/// 2 KB that lz4 cannot press below half.
fn completion(key: u64) -> ChatCompletion {
    let mut random = fastrand::Rng::with_seed(key);
    let text = (0..BYTES - 400).map(|_| random.alphanumeric()).collect::<String>();
    let mut completion = ChatCompletion::text("gpt-5-mini", text);
    completion.usage = Some(Usage::new(100, 400));
    completion
}

fn entry(key: u64) -> Arc<Entry> {
    let hour = Duration::from_secs(3600);
    Arc::new(Entry::new(&probe(key), Arc::new(completion(key)), Arc::from([]), Instant::now(), hour, None))
}

fn blob(key: u64) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(&completion(key)).unwrap();
    bytes.resize(BYTES, b' ');
    bytes
}

fn file_put(folder: &Path, key: u64, bytes: &[u8]) {
    let new = folder.join("new");
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(new, folder.join(key.to_string())).unwrap();
}

fn file_get(folder: &Path, key: u64) -> Vec<u8> {
    std::fs::read(folder.join(key.to_string())).unwrap()
}

/// Each key once per call, in an order that the page cache does not foresee.
fn shuffled() -> impl FnMut() -> u64 {
    let mut n = 0;
    move || {
        n = (n + 7_919) % ENTRIES;
        n
    }
}

fn bench(criterion: &mut Criterion) {
    let (runtime, folder) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let disk = Disk::open(folder.path().join("disk")).build().unwrap();
    let (mut key, shared) = (shuffled(), entry(1));
    let asked = probe(1);
    runtime.block_on(disk.put(&asked, Arc::clone(&shared))).unwrap();
    let mut group = criterion.benchmark_group("disk");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    group.bench_function("get", |b| b.iter(|| black_box(runtime.block_on(disk.get(&asked)).unwrap().unwrap())));
    group.bench_function("put", |b| {
        let prepare = || {
            let key = key();
            (probe(key), entry(key))
        };
        b.iter_batched(
            prepare,
            |(probe, entry)| runtime.block_on(disk.put(&probe, entry)).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn line(name: &str, mut work: impl FnMut(u64)) {
    let mut key = shuffled();
    let mut times: Vec<_> = (0..ENTRIES)
        .map(|_| {
            let key = key();
            let started = Instant::now();
            work(key);
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    let micros = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e6;
    println!("{name:<44}{:>9.2}{:>9.2}", micros(50), micros(99));
}

/// The same for work whose preparation is not to be measured; so many keys only.
fn prepared<T>(name: &str, count: u64, prepare: impl Fn(u64) -> T, mut work: impl FnMut(u64, T)) {
    let mut times = Vec::new();
    for key in 0..count {
        let ready = prepare(key);
        let started = Instant::now();
        work(key, ready);
        times.push(started.elapsed());
    }
    times.sort_unstable();
    let micros = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e6;
    println!("{name:<44}{:>9.2}{:>9.2}", micros(50), micros(99));
}

/// JSON and its checksum, as the tier stores them.
fn checked(key: u64) -> Vec<u8> {
    let mut bytes = blob(key);
    let checksum = twox_hash::XxHash3_64::oneshot(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decoded(bytes: &[u8]) -> ChatCompletion {
    let (json, checksum) = bytes.split_at(bytes.len() - 8);
    assert_eq!(twox_hash::XxHash3_64::oneshot(json).to_le_bytes(), checksum);
    serde_json::from_slice(json).unwrap()
}

fn key_of(key: u64) -> [u8; 32] {
    *probe(key).key().as_bytes()
}

fn table() {
    let (runtime, folder) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let (files, at) = (folder.path().join("files"), folder.path().join("disk"));
    std::fs::create_dir(&files).unwrap();
    let rival = Arc::new(Rival::open(&folder.path().join("redb"), u64::MAX));
    let disk = Disk::open(&at).build().unwrap();
    let both = |key| (probe(key), entry(key));
    let named = |key| (key_of(key), checked(key));
    let put = |disk: &Disk, (probe, entry): (Probe, Arc<Entry>)| runtime.block_on(disk.put(&probe, entry)).unwrap();
    let hop = |rival: &Arc<Rival>, (key, bytes): ([u8; 32], Vec<u8>), durability| {
        let rival = Arc::clone(rival);
        runtime.block_on(async {
            tokio::task::spawn_blocking(move || rival.put(&key, &bytes, durability)).await.unwrap();
        });
    };

    println!("\n{:<44}{:>9}{:>9}", "2 KB, page cache warm, us", "p50", "p99");
    prepared("put: disk tier, whole", ENTRIES, both, |_, ready| put(&disk, ready));
    prepared("put: redb, no fsync, with its hop", ENTRIES, named, |_, ready| hop(&rival, ready, Durability::None));
    prepared("put: plain files, renamed", ENTRIES, blob, |key, blob| file_put(&files, key, &blob));
    prepared(
        "put: a hop to a blocking thread alone",
        ENTRIES,
        |_| (),
        |_, ()| {
            runtime.block_on(async { tokio::task::spawn_blocking(|| ()).await.unwrap() });
        },
    );
    let synced = Disk::open(folder.path().join("synced")).sync(DiskSync::EachPut).build().unwrap();
    prepared("put: disk tier, fsync each", 500, both, |_, ready| put(&synced, ready));
    prepared("put: redb, fsync each, with its hop", 500, named, |_, ready| hop(&rival, ready, Durability::Immediate));
    let many = |key: u64| (0..64).map(|n| both(key * 64 + n)).collect::<Vec<_>>();
    prepared("put: disk tier, 64 at a time, all of them", 200, many, |_, ready| {
        runtime.block_on(async {
            let mut puts: FuturesUnordered<_> = ready
                .into_iter()
                .map(|(probe, entry)| {
                    let disk = &disk;
                    async move { disk.put(&probe, entry).await.unwrap() }
                })
                .collect();
            while puts.next().await.is_some() {}
        });
    });

    let probes: Vec<_> = (0..ENTRIES).map(probe).collect();
    let keys: Vec<_> = (0..ENTRIES).map(key_of).collect();
    let jsons: Vec<_> = (0..ENTRIES).map(|key| serde_json::to_vec(&completion(key)).unwrap()).collect();
    line("get: disk tier, whole", |key| {
        black_box(runtime.block_on(disk.get(&probes[key as usize])).unwrap().unwrap());
    });
    line("get: parse alone", |key| {
        black_box(serde_json::from_slice::<ChatCompletion>(&jsons[key as usize]).unwrap());
    });
    line("get: redb, checked and parsed, no hop", |key| {
        black_box(decoded(&rival.get(&keys[key as usize])));
    });
    line("get: redb, checked and parsed, with its hop", |key| {
        let (rival, name) = (Arc::clone(&rival), keys[key as usize]);
        let bytes = runtime.block_on(async { tokio::task::spawn_blocking(move || rival.get(&name)).await.unwrap() });
        black_box(decoded(&bytes));
    });
    line("get: plain files, bare bytes", |key| {
        black_box(file_get(&files, key));
    });
}

/// What a child process does, until it is killed or done.
fn child(task: &str, at: &Path) {
    let runtime = Runtime::new().unwrap();
    if task == "disk" {
        let disk = Disk::open(at).build().unwrap();
        for key in 0..100_000 {
            runtime.block_on(disk.put(&probe(key), entry(key))).unwrap();
        }
        told();
    } else {
        let rival = Rival::open(at, u64::MAX);
        for key in 0..100_000 - GROUP / 2 {
            let durability = if key % GROUP == GROUP - 1 { Durability::Immediate } else { Durability::None };
            rival.put(&key_of(key), &checked(key), durability);
        }
        told();
    }
}

/// Everything was put; now the process is killed, or ends when it is told to.
fn told() {
    println!("put");
    std::io::stdout().flush().unwrap();
    std::io::stdin().lock().read_line(&mut String::new()).unwrap();
}

/// Lets a child put so much, and ends it one way or the other.
fn fill(task: &str, at: &Path, kill: bool) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(CHILD, task).arg(at).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    if kill {
        child.kill().unwrap();
    }
    drop(child.stdin.take());
    child.wait().unwrap();
}

fn reopening() {
    println!("\n{:<44}{:>9}{:>9}", "100,000 entries of 2 KB, reopened", "ms", "found");
    for kill in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (disk, redb) = (folder.path().join("disk"), folder.path().join("redb"));
        let how = if kill { "after kill -9" } else { "after a clean end" };
        fill("disk", &disk, kill);
        let started = Instant::now();
        let opened = Disk::open(&disk).build().unwrap();
        let took = started.elapsed().as_secs_f64() * 1e3;
        println!("{:<44}{took:>9.0}{:>9}", format!("disk tier, {how}"), opened.stats().entries);
        fill("redb", &redb, kill);
        let started = Instant::now();
        let opened = Rival::open(&redb, u64::MAX);
        let took = started.elapsed().as_secs_f64() * 1e3;
        println!("{:<44}{took:>9.0}{:>9}", format!("redb, fsync each 1000, {how}"), opened.entries());
    }
}

fn length(at: &Path) -> u64 {
    let entries = std::fs::read_dir(at).unwrap();
    entries.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

/// Five times the cap goes in: what the files weigh at most, and at the end.
fn weighing() {
    let (runtime, folder) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let (at, redb) = (folder.path().join("disk"), folder.path().join("redb"));
    std::fs::create_dir(&redb).unwrap();
    let disk = Disk::open(&at).max_bytes(CAP).build().unwrap();
    let mut rival = Rival::open(&redb.join("redb"), CAP);
    println!("\n{:<44}{:>9}{:>9}", "80 MiB put under a cap of 16 MiB, MiB", "most", "end");
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (mut most, mut rivals) = (0, 0);
    for key in 0..5 * CAP / BYTES as u64 {
        runtime.block_on(disk.put(&probe(key), entry(key))).unwrap();
        let durability = if key % 100 == 99 { Durability::Immediate } else { Durability::None };
        rival.put(&key_of(key), &checked(key), durability);
        if key % 16 == 0 {
            (most, rivals) = (most.max(length(&at)), rivals.max(length(&redb)));
        }
    }
    println!("{:<44}{:>9.1}{:>9.1}", "disk tier", mib(most), mib(length(&at)));
    println!("{:<44}{:>9.1}{:>9.1}", "redb, fsync each 100", mib(rivals), mib(length(&redb)));
    let started = Instant::now();
    rival.database.compact().unwrap();
    let took = started.elapsed().as_secs_f64() * 1e3;
    println!("{:<44}{:>9}{:>9.1}", format!("redb, compacted in {took:.0} ms, all else waits"), "", mib(length(&redb)));
}

fn main() {
    if let Ok(task) = std::env::var(CHILD) {
        let at = std::env::args().nth(1).unwrap();
        return child(&task, Path::new(&at));
    }
    let mut criterion = Criterion::default().configure_from_args();
    bench(&mut criterion);
    criterion.final_summary();
    // `cargo test` runs benches too, in test mode: nothing is measured then.
    if std::env::args().any(|arg| arg == "--bench") {
        table();
        reopening();
        weighing();
    }
}
