//! Paragraphs, and documents of several, given twice.

use std::collections::HashMap;

use super::label::Label;
use super::lines::after_marker;
use super::page::Page;
use super::regions::Kind;
use super::work::reads;

/// A passage shorter than this many bytes stays: about 128 Latin letters or 43 Chinese characters.
pub(super) const PASSAGE: usize = 128;

/// Several paragraphs that repeat together go together, code and lists among them, from this many bytes on.
const DOCUMENT: usize = 256;

/// Lines to leave out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strike {
    /// Of which part.
    pub(super) part: usize,
    /// The first of them.
    pub(super) from: usize,
    /// The last of them.
    pub(super) to: usize,
}

/// What stands between two blank lines.
#[derive(Debug)]
struct Unit<'a> {
    part: usize,
    from: usize,
    to: usize,
    text: &'a str,
    /// Whether it is prose from the first line to the last: no code, no list, no table.
    prose: bool,
    /// Whether any of it is in a tagged document, which goes as a whole or not at all.
    tagged: bool,
}

impl Unit<'_> {
    fn is_passage(&self) -> bool {
        self.prose && self.text.len() >= PASSAGE
    }
}

/// The passages that say word for word what stood in the message before.
pub(super) fn repeated_passages(pages: &[Option<Page<'_>>]) -> Vec<Strike> {
    let units: Vec<_> =
        pages.iter().enumerate().flat_map(|(part, page)| page.iter().flat_map(move |page| units(part, page))).collect();
    let mut first: HashMap<&str, usize> = HashMap::new();
    let mut label = Label::default();
    let mut strikes = Vec::new();
    let mut at = 0;
    let mut part = 0;
    while let Some(unit) = units.get(at) {
        if unit.part != part {
            let media = pages.get(part..unit.part).unwrap_or_default().iter().any(Option::is_none);
            if media {
                label.media()
            } else {
                label.part()
            }
            part = unit.part;
        }
        let same = if unit.tagged { None } else { first.get(unit.text).copied() };
        let run = same.map_or(0, |before| run(&units, before, at));
        let together = units.get(at..at + run).unwrap_or_default();
        let bytes: usize = together.iter().map(|unit| unit.text.len()).sum();
        let long = together.iter().any(Unit::is_passage);
        let (width, goes) = match run {
            0 => (1, false),
            _ if run > 1 && long && bytes >= DOCUMENT => (run, true),
            _ if unit.is_passage() => (1, true),
            // Nothing in it is long: it is not looked at again, or a thousand short lines would be a million times.
            _ if !long => (run, false),
            _ => (1, false),
        };
        let these = units.get(at..at + width).unwrap_or_default();
        if let (true, false, Some(last)) = (goes, label.introduces(), these.last()) {
            strikes.push(Strike { part, from: unit.from, to: last.to });
        } else {
            for (offset, unit) in these.iter().enumerate() {
                if !unit.tagged {
                    first.entry(unit.text).or_insert(at + offset);
                }
                unit.text.lines().chain([""]).for_each(|line| label.line(line));
            }
        }
        at += width;
    }
    strikes
}

/// How many units from `at` on are the same as those from `before` on, within their parts.
fn run(units: &[Unit<'_>], before: usize, at: usize) -> usize {
    let (Some(earlier), Some(later)) = (units.get(before..at), units.get(at..)) else { return 0 };
    let within = |all: &[Unit<'_>], unit: &Unit<'_>| all.first().is_some_and(|first| first.part == unit.part);
    let pairs = earlier.iter().zip(later);
    pairs
        .inspect(|(unit, _)| reads(unit.text.len()))
        .take_while(|(a, b)| a.text == b.text && !a.tagged && !b.tagged && within(earlier, a) && within(later, b))
        .count()
}

fn units<'p, 'a>(part: usize, page: &'p Page<'a>) -> impl Iterator<Item = Unit<'a>> + use<'p, 'a> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let is_blank = |at: usize| page.lines.get(at).map(|line| line.kind == Kind::Blank);
        while is_blank(next) == Some(true) {
            next += 1;
        }
        let from = next;
        while is_blank(next) == Some(false) {
            next += 1;
        }
        let lines = page.lines.get(from..next).filter(|lines| !lines.is_empty())?;
        let prose = lines.iter().all(|line| {
            line.kind == Kind::Prose && !line.text.starts_with([' ', '\t']) && after_marker(line.text).is_none()
        });
        let tagged = lines.iter().any(|line| line.tagged);
        Some(Unit { part, from, to: next - 1, text: page.slice(from, next - 1), prose, tagged })
    })
}
