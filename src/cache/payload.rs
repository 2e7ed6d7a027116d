//! What an entry holds.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::types::{ChatChunk, ChatCompletion, Embedding, Extra, Vector, extra_weight};

/// What an entry holds. Cloning shares it.
#[derive(Clone)]
#[non_exhaustive]
pub enum Payload {
    /// An answer, with the chunks it came in if it was streamed. It serves calls and streams alike.
    Chat {
        /// The whole answer.
        completion: Arc<ChatCompletion>,
        /// The chunks as they came; none when it was not streamed.
        chunks: Arc<[Arc<ChatChunk>]>,
    },
    /// The vector of one text.
    Vector(Arc<StoredVector>),
    /// A value of the user's own.
    Value(Arc<StoredValue>),
    /// A failure that is remembered for a while. It never leaves the process.
    Failure(Error),
}

/// The vector of one text, and what came with it.
#[derive(Clone, PartialEq)]
pub struct StoredVector {
    /// The vector as it came; its index means nothing here.
    pub embedding: Embedding,
    /// The model that answered.
    pub model: String,
    /// Input tokens it took; its share of the batch it came in.
    pub tokens: u64,
    /// Fields of the answer this crate does not know.
    pub extra: Extra,
}

/// A value of the user's own: JSON, and the value itself once somebody has asked for it.
pub struct StoredValue {
    json: Box<[u8]>,
    typed: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl StoredValue {
    /// Of this value.
    ///
    /// # Errors
    /// What serde says when it cannot be written as JSON.
    pub fn new<T: Serialize + Send + Sync + 'static>(value: &Arc<T>) -> Result<Self, serde_json::Error> {
        let stored = Self::from_json(serde_json::to_vec(&**value)?);
        let _ = stored.typed.set(Arc::clone(value) as Arc<dyn Any + Send + Sync>);
        Ok(stored)
    }

    /// Of this JSON; whether it is valid shows when it is asked for.
    pub fn from_json(json: impl Into<Box<[u8]>>) -> Self {
        Self { json: json.into(), typed: OnceLock::new() }
    }

    /// The JSON.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The value; none when it is not of this type. It is parsed once.
    pub fn get<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        if let Some(typed) = self.typed.get()
            && let Ok(value) = Arc::clone(typed).downcast::<T>()
        {
            return Some(value);
        }
        let value = Arc::new(serde_json::from_slice::<T>(&self.json).ok()?);
        let _ = self.typed.set(Arc::clone(&value) as Arc<dyn Any + Send + Sync>);
        Some(value)
    }
}

impl fmt::Debug for StoredValue {
    // What it is may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredValue").field("bytes", &self.json.len()).finish_non_exhaustive()
    }
}

impl Payload {
    /// About how many bytes of memory it takes: its texts, log probabilities and unknown fields, twice if it was
    /// streamed, and fixed parts.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Chat { completion, chunks } => completion.weight(chunks.len()),
            Self::Vector(stored) => {
                let vector = match &stored.embedding.embedding {
                    Vector::Floats(floats) => floats.len() * size_of::<f32>(),
                    Vector::Base64(text) => text.len(),
                };
                256 + vector + stored.model.len() + extra_weight(&stored.extra) + extra_weight(&stored.embedding.extra)
            }
            // Parsed, it takes about as much again.
            Self::Value(value) => 128 + 2 * value.json.len(),
            Self::Failure(_) => 512,
        }
    }
}

impl fmt::Debug for StoredVector {
    // A vector tells its text to who has the model, and unknown fields may be anything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredVector").field("model", &self.model).field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl fmt::Debug for Payload {
    // Answers may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chat { .. } => "Chat",
            Self::Vector(_) => "Vector",
            Self::Value(_) => "Value",
            Self::Failure(_) => "Failure",
        })
    }
}
