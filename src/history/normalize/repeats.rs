//! Lines said twice in a row.

use super::page::Page;
use super::prose::{is_gappy, is_sentence};
use super::regions::Kind;

/// A line shorter than this many bytes stays, however often it stands there: about 32 Latin letters or 11 Chinese
/// characters. Short lines repeated are answers, entries, refrains.
const LINE: usize = 32;

/// The text without the lines that say word for word what the line right above says; `None` when there are none.
pub(super) fn without_repeated_lines(text: &str) -> Option<String> {
    if !may_repeat(text) {
        return None;
    }
    let page = Page::of(text);
    let repeats = |at: usize| {
        let (Some(line), Some(above)) = (page.lines.get(at), at.checked_sub(1).and_then(|at| page.lines.get(at)))
        else {
            return false;
        };
        let plain = line.kind == Kind::Prose && above.kind == Kind::Prose && !line.tagged && !above.tagged;
        let same = plain && line.text.len() >= LINE && line.text == above.text;
        same && is_sentence(line.text) && !is_gappy(line.text)
    };
    let out = page.retain(|at| !repeats(at));
    (out.len() < text.len()).then_some(out)
}

/// Whether two lines in a row are the same: a quick search.
fn may_repeat(text: &str) -> bool {
    let mut above = "";
    text.split('\n').any(|line| line.len() >= LINE && std::mem::replace(&mut above, line) == line)
}
