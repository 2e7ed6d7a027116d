//! What an answer on disk costs, against redb and plain files that hold the same number of bare bytes.
//!
//! `cargo bench --bench disk --features disk` prints the times; the table at its end gives medians and 99th percentiles of
//! one run. The tier also names, checks and parses the answer, which neither of the others does: `parse alone` is what
//! that parse takes of it.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion};
use redb::{Database, Durability, ReadableDatabase, TableDefinition};
use sluicegate::ClientInfo;
use sluicegate::cache::tier::{Disk, DiskSync};
use sluicegate::cache::{CacheTier, Entry, Probe};
use sluicegate::types::{ChatCompletion, ChatRequest, Usage};
use tokio::runtime::Runtime;

const BYTES: usize = 2048;
const ENTRIES: u64 = 20_000;
const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("answers");

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

fn database(folder: &Path) -> Database {
    let database = Database::create(folder.join("redb")).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(TABLE).unwrap();
    write.commit().unwrap();
    database
}

fn redb_put(database: &Database, key: u64, bytes: &[u8], durability: Durability) {
    let mut write = database.begin_write().unwrap();
    write.set_durability(durability).unwrap();
    write.open_table(TABLE).unwrap().insert(key, bytes).unwrap();
    write.commit().unwrap();
}

fn redb_get(database: &Database, key: u64) -> Vec<u8> {
    database.begin_read().unwrap().open_table(TABLE).unwrap().get(key).unwrap().unwrap().value().to_vec()
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

fn table() {
    let (runtime, folder) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let (files, at) = (folder.path().join("files"), folder.path().join("disk"));
    std::fs::create_dir(&files).unwrap();
    let database = database(folder.path());
    let disk = Disk::open(&at).build().unwrap();
    let both = |key| (probe(key), entry(key));
    let put = |disk: &Disk, (probe, entry): (Probe, Arc<Entry>)| runtime.block_on(disk.put(&probe, entry)).unwrap();

    println!("\n{:<44}{:>9}{:>9}", "2 KB, page cache warm, us", "p50", "p99");
    prepared("put: disk tier, whole", ENTRIES, both, |_, ready| put(&disk, ready));
    prepared("put: redb, no fsync", ENTRIES, blob, |key, blob| redb_put(&database, key, &blob, Durability::None));
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
    prepared("put: redb, fsync each", 500, blob, |key, blob| redb_put(&database, key, &blob, Durability::Immediate));

    let probes: Vec<_> = (0..ENTRIES).map(probe).collect();
    let jsons: Vec<_> = (0..ENTRIES).map(|key| serde_json::to_vec(&completion(key)).unwrap()).collect();
    line("get: disk tier, whole", |key| {
        black_box(runtime.block_on(disk.get(&probes[key as usize])).unwrap().unwrap());
    });
    line("get: parse alone", |key| {
        black_box(serde_json::from_slice::<ChatCompletion>(&jsons[key as usize]).unwrap());
    });
    line("get: redb, bare bytes", |key| {
        black_box(redb_get(&database, key));
    });
    line("get: redb, parsed", |key| {
        black_box(serde_json::from_slice::<ChatCompletion>(&redb_get(&database, key)).unwrap());
    });
    line("get: plain files, bare bytes", |key| {
        black_box(file_get(&files, key));
    });
    line("get: plain files, on a blocking thread", |key| {
        let files = files.clone();
        let read = async { tokio::task::spawn_blocking(move || file_get(&files, key)).await.unwrap() };
        black_box(runtime.block_on(read));
    });

    for key in ENTRIES..100_000 {
        put(&disk, both(key));
    }
    drop(disk);
    let started = Instant::now();
    let disk = Disk::open(&at).build().unwrap();
    let (took, stats) = (started.elapsed(), disk.stats());
    println!("reopened {} entries, {} MB, in {:.0} ms", stats.entries, stats.bytes >> 20, took.as_secs_f64() * 1e3);
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    bench(&mut criterion);
    criterion.final_summary();
    // `cargo test` runs benches too, in test mode: nothing is measured then.
    if std::env::args().any(|arg| arg == "--bench") {
        table();
    }
}
