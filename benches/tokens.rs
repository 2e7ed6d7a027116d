//! What counting costs: prose cold and remembered, and a megabyte of each kind of text that is hard on a tokenizer.
//!
//! `cargo bench --bench tokens` prints nanoseconds a byte, beside tiktoken-rs on the whole text as the floor. The work is
//! bounded by `tests/it/adversarial_text.rs`; this shows the time.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

use std::collections::HashSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

use sluicegate::history::TokenBudget;
use sluicegate::tokens::{Counters, Estimate, Tiktoken, TokenCounter};
use sluicegate::types::{ChatRequest, Message, Tool};

const MEGABYTE: usize = 1 << 20;
const MODEL: &str = "gpt-5-mini";

/// Of a few runs the fastest: the others had company.
fn best<T>(runs: usize, mut run: impl FnMut() -> T) -> Duration {
    let timed = |_| {
        let start = Instant::now();
        black_box(run());
        start.elapsed()
    };
    (0..runs).map(timed).min().unwrap()
}

fn a_byte(time: Duration, bytes: usize) -> f64 {
    time.as_nanos() as f64 / bytes as f64
}

fn random(mut letter: impl FnMut(&mut fastrand::Rng) -> char) -> String {
    let mut dice = fastrand::Rng::with_seed(1);
    let mut text = String::with_capacity(MEGABYTE + 4);
    while text.len() < MEGABYTE {
        text.push(letter(&mut dice));
    }
    text
}

/// Words as unlike one another as those of prose: the texts of the tests, of one kind.
fn prose(kind: &str) -> String {
    let texts = include_str!("../tests/data/tokens/counts.tsv").lines().filter(|line| line.starts_with(kind));
    let whole: String =
        texts.map(|line| serde_json::from_str::<String>(line.rsplit('\t').next().unwrap()).unwrap() + " ").collect();
    whole.repeat(MEGABYTE / whole.len() + 1)
}

fn adversarial() {
    const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let units = [
        ("spaces", " "),
        ("tabs", "\t"),
        ("newlines", "\n"),
        ("mixed blanks", " \t"),
        ("a", "a"),
        ("aB", "aB"),
        ("digits", "7"),
        ("signs", "!"),
        ("emoji", "😀"),
        ("one Chinese", "的"),
        ("apostrophes", "'s"),
        ("special", "<|endoftext|>"),
    ];
    let mut texts: Vec<_> = units.map(|(name, unit)| (name, unit.repeat(MEGABYTE / unit.len()))).into();
    texts.push(("random letters", random(|dice| dice.lowercase())));
    texts.push(("random Chinese", random(|dice| dice.char('\u{4e00}'..'\u{9fff}'))));
    texts.push(("random Unicode", random(|dice| dice.char(..))));
    texts.push(("base64", random(|dice| char::from(BASE64[dice.usize(..64)]))));
    println!("a megabyte of   ns/byte    total ms   cuts  64 KiB  tiktoken-rs whole  estimate");
    for (name, text) in &texts {
        let mut cuts = 0;
        let count = |text: &str| {
            let counter = Tiktoken::new();
            let count = counter.text(MODEL, text);
            (count, counter.work().cuts)
        };
        let whole = best(3, || cuts = count(text).1);
        let mut end = 64 * 1024;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let small = best(3, || count(&text[..end]));
        let vocabulary = tiktoken_rs::o200k_base_singleton();
        let gave_up = vocabulary.encode(text, &HashSet::new()).is_err();
        let floor = best(1, || vocabulary.encode(text, &HashSet::new()).is_ok());
        let floor = if gave_up { "gives up".into() } else { format!("{:.1}", a_byte(floor, text.len())) };
        let estimate = a_byte(best(3, || Estimate::claude().text("", text)), text.len());
        let (each, total) = (a_byte(whole, text.len()), whole.as_secs_f64() * 1e3);
        println!("{name:15}{each:8.1}{total:12.1}{cuts:7}{:8.1}{floor:>19}{estimate:10.1}", a_byte(small, end));
    }
}

fn cold() {
    println!("\ncold, by kind     MB/s   whole by tiktoken-rs");
    for kind in ["latin", "code", "cyrillic", "chinese", "mixed"] {
        let text = prose(kind);
        let speed = |time: Duration| text.len() as f64 / 1e6 / time.as_secs_f64();
        let ours = speed(best(5, || Tiktoken::new().text(MODEL, &text)));
        let floor = speed(best(5, || tiktoken_rs::o200k_base_singleton().encode(&text, &HashSet::new()).is_ok()));
        println!("{kind:15}{ours:7.1}{floor:23.1}");
    }
}

fn remembered() {
    println!("\nremembered         ns");
    let text: String = prose("latin").chars().take(600).collect();
    let row = |name: &str, run: &mut dyn FnMut()| {
        let each = best(7, || (0..10_000).for_each(|_| run())).as_nanos() / 10_000;
        println!("{name:28}{each:6}");
    };
    let (tiktoken, counters) = (Tiktoken::new(), Counters::new());
    let message = Message::user(text.as_str());
    for (name, counter) in [("Tiktoken", &tiktoken as &dyn TokenCounter), ("Counters", &counters)] {
        row(&format!("message of 600 B, {name}"), &mut || {
            black_box(counter.message(MODEL, &message));
        });
    }
    row("message of 600 B, estimate", &mut || {
        black_box(counters.message("claude-sonnet-4-5", &message));
    });
    let schema =
        serde_json::json!({"type": "object", "properties": {"city": {"type": "string", "description": "Where?"}}});
    let tool = |number| Tool::function(format!("tool_{number}"), "Looks something up, somewhere.", schema.clone());
    let request = (0..8).fold(ChatRequest::new(MODEL).message(message), |request, number| request.tool(tool(number)));
    let budget = TokenBudget::new(&request, &counters);
    row("overhead of 8 tools", &mut || {
        black_box(budget.overhead());
    });
}

fn main() {
    let start = Instant::now();
    Tiktoken::new().warm_up(MODEL);
    println!("vocabulary of {MODEL}: {:.0} ms\n", start.elapsed().as_secs_f64() * 1e3);
    adversarial();
    cold();
    remembered();
}
