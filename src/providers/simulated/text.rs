//! Words that read like an answer and count like one: every piece is one token in OpenAI's vocabularies.

/// With a blank before it, or capitalised, each is one token in `o200k_base` and `cl100k_base`; a test makes sure.
#[rustfmt::skip]
const WORDS: &[&str] = &[
    "the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "with", "on", "be", "by", "this", "are", "from",
    "at", "or", "an", "which", "have", "not", "more", "each", "when", "they", "can", "their", "one", "also", "time",
    "some", "these", "two", "other", "than", "first", "most", "light", "water", "air", "people", "system", "number",
    "model", "result", "data", "line", "point", "process", "value", "change", "energy", "small", "large", "long",
    "same", "because", "between", "through", "while", "where", "after", "before", "under", "over", "about", "many",
    "often", "usually", "still", "even", "less", "both", "such", "into", "only", "new", "high", "low", "simple",
    "clear", "common", "possible", "important", "different", "example", "reason", "way", "part", "case", "order",
    "end", "state", "level", "step", "make", "takes", "gives", "works", "means", "helps", "keeps", "moves", "shows",
];

/// So many pieces of text, each one token: words, commas and full stops. The last is a full stop.
pub(super) fn prose(seed: u64, tokens: u64) -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut pieces = Vec::with_capacity(usize::try_from(tokens).unwrap_or(0));
    let mut left_in_sentence = 0_u32;
    for place in 0..tokens {
        let last = place > 0 && place + 1 == tokens;
        // After a mark there must be room for a word and the last full stop: two marks in a row are one token.
        let room = place + 2 < tokens;
        let before = pieces.last().map(String::as_str);
        let starts = matches!(before, None | Some("."));
        if starts {
            left_in_sentence = random.u32(6..16);
        }
        let piece = if last || (room && left_in_sentence == 0) {
            ".".to_owned()
        } else if room && !starts && before != Some(",") && left_in_sentence > 1 && random.u32(..12) == 0 {
            ",".to_owned()
        } else {
            left_in_sentence = left_in_sentence.saturating_sub(1);
            word(&mut random, place == 0, starts)
        };
        pieces.push(piece);
    }
    pieces
}

/// A lower-case word without a blank.
pub(super) fn bare_word(random: &mut fastrand::Rng) -> &'static str {
    WORDS.get(random.usize(..WORDS.len())).copied().unwrap_or("the")
}

fn word(random: &mut fastrand::Rng, first: bool, starts_sentence: bool) -> String {
    let word = bare_word(random);
    let blank = if first { "" } else { " " };
    match word.split_at_checked(1) {
        Some((initial, rest)) if starts_sentence => format!("{blank}{}{rest}", initial.to_ascii_uppercase()),
        _ => format!("{blank}{word}"),
    }
}

/// Cuts pieces off the end until the rest counts no more than `limit` tokens. Returns what it counts.
pub(super) fn fit(pieces: &mut Vec<String>, limit: u64, count: impl Fn(&str) -> u64) -> u64 {
    loop {
        let tokens = count(&pieces.concat());
        if tokens <= limit || pieces.is_empty() {
            return tokens;
        }
        // Always fewer than before, and in one or two rounds few enough.
        let keep = pieces.len() as u128 * u128::from(limit) / u128::from(tokens);
        pieces.truncate(usize::try_from(keep).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::{Tiktoken, TokenCounter};

    #[test]
    fn every_piece_is_one_token() {
        let counter = Tiktoken::new();
        for model in ["gpt-5-mini", "gpt-4"] {
            for word in WORDS {
                let capital = format!(" {}{}", word[..1].to_uppercase(), &word[1..]);
                for text in [format!(" {word}"), capital] {
                    assert_eq!(counter.text(model, &text), 1, "{text:?} in {model}");
                }
            }
            for tokens in [0, 1, 2, 3, 17, 500] {
                let text = prose(tokens, tokens).concat();
                assert_eq!(counter.text(model, &text), tokens, "{text}");
            }
        }
    }

    #[test]
    fn reads_like_sentences() {
        let text = prose(3, 200).concat();
        assert!(text.ends_with('.') && text.contains(". ") && text.contains(','), "{text}");
        assert!(!text.contains(" .") && !text.contains(",.") && !text.contains(",,"), "{text}");
        assert!(text.starts_with(|c: char| c.is_ascii_uppercase()), "{text}");
    }

    #[test]
    fn fits_by_any_counter() {
        let mut pieces = prose(1, 100);
        assert!(fit(&mut pieces, 50, |text| text.len() as u64) <= 50);
        assert!(pieces.len() > 5);
        assert_eq!(fit(&mut pieces, 0, |text| text.len() as u64), 0);
    }
}
