//! The safe level: line ends, blanks at the ends of lines, runs of blank lines.

use memchr::{memchr, memchr_iter};

use super::lines::lines;
use super::regions::{Kind, Regions};

/// Blanks and line ends.
const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

/// Where a text stands in its message. What lies between two parts is left alone: nobody knows how a provider joins them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Nothing stands before it.
    pub(super) first: bool,
    /// Nothing stands after it.
    pub(super) last: bool,
}

/// Whether there is anything to look at: a quick search that passes over clean text at memory speed.
pub(super) fn may_change(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.last().is_some_and(u8::is_ascii_whitespace)
        || bytes.first() == Some(&b'\n')
        || memchr(b'\r', bytes).is_some()
        || memchr_iter(b'\n', bytes).any(|at| {
            let before = &bytes[..at];
            matches!(before.last(), Some(b' ' | b'\t')) || before.ends_with(b"\n\n")
        })
}

/// The text in its form.
#[derive(Debug)]
pub(super) struct Tidy {
    /// `None` when it is in it already.
    pub(super) text: Option<String>,
    /// Whether code or data goes on beyond its end.
    pub(super) open: bool,
}

/// Brings white space into one form. A text of blanks alone stays.
pub(super) fn tidy(text: &str, place: Place) -> Tidy {
    let body = text.trim_end_matches(BLANKS);
    let tail = &text[body.len()..];
    // Blank lines at the start go; the indentation of the first line with words stays.
    let blanks = &body[..body.len() - body.trim_start_matches(BLANKS).len()];
    let head = blanks.rfind(['\n', '\r']).map_or(0, |at| at + 1);
    let (head, body) = body.split_at(head);
    if body.is_empty() {
        return Tidy { text: None, open: false };
    }
    let mut out = String::with_capacity(text.len());
    if !place.first {
        out.push_str(head);
    }
    let (last, open) = rewrite(body, &mut out);
    if open || !place.last {
        out.push_str(tail);
    } else if last.is_kept() {
        // Blanks at the end of the last line of code are code, the line's end is not.
        out.push_str(&tail[..tail.find(['\n', '\r']).unwrap_or(tail.len())]);
    }
    Tidy { text: (out != text).then_some(out), open }
}

/// Writes a text that begins and ends with words; what its last line is, and whether it leaves a region open.
fn rewrite(body: &str, out: &mut String) -> (Kind, bool) {
    let mut regions = Regions::default();
    // The line before this one, blank lines aside: what it is, and its end.
    let mut before: Option<(Kind, &str)> = None;
    // Where the blank lines before this one begin.
    let mut gap: Option<usize> = None;
    let mut at = 0;
    for (line, end) in lines(body) {
        let start = at;
        at += line.len() + end.len();
        let kind = regions.kind(line);
        if kind == Kind::Blank {
            gap.get_or_insert(start);
            continue;
        }
        match (before, gap.take()) {
            (None, _) => {}
            // Within a region even line ends stay.
            (Some((Kind::Code, end)), Some(gap)) if kind == Kind::Code => {
                out.push_str(end);
                out.push_str(&body[gap..start]);
            }
            (Some((before, end)), None) if before.is_kept() && kind.is_kept() => out.push_str(end),
            (Some(_), None) => out.push('\n'),
            (Some(_), Some(_)) => out.push_str("\n\n"),
        }
        out.push_str(if kind == Kind::Prose { line.trim_end_matches([' ', '\t']) } else { line });
        before = Some((kind, end));
    }
    (before.map_or(Kind::Blank, |(kind, _)| kind), regions.is_open())
}
