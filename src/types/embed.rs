//! Embedding requests and answers in the OpenAI wire shape.

use serde::{Deserialize, Serialize};

use super::message::null_as_default;
use super::{Extensions, Extra, Trace, Usage};
use crate::error::{Error, Result};

/// Texts to embed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EmbedRequest {
    /// The embedding model.
    pub model: String,
    /// What to embed.
    pub input: EmbedInput,
    /// How many dimensions, where the model lets one choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u32>,
    /// `float` or `base64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding_format: Option<String>,
    /// The end user, for abuse monitoring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Every other field, sent as it is.
    #[serde(flatten)]
    pub extra: Extra,
    /// Controls that travel with the call, never on the wire.
    #[serde(skip)]
    pub extensions: Extensions,
}

/// One text, several, or token ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EmbedInput {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// One text as token ids.
    Tokens(Vec<u32>),
    /// Several texts as token ids.
    TokenLists(Vec<Vec<u32>>),
}

impl EmbedInput {
    /// How many vectors are asked for.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(_) | Self::Tokens(_) => 1,
            Self::Texts(texts) => texts.len(),
            Self::TokenLists(lists) => lists.len(),
        }
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One input of an [`EmbedInput`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EmbedItem<'a> {
    /// A text.
    Text(&'a str),
    /// A text as token ids.
    Tokens(&'a [u32]),
}

impl EmbedInput {
    /// Its inputs, in their order.
    pub fn items(&self) -> Vec<EmbedItem<'_>> {
        match self {
            Self::Text(text) => vec![EmbedItem::Text(text)],
            Self::Tokens(tokens) => vec![EmbedItem::Tokens(tokens)],
            Self::Texts(texts) => texts.iter().map(|text| EmbedItem::Text(text)).collect(),
            Self::TokenLists(lists) => lists.iter().map(|tokens| EmbedItem::Tokens(tokens)).collect(),
        }
    }
}

impl EmbedRequest {
    /// Several texts for one model.
    pub fn new<T: Into<String>>(model: impl Into<String>, texts: impl IntoIterator<Item = T>) -> Self {
        Self {
            model: model.into(),
            input: EmbedInput::Texts(texts.into_iter().map(Into::into).collect()),
            dimensions: None,
            encoding_format: None,
            user: None,
            extra: Extra::new(),
            extensions: Extensions::new(),
        }
    }

    /// Sets a per-call control, such as [`Priority`](super::Priority).
    #[must_use]
    pub fn with<T: std::any::Any + Send + Sync>(mut self, control: T) -> Self {
        self.extensions.insert(control);
        self
    }

    /// Refuses a request without a model or without input.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest), naming the field.
    pub fn check(&self) -> Result<()> {
        if self.model.is_empty() {
            return Err(Error::invalid("request", "model", "\"\"", "name the embedding model"));
        }
        if self.input.is_empty() {
            return Err(Error::invalid("request", "input", "[]", "give at least one text to embed"));
        }
        Ok(())
    }
}

/// Vectors, in the order of the input.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct EmbedResponse {
    /// `list`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub object: String,
    /// One vector per input; `index` says which.
    #[serde(default, deserialize_with = "null_as_default")]
    pub data: Vec<Embedding>,
    /// The model that answered.
    #[serde(default, deserialize_with = "null_as_default")]
    pub model: String,
    /// What it used, if the provider said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
    /// What happened on its way, never on the wire.
    #[serde(skip)]
    pub trace: Trace,
}

/// One vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Embedding {
    /// Which input it belongs to.
    #[serde(default, deserialize_with = "null_as_default")]
    pub index: usize,
    /// The vector.
    pub embedding: Vector,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A vector in the form that was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Vector {
    /// Numbers.
    Floats(Vec<f32>),
    /// Little-endian 32-bit floats in base64.
    Base64(String),
}
