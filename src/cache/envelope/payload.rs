//! What an envelope carries: an entry's JSON, pressed with lz4 when it is long.

use super::header::LZ4;
use super::{MAX_ENVELOPE, Refused};
use crate::cache::wire::{self, MAX_JSON, Parsed, Unfit};

/// A payload is at most so long when it is unpacked.
pub(super) const MAX_DECODED: usize = MAX_JSON;
/// lz4 cannot press better than this: a header that claims more lies, and nothing is allocated for it. A tighter limit
/// would refuse honest answers: the chunks of a stream repeat their frame word for word.
const MAX_RATIO: usize = 255;
/// Shorter payloads are left as they are: pressing them saves less than it costs.
const PRESS_ABOVE: usize = 1024;

impl From<Unfit> for Refused {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::TooLarge => Self::TooLarge,
            Unfit::TooDeep => Self::TooDeep,
            Unfit::Payload => Self::Payload,
        }
    }
}

/// Appends the JSON of a payload; its flags, and its length before it was pressed.
pub(super) fn write(out: &mut Vec<u8>, json: &[u8]) -> Result<(u8, u32), Refused> {
    let decoded = json.len() as u32;
    if json.len() > PRESS_ABOVE {
        let start = out.len();
        out.resize(start + lz4_flex::block::get_maximum_output_size(json.len()), 0);
        let pressed = lz4_flex::block::compress_into(json, &mut out[start..]).unwrap_or(usize::MAX);
        if pressed < json.len() {
            out.truncate(start + pressed);
            return Ok((LZ4, decoded));
        }
        out.truncate(start);
    }
    if json.len() > MAX_ENVELOPE {
        return Err(Refused::TooLarge);
    }
    out.extend_from_slice(json);
    Ok((0, decoded))
}

pub(super) fn read(stored: &[u8], pressed: bool, decoded: usize) -> Result<Parsed, Refused> {
    if !pressed {
        return if stored.len() == decoded { Ok(wire::parse(stored)?) } else { Err(Refused::Payload) };
    }
    if decoded > MAX_DECODED || decoded > stored.len().saturating_mul(MAX_RATIO) {
        return Err(Refused::TooLarge);
    }
    let mut json = vec![0; decoded];
    match lz4_flex::block::decompress_into(stored, &mut json) {
        Ok(length) if length == decoded => Ok(wire::parse(&json)?),
        _ => Err(Refused::Payload),
    }
}
