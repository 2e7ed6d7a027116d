//! What an entry holds as JSON, for whatever leaves the process: the payload, what it cost and how long it took.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::payload::{Payload, StoredValue, StoredVector};
use crate::types::{ChatChunk, ChatCompletion, Cost, Embedding, Extra, Vector};

/// A payload's JSON is at most so long.
pub(super) const MAX_JSON: usize = 16 << 20;

/// The parts of an entry that its request does not tell.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) payload: Payload,
    pub(super) cost: Option<Cost>,
    pub(super) took_ms: u64,
}

/// Why something cannot be written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Longer than [`MAX_JSON`].
    TooLarge,
    /// Its JSON nests 128 levels or more: it could not be read back.
    TooDeep,
    /// No answer, vector or value; a failure is remembered by the process that saw it.
    Payload,
}

#[derive(Serialize)]
struct WireOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    completion: Option<&'a ChatCompletion>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    chunks: &'a [&'a ChatChunk],
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<WireVector<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    took: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireIn<'a> {
    #[serde(default)]
    completion: Option<ChatCompletion>,
    #[serde(default)]
    chunks: Vec<ChatChunk>,
    #[serde(default)]
    vector: Option<WireVector<'static>>,
    #[serde(default, borrow)]
    value: Option<&'a RawValue>,
    #[serde(default)]
    cost: Option<u64>,
    #[serde(default)]
    took: u64,
}

/// A vector: numbers as little-endian bytes in base64, a third of their length as JSON and exact to the bit.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireVector<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    floats: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<Cow<'a, str>>,
    model: Cow<'a, str>,
    #[serde(default)]
    tokens: u64,
    #[serde(default, skip_serializing_if = "is_empty")]
    extra: Cow<'a, Extra>,
    #[serde(default, skip_serializing_if = "is_empty")]
    inner: Cow<'a, Extra>,
}

fn is_empty(extra: &Extra) -> bool {
    extra.is_empty()
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl<'a> WireVector<'a> {
    fn of(stored: &'a StoredVector) -> Self {
        let StoredVector { embedding: Embedding { index: _, embedding, extra: inner }, model, tokens, extra } = stored;
        let (floats, base64) = match embedding {
            Vector::Floats(floats) => {
                let bytes: Vec<u8> = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
                (Some(STANDARD.encode(bytes)), None)
            }
            Vector::Base64(text) => (None, Some(Cow::from(text))),
        };
        Self {
            floats,
            base64,
            model: Cow::from(model),
            tokens: *tokens,
            extra: Cow::Borrowed(extra),
            inner: Cow::Borrowed(inner),
        }
    }

    fn parse(self) -> Option<StoredVector> {
        let vector = match (self.floats, self.base64) {
            (Some(text), None) => {
                let bytes = STANDARD.decode(text).ok()?;
                let (numbers, rest) = bytes.as_chunks();
                if !rest.is_empty() {
                    return None;
                }
                Vector::Floats(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
            }
            (None, Some(text)) => Vector::Base64(text.into_owned()),
            _ => return None,
        };
        let embedding = Embedding { index: 0, embedding: vector, extra: self.inner.into_owned() };
        let (model, extra) = (self.model.into_owned(), self.extra.into_owned());
        Some(StoredVector { embedding, model, tokens: self.tokens, extra })
    }
}

/// What an entry holds as JSON.
pub(super) fn write(payload: &Payload, cost: Option<Cost>, took: Duration) -> Result<Vec<u8>, Unfit> {
    let cost = cost.map(Cost::picos);
    let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let streamed: Vec<_>;
    let mut wire = WireOut { completion: None, chunks: &[], vector: None, value: None, cost, took };
    match payload {
        Payload::Chat { completion, chunks } => {
            streamed = chunks.iter().map(|chunk| &**chunk).collect();
            (wire.completion, wire.chunks) = (Some(&**completion), &streamed);
        }
        Payload::Vector(stored) => wire.vector = Some(WireVector::of(stored)),
        Payload::Value(value) => {
            wire.value = Some(serde_json::from_slice(value.json()).map_err(|_| Unfit::Payload)?);
        }
        // Failures are remembered by the process that saw them.
        Payload::Failure(_) => return Err(Unfit::Payload),
    }
    let mut json = Limited(Vec::with_capacity(1024));
    serde_json::to_writer(&mut json, &wire)
        .map_err(|error| if error.is_io() { Unfit::TooLarge } else { Unfit::Payload })?;
    if is_deep(&json.0) { Err(Unfit::TooDeep) } else { Ok(json.0) }
}

/// What [`write`] wrote.
pub(super) fn parse(json: &[u8]) -> Result<Parsed, Unfit> {
    let wire: WireIn<'_> =
        serde_json::from_slice(json).map_err(|_| if is_deep(json) { Unfit::TooDeep } else { Unfit::Payload })?;
    let payload = match (wire.completion, wire.vector, wire.value) {
        (Some(completion), None, None) => {
            Payload::Chat { completion: Arc::new(completion), chunks: wire.chunks.into_iter().map(Arc::new).collect() }
        }
        (None, Some(vector), None) => Payload::Vector(Arc::new(vector.parse().ok_or(Unfit::Payload)?)),
        (None, None, Some(_)) if is_deep(json) => return Err(Unfit::TooDeep),
        (None, None, Some(value)) => Payload::Value(Arc::new(StoredValue::from_json(value.get().as_bytes()))),
        _ => return Err(Unfit::Payload),
    };
    Ok(Parsed { payload, cost: wire.cost.map(Cost::from_picos), took_ms: wire.took })
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
        if self.0.len() + bytes.len() > MAX_JSON {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
