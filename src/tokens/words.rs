//! Words that are a token each, told without the tokenizer.

use tiktoken_rs::CoreBPE;

use super::pieces::parts;

/// The words, numbers and signs of a vocabulary: the tokens of which a text in plain ASCII mostly consists.
///
/// A text is cut where both vocabularies always cut it ([`parts`]), and between two cuts most stretches are one match of
/// their regular expressions ([`single`]). Such a stretch is one token if the vocabulary has it, whatever stands around
/// it. What is left, and only that, is for the tokenizer.
pub(super) struct Words {
    /// Open addressing, at most half full; no word is 0.
    table: Box<[u128]>,
}

impl Words {
    /// Those of this vocabulary: 4 MB, in a third of the time that building it takes.
    pub(super) fn of(vocabulary: &CoreBPE) -> Self {
        let tokens = (0..).map_while(|rank| vocabulary.decode_bytes(&[rank]).ok());
        let words = tokens.filter(|token| single(token, 0) == Some(token.len()));
        let words: Vec<u128> = words.filter_map(|word| key(&word, 0, word.len())).collect();
        let mut table = vec![0; (2 * words.len()).next_power_of_two()];
        for word in words {
            if let Some(place) = place(&table, word).and_then(|at| table.get_mut(at)) {
                *place = word;
            }
        }
        Self { table: table.into() }
    }

    /// The tokens of this text; `count` tells those of what is not told here.
    pub(super) fn count(&self, text: &str, mut count: impl FnMut(&str) -> u64) -> u64 {
        let (mut tokens, mut at) = (0, 0);
        // What is no word, one behind the other: to the tokenizer each call costs as much as some words.
        let mut rest = String::new();
        while at < text.len() {
            if let Some(end) = self.word(text.as_bytes(), at) {
                (tokens, at) = (tokens + 1, end);
                continue;
            }
            let stretch = until_cut(text.get(at..).unwrap_or_default());
            let seam = rest.chars().next_back().zip(stretch.chars().next());
            if seam.is_some_and(|(previous, next)| !parts(previous, next)) {
                tokens += count(&rest);
                rest.clear();
            }
            rest.push_str(stretch);
            at += stretch.len();
        }
        tokens + if rest.is_empty() { 0 } else { count(&rest) }
    }

    /// Where the word ends that begins at this cut, if one does.
    fn word(&self, text: &[u8], at: usize) -> Option<usize> {
        let end = single(text, at)?;
        // Every byte is a token.
        if end == at + 1 {
            return Some(end);
        }
        let word = key(text, at, end)?;
        let place = place(&self.table, word)?;
        (self.table.get(place) == Some(&word)).then_some(end)
    }
}

/// The stretch at the beginning of this text, up to where it is cut next; all of it if it is not.
fn until_cut(text: &str) -> &str {
    let mut letters = text.char_indices();
    let Some((_, mut previous)) = letters.next() else { return text };
    let cut = letters.find(|(_, next)| parts(std::mem::replace(&mut previous, *next), *next));
    cut.map_or(text, |(at, _)| &text[..at])
}

/// Where the stretch ends that begins at this cut, if it is one match of either vocabulary's regular expression, and its
/// end is a cut whatever follows. In order of their alternatives:
///
/// - Letters in one case or with capitals first, with any one sign or blank before them but an apostrophe (`'s` is a match
///   of its own in the older) or a line end.
/// - Up to three digits.
/// - Signs, with a blank before them.
fn single(text: &[u8], at: usize) -> Option<usize> {
    let run = |from: usize, of: fn(&u8) -> bool| {
        from + text.get(from..).unwrap_or_default().iter().take_while(|byte| of(byte)).count()
    };
    let first = text.get(at)?;
    let before = at + usize::from(!first.is_ascii_alphanumeric());
    let letters = run(run(before, u8::is_ascii_uppercase), u8::is_ascii_lowercase);
    if letters > before {
        let ends =
            text.get(letters).is_none_or(|next| next.is_ascii() && !next.is_ascii_alphabetic() && *next != b'\'');
        let begins = first.is_ascii() && !matches!(first, b'\'' | b'\r' | b'\n');
        return (begins && ends).then_some(letters);
    }
    if first.is_ascii_digit() {
        let digits = run(at, u8::is_ascii_digit);
        let ends = text.get(digits).is_none_or(u8::is_ascii);
        return (ends && digits <= at + 3).then_some(digits);
    }
    let signs_from = at + usize::from(*first == b' ');
    let signs = run(signs_from, u8::is_ascii_punctuation);
    let ends = text.get(signs).is_none_or(|next| *next == b' ');
    (ends && signs > signs_from).then_some(signs)
}

/// These bytes as one number; `None` if they are too many.
fn key(text: &[u8], start: usize, end: usize) -> Option<u128> {
    const MOST: usize = size_of::<u128>();
    let length = end.checked_sub(start).filter(|length| (1..=MOST).contains(length))?;
    if let Some(bytes) = text.get(start..start + MOST) {
        // Read at one go, and what follows taken off.
        let all = u128::from_le_bytes(bytes.try_into().ok()?);
        return Some(all & (u128::MAX >> (8 * (MOST - length))));
    }
    let mut bytes = [0; MOST];
    bytes.get_mut(..length)?.copy_from_slice(text.get(start..end)?);
    Some(u128::from_le_bytes(bytes))
}

/// Where this word is in the table, or would be.
fn place(table: &[u128], word: u128) -> Option<usize> {
    /// Any odd number whose bits look random: 2^64 by the golden ratio.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = ((word >> 64) as u64).wrapping_mul(SPREAD).rotate_left(32) ^ word as u64;
    let spread = mixed.wrapping_mul(SPREAD);
    let mask = table.len().checked_sub(1)?;
    // The high bits depend on all others.
    let first = (spread >> 40) as usize;
    (0..table.len())
        .map(|step| (first + step) & mask)
        .find(|at| table.get(*at).is_none_or(|found| *found == 0 || *found == word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::encoding::Encoding;

    const BOTH: [Encoding; 2] = [Encoding::O200k, Encoding::Cl100k];

    /// What is told here, and what is left to the tokenizer.
    fn count(encoding: Encoding, text: &str) -> (u64, String) {
        let mut left = String::new();
        let tokens = encoding.words().count(text, |rest| {
            left.push_str(rest);
            encoding.count(rest).unwrap()
        });
        (tokens, left)
    }

    /// Signs, blanks and letters in any order, many of them words.
    fn fragment() -> impl Strategy<Value = String> {
        let known = [
            " ",
            "  ",
            "\n",
            "\r\n",
            "\t",
            " the",
            "The",
            "word",
            " Words",
            "WORD",
            " ABC",
            "camelCase",
            "aBc",
            "'s",
            "'T",
            "'",
            "'ll",
            "don't",
            "é",
            "e\u{301}",
            " né",
            "naïve",
            "的",
            "日本",
            "ſ",
            "'ſ",
            "1",
            "12",
            "123",
            "1234",
            " 7",
            "½",
            "٣",
            "Ⅷ",
            ".",
            ",",
            " =",
            "==",
            "!!",
            "?!\n",
            "/",
            "//",
            "://",
            "(",
            ")",
            "_",
            "-",
            "\u{a0}",
            "\u{3000}",
            "\u{85}",
            "\0",
            "\u{1b}",
            "😀",
            "<|endoftext|>",
            "antidisestablishmentarianism",
            "zqxj",
            " Zqxj",
            ".com",
            "\tif",
            "ʰ",
            "ǅ",
            "İ",
            "。",
        ];
        prop_oneof![4 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => any::<char>().prop_map(String::from)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn counts_like_the_tokenizer_alone(fragments in prop::collection::vec(fragment(), 0..40)) {
            let text = fragments.concat();
            for encoding in BOTH {
                prop_assert_eq!(Some(count(encoding, &text).0), encoding.count(&text), "{:?} {:?}", encoding, text);
            }
        }

        #[test]
        fn counts_any_ascii_like_the_tokenizer_alone(text in "[ -~\n\t]{0,60}") {
            for encoding in BOTH {
                prop_assert_eq!(Some(count(encoding, &text).0), encoding.count(&text), "{:?} {:?}", encoding, text);
            }
        }
    }

    /// Any three numerals are a match, whatever their scripts: it matters which three.
    #[test]
    fn a_number_may_go_on_in_another_script() {
        for text in ["1۳۹۱۳۹۱", "12०७२०७२", "12１００１００"] {
            for encoding in BOTH {
                assert_eq!(Some(count(encoding, text).0), encoding.count(text), "{encoding:?} {text}");
            }
        }
    }

    /// Every word there is, alone and between others.
    #[test]
    fn each_word_is_one_token() {
        for encoding in BOTH {
            let words = encoding.words();
            let known: Vec<_> = words.table.iter().filter(|word| **word != 0).collect();
            assert!(known.len() > 50_000 && 2 * known.len() <= words.table.len(), "{encoding:?}: {}", known.len());
            for word in known.iter().step_by(7) {
                let bytes: Vec<u8> = word.to_le_bytes().into_iter().take_while(|byte| *byte != 0).collect();
                let word = std::str::from_utf8(&bytes).unwrap();
                assert_eq!(encoding.count(word), Some(1), "{word:?}");
                assert_eq!(count(encoding, word), (1, String::new()), "{word:?}");
            }
        }
    }

    #[test]
    fn only_what_is_no_word_is_left_to_the_tokenizer() {
        let text = "The quick zqxjk fox isn't 17 (years) old, of course; it's a Zqxjk.";
        for encoding in BOTH {
            assert_eq!(count(encoding, text).1, " zqxjk isn't 17 (years it's Zqxjk", "{encoding:?}");
        }
        assert_eq!(count(Encoding::O200k, "日本語。").1, "日本語。");
        assert_eq!(count(Encoding::O200k, ""), (0, String::new()));
    }
}
