//! Embeddings that mean something: texts that share words are near.

use twox_hash::XxHash3_64;

/// The unit vector of a text: the sum of a fixed random direction per word, so the cosine of two texts grows with the
/// words they share. Case and punctuation do not count.
pub(super) fn embed(seed: u64, text: &str, dimensions: usize) -> Vec<f32> {
    let mut sum = vec![0.0_f32; dimensions];
    let mut words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).peekable();
    if words.peek().is_none() {
        add(&mut sum, seed, text);
    }
    for word in words {
        add(&mut sum, seed, &word.to_lowercase());
    }
    let length = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        sum.iter_mut().for_each(|value| *value /= length);
    } else if let Some(first) = sum.first_mut() {
        // Words that cancel out exactly, which takes very few dimensions.
        *first = 1.0;
    }
    sum
}

fn add(sum: &mut [f32], seed: u64, word: &str) {
    let mut random = fastrand::Rng::with_seed(XxHash3_64::oneshot_with_seed(seed, word.as_bytes()));
    for value in sum {
        *value += random.f32() * 2.0 - 1.0;
    }
}

/// Little-endian 32-bit floats in base64, as `encoding_format: base64` asks.
pub(super) fn base64(vector: &[f32]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, at| bits << 8 | group.get(at).map_or(0, |byte| usize::from(*byte)));
        for at in 0..4 {
            let letter = ALPHABET.get(bits >> (18 - 6 * at) & 63).map_or('A', |byte| char::from(*byte));
            text.push(if at <= group.len() { letter } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(left: &str, right: &str) -> f32 {
        embed(1, left, 64).iter().zip(embed(1, right, 64)).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn texts_that_share_words_are_near() {
        assert!(cosine("Why is the sky blue?", "why is the sky so blue") > 0.8);
        assert!(cosine("Why is the sky blue?", "How do I bake sourdough bread") < 0.4);
        for text in ["", "?!", "one", "a a a"] {
            assert!((cosine(text, text) - 1.0).abs() < 1e-5, "{text:?} has a unit vector");
        }
    }

    #[test]
    fn base64_is_the_standard_one() {
        assert_eq!(base64(&[1.0]), "AACAPw==");
        assert_eq!(base64(&[1.0, -2.5]), "AACAPwAAIMA=");
        assert_eq!(base64(&[1.0, -2.5, 0.0]), "AACAPwAAIMAAAAAA");
    }
}
