//! Messages in the OpenAI chat wire shape: roles, text and media parts, tool calls and their results.

use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::open_enum::open_enum;

/// Fields this version does not know, kept as they came so that they survive a round trip.
pub type Extra = serde_json::Map<String, serde_json::Value>;

open_enum! {
    /// Who speaks.
    Role {
        /// Instructions.
        System = "system",
        /// Instructions, as newer OpenAI models call them.
        Developer = "developer",
        /// The person asking.
        User = "user",
        /// The model.
        Assistant = "assistant",
        /// A tool's result.
        Tool = "tool",
        /// A function's result, in the oldest form of tools.
        Function = "function",
    }
}

impl Role {
    /// Whether this role gives instructions (`system` or `developer`).
    pub fn is_instruction(&self) -> bool {
        matches!(self, Self::System | Self::Developer)
    }
}

/// What a message says: plain text, or parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Text and media, in order.
    Parts(Vec<Part>),
}

/// One part of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// Text.
    Text {
        /// The text.
        text: String,
        /// Unknown fields, such as `cache_control`.
        #[serde(flatten)]
        extra: Extra,
    },
    /// An image, by address or inline as a data URL.
    ImageUrl {
        /// Where it is and how closely to look.
        image_url: ImageUrl,
        /// Unknown fields.
        #[serde(flatten)]
        extra: Extra,
    },
    /// Sound, inline.
    InputAudio {
        /// The sound.
        input_audio: InputAudio,
        /// Unknown fields.
        #[serde(flatten)]
        extra: Extra,
    },
    /// A part this version does not know, kept whole.
    #[serde(untagged)]
    Other(serde_json::Value),
}

impl Part {
    /// A text part.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into(), extra: Extra::new() }
    }

    /// An image part by URL (`https:` or `data:`).
    pub fn image(url: impl Into<String>) -> Self {
        let image_url = ImageUrl { url: url.into(), detail: None, extra: Extra::new() };
        Self::ImageUrl { image_url, extra: Extra::new() }
    }
}

/// An image reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageUrl {
    /// `https:` address or `data:` URL.
    pub url: String,
    /// How closely to look; the provider's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<ImageDetail>,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

open_enum! {
    /// How closely the model looks at an image.
    ImageDetail {
        /// The model decides.
        Auto = "auto",
        /// One small tile.
        Low = "low",
        /// All tiles.
        High = "high",
    }
}

/// Inline sound.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputAudio {
    /// Base64 data.
    pub data: String,
    /// `wav`, `mp3`, …
    pub format: String,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A tool call the model asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The id its result must carry.
    #[serde(default, deserialize_with = "null_as_default")]
    pub id: String,
    /// `function` today.
    #[serde(rename = "type", default = "function_type", deserialize_with = "null_as_function")]
    pub kind: String,
    /// What to call.
    #[serde(default, deserialize_with = "null_as_default")]
    pub function: FunctionCall,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

fn function_type() -> String {
    "function".to_owned()
}

fn null_as_function<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(function_type))
}

/// A function's name and its arguments as the model wrote them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// The function.
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: String,
    /// JSON text, which models get wrong at times: not parsed here.
    #[serde(default, deserialize_with = "null_as_default")]
    pub arguments: String,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; absent on an assistant message that only calls tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// The participant's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Tools the assistant wants called.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub tool_calls: Vec<ToolCall>,
    /// Which call this `tool` message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Why the model refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Unknown fields, such as `reasoning_content`.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Some endpoints write `null` for what they have nothing to say about; that is no reason to refuse an answer.
pub(super) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Message {
    /// A message of plain text.
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Self { content: Some(Content::Text(text.into())), ..Self::empty(role) }
    }

    /// A message that says nothing yet.
    pub fn empty(role: Role) -> Self {
        Self {
            role,
            content: None,
            name: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            refusal: None,
            extra: Extra::new(),
        }
    }

    /// Instructions.
    pub fn system(text: impl Into<String>) -> Self {
        Self::new(Role::System, text)
    }

    /// A question.
    pub fn user(text: impl Into<String>) -> Self {
        Self::new(Role::User, text)
    }

    /// An earlier answer.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new(Role::Assistant, text)
    }

    /// A tool's result.
    pub fn tool(call_id: impl Into<String>, text: impl Into<String>) -> Self {
        Self { tool_call_id: Some(call_id.into()), ..Self::new(Role::Tool, text) }
    }

    /// The pieces of text, in order, without media.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let (whole, parts) = match &self.content {
            Some(Content::Text(text)) => (Some(text.as_str()), &[][..]),
            Some(Content::Parts(parts)) => (None, parts.as_slice()),
            None => (None, &[][..]),
        };
        whole.into_iter().chain(parts.iter().filter_map(|part| match part {
            Part::Text { text, .. } => Some(text.as_str()),
            _ => None,
        }))
    }

    /// All its text as one string.
    pub fn text(&self) -> String {
        self.texts().collect()
    }
}

/// A conversation. Cloning is one reference count, and so is keeping a message while others are dropped; the first
/// change to a shared list copies the list of references, never the messages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Messages(Arc<Vec<Arc<Message>>>);

impl Messages {
    /// An empty conversation.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a message at the end.
    pub fn push(&mut self, message: impl Into<Arc<Message>>) {
        Arc::make_mut(&mut self.0).push(message.into());
    }

    /// The messages, to replace or reorder.
    pub fn make_mut(&mut self) -> &mut Vec<Arc<Message>> {
        Arc::make_mut(&mut self.0)
    }

    /// Whether both are the very same list in memory.
    pub fn ptr_eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Deref for Messages {
    type Target = [Arc<Message>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<M: Into<Arc<Message>>> FromIterator<M> for Messages {
    fn from_iter<I: IntoIterator<Item = M>>(iter: I) -> Self {
        Self(Arc::new(iter.into_iter().map(Into::into).collect()))
    }
}

impl From<Vec<Message>> for Messages {
    fn from(messages: Vec<Message>) -> Self {
        messages.into_iter().collect()
    }
}

impl Serialize for Messages {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|message| &**message))
    }
}

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<Message>::deserialize(deserializer).map(Self::from)
    }
}
