//! How often the memory tier has what it is asked for, against plain LRU, and against what moka and foyer reached.
//!
//! `cargo bench --bench hit_ratio` prints the table. Keys and sizes are the same on every machine; fingerprints are
//! seeded anew in each process, which moves a hundredth or two. `benches/peers` runs moka and foyer on the same keys. They
//! stand in a package of their own: foyer needs a newer Rust than this crate, and a crate that is no longer maintained.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

mod workload;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::UnitWeighter;
use sluicegate::ClientInfo;
use sluicegate::cache::tier::Memory;
use sluicegate::cache::{Entry, Probe};
use sluicegate::types::{ChatCompletion, ChatRequest};
use workload::{Column, Load, Store, loads, weight};

/// What an entry of an empty answer weighs at most, so that texts can be cut to make entries of a given weight.
const EMPTY: u64 = 1_300;

struct Tier {
    memory: Memory,
    info: ClientInfo,
    now: Instant,
    weighed: bool,
}

impl Tier {
    fn open(load: &Load) -> Box<dyn Store> {
        let memory = Memory::new(load.entries, load.bytes.unwrap_or(256 << 20)).unwrap();
        Box::new(Self { memory, info: ClientInfo::new("bench"), now: Instant::now(), weighed: load.bytes.is_some() })
    }

    fn entry(&self, probe: &Probe, text: u64) -> Entry {
        let completion = ChatCompletion::text("m", "x".repeat(text as usize));
        Entry::new(probe, Arc::new(completion), Arc::from([]), self.now, Duration::from_secs(3600), None)
    }
}

impl Store for Tier {
    fn ask(&mut self, key: u64) -> bool {
        let probe = Probe::chat(&self.info, &ChatRequest::new("m").user(format!("question {key}")), self.now);
        if self.memory.find(&probe).is_some() {
            return true;
        }
        let text = if self.weighed { weight(key) - self.entry(&probe, 0).weight().min(EMPTY) } else { 8 };
        self.memory.keep(&probe, Arc::new(self.entry(&probe, text)));
        false
    }
}

/// quick_cache as it comes, weighing nothing more than it is told.
struct QuickCache(quick_cache::sync::Cache<u64, (), Told>);

/// Weighs by bytes where they are scarce.
#[derive(Clone)]
struct Told(bool);

impl quick_cache::Weighter<u64, ()> for Told {
    fn weight(&self, key: &u64, value: &()) -> u64 {
        if self.0 { weight(*key) } else { UnitWeighter.weight(key, value) }
    }
}

impl QuickCache {
    fn open(load: &Load) -> Box<dyn Store> {
        let capacity = load.bytes.unwrap_or(load.entries as u64);
        Box::new(Self(quick_cache::sync::Cache::with_weighter(load.entries, capacity, Told(load.bytes.is_some()))))
    }
}

impl Store for QuickCache {
    fn ask(&mut self, key: u64) -> bool {
        let hit = self.0.get(&key).is_some();
        if !hit {
            self.0.insert(key, ());
        }
        hit
    }
}

/// The least recently asked goes.
struct Lru {
    asked: HashMap<u64, u64>,
    order: BTreeMap<u64, u64>,
    clock: u64,
    used: u64,
    entries: usize,
    bytes: Option<u64>,
}

impl Lru {
    fn open(load: &Load) -> Box<dyn Store> {
        let (asked, order) = (HashMap::new(), BTreeMap::new());
        Box::new(Self { asked, order, clock: 0, used: 0, entries: load.entries, bytes: load.bytes })
    }

    fn is_over(&self) -> bool {
        self.asked.len() > self.entries || self.bytes.is_some_and(|bytes| self.used > bytes)
    }
}

impl Store for Lru {
    fn ask(&mut self, key: u64) -> bool {
        self.clock += 1;
        self.order.insert(self.clock, key);
        if let Some(before) = self.asked.insert(key, self.clock) {
            self.order.remove(&before);
            return true;
        }
        self.used += weight(key);
        while self.is_over() {
            let (_, oldest) = self.order.pop_first().unwrap();
            self.asked.remove(&oldest);
            self.used -= weight(oldest);
        }
        false
    }
}

const COLUMNS: [Column; 3] = [("memory tier", Tier::open), ("quick_cache", QuickCache::open), ("LRU", Lru::open)];

/// The best of moka 0.12.16 and foyer-memory 0.22.6 on each load, as `benches/peers` prints it.
const PEERS: [f64; 8] = [55.59, 77.72, 93.14, 69.48, 69.44, 72.24, 77.12, 63.92];

fn main() {
    // `cargo test` runs benches too, in test mode: nothing is measured then.
    if std::env::args().any(|arg| arg == "--bench") {
        let loads = loads();
        let rows = workload::table(&COLUMNS, &loads);
        println!("\nmemory tier less the best of moka and foyer as recorded, points (not below -1)");
        for ((load, row), peer) in loads.iter().zip(rows).zip(PEERS) {
            println!("{:<34}{:>+18.2}", load.name, row[0] - peer);
        }
    }
}
