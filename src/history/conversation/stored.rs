//! A conversation as it is stored: JSON, with a version.

use std::collections::HashMap;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::Conversation;
use crate::history::sent::Slot;
use crate::types::{ChatBody, ChatRequest, Message, Messages};

/// Of the stored form. An older reader refuses a newer one: it would lose what it does not know.
const VERSION: u64 = 1;

#[derive(Serialize)]
struct Written<'a> {
    version: u64,
    template: &'a ChatBody,
    messages: Messages,
    kept: Vec<Piece<&'a Message>>,
    upto: usize,
}

#[derive(Deserialize)]
struct Read {
    template: ChatBody,
    messages: Vec<Message>,
    kept: Vec<Piece<Message>>,
    upto: usize,
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
        let (active, upto) = self.now();
        let kept = active.len().saturating_sub(self.log.len().saturating_sub(upto));
        let written = Written {
            version: VERSION,
            template: self.template.body(),
            messages: self.log.iter().cloned().collect(),
            kept: pieces(&self.log, active.get(..kept).unwrap_or_default()),
            upto,
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Conversation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Read as it stands first: what another version wrote need not have this one's fields.
        let value = Value::deserialize(deserializer)?;
        match value.get("version").and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(other) => {
                let text = format!("a conversation stored in form {other}; this version reads form {VERSION}");
                return Err(D::Error::custom(text));
            }
            None => return Err(D::Error::custom("this is no stored conversation: it says no version")),
        }
        let Read { mut template, messages, kept, upto } = serde_json::from_value(value).map_err(D::Error::custom)?;
        template.messages = Messages::new();
        let log: Vec<Arc<Message>> = messages.into_iter().map(Arc::new).collect();
        let damaged = || D::Error::custom("a stored conversation that is damaged: it points past its own log");
        let mut active = Vec::new();
        for piece in kept {
            match piece {
                Piece::Log(start, end) => active.extend_from_slice(log.get(start..end).ok_or_else(damaged)?),
                Piece::Own(message) => active.push(Arc::new(message)),
            }
        }
        active.extend_from_slice(log.get(upto..).ok_or_else(damaged)?);
        let active = active.into_iter().collect();
        Ok(Self { template: ChatRequest::from(template), log, active, upto, slot: Slot::default() })
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
