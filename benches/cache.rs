//! What the tiers of the cache cost, each against a floor measured in the same run.
//!
//! `cargo bench --bench cache --all-features` prints one table per claim: medians of rounds in which floor and tier take
//! turns. `overhead` measures whole stacks, `disk` the disk tier, `footprint` the memory that an entry takes.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use quick_cache::UnitWeighter;
use quick_cache::sync::DefaultLifecycle;
use sluicegate::cache::tier::Memory;
use sluicegate::cache::{Cache, CacheTier, Entry, Probe, Selector};
use sluicegate::providers::client_fn;
use sluicegate::types::{ChatCompletion, ChatRequest, ChatResponse, Usage};
use sluicegate::{ClientInfo, OptimizedClient};

const ENTRIES: usize = 10_000;
const ROUNDS: usize = 9;
const SIZES: [(&str, usize); 3] = [("0.5 KB", 512), ("4 KB", 4_096), ("64 KB", 65_536)];

fn main() {
    // `cargo test` runs benches too, in test mode: nothing is measured then.
    if std::env::args().any(|arg| arg == "--bench") {
        memory_get();
        memory_get_by_threads();
        memory_put();
        memory_remove();
        stack_hit();
    }
}

/// A prompt of this many bytes that ends in the number, so that nothing short of a full comparison tells two apart.
fn request(number: usize, bytes: usize) -> ChatRequest {
    let mut text = "the quick brown fox jumps over the lazy dog ".repeat(bytes / 44 + 1);
    text.truncate(bytes - 8);
    ChatRequest::new("gpt-5-mini").user(format!("{text}{number:08}"))
}

fn probe(number: usize, bytes: usize) -> Probe {
    Probe::chat(&ClientInfo::new("bench"), &request(number, bytes), Instant::now())
}

/// A 2 KB answer to it.
fn entry(probe: &Probe) -> Arc<Entry> {
    let mut completion = ChatCompletion::text("gpt-5-mini", "Rayleigh scattering. ".repeat(100));
    completion.usage = Some(Usage::new(100, 400));
    Arc::new(Entry::new(probe, Arc::new(completion), Arc::from([]), probe.now(), Duration::from_secs(3600), None))
}

/// The fingerprint's low half, as the memory tier takes it.
#[derive(Default)]
struct LowHalf(u64);

impl Hasher for LowHalf {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

/// quick_cache with the key, the hasher and the values of the memory tier, and nothing around it.
type Bare = quick_cache::sync::Cache<u128, Arc<Entry>, UnitWeighter, BuildHasherDefault<LowHalf>>;

/// The memory tier and its floor, with the same entries.
struct Pair {
    probes: Vec<Probe>,
    bare: Bare,
    tier: Memory,
}

impl Pair {
    fn empty(capacity: usize) -> (Bare, Memory) {
        let lifecycle = DefaultLifecycle::default();
        let bare = Bare::with(capacity, capacity as u64, UnitWeighter, BuildHasherDefault::default(), lifecycle);
        (bare, Memory::new(capacity, 1 << 30).unwrap())
    }

    /// Twice as much room as entries, so that none is pushed out.
    fn full(count: usize, bytes: usize) -> Self {
        let (bare, tier) = Self::empty(2 * ENTRIES);
        let probes: Vec<_> = (0..count).map(|number| probe(number, bytes)).collect();
        for probe in &probes {
            let entry = entry(probe);
            bare.insert(probe.fingerprint(), Arc::clone(&entry));
            tier.keep(probe, entry);
        }
        Self { probes, bare, tier }
    }

    /// Reads the request, as whoever asks has just written it.
    fn warm(&self, at: usize) {
        let lines = self.probes[at].bytes().iter().step_by(64);
        black_box(lines.fold(0, |sum: u8, byte| sum.wrapping_add(*byte)));
    }

    fn bare_get(&self, at: usize) {
        black_box(self.bare.get(&black_box(&self.probes[at]).fingerprint()).unwrap());
    }

    fn bare_get_compared(&self, at: usize) {
        let entry = self.bare.get(&black_box(&self.probes[at]).fingerprint()).unwrap();
        assert!(black_box(entry).serves(&self.probes[at]));
    }

    fn find(&self, at: usize) {
        black_box(self.tier.find(black_box(&self.probes[at])).unwrap());
    }
}

/// Nanoseconds each of these takes, in the median of rounds in which they take turns.
fn medians<const N: usize>(calls: usize, mut works: [&mut dyn FnMut(usize); N]) -> [f64; N] {
    let mut times = [(); N].map(|()| Vec::new());
    for _ in 0..=ROUNDS {
        for (work, times) in works.iter_mut().zip(&mut times) {
            let started = Instant::now();
            work(calls);
            times.push(started.elapsed().as_secs_f64() * 1e9 / calls as f64);
        }
    }
    // The first round warmed up.
    times.map(|times| median(&times[1..]))
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn memory_get() {
    println!("\nmemory tier, get, one key, ns");
    println!(
        "{:<10}{:>10}{:>12}{:>10}{:>14}{:>24}",
        "prompt", "bare get", "comparison", "tier", "times bare", "times both"
    );
    for (name, bytes) in SIZES {
        let pair = Pair::full(1, bytes);
        let (probe, entry) = (&pair.probes[0], pair.tier.find(&pair.probes[0]).unwrap());
        let mut bare = |calls| (0..calls).for_each(|_| pair.bare_get(0));
        let mut compare = |calls| (0..calls).for_each(|_| assert!(black_box(&entry).serves(black_box(probe))));
        let mut tier = |calls| (0..calls).for_each(|_| pair.find(0));
        let [bare, compare, tier] = medians(100_000, [&mut bare, &mut compare, &mut tier]);
        let (all, rest) = (tier / bare, tier / (bare + compare));
        println!("{name:<10}{bare:>10.1}{compare:>12.1}{tier:>10.1}{all:>13.2}x{rest:>23.2}x");
    }
}

/// Which of the entries are asked for, one after the other: by Zipf's law with exponent 0.99.
fn zipf(seed: u64) -> Vec<usize> {
    let mut random = fastrand::Rng::with_seed(seed);
    let sums: Vec<f64> = (1..=ENTRIES)
        .scan(0.0, |sum, rank| {
            *sum += (rank as f64).powf(-0.99);
            Some(*sum)
        })
        .collect();
    let all = sums[ENTRIES - 1];
    (0..1 << 16)
        .map(|_| {
            let at = random.f64() * all;
            sums.partition_point(|sum| *sum < at)
        })
        .collect()
}

fn memory_get_by_threads() {
    println!("\nmemory tier, get, 0.5 KB, {ENTRIES} entries, ns on each thread");
    println!(
        "{:<10}{:>9}{:>10}{:>16}{:>8}{:>13}{:>13}",
        "keys", "threads", "bare get", "and comparison", "tier", "times bare", "times both"
    );
    let pair = Pair::full(ENTRIES, 512);
    for (name, keys) in [("one", [vec![0], vec![0]]), ("Zipf 0.99", [zipf(1), zipf(2)])] {
        for threads in [1, 2] {
            let run = |calls: usize, get: &(dyn Fn(usize) + Sync)| {
                let waiting = AtomicUsize::new(threads);
                std::thread::scope(|scope| {
                    for keys in &keys[..threads] {
                        let waiting = &waiting;
                        scope.spawn(move || {
                            waiting.fetch_sub(1, Ordering::AcqRel);
                            while waiting.load(Ordering::Acquire) > 0 {
                                std::hint::spin_loop();
                            }
                            keys.iter().cycle().take(calls).for_each(|at| get(*at));
                        });
                    }
                });
            };
            let mut warm = |calls| run(calls, &|at| pair.warm(at));
            let mut bare = |calls| {
                run(calls, &|at| {
                    pair.warm(at);
                    pair.bare_get(at);
                });
            };
            let mut both = |calls| {
                run(calls, &|at| {
                    pair.warm(at);
                    pair.bare_get_compared(at);
                });
            };
            let mut tier = |calls| {
                run(calls, &|at| {
                    pair.warm(at);
                    pair.find(at);
                });
            };
            let [warm, bare, both, tier] = medians(500_000, [&mut warm, &mut bare, &mut both, &mut tier]);
            let [bare, both, tier] = [bare, both, tier].map(|time| time - warm);
            let (times, of_both) = (tier / bare, tier / both);
            println!("{name:<10}{threads:>9}{bare:>10.1}{both:>16.1}{tier:>8.1}{times:>12.2}x{of_both:>12.2}x");
        }
    }
}

fn memory_put() {
    println!("\nmemory tier, put, 0.5 KB and a 2 KB answer, ns");
    println!("{:<28}{:>12}{:>10}{:>14}", "", "bare insert", "tier", "times bare");
    let probes: Vec<_> = (0..2 * ENTRIES).map(|number| probe(number, 512)).collect();
    let entries: Vec<_> = probes.iter().map(entry).collect();
    let all = || probes.iter().zip(&entries);
    for (name, capacity) in [("into free room", 4 * ENTRIES), ("pushing another out", ENTRIES / 10)] {
        let (mut bares, mut tiers) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (bare, tier) = Pair::empty(capacity);
            let started = Instant::now();
            all().for_each(|(probe, entry)| bare.insert(probe.fingerprint(), Arc::clone(entry)));
            bares.push(started.elapsed().as_secs_f64() * 1e9 / entries.len() as f64);
            let started = Instant::now();
            all().for_each(|(probe, entry)| tier.keep(probe, Arc::clone(entry)));
            tiers.push(started.elapsed().as_secs_f64() * 1e9 / entries.len() as f64);
        }
        let (bare, tier) = (median(&bares), median(&tiers));
        println!("{name:<28}{bare:>12.1}{tier:>10.1}{:>13.2}x", tier / bare);
    }
}

fn memory_remove() {
    println!("\nmemory tier, remove, among {ENTRIES} entries of 0.5 KB and a 2 KB answer, us");
    println!("{:<28}{:>12}{:>10}{:>14}", "", "bare", "tier", "times bare");
    let (mut times, mut walks) = ([Vec::new(), Vec::new(), Vec::new()], Vec::new());
    for _ in 0..ROUNDS {
        let pair = Pair::full(ENTRIES, 512);
        let (key, fingerprint) = (pair.probes[1].key(), pair.probes[0].fingerprint());
        let micros = |work: &dyn Fn()| {
            let started = Instant::now();
            work();
            started.elapsed().as_secs_f64() * 1e6
        };
        let remove = |selector| assert!(pair.tier.remove(&selector).now_or_never().unwrap().unwrap() > 0);
        // The least that looking at every entry takes.
        walks.push(micros(&|| pair.bare.retain(|other, _| *other != fingerprint)));
        times[0].push(micros(&|| remove(Selector::Key(key))));
        // Both hold every entry, and who lets go last frees it: each is cleared while the other one is gone.
        let Pair { probes, bare, tier } = pair;
        drop(bare);
        times[1].push(micros(&|| {
            assert!(tier.remove(&Selector::All).now_or_never().unwrap().unwrap() > 0);
        }));
        drop(tier);
        let Pair { bare, tier, .. } = Pair::full(probes.len(), 512);
        drop(tier);
        times[2].push(micros(&|| bare.clear()));
    }
    let row = |name: &str, bare: f64, tier: f64| println!("{name:<28}{bare:>12.1}{tier:>10.1}{:>13.1}x", tier / bare);
    row("Selector::Key", median(&walks), median(&times[0]));
    row("Selector::All", median(&times[2]), median(&times[1]));
}

/// A stack of nothing but the cache; `overhead` tells more.
fn stack_hit() {
    println!("\nwhole stack with a cache alone, hit, 0.5 KB, ns");
    println!("{:<28}{:>12}{:>10}{:>14}", "", "tier", "stack", "times tier");
    let client = client_fn(|_| async {
        Ok(ChatResponse::new(Arc::new(ChatCompletion::text("gpt-5-mini", "Rayleigh scattering."))))
    });
    let stack = OptimizedClient::builder(client).cache(Cache::memory(ENTRIES)).build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (asked, pair) = (request(0, 512), Pair::full(1, 512));
    let mut tier = |calls| (0..calls).for_each(|_| pair.find(0));
    let mut hit = |calls| {
        runtime.block_on(async {
            for _ in 0..calls {
                black_box(stack.chat(black_box(asked.clone())).await.unwrap());
            }
        });
    };
    let [tier, hit] = medians(100_000, [&mut tier, &mut hit]);
    println!("{:<28}{tier:>12.1}{hit:>10.1}{:>13.1}x", "", hit / tier);
}
