//! A text as its lines.

use super::work::reads;

/// A line and what ends it: `\n`, `\r\n`, a lone `\r`, or nothing at the end of the text.
///
/// Unicode's own line and paragraph separators end no line: they are left alone like any other character.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = memchr::memchr2(b'\n', b'\r', rest.as_bytes()).unwrap_or(rest.len());
        let (line, after) = rest.split_at(at);
        let width = if after.starts_with("\r\n") { 2 } else { after.len().min(1) };
        let (end, left) = after.split_at(width);
        rest = left;
        reads(line.len() + end.len());
        Some((line, end))
    })
}

/// Whether a line says nothing. A no-break space, an ideographic space and the like are characters, not blanks.
pub(super) fn is_blank(line: &str) -> bool {
    line.bytes().all(|byte| matches!(byte, b' ' | b'\t'))
}

/// How far a line is indented, in columns (a tab goes to the next multiple of four), and what follows.
pub(super) fn indent(line: &str) -> (usize, &str) {
    let rest = line.trim_start_matches([' ', '\t']);
    let blanks = line.len() - rest.len();
    let column = |column: usize, byte: u8| if byte == b'\t' { column / 4 * 4 + 4 } else { column + 1 };
    (line.bytes().take(blanks).fold(0, column), rest)
}

/// What follows the marker of a list item (`-`, `*`, `+`, `1.`, `1)`, and a blank), if the line begins with one.
pub(super) fn after_marker(line: &str) -> Option<&str> {
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let rest =
        if digits == 0 { line.strip_prefix(['-', '*', '+'])? } else { line.get(digits..)?.strip_prefix(['.', ')'])? };
    (rest.is_empty() || rest.starts_with([' ', '\t'])).then_some(rest)
}
