//! Counts equal Python tiktoken's, on the texts of `tests/data/tokens/counts.tsv`; `generate.py` beside it made them.

use std::collections::BTreeMap;

use sluicegate::tokens::{Estimate, Tiktoken, TokenCounter};

const COUNTS: &str = include_str!("../data/tokens/counts.tsv");

struct Sample {
    kind: &'static str,
    o200k: u64,
    cl100k: u64,
    text: String,
}

fn samples() -> impl Iterator<Item = Sample> {
    COUNTS.split_terminator('\n').map(|line| {
        let mut fields = line.split('\t');
        let mut field = || fields.next().expect("four fields");
        let (kind, o200k, cl100k) = (field(), field().parse().unwrap(), field().parse().unwrap());
        Sample { kind, o200k, cl100k, text: serde_json::from_str(field()).unwrap() }
    })
}

#[test]
fn counts_equal_python_tiktokens() {
    let counter = Tiktoken::new();
    let mut kinds = BTreeMap::new();
    let mut wrong = Vec::new();
    for Sample { kind, o200k, cl100k, text } in samples() {
        *kinds.entry(kind).or_insert(0) += 1;
        let counts = (counter.text("gpt-5", &text), counter.text("gpt-4", &text));
        if counts != (o200k, cl100k) {
            wrong.push(format!("{kind}: {counts:?} instead of {:?} in {text:?}", (o200k, cl100k)));
        }
    }
    assert!(wrong.is_empty(), "{} differ, such as {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    assert_eq!(counter.work().cuts, 0);
    // At least 5,000 texts, and the ten scripts among their kinds.
    assert!(kinds.values().sum::<i32>() >= 5_000, "{kinds:?}");
    let scripts =
        ["latin", "cyrillic", "greek", "arabic", "hebrew", "devanagari", "thai", "chinese", "japanese", "korean"];
    for kind in scripts.iter().chain(&["code", "emoji", "odd", "mixed"]) {
        assert!(kinds.get(kind).is_some_and(|texts| *texts >= 400), "{kind}: {kinds:?}");
    }
}

/// Texts laid end to end with a blank between them count the same in pieces as whole: a long text is exact too.
#[test]
fn a_long_text_counts_like_its_parts() {
    for kind in ["latin", "cyrillic", "arabic", "devanagari", "chinese", "korean", "code"] {
        // Each text is ended by a word, so that what stands before a blank is never a blank.
        let parts: Vec<_> =
            samples().filter(|sample| sample.kind == kind).map(|sample| format!(" so {} on", sample.text)).collect();
        let counter = Tiktoken::new();
        for model in ["gpt-5", "gpt-4"] {
            let apart: u64 = parts.iter().map(|part| counter.text(model, part)).sum();
            let whole = parts.concat().repeat(4);
            assert!(whole.len() > 2 * 32 * 1024, "{kind} is no long text");
            assert_eq!(counter.text(model, &whole), 4 * apart, "{kind} for {model}");
        }
        assert_eq!(counter.work().cuts, 0, "{kind}");
    }
}

/// The estimate's numbers come from these texts: on each of their kinds it is above OpenAI's newer vocabulary, not far
/// below the older, and not absurd.
#[test]
fn estimates_are_on_the_high_side() {
    let mut sums: BTreeMap<&str, [u64; 4]> = BTreeMap::new();
    for Sample { kind, o200k, cl100k, text } in samples() {
        let sum = sums.entry(kind).or_default();
        let [claude, gemini] = [Estimate::claude(), Estimate::gemini()].map(|estimate| estimate.text("", &text));
        assert!(claude <= text.len() as u64);
        for (sum, count) in sum.iter_mut().zip([o200k, cl100k, claude, gemini]) {
            *sum += count;
        }
    }
    for (kind, [o200k, cl100k, claude, gemini]) in sums {
        assert!(gemini >= o200k && claude * 100 >= o200k * 115, "{kind}: {gemini}, {claude} of {o200k}");
        assert!(claude * 100 >= cl100k * 85, "{kind}: {claude} of {cl100k}");
        assert!(claude <= o200k * 3 && claude * 2 <= cl100k * 3, "{kind}: {claude} of {o200k}, {cl100k}");
    }
}
