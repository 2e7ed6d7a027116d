//! A text without its middle.

/// The text with about so many bytes of it kept, half from its beginning and half from its end, and a mark between them
/// that says how many characters went. `None` where that would not make it shorter.
///
/// It is cut at the end of a line, or else of a word, if one is near; else between characters, and not inside the common
/// sequences that show as one: accents, emoji with their modifiers and joiners, flags, a carriage return and its line
/// feed.
pub(super) fn without_middle(text: &str, keep: usize) -> Option<String> {
    if text.len() <= keep {
        return None;
    }
    let half = keep / 2;
    let head = text.get(..head_end(text, half))?;
    let tail_start = tail_start(text, text.len() - half).max(head.len());
    let (middle, tail) = (text.get(head.len()..tail_start)?, text.get(tail_start..)?);
    let left_out = grouped(middle.chars().count());
    let newline = if head.is_empty() { "" } else { "\n" };
    let short = format!("{head}{newline}[… {left_out} characters left out …]\n{tail}");
    (short.len() < text.len()).then_some(short)
}

/// How far a cut moves to meet the end of a line or a word: an eighth of what is kept at this side.
const NEAR: usize = 8;
/// Characters a cut moves at most to spare a sequence; accents can be piled up without end.
const SEQUENCE: usize = 32;

/// The best place for a cut at `wanted` or a little before.
fn head_end(text: &str, wanted: usize) -> usize {
    let wanted = boundary_before(text, wanted);
    let near = boundary_before(text, wanted - wanted / NEAR);
    let window = text.get(near..wanted).unwrap_or_default();
    // What comes after decides whether the text at hand ends here by itself.
    if let Some(at) = window.rfind('\n') {
        let end = near + at;
        return if text.as_bytes().get(end.wrapping_sub(1)) == Some(&b'\r') { end - 1 } else { end };
    }
    if let Some(at) = window.rfind(char::is_whitespace) {
        return near + at;
    }
    let mut end = wanted;
    for _ in 0..SEQUENCE {
        let (before, after) = text.split_at_checked(end).unwrap_or_default();
        match (before.chars().next_back(), after.chars().next()) {
            (Some(last), Some(next)) if are_one(last, next) => end -= last.len_utf8(),
            _ => return end,
        }
    }
    wanted
}

/// The best place for a cut at `wanted` or a little after.
fn tail_start(text: &str, wanted: usize) -> usize {
    let wanted = boundary_after(text, wanted);
    let near = boundary_after(text, wanted + (text.len() - wanted) / NEAR);
    let window = text.get(wanted..near).unwrap_or_default();
    if let Some(at) = window.find('\n') {
        return wanted + at + 1;
    }
    if let Some((at, blank)) = window.char_indices().find(|(_, c)| c.is_whitespace()) {
        return wanted + at + blank.len_utf8();
    }
    let mut start = wanted;
    for _ in 0..SEQUENCE {
        let (before, after) = text.split_at_checked(start).unwrap_or_default();
        match (before.chars().next_back(), after.chars().next()) {
            (Some(last), Some(next)) if are_one(last, next) => start += next.len_utf8(),
            _ => return start,
        }
    }
    wanted
}

fn boundary_before(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn boundary_after(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

/// Whether these two neighbours show as one: a small part of Unicode's rules for grapheme clusters (UAX 29), without its
/// tables.
fn are_one(last: char, next: char) -> bool {
    const JOINER: char = '\u{200D}';
    let flag = |c| matches!(c, '\u{1F1E6}'..='\u{1F1FF}');
    let extends = matches!(next,
        JOINER
        | '\u{0300}'..='\u{036F}' // accents
        | '\u{0483}'..='\u{0489}'
        | '\u{0591}'..='\u{05BD}' // Hebrew points
        | '\u{064B}'..='\u{065F}' // Arabic vowels
        | '\u{093A}'..='\u{094F}' // Devanagari vowels and virama
        | '\u{0E31}' | '\u{0E34}'..='\u{0E3A}' | '\u{0E47}'..='\u{0E4E}' // Thai vowels and tones
        | '\u{1160}'..='\u{11FF}' // Hangul vowels and finals
        | '\u{1AB0}'..='\u{1AFF}'
        | '\u{1DC0}'..='\u{1DFF}'
        | '\u{20D0}'..='\u{20FF}'
        | '\u{3099}' | '\u{309A}' // kana voicing
        | '\u{FE00}'..='\u{FE0F}' // variations
        | '\u{FE20}'..='\u{FE2F}'
        | '\u{1F3FB}'..='\u{1F3FF}' // skin
        | '\u{E0020}'..='\u{E007F}' // tags
        | '\u{E0100}'..='\u{E01EF}');
    extends || last == JOINER || (flag(last) && flag(next)) || (last == '\r' && next == '\n')
}

/// `12345` as `12,345`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let group = |(at, digit): (usize, char)| {
        let comma = at > 0 && (digits.len() - at).is_multiple_of(3);
        comma.then_some(',').into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let numbers = [0, 12, 123, 1_234, 123_456, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "12", "123", "1,234", "123,456", "1,234,567"]);
    }

    #[test]
    fn says_what_went_and_keeps_both_ends() {
        let lines: String = (0..1_000).map(|line| format!("line {line}\n")).collect();
        let short = without_middle(&lines, 200).unwrap();
        assert!(short.starts_with("line 0\nline 1\n") && short.ends_with("line 999\n"), "{short}");
        let (head, rest) = short.split_once("\n[… ").unwrap();
        let (number, tail) = rest.split_once(" characters left out …]\n").unwrap();
        assert!(head.lines().chain(tail.lines()).all(|line| lines.contains(&format!("{line}\n"))), "whole lines");
        let left_out: usize = number.replace(',', "").parse().unwrap();
        assert_eq!(left_out, lines.chars().count() - head.chars().count() - tail.chars().count());
        assert!((150..=200).contains(&(head.len() + tail.len())));
    }

    #[test]
    fn cuts_between_words_where_there_are_no_lines() {
        let text = "a carriage\r\nreturn ".repeat(40);
        let short = without_middle(&text, 100).unwrap();
        assert!(short.contains("a carriage\n[… "), "{short}");
        let text = "several words ".repeat(40);
        let short = without_middle(&text, 100).unwrap();
        let (head, rest) = short.split_once("\n[").unwrap();
        assert!(head.ends_with("several") || head.ends_with("words"), "{short}");
        let tail = rest.split_once("]\n").unwrap().1;
        assert!(tail.starts_with("several") || tail.starts_with("words"), "{short}");
    }

    #[test]
    fn never_cuts_inside_what_shows_as_one() {
        for one in ["é", "e\u{301}", "👩‍👩‍👧‍👦", "👍🏽", "🇩🇪", "漢", "ก็", "한"] {
            let text = one.repeat(100);
            for keep in 0..300 {
                let Some(short) = without_middle(&text, keep) else { continue };
                let (head, rest) = short.split_once("[… ").unwrap();
                let tail = rest.split_once("…]\n").unwrap().1;
                for end in [head.trim_end(), tail] {
                    assert!(end.replace(one, "").is_empty() || one == "🇩🇪", "{one}: {end:?} of {keep}");
                }
            }
        }
    }

    #[test]
    fn any_text_and_any_length_will_do() {
        let texts = ["", "a", "ab", &" ".repeat(500), &"\n".repeat(500), &"\u{301}".repeat(500), &"\r\n".repeat(300)];
        for text in texts {
            for keep in (0..text.len() + 2).chain([usize::MAX]) {
                let short = without_middle(text, keep);
                assert!(short.is_none_or(|short| short.len() < text.len() && short.contains("left out")));
            }
        }
        let all_gone = without_middle(&"x".repeat(12_345), 0).unwrap();
        assert_eq!(all_gone, "[… 12,345 characters left out …]\n");
    }
}
