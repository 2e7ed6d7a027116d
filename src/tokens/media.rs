//! What sound and files cost: estimates; neither is ever counted as text.

use serde_json::Value;

use super::image::{Images, size_of};
use crate::types::InputAudio;

/// A file of this many base64 characters is taken for a page.
const PAGE: u64 = 64 * 1024;
/// A page of a document: its text and an image of it. Anthropic names 1,500 to 3,000.
const PER_PAGE: u64 = 1_500;
const MOST_PAGES: u64 = 20;

/// Ten tokens for a second (OpenAI: one for 100 ms of sound that comes in). The length is guessed: 16-bit mono at 16 kHz
/// for what is not compressed, 64 kbit/s for what is.
pub(super) fn audio(sound: &InputAudio) -> u64 {
    let bytes_a_second = if matches!(sound.format.as_str(), "wav" | "pcm16" | "pcm") { 32_000 } else { 8_000 };
    seconds(&sound.data, bytes_a_second)
}

fn seconds(data: &str, bytes_a_second: u64) -> u64 {
    10 * (data.len() as u64 / 4 * 3 / bytes_a_second + 1)
}

/// A part of an unknown kind as text, its base64 taken out, and what that costs.
pub(super) fn without(value: &Value, images: &Images) -> (String, u64) {
    let mut tokens = 0_u64;
    let text = taken_out(value, &mut |data| tokens = tokens.saturating_add(inline(data, images)));
    (text.to_string(), tokens)
}

/// A copy without inline data, which is megabytes.
fn taken_out(value: &Value, found: &mut impl FnMut(&str)) -> Value {
    match value {
        Value::String(text) if is_inline(text) => {
            found(text);
            Value::String(String::new())
        }
        Value::Array(items) => items.iter().map(|item| taken_out(item, found)).collect(),
        Value::Object(fields) => fields.iter().map(|(name, field)| (name.clone(), taken_out(field, found))).collect(),
        _ => value.clone(),
    }
}

/// A data URL, or a long text that begins with nothing but the letters of base64.
fn is_inline(text: &str) -> bool {
    const LONG: usize = 256;
    const LOOKED_AT: usize = 4096;
    let of_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_=\r\n".contains(&byte);
    let names_it = text.starts_with("data:") && text.get(..128).unwrap_or(text).contains(";base64,");
    names_it || text.len() >= LONG && text.bytes().take(LOOKED_AT).all(of_base64)
}

fn inline(data: &str, images: &Images) -> u64 {
    let size = size_of(data);
    if size.is_some() || data.starts_with("data:image/") {
        return images.tokens(size, false);
    }
    if data.starts_with("data:audio/") {
        return seconds(data, 8_000);
    }
    PER_PAGE * (data.len() as u64).div_ceil(PAGE).clamp(1, MOST_PAGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_taken_out_of_whatever_holds_it_and_text_is_left() {
        let data = "QUJD".repeat(300_000);
        let value = serde_json::json!({
            "type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": data},
            "pages": [{"image": format!("data:image/heic;base64,{data}")}],
            "note": "a text of its own",
        });
        let (text, tokens) = without(&value, &Images::COMMON);
        assert!(text.contains("a text of its own") && text.len() < 250, "{text}");
        assert_eq!(tokens, 19 * PER_PAGE + 765);
        let words =
            serde_json::json!({"type": "document", "source": {"type": "text", "data": "some words ".repeat(100)}});
        assert_eq!(without(&words, &Images::COMMON), (words.to_string(), 0));
        let mixed = serde_json::json!([1, null, {"b": ["c", true], "a": 2.5}]);
        assert_eq!(without(&mixed, &Images::COMMON), (mixed.to_string(), 0));
    }

    #[test]
    fn sound_costs_by_its_length() {
        let sound =
            |format: &str| InputAudio { data: "A".repeat(128_000), format: format.into(), extra: Default::default() };
        assert_eq!(audio(&sound("wav")), 40, "three seconds, and the one begun");
        assert_eq!(audio(&sound("mp3")), 130);
    }
}
