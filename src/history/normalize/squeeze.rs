//! Within lines of prose: runs of blanks, and overlong separators.

use super::page::{Line, Page};
use super::prose::{is_gappy, is_sentence};
use super::regions::Kind;

/// A separator is cut to this many characters: enough to be told from a word, and for a heading's underline.
const SEPARATOR: usize = 8;

/// The text with every gap inside a sentence one blank, and every separator short; `None` when nothing changes.
pub(super) fn squeeze(text: &str) -> Option<String> {
    if !text.contains("  ") && !has_separator(text) {
        return None;
    }
    let page = Page::of(text);
    let mut out = String::with_capacity(text.len());
    for (at, line) in page.lines.iter().enumerate() {
        let neighbours = [at.checked_sub(1).and_then(|at| page.lines.get(at)), page.lines.get(at + 1)];
        let plain = line.kind == Kind::Prose && !line.tagged;
        if plain && is_separator(line.text) && !beside(neighbours, |line| line.kind.is_kept()) {
            out.extend(line.text.get(..SEPARATOR));
        } else if plain && line.text.contains("  ") && is_sentence(line.text) && !beside(neighbours, has_columns) {
            let mut words = line.text.split(' ').filter(|word| !word.is_empty());
            out.extend(words.next());
            words.for_each(|word| out.extend([" ", word]));
        } else {
            out.push_str(line.text);
        }
        out.push_str(line.end);
    }
    (out.len() < text.len()).then_some(out)
}

fn beside(neighbours: [Option<&Line<'_>>; 2], holds: impl Fn(&Line<'_>) -> bool) -> bool {
    neighbours.into_iter().flatten().any(holds)
}

/// Two lines with gaps one below the other may be a table.
fn has_columns(line: &Line<'_>) -> bool {
    is_gappy(line.text)
}

/// One character, again and again; not `~` and not the backtick, which open code.
fn is_separator(line: &str) -> bool {
    let bytes = line.as_bytes();
    bytes.len() > SEPARATOR
        && bytes.first().is_some_and(|first| b"-=_*#".contains(first) && bytes.iter().all(|byte| byte == first))
}

/// Whether there may be an overlong separator: a quick search.
fn has_separator(text: &str) -> bool {
    ["---------", "=========", "_________", "*********", "#########"].iter().any(|run| text.contains(run))
}
