//! Where a long text can be cut without changing its tokens.

/// A text up to this long is handed to the tokenizer whole; a longer one in pieces of at most this.
///
/// A tokenizer merges inside what its regular expression finds: a word, a run of blanks, a run of signs. On a megabyte
/// of one of these, tiktoken-rs takes `n log n` steps and 270 to 430 ns a byte, or gives up; up to here it takes 160 at
/// most (`cargo bench --bench tokens`). Nothing that people or programs write goes on for so long without a word's end.
pub(super) const PIECE: usize = 32 * 1024;

/// A piece of a text, and whether its end is a cut through a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub(super) text: &'a str,
    pub(super) cut: bool,
}

/// The text in pieces of at most [`PIECE`] bytes, each as long as can be. Looks at no byte more than twice.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    pieces_of(text, PIECE)
}

fn pieces_of(text: &str, most: usize) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if rest.len() <= most {
            return Some(Piece { text: std::mem::take(&mut rest), cut: false });
        }
        let mut end = most;
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let safe = last_safe(rest, end);
        let (piece, tail) = rest.split_at(safe.unwrap_or_else(|| between_matches(rest, end)));
        rest = tail;
        Some(Piece { text: piece, cut: safe.is_none() })
    })
}

/// The last place up to `end`, and after the start, where the tokenizer cuts whatever stands around.
fn last_safe(text: &str, end: usize) -> Option<usize> {
    let mut next = text[end..].chars().next()?;
    text[..end].char_indices().rev().find_map(|(at, previous)| {
        let safe = parts(previous, next).then_some(at + previous.len_utf8());
        next = previous;
        safe
    })
}

/// Where a run is cut through that goes on after `end`. Numerals match three at a time from the first of the run on, and
/// in most scripts it matters which three they are: a cut between the others would change all that follow.
fn between_matches(text: &str, end: usize) -> usize {
    if !text[end..].starts_with(char::is_numeric) {
        return end;
    }
    let run = &text[text[..end].trim_end_matches(char::is_numeric).len()..end];
    let over = run.chars().count() % 3;
    match end - run.chars().rev().take(over).map(char::len_utf8).sum::<usize>() {
        0 => end,
        at => at,
    }
}

/// Whether both regular expressions always cut between these two characters, and what is before the cut is found the
/// same without what is after it. Whatever is not certain is no place to cut.
///
/// In cl100k and o200k a blank that is no line end stands only at the start of a match or in a match of blanks; digits
/// match only with digits; after a letter come letters, marks and, for `'s`, an apostrophe. Only a match of blanks looks
/// at what follows it, and no cut is inside or after one.
pub(super) fn parts(previous: char, next: char) -> bool {
    let line_end = matches!(next, '\r' | '\n');
    if next.is_whitespace() && !line_end {
        return !previous.is_whitespace();
    }
    if previous.is_ascii_digit() {
        return next.is_ascii() && !next.is_ascii_digit();
    }
    if previous.is_ascii_alphabetic() || is_han_kana_hangul(previous) {
        let sign = matches!(next, '。' | '，' | '、' | '！' | '？' | '：' | '；' | '「' | '」');
        return sign || next.is_ascii() && !next.is_ascii_alphabetic() && next != '\'';
    }
    false
}

/// Letters for certain; these scripts have few blanks.
fn is_han_kana_hangul(letter: char) -> bool {
    matches!(letter, '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fa5}' | '\u{ac00}'..='\u{d7a3}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::encoding::Encoding;
    use super::*;

    /// What the tokenizers are sensitive to.
    fn fragment() -> impl Strategy<Value = String> {
        let known = [
            " ",
            "  ",
            "\n",
            "\r\n",
            "\t",
            "'s",
            "'LL",
            "’",
            "'",
            "dont",
            "<|endoftext|>",
            "123",
            "7",
            "é",
            "e\u{301}",
            "的",
            "日本",
            "한국",
            "ไทย",
            "हि",
            "😀",
            "://",
            "/",
            "!\n\n",
            "ABC",
            "camelCase",
            "\u{a0}",
            "\u{3000}",
            "\u{85}",
            "ſ",
            "the",
            "_",
            "{",
            "Ⅷ",
            "½",
            "，",
            "。\n",
            "\u{200b}",
            "ǅ",
            "ʰ",
            "٣",
            "カ",
            "ー",
            "。",
        ];
        prop_oneof![prop::sample::select(known.to_vec()).prop_map(str::to_owned), any::<char>().prop_map(String::from)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pieces_without_a_cut_count_like_the_whole(parts in prop::collection::vec(fragment(), 0..60), most in 8_usize..64) {
            let text = parts.concat();
            let pieces: Vec<_> = pieces_of(&text, most).collect();
            prop_assert_eq!(pieces.iter().map(|piece| piece.text).collect::<String>(), text.clone());
            prop_assert!(pieces.iter().all(|piece| !piece.text.is_empty() && piece.text.len() <= most));
            // A stretch between cuts counts as it does whole.
            for encoding in [Encoding::O200k, Encoding::Cl100k] {
                for stretch in pieces.split_inclusive(|piece| piece.cut) {
                    let whole: String = stretch.iter().map(|piece| piece.text).collect();
                    let sum: u64 = stretch.iter().filter_map(|piece| encoding.count(piece.text)).sum();
                    prop_assert_eq!(Some(sum), encoding.count(&whole), "{:?} {:?}", encoding, pieces);
                }
            }
        }
    }

    /// One of these costs three tokens as it stands, and one if its threes are taken a numeral later.
    #[test]
    fn numerals_stay_in_their_threes() {
        for (unit, before) in ["۳۹۱", "०७२", "１００", "123"].into_iter().zip(["", "é", "é١", "   "]) {
            let text = format!("{before}{}", unit.repeat(4 * PIECE / unit.len()));
            for encoding in [Encoding::O200k, Encoding::Cl100k] {
                let whole = encoding.count(&text).unwrap();
                let sum: u64 = pieces(&text).filter_map(|piece| encoding.count(piece.text)).sum();
                assert_eq!(sum, whole, "{unit} {encoding:?}");
            }
        }
        let most = 5;
        let text = "𝟏".repeat(10);
        assert!(pieces_of(&text, most).all(|piece| piece.text.len() == 4), "shorter than three");
    }

    #[test]
    fn only_a_run_longer_than_a_piece_is_cut_through() {
        let prose = "word ".repeat(20_000);
        assert!(pieces(&prose).all(|piece| !piece.cut));
        let run = "a".repeat(PIECE - 1);
        let text = format!("{prose}{run} {prose}");
        assert!(pieces(&text).all(|piece| !piece.cut));
        let text = format!("{prose}{run}aa {prose}");
        assert_eq!(pieces(&text).filter(|piece| piece.cut).count(), 1);
    }
}
