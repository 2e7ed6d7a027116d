//! Streams of keys to judge a cache by, the same on every machine, and the table of what each cache made of them.
//!
//! Shared by `benches/hit_ratio.rs` and the package `benches/peers`, so that both see the very same keys.

/// Accesses per load.
const ACCESSES: usize = 2_000_000;
/// Keys that come again.
const KEYS: u64 = 100_000;
/// Keys that come once count from here.
const ONCE: u64 = 1 << 32;

/// Keys in the order in which they are asked for, and the room they are given.
pub(crate) struct Load {
    /// What it is.
    pub(crate) name: &'static str,
    /// The keys.
    pub(crate) keys: Vec<u64>,
    /// How many entries there is room for.
    pub(crate) entries: usize,
    /// For how many bytes, if they are what is scarce.
    pub(crate) bytes: Option<u64>,
}

impl Load {
    fn new(name: &'static str, keys: impl Iterator<Item = u64>) -> Self {
        Self { name, keys: keys.take(ACCESSES).collect(), entries: 10_000, bytes: None }
    }
}

/// What the answer to a key weighs where bytes are scarce: 2 to 128 KiB, each doubling as frequent as the next.
pub(crate) fn weight(key: u64) -> u64 {
    2_048 << (Dice(key).next() % 7)
}

/// A cache under test.
pub(crate) trait Store {
    /// Whether it had the key; if not, it has been offered it.
    fn ask(&mut self, key: u64) -> bool;
}

/// A column of the table.
pub(crate) type Column = (&'static str, fn(&Load) -> Box<dyn Store>);

/// Every load.
pub(crate) fn loads() -> Vec<Load> {
    let mut loads = vec![
        Load::new("Zipf 0.8", zipf(0.8)),
        Load::new("Zipf 0.99", zipf(0.99)),
        Load::new("Zipf 1.2", zipf(1.2)),
        Load::new("Zipf 0.99, 1 in 10 asked once", {
            let (mut ranks, mut dice) = (zipf(0.99), Dice(2));
            (ONCE..).map(move |once| if dice.next() % 10 == 0 { once } else { ranks.next().unwrap_or(0) })
        }),
        Load::new("Zipf 0.99, 20,000 in a row once", {
            let mut ranks = zipf(0.99);
            (0..).map(move |n: u64| if n % 200_000 < 20_000 { ONCE + n } else { ranks.next().unwrap_or(0) })
        }),
        // The hot keys are others after every 200,000 accesses.
        Load::new("Zipf 0.99, hot set replaced", {
            zipf(0.99).zip(0..).map(|(rank, n): (u64, u64)| (rank + n / 200_000 * 10_000) % KEYS)
        }),
        // Every key cools down, from the hottest on, and new ones come in hot.
        Load::new("Zipf 0.99, hot set drifting", {
            zipf(0.99).zip(0..).map(|(rank, n): (u64, u64)| (rank + KEYS - n / 500 % KEYS) % KEYS)
        }),
    ];
    loads.push(Load { bytes: Some(64 << 20), ..Load::new("Zipf 0.99, 2 to 128 KiB, 64 MiB", zipf(0.99)) });
    loads
}

/// The hit ratios in percent, by load and column.
pub(crate) fn table(columns: &[Column], loads: &[Load]) -> Vec<Vec<f64>> {
    print!("{:<34}", "hit ratio, %");
    columns.iter().for_each(|(name, _)| print!("{name:>18}"));
    println!();
    let mut rows = Vec::new();
    for load in loads {
        let ratios: Vec<f64> = columns.iter().map(|(_, open)| ratio(load, &mut *open(load))).collect();
        print!("{:<34}", load.name);
        ratios.iter().for_each(|ratio| print!("{ratio:>18.2}"));
        println!();
        rows.push(ratios);
    }
    rows
}

fn ratio(load: &Load, store: &mut dyn Store) -> f64 {
    let hits = load.keys.iter().filter(|key| store.ask(**key)).count();
    hits as f64 * 100.0 / load.keys.len() as f64
}

/// Ranks from 0, the hottest, by Zipf's law with this exponent.
fn zipf(exponent: f64) -> impl Iterator<Item = u64> {
    let sums: Vec<f64> = (1..=KEYS)
        .scan(0.0, |sum, rank| {
            *sum += (rank as f64).powf(-exponent);
            Some(*sum)
        })
        .collect();
    let (all, mut dice) = (sums[sums.len() - 1], Dice(1));
    std::iter::repeat_with(move || {
        let at = dice.next() as f64 / u64::MAX as f64 * all;
        sums.partition_point(|sum| *sum < at) as u64
    })
}

/// SplitMix64: a few lines, so that the keys do not depend on anybody's version.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
