//! An estimate for models whose vocabulary is not here.

use super::TokenCounter;
use super::image::Images;
use super::prompt::Rules;
use crate::types::{ChatBody, Message};

/// An estimate of tokens from the kinds of characters in a text, for models whose vocabulary is not published or not
/// here. 1 to 3 ns a byte of most texts, 5 of base64; nothing is built, nothing remembered.
///
/// # Where the numbers come from
/// Each kind of character costs between what it costs in OpenAI's newer vocabulary and in the older, measured on the texts
/// this crate is tested with (6,300 of them, in ten scripts, code and emoji): a short English word 1 token, a Chinese
/// character 1.25, a Cyrillic letter 0.5, a Hangul syllable 1.2, and of what is not known each byte 1. That is multiplied
/// for the family of models:
///
/// | Family | Factor | Why |
/// |---|---|---|
/// | [`claude`](Self::claude) | 1.25 | no vocabulary published; token counts of its API are 15 to 25 % above o200k on prose and code |
/// | [`gemini`](Self::gemini) | 1.1 | Google: "a token is about 4 characters"; a digit is a token |
/// | [`llama`](Self::llama) | 1.15 | Llama 3 has cl100k's words and 28,000 more |
/// | [`mistral`](Self::mistral) | 1.25 | its older vocabularies have 32,000 words; a digit is a token |
/// | [`other`](Self::other) | 1.25 | unknown: on the high side |
///
/// It is meant to err on the high side. On those texts the estimate for Claude is 1.3 to 2.7 times what the newer
/// vocabulary counts, and 0.9 to 1.4 times what the older does: least on English and code, most on Indic scripts. It is
/// never more than a token for each byte. Where exact counts matter, ask the provider's own counting service in a
/// [`TokenCounter`] of your own.
#[derive(Debug, Clone, Copy)]
pub struct Estimate {
    /// Hundredths.
    factor: u64,
    /// How many digits a token has.
    digits: u64,
    rules: Rules,
}

/// Four tokens for a message's role and ends: OpenAI's three and one in doubt.
const RULES: Rules =
    Rules { per_message: 4, per_name: 1, per_reply: 4, per_function: 12, per_tools: 0, images: Images::COMMON };

impl Estimate {
    /// Anthropic's models. Tools cost 346 tokens beside their definitions (Anthropic, "Tool use", Claude 4), an image its
    /// pixels by 750, at most 1,600.
    pub fn claude() -> Self {
        Self { factor: 125, digits: 3, rules: Rules { per_tools: 346, images: Images::Area, ..RULES } }
    }

    /// Google's models. An image costs 258 tokens for each 768 x 768.
    pub fn gemini() -> Self {
        Self { factor: 110, digits: 1, rules: Rules { images: Images::Crops, ..RULES } }
    }

    /// Meta's models from Llama 3 on.
    pub fn llama() -> Self {
        Self { factor: 115, digits: 3, rules: RULES }
    }

    /// Mistral's models.
    pub fn mistral() -> Self {
        Self { factor: 125, digits: 1, rules: RULES }
    }

    /// Any other model.
    pub fn other() -> Self {
        Self { factor: 125, digits: 1, rules: RULES }
    }

    /// Another factor on OpenAI's counts, 0.1 to 10, such as what you measured on your own texts.
    #[must_use]
    pub fn with_factor(mut self, factor: f64) -> Self {
        // Of what is no number, the lowest.
        self.factor = (factor.clamp(0.1, 10.0) * 100.0).round().max(10.0) as u64;
        self
    }

    fn count(&self, text: &str) -> u64 {
        let whole = (thousandths(text, self.digits) * self.factor).div_ceil(100 * 1000);
        whole.min(text.len() as u64)
    }
}

impl TokenCounter for Estimate {
    fn text(&self, _: &str, text: &str) -> u64 {
        self.count(text)
    }

    fn message(&self, _: &str, message: &Message) -> u64 {
        self.rules.message(message, &|text| self.count(text))
    }

    fn request(&self, body: &ChatBody) -> u64 {
        let messages = body.messages.iter().map(|message| self.message(&body.model, message));
        messages.fold(self.overhead(body), u64::saturating_add)
    }

    fn overhead(&self, body: &ChatBody) -> u64 {
        let count = |text: &str| self.count(text);
        self.rules.beside(body, &count, self.rules.tools(&body.tools, &count))
    }

    fn uncounted(&self, _: &str, _: &Message) -> usize {
        0
    }
}

/// The text's tokens in thousandths.
fn thousandths(text: &str, digits_a_token: u64) -> u64 {
    let mut sum = 0;
    let mut word = 0;
    let mut digits = 0;
    let mut previous = '\0';
    for letter in text.chars() {
        let begins_a_word = letter.is_ascii_uppercase() && previous.is_ascii_lowercase();
        if word > 0 && (begins_a_word || !letter.is_ascii_alphabetic()) {
            sum += of_word(word);
            word = 0;
        }
        if letter.is_ascii_alphabetic() {
            word += 1;
        } else if letter.is_ascii_digit() {
            // A token begins with every third digit of a number, or with each.
            digits = if previous.is_ascii_digit() { digits + 1 } else { 0 };
            sum += if digits % digits_a_token.max(1) == 0 { 1000 } else { 0 };
        } else {
            sum += of_sign(letter, previous);
        }
        previous = letter;
    }
    sum + if word > 0 { of_word(word) } else { 0 }
}

/// A run of ASCII letters in one case, or with a capital: a token, and more the longer it is; one that is too long for a
/// word has no long tokens in it.
fn of_word(letters: u64) -> u64 {
    match letters {
        0..=4 => 1000,
        5..=16 => 1000 + (letters - 4) * 110,
        _ => letters * 600,
    }
}

fn of_sign(sign: char, previous: char) -> u64 {
    match sign {
        // One blank goes with the word behind it; of equal ones, sixteen and more make a token.
        ' ' if previous != ' ' && !previous.is_ascii_whitespace() => 0,
        '\0'..='\x20' | '\x7f' if sign == previous => 100,
        '\0'..='\x20' | '\x7f' => 700,
        '!'..='~' if sign == previous => 250,
        '!'..='~' => 700,
        '\u{c0}'..='\u{24f}' | '\u{1e00}'..='\u{1eff}' => 800,
        '\u{370}'..='\u{3ff}' | '\u{1f00}'..='\u{1fff}' => 950,
        '\u{400}'..='\u{52f}' => 520,
        '\u{530}'..='\u{5ff}' => 900,
        '\u{600}'..='\u{6ff}' => 700,
        '\u{900}'..='\u{dff}' => 900,
        '\u{e00}'..='\u{eff}' => 850,
        '\u{3040}'..='\u{30ff}' => 950,
        '\u{3400}'..='\u{4dbf}' => 3000,
        '\u{4e00}'..='\u{9fff}' => 1250,
        '\u{ac00}'..='\u{d7a3}' => 1200,
        '\u{2000}'..='\u{206f}' | '\u{3000}'..='\u{303f}' | '\u{ff00}'..='\u{ffef}' | '\u{fe0f}' => 1000,
        '\u{1f300}'..='\u{1faff}' => 2500,
        // Of the rest, each byte may be a token.
        _ => 1000 * sign.len_utf8() as u64,
    }
}
