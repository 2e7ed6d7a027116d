//! How large an image is, from the head of its data.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// A cut-out of base64 is not padded as a whole is.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Width and height in pixels of a PNG, JPEG, GIF or WebP in a data URL or in bare base64. Only the bytes that tell are
/// decoded: a few dozen, and of a JPEG 12 for each segment before its frame, at most 64 of them.
pub(in crate::tokens) fn size_of(url: &str) -> Option<(u64, u64)> {
    let data = match url.strip_prefix("data:") {
        Some(rest) => rest.split_once(";base64,")?.1,
        None if url.bytes().take(16).any(|byte| byte == b':') => return None,
        None => url,
    };
    let data = Base64(data.as_bytes());
    let head: [u8; 12] = data.read(0)?;
    match head {
        [0x89, b'P', b'N', b'G', ..] => png(&data),
        [0xff, 0xd8, ..] => jpeg(&data),
        [b'G', b'I', b'F', b'8', _, _, w0, w1, h0, h1, ..] => Some((little(&[w0, w1]), little(&[h0, h1]))),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P'] => webp(&data),
        _ => None,
    }
}

struct Base64<'a>(&'a [u8]);

impl Base64<'_> {
    /// The decoded bytes from `at` on: 12 at most.
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let (first, last) = (at / 3, at.checked_add(N)?.div_ceil(3));
        let groups = self.0.get(first.checked_mul(4)?..last.checked_mul(4)?.min(self.0.len()))?;
        let mut decoded = [0; 24];
        let length = LENIENT.decode_slice(groups, &mut decoded).ok()?;
        decoded.get(..length)?.get(at % 3..at % 3 + N)?.try_into().ok()
    }
}

fn big(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn png(data: &Base64<'_>) -> Option<(u64, u64)> {
    Some((big(&data.read::<4>(16)?), big(&data.read::<4>(20)?)))
}

fn jpeg(data: &Base64<'_>) -> Option<(u64, u64)> {
    const SEGMENTS: usize = 64;
    let mut at = 2;
    for _ in 0..SEGMENTS {
        let [mark, kind, l0, l1, _, h0, h1, w0, w1] = data.read::<9>(at)?;
        if mark != 0xff {
            return None;
        }
        match kind {
            // Fill bytes.
            0xff => at += 1,
            // The start of a frame, of whatever coding; c4, c8 and cc are something else.
            0xc0..=0xcf if !matches!(kind, 0xc4 | 0xc8 | 0xcc) => return Some((big(&[w0, w1]), big(&[h0, h1]))),
            _ => at += 2 + usize::from(u16::from_be_bytes([l0, l1])),
        }
    }
    None
}

fn webp(data: &Base64<'_>) -> Option<(u64, u64)> {
    match &data.read::<4>(12)? {
        b"VP8 " => {
            const SIZE: u64 = 0x3fff;
            let [w0, w1, h0, h1] = data.read(26)?;
            Some((little(&[w0, w1]) & SIZE, little(&[h0, h1]) & SIZE))
        }
        b"VP8L" => {
            let bits = little(&data.read::<4>(21)?);
            Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
        }
        b"VP8X" => Some((little(&data.read::<3>(24)?) + 1, little(&data.read::<3>(27)?) + 1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(bytes: &[u8]) -> String {
        let mut whole = bytes.to_vec();
        whole.extend([0; 64]);
        format!("data:image/any;base64,{}", base64::engine::general_purpose::STANDARD.encode(whole))
    }

    #[test]
    fn the_head_of_an_image_tells_its_size() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x02\x80\0\0\x01\xe0";
        assert_eq!(size_of(&url(png)), Some((640, 480)));
        assert_eq!(size_of(&url(b"GIF89a\x80\x02\xe0\x01")), Some((640, 480)));
        assert_eq!(size_of(&url(b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a\x80\x02\xe0\x01")), Some((640, 480)));
        assert_eq!(size_of(&url(b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f\x7f\xc2\x77\0")), Some((640, 480)));
        assert_eq!(size_of(&url(b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0\x7f\x02\0\xdf\x01\0")), Some((640, 480)));
        // A JPEG with 60 KB of somebody's notes before its frame.
        let mut jpeg = b"\xff\xd8\xff\xe1\xea\x60".to_vec();
        jpeg.extend(vec![0xab; 60_000 - 2]);
        jpeg.extend(b"\xff\xc2\0\x11\x08\x01\xe0\x02\x80\x03");
        assert_eq!(size_of(&url(&jpeg)), Some((640, 480)));
    }

    #[test]
    fn what_is_no_image_has_no_size() {
        for text in [
            "",
            "data:",
            "data:image/png;base64,",
            "data:image/png;base64,!!!!",
            "https://example.org/a.png",
            "iVBOR",
            "é",
        ] {
            assert_eq!(size_of(text), None, "{text}");
        }
        assert_eq!(size_of(&url(b"\xff\xd8\xff\xe1\0\0")), None, "a segment that leads nowhere");
        let heads: [&[u8]; 4] = [b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF\0\0\0\0WEBPVP8 "];
        for head in heads {
            let text = base64::engine::general_purpose::STANDARD.encode(head);
            assert_eq!(size_of(&text), None);
        }
    }
}
