//! Lines that are plain words, as far as anyone can tell.

/// Quoting, code, markup and data all show by one of these.
const TELLING: &[char] = &[
    '`', '"', '{', '}', '<', '>', '[', ']', '=', '|', '\\', '#', '$', '\t', '“', '”', '„', '‟', '‘', '‚', '«', '»',
    '‹', '›', '「', '」', '『', '』', '《', '》', '"', '\u{2028}', '\u{2029}',
];

/// Whether a line is a sentence or a piece of one: it begins with a letter at the margin, and nothing in it looks like a
/// quotation, code, markup, comma-separated values or encoded data. In doubt it is not.
pub(super) fn is_sentence(line: &str) -> bool {
    if !line.starts_with(char::is_alphabetic) || line.ends_with(';') || line.contains(TELLING) {
        return false;
    }
    let bytes = line.as_bytes();
    if is_encoded(bytes) || calls(bytes) {
        return false;
    }
    memchr::memchr3_iter(b',', b';', b'\'', bytes).all(|at| {
        let (before, after) = (at.checked_sub(1).and_then(|at| bytes.get(at)), bytes.get(at + 1));
        let (Some(before), Some(after)) = (before, after) else { return true };
        if bytes.get(at) == Some(&b'\'') {
            // An apostrophe stands in or after a word, an opening quote before one.
            return before.is_ascii_alphanumeric() || !before.is_ascii();
        }
        *after == b' ' || before.is_ascii_digit() && after.is_ascii_digit()
    })
}

/// Whether a line has no blank and nothing but ASCII, as base64, hexadecimal digits and sequences have: a line of those
/// that says what the one above says stands for other bytes.
fn is_encoded(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_graphic)
}

/// Whether a function is called: its arguments follow its name without a blank, as in traces and statements.
fn calls(line: &[u8]) -> bool {
    memchr::memchr_iter(b'(', line).any(|at| {
        let before = at.checked_sub(1).and_then(|at| line.get(at));
        before.is_some_and(|before| before.is_ascii_alphanumeric() || *before == b'_')
    })
}

/// Whether there are gaps in a line, as columns have them: two blanks or a tab after a word.
pub(super) fn is_gappy(line: &str) -> bool {
    let words = line.trim_matches([' ', '\t']);
    words.contains("  ") || words.contains('\t')
}
