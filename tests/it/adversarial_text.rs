//! A megabyte of anything: no panic, work that is bounded, and exact counts wherever the guard does not act.
//!
//! Nothing here measures time; `cargo bench --bench tokens` prints it for the same texts.

use proptest::prelude::*;
use sluicegate::tokens::{Counters, Estimate, Tiktoken, TokenCounter};

const MEGABYTE: usize = 1 << 20;
/// As the docs of [`Tiktoken`] say: a longer text is counted in pieces of at most this.
const PIECE: u64 = 32 * 1024;
const MODELS: [&str; 2] = ["gpt-5", "gpt-4"];

fn repeated(unit: &str) -> String {
    unit.repeat(MEGABYTE / unit.len())
}

fn random(seed: u64, mut letter: impl FnMut(&mut fastrand::Rng) -> char) -> String {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut text = String::with_capacity(MEGABYTE + 4);
    while text.len() < MEGABYTE {
        text.push(letter(&mut dice));
    }
    text
}

const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn texts() -> Vec<(&'static str, String)> {
    let units = [
        ("spaces", " "),
        ("tabs", "\t"),
        ("newlines", "\n"),
        ("mixed blanks", " \t"),
        ("blank lines", "\n "),
        ("a", "a"),
        ("A", "A"),
        ("aB", "aB"),
        ("sevens", "7"),
        ("emoji", "😀"),
        ("families", "👨‍👩‍👧‍👦"),
        ("one Chinese letter", "的"),
        ("Thai", "ไทย"),
        ("marks", "\u{301}"),
        ("signs", "!"),
        ("slashes", "/"),
        ("apostrophes", "'s"),
        ("wide blanks", "\u{3000}"),
        ("special tokens", "<|endoftext|>"),
        ("zeros", "\0"),
        ("sign and line", "!\n"),
    ];
    let mut texts: Vec<_> = units.into_iter().map(|(name, unit)| (name, repeated(unit))).collect();
    texts.push(("random Unicode", random(1, |dice| dice.char(..))));
    texts.push(("random letters", random(2, |dice| dice.lowercase())));
    texts.push(("random Chinese", random(3, |dice| dice.char('\u{4e00}'..'\u{9fff}'))));
    texts.push(("base64", random(4, |dice| char::from(BASE64[dice.usize(..64)]))));
    texts.push(("blanks and lines", random(5, |dice| char::from(b" \t\r\n"[dice.usize(..4)]))));
    texts
}

#[test]
fn a_megabyte_of_anything_costs_bounded_work() {
    for (name, text) in texts() {
        for model in MODELS {
            let counter = Tiktoken::new();
            let count = counter.text(model, &text);
            assert!(0 < count && count <= text.len() as u64, "{name}: {count}");
            let work = counter.work();
            assert_eq!(work.bytes, text.len() as u64, "{name}: each byte goes to the tokenizer once");
            // Two pieces that follow one another are together longer than one may be.
            assert!(work.pieces <= 2 * work.bytes / PIECE + 2, "{name}: {work:?}");
            assert!(work.cuts < work.pieces, "{name}: {work:?}");
            assert_eq!(counter.text(model, &text), count, "{name}, from memory");
            assert_eq!(counter.work(), work, "{name}, from memory");
        }
        let estimate = Estimate::other().text("", &text);
        assert!(0 < estimate && estimate <= text.len() as u64, "{name}: {estimate}");
    }
}

/// How many tokens a run has is known where it repeats one letter: the guard overstates it, by 7 a cut at most.
#[test]
fn a_run_is_overstated_a_little() {
    // (unit, tokens of gpt-5's vocabulary for 2^16 of it, counted whole by Python tiktoken)
    for (unit, whole) in [(" ", 512), ("\t", 4096), ("\n", 4096), ("a", 8192), ("A", 8192), ("!", 4096), ("/", 1024)] {
        let counter = Tiktoken::new();
        let count = counter.text("gpt-5", &repeated(unit));
        let (whole, cuts) = (16 * whole, counter.work().cuts);
        assert_eq!(cuts, MEGABYTE as u64 / PIECE - 1, "{unit:?}");
        assert!((whole..=whole + 7 * cuts).contains(&count), "{unit:?}: {count} for {whole}");
    }
}

/// What the tokenizer itself counts, given the text whole.
fn whole(model: &str, text: &str) -> u64 {
    let vocabulary = match model {
        "gpt-5" => tiktoken_rs::o200k_base_singleton(),
        _ => tiktoken_rs::cl100k_base_singleton(),
    };
    vocabulary.count_ordinary(text) as u64
}

/// A run is cut after every 32 KiB, and nowhere else; what stands before and behind it costs what it costs whole.
#[test]
fn what_stands_around_a_run_is_exact() {
    const PER_CUT: u64 = 4;
    let piece = PIECE as usize;
    // Not a divisor of a piece, so that one would end anywhere in it: in a word, a number, a gap, a name.
    let prose = "Nothing of 1234567 or \"it isn't\" is changed by 的确如此，是吗 -- next\n\n  So: x = 10%, Straße!\r\n";
    let prose = prose.repeat(1_200);
    let before = &prose[..prose.len() / 5];
    assert!(prose.len() > 3 * piece && before.len() < piece);
    for model in MODELS {
        let counter = Tiktoken::new();
        assert_eq!(counter.text(model, &prose), whole(model, &prose), "{model}");
        for unit in ["a", "!", "😀", "的"] {
            let run = unit.repeat(5 * piece / 2 / unit.len());
            let text = format!("{before}so {run} {prose}");
            // The word before the run ends a piece, so the next begins with a blank.
            let start = before.len() + "so ".len();
            // Never through a letter.
            let cut = |from: usize| from + piece - (from + piece - start) % unit.len();
            let first = cut(start - 1);
            let second = cut(first);
            let expected = [&text[..first], &text[first..second], &text[second..]].map(|part| whole(model, part));
            let cuts = counter.work().cuts;
            assert_eq!(counter.text(model, &text), expected.iter().sum::<u64>() + 2 * PER_CUT, "{model} {unit:?}");
            assert_eq!(counter.work().cuts, cuts + 2, "{model} {unit:?}");
            let short = format!("{prose}{} {prose}", unit.repeat(8_000 / unit.len()));
            assert_eq!(counter.text(model, &short), whole(model, &short), "{model} {unit:?}: a run of 8 KB");
            assert_eq!(counter.work().cuts, cuts + 2, "{model} {unit:?}: a run of 8 KB is not cut");
        }
    }
}

#[test]
fn prompts_of_it_are_counted_too() {
    use sluicegate::types::{ChatRequest, Message, Part, Role};
    let counter = Counters::new();
    for text in ["a", " ", "😀"].map(repeated) {
        for model in ["gpt-5", "claude-sonnet-4-5", "house-model"] {
            let mut message = Message::new(Role::from(text.as_str()), text.as_str());
            message.name = Some(text.clone());
            let mut request = ChatRequest::new(model).message(message);
            let parts = vec![Part::image(text.as_str()), Part::image(format!("data:image/png;base64,{text}"))];
            request
                .messages
                .push(Message { content: Some(sluicegate::types::Content::Parts(parts)), ..Message::user("") });
            let count = counter.request(&request);
            assert!(count < 3 * MEGABYTE as u64 + 4_000, "{model}: {count}");
        }
        assert!(counter.text(&text, "a model of any name") > 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Below the guard the counter is the tokenizer.
    #[test]
    fn texts_below_the_guard_are_counted_by_the_tokenizer(text in "(\\PC|[ \n\t'a-z0-9]){0,400}") {
        let counter = Tiktoken::new();
        prop_assert_eq!(counter.text("gpt-5", &text), tiktoken_rs::o200k_base_singleton().count_ordinary(&text) as u64);
        prop_assert_eq!(counter.text("gpt-4", &text), tiktoken_rs::cl100k_base_singleton().count_ordinary(&text) as u64);
    }
}
