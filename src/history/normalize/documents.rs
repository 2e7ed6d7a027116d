//! Tagged documents given twice.

use std::collections::HashSet;

use super::label::Label;
use super::page::Page;
use super::passages::{PASSAGE, Strike};

/// The documents, from their opening to their closing tag, that say byte for byte what an earlier one says which stands
/// in the same element, or in none as they do.
pub(super) fn repeated_documents(pages: &[Option<Page<'_>>]) -> Vec<Strike> {
    let mut seen = HashSet::new();
    let mut label = Label::default();
    let mut strikes = Vec::new();
    for (part, page) in pages.iter().enumerate() {
        let Some(page) = page else {
            label.media();
            continue;
        };
        label.part();
        // Up to where the lines are dealt with.
        let mut next = 0;
        // Deeper than that each byte would be looked at too often; what is in a document that goes, goes with it.
        for block in page.blocks.iter().filter(|block| block.depth <= 1) {
            if block.open < next {
                continue;
            }
            take(page, &mut label, next, block.open);
            next = block.open;
            let text = page.slice(block.open, block.close);
            let new = text.len() >= PASSAGE && seen.insert((block.parent.map(|parent| (part, parent)), text));
            let repeated = text.len() >= PASSAGE && !new;
            if repeated && !label.introduces() && stands_apart(page, block.open, block.close) {
                strikes.push(Strike { part, from: block.open, to: block.close });
                next = block.close + 1;
            }
        }
        take(page, &mut label, next, page.lines.len());
    }
    strikes
}

fn take(page: &Page<'_>, label: &mut Label, from: usize, to: usize) {
    for line in page.lines.get(from..to).unwrap_or_default() {
        label.line(line.text);
    }
}

/// Whether nothing grows together where it goes: a blank line or another tag is beside it.
fn stands_apart(page: &Page<'_>, open: usize, close: usize) -> bool {
    let apart = |line: Option<&str>| line.is_none_or(|line| line.trim().is_empty() || line.starts_with('<'));
    let text = |at: usize| page.lines.get(at).map(|line| line.text);
    apart(open.checked_sub(1).and_then(text)) || apart(text(close + 1))
}
