//! What prefix-stable trimming saves at a provider that bills cached input at a discount, against the plain token window.
//!
//! `cargo bench --bench prefix_stable` prints the table: 100 conversations of 200 turns, 8,000 tokens, through the whole
//! stack into the simulated provider (prefixes of 1,024 tokens or more, in steps of 128). The same on every machine;
//! `tests/it/prefix_stable_cost.rs` asserts what must hold. With `-- 10` at the end it is 10 conversations.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

#[path = "../tests/it/prefix_stable_cost/measure.rs"]
mod measure;

use measure::{Bill, Comparison, compare, talks};

fn main() {
    let count = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(100);
    println!(
        "tokens a turn  discount  plain $  stable $   gain  cached billed (expected)  budget filled (outgrown)  plain filled"
    );
    for (least, most) in [(100, 400), (800, 1_200)] {
        let talks = talks(count, least, most);
        for cached_price in [0.1, 0.25, 0.5] {
            let row = compare(&talks, cached_price);
            let Comparison { plain, stable } = &row;
            let share = |of: u64, bill: &Bill| 100.0 * of as f64 / bill.input as f64;
            println!(
                "{:<13}{:>9.0} %{:>9.2}{:>10.2}{:>6.1}x{:>14.1} % ({:.1} %){:>18.1} % ({:.1} %){:>12.1} %",
                format!("{least} to {most}"),
                100.0 * (1.0 - cached_price),
                plain.dollars,
                stable.dollars,
                row.gain(),
                share(stable.cached, stable),
                share(stable.expected, stable),
                100.0 * stable.fill(),
                100.0 * stable.fill_outgrown(),
                100.0 * plain.fill(),
            );
        }
    }
}
