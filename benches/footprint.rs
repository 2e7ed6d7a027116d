//! How many bytes of memory an entry of the memory tier takes, as the allocator counts them.
//!
//! `cargo bench --bench footprint` prints the table. It stands alone because counting slows every allocation down.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

use std::alloc::System;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cap::Cap;
use sluicegate::ClientInfo;
use sluicegate::cache::tier::Memory;
use sluicegate::cache::{Entry, Probe};
use sluicegate::types::{ChatChunk, ChatCompletion, ChatRequest, Usage};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const ENTRIES: usize = 10_000;
const PROMPT: usize = 512;
const ANSWER: usize = 2_048;

fn entry(number: usize, chunks: usize) -> (Probe, Entry) {
    let text = format!("{number:08}{}", "x".repeat(PROMPT - 8));
    let probe = Probe::chat(&ClientInfo::new("bench"), &ChatRequest::new("gpt-5-mini").user(text), Instant::now());
    let mut completion = ChatCompletion::text("gpt-5-mini", "y".repeat(ANSWER));
    completion.usage = Some(Usage::new(100, 400));
    let part = ChatCompletion::text("gpt-5-mini", "y".repeat(ANSWER / chunks.max(1)));
    let chunks = (0..chunks).map(|_| Arc::new(ChatChunk::from_completion(&part))).collect();
    let entry = Entry::new(&probe, Arc::new(completion), chunks, probe.now(), Duration::from_secs(3600), None);
    (probe, entry)
}

fn row(name: &str, chunks: usize) {
    // What a thread or a process makes once is not the entries'.
    drop(entry(0, chunks));
    let before = ALLOCATOR.allocated();
    let memory = Memory::new(ENTRIES, 1 << 30).unwrap();
    let (mut canonical, mut weight) = (0, 0);
    for number in 0..2 * ENTRIES {
        let (probe, entry) = entry(number, chunks);
        (canonical, weight) = (probe.bytes().len(), entry.weight());
        memory.keep(&probe, Arc::new(entry));
    }
    let (kept, taken) = (memory.len(), ALLOCATOR.allocated() - before);
    drop(memory);
    let mut entries = Vec::with_capacity(kept);
    let before = ALLOCATOR.allocated();
    entries.extend((0..kept).map(|number| Arc::new(entry(number, chunks).1)));
    let (each, alone) = (taken / kept, (ALLOCATOR.allocated() - before) / kept);
    let payload = canonical + ANSWER;
    println!(
        "{name:<14}{kept:>8}{payload:>9}{each:>8}{:>10}{:>14}{:>10}{:>8.2}x",
        each - payload,
        each - alone,
        weight,
        weight as f64 / each as f64
    );
}

fn main() {
    // `cargo test` runs benches too, in test mode: nothing is measured then.
    if std::env::args().any(|arg| arg == "--bench") {
        println!("\nbytes per entry, {PROMPT} B prompt, {ANSWER} B answer");
        let titles = ["kept", "payload", "taken", "overhead", "of the tier", "weight", "of taken"];
        println!(
            "{:<14}{:>8}{:>9}{:>8}{:>10}{:>14}{:>10}{:>9}",
            "", titles[0], titles[1], titles[2], titles[3], titles[4], titles[5], titles[6]
        );
        row("call", 0);
        row("100 chunks", 100);
    }
}
