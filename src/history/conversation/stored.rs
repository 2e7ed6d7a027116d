//! A conversation as it is stored: JSON, with a version.

use std::collections::HashMap;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{Active, Conversation};
use crate::history::Carry;
use crate::history::sent::Slot;
use crate::types::{ChatBody, ChatRequest, Message, Messages};

/// Of the stored form. An older reader refuses a newer one: it would lose what it does not know.
const VERSION: u64 = 2;
/// Of the form before, which has no note. It is still read.
const WITHOUT_NOTE: u64 = 1;

#[derive(Serialize)]
struct Written<'a> {
    version: u64,
    template: &'a ChatBody,
    messages: Messages,
    kept: Vec<Piece<&'a Message>>,
    upto: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a Value>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    summarized: bool,
}

#[derive(Deserialize)]
struct Read {
    template: ChatBody,
    messages: Vec<Message>,
    kept: Vec<Piece<Message>>,
    upto: usize,
    #[serde(default)]
    note: Value,
    #[serde(default)]
    summarized: bool,
}

/// What was kept: messages of the log, from this position up to that one, or one of the policy's own making.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Piece<M> {
    Log(usize, usize),
    Own(M),
}

impl Serialize for Conversation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Active { messages: active, upto, carry } = self.now();
        let kept = active.len().saturating_sub(self.log.len().saturating_sub(upto));
        let written = Written {
            version: VERSION,
            template: self.template.body(),
            messages: self.log.iter().cloned().collect(),
            kept: pieces(&self.log, active.get(..kept).unwrap_or_default()),
            upto,
            note: carry.as_ref().map(|carry| &carry.note).filter(|note| !note.is_null()),
            summarized: carry.as_ref().is_some_and(|carry| carry.summarized),
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Conversation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Read as it stands first: what another version wrote need not have this one's fields.
        let value = Value::deserialize(deserializer)?;
        match value.get("version").and_then(Value::as_u64) {
            Some(VERSION | WITHOUT_NOTE) => {}
            Some(other) => {
                let text = format!("a conversation stored in form {other}; this version reads forms 1 to {VERSION}");
                return Err(D::Error::custom(text));
            }
            None => return Err(D::Error::custom("this is no stored conversation: it says no version")),
        }
        let Read { mut template, messages, kept, upto, note, summarized } =
            serde_json::from_value(value).map_err(D::Error::custom)?;
        template.messages = Messages::new();
        let log: Vec<Arc<Message>> = messages.into_iter().map(Arc::new).collect();
        let damaged = || D::Error::custom("a stored conversation that is damaged: it points past its own log");
        // A few bytes can name the whole log, so that a small text would take any amount of memory.
        let of_log =
            kept.iter().map(|piece| if let Piece::Log(start, end) = piece { end.saturating_sub(*start) } else { 0 });
        if of_log.fold(0, usize::saturating_add) > log.len() {
            return Err(D::Error::custom("a stored conversation that is damaged: it keeps more than was said"));
        }
        let mut carried = Vec::new();
        for piece in kept {
            match piece {
                Piece::Log(start, end) => carried.extend_from_slice(log.get(start..end).ok_or_else(damaged)?),
                Piece::Own(message) => carried.push(Arc::new(message)),
            }
        }
        let since = log.get(upto..).ok_or_else(damaged)?;
        let messages = carried.iter().chain(since).cloned().collect();
        let carry = Carry { summarized, ..Carry::of(carried.into_iter().collect()).noted(note) };
        let active = Active { messages, upto, carry: Some(Arc::new(carry)) };
        Ok(Self { template: ChatRequest::from(template), log, active, slot: Slot::default() })
    }
}

/// These messages, those that stand in the log by their position.
fn pieces<'a>(log: &[Arc<Message>], kept: &'a [Arc<Message>]) -> Vec<Piece<&'a Message>> {
    if kept.is_empty() {
        return Vec::new();
    }
    let positions: HashMap<_, _> = log.iter().map(Arc::as_ptr).zip(0..).collect();
    let mut pieces = Vec::new();
    for message in kept {
        match (positions.get(&Arc::as_ptr(message)), pieces.last_mut()) {
            (Some(at), Some(Piece::Log(_, end))) if *end == *at => *end += 1,
            (Some(at), _) => pieces.push(Piece::Log(*at, *at + 1)),
            (None, _) => pieces.push(Piece::Own(&**message)),
        }
    }
    pieces
}
