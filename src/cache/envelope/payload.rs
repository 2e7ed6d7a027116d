//! What an envelope carries: the answer, its chunks and its cost, as JSON, pressed with lz4 when it is long.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::header::{HEADER, LZ4};
use super::{Entry, MAX_ENVELOPE, Refused};
use crate::types::{ChatChunk, ChatCompletion, Cost};

/// A payload is at most so long when it is unpacked.
pub(super) const MAX_DECODED: usize = 16 << 20;
/// lz4 cannot press better than this: a header that claims more lies, and nothing is allocated for it. A tighter limit
/// would refuse honest answers: the chunks of a stream repeat their frame word for word.
const MAX_RATIO: usize = 255;
/// Shorter payloads are left as they are: pressing them saves less than it costs.
const PRESS_ABOVE: usize = 1024;

/// The parts of an entry that its request does not tell.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) completion: Arc<ChatCompletion>,
    pub(super) chunks: Arc<[Arc<ChatChunk>]>,
    pub(super) cost: Option<Cost>,
}

#[derive(Serialize)]
struct WireOut<'a> {
    completion: &'a ChatCompletion,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    chunks: &'a [&'a ChatChunk],
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireIn {
    completion: ChatCompletion,
    #[serde(default)]
    chunks: Vec<ChatChunk>,
    #[serde(default)]
    cost: Option<u64>,
}

/// Appends the payload of this entry; its flags, and its length before it was pressed.
pub(super) fn write(out: &mut Vec<u8>, entry: &Entry) -> Result<(u8, u32), Refused> {
    let chunks: Vec<_> = entry.streamed().iter().map(|chunk| &**chunk).collect();
    let wire = WireOut { completion: entry.completion(), chunks: &chunks, cost: entry.cost().map(Cost::picos) };
    let mut json = Limited(Vec::with_capacity(PRESS_ABOVE));
    serde_json::to_writer(&mut json, &wire)
        .map_err(|error| if error.is_io() { Refused::TooLarge } else { Refused::Payload })?;
    let json = json.0;
    if is_deep(&json) {
        return Err(Refused::TooDeep);
    }
    let decoded = json.len() as u32;
    if json.len() > PRESS_ABOVE {
        out.resize(HEADER + lz4_flex::block::get_maximum_output_size(json.len()), 0);
        let pressed = lz4_flex::block::compress_into(&json, &mut out[HEADER..]).unwrap_or(usize::MAX);
        if pressed < json.len() {
            out.truncate(HEADER + pressed);
            return Ok((LZ4, decoded));
        }
        out.truncate(HEADER);
    }
    if json.len() > MAX_ENVELOPE {
        return Err(Refused::TooLarge);
    }
    out.extend_from_slice(&json);
    Ok((0, decoded))
}

pub(super) fn read(stored: &[u8], pressed: bool, decoded: usize) -> Result<Payload, Refused> {
    if !pressed {
        return if stored.len() == decoded { parse(stored) } else { Err(Refused::Payload) };
    }
    if decoded > MAX_DECODED || decoded > stored.len().saturating_mul(MAX_RATIO) {
        return Err(Refused::TooLarge);
    }
    let mut json = vec![0; decoded];
    match lz4_flex::block::decompress_into(stored, &mut json) {
        Ok(length) if length == decoded => parse(&json),
        _ => Err(Refused::Payload),
    }
}

fn parse(json: &[u8]) -> Result<Payload, Refused> {
    let wire: WireIn =
        serde_json::from_slice(json).map_err(|_| if is_deep(json) { Refused::TooDeep } else { Refused::Payload })?;
    Ok(Payload {
        completion: Arc::new(wire.completion),
        chunks: wire.chunks.into_iter().map(Arc::new).collect(),
        cost: wire.cost.map(Cost::from_picos),
    })
}

/// Whether this JSON nests as deep as `serde_json` does not read: 128 and more.
fn is_deep(json: &[u8]) -> bool {
    const LIMIT: usize = 128;
    // Strings may hold brackets, so they are left out; but when there are few brackets in all, there is nothing to count.
    if memchr::memchr2_iter(b'{', b'[', json).nth(LIMIT - 1).is_none() {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth >= LIMIT {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Takes no more than a payload may have, so that an endless answer is not written out in full first.
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_DECODED {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
