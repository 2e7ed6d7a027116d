//! Three classes of calls at 120 % of what a server can do: how long each waits, and what is wasted.
//!
//! `cargo bench --bench overload` plays a made-up load of the shape of production chat traffic. With the path of a recorded
//! one (`TIMESTAMP,ContextTokens,GeneratedTokens`, as the Azure LLM inference traces have it) in `SLUICEGATE_TRACE` it plays
//! that, compressed in time until it asks for as much. Time is simulated: an hour takes seconds.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

#[path = "../tests/it/priorities_under_overload/load.rs"]
mod load;

use std::time::Duration;

use load::{Arrival, Class, Played, class, generate, play, service};
use sluicegate::Admission;
use sluicegate::env::{Random, SeededRandom};
use sluicegate::schedule::Shed;

const PLACES: usize = 32;
const OVERLOAD: f64 = 1.2;

/// The recorded calls, as far apart as they were.
fn recorded(path: &str) -> Vec<Arrival> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let random = SeededRandom::new(1);
    let seconds = |stamp: &str| {
        let time = stamp.split([' ', 'T']).nth(1).expect("a date and a time");
        time.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().expect("a time of day"))
    };
    let rows = text.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>());
    let mut calls: Vec<_> = rows
        .filter(|row| row.len() == 3)
        .map(|row| Arrival {
            at: Duration::from_secs_f64(seconds(row[0])),
            input: row[1].trim().parse().expect("tokens"),
            output: row[2].trim().parse().expect("tokens"),
            priority: class((random.next() >> 11) as f64 / (1_u64 << 53) as f64),
        })
        .collect();
    calls.sort_by_key(|call| call.at);
    let start = calls.first().expect("a call").at;
    calls.iter_mut().for_each(|call| call.at -= start);
    calls
}

/// Compressed in time until the calls ask for so much of what the server can do.
fn compressed(mut calls: Vec<Arrival>) -> Vec<Arrival> {
    let work: f64 = calls.iter().map(|call| service(call.input, call.output).as_secs_f64()).sum();
    let length = calls.last().expect("a call").at.as_secs_f64();
    let factor = work / (PLACES as f64 * OVERLOAD) / length;
    calls.iter_mut().for_each(|call| call.at = call.at.mul_f64(factor));
    calls
}

fn tell(name: &str, played: &Played) {
    println!("\n{name}: goodput {:.1} %", played.goodput * 100.0);
    println!("{:<8} {:>9} {:>9} {:>10} {:>10} {:>7}", "class", "answered", "refused", "p99", "p99 alone", "ratio");
    for (name, class) in [("high", &played.high), ("normal", &played.normal), ("low", &played.low)] {
        let (p99, alone) = (Class::p99(&class.latencies), Class::p99(&class.alone));
        let (answered, refused) = (class.latencies.len(), class.refused);
        println!("{name:<8} {answered:>9} {refused:>9} {p99:>8.1} s {alone:>8.1} s {:>6.2}x", p99 / alone);
    }
    let last = played.low.answered_at.iter().max().copied().unwrap_or_default();
    println!("the last answer of the lowest class came after {:.0} s", last.as_secs_f64());
}

fn main() {
    let (what, calls) = match std::env::var("SLUICEGATE_TRACE") {
        Ok(path) => ("recorded", compressed(recorded(&path))),
        Err(_) => {
            println!("SLUICEGATE_TRACE names no file: a made-up load is played");
            ("made up", generate(1, PLACES, OVERLOAD, Duration::from_secs(1_200)))
        }
    };
    println!(
        "{} calls ({what}) within {:.0} s, {PLACES} places",
        calls.len(),
        calls.last().expect("a call").at.as_secs_f64()
    );
    for (name, admission) in [
        ("a queue for all", Admission::new().queue(1_000_000)),
        ("a queue of 100, the lowest shed", Admission::new().queue(100).shed(Shed::LowestPriority)),
    ] {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        tell(name, &runtime.block_on(play(calls.clone(), PLACES, admission)));
    }
}
