//! Chunks of a streamed answer in the OpenAI wire shape.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::types::message::null_as_default;
use crate::types::{ChatCompletion, Extra, FinishReason, Role, Usage};

/// One chunk as the provider sent it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatChunk {
    /// The provider's id, the same in all chunks of an answer.
    #[serde(default, deserialize_with = "null_as_default")]
    pub id: String,
    /// `chat.completion.chunk`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub object: String,
    /// Unix seconds.
    #[serde(default, deserialize_with = "null_as_default")]
    pub created: u64,
    /// The model that answers.
    #[serde(default, deserialize_with = "null_as_default")]
    pub model: String,
    /// What is new; empty in the chunk that carries the usage.
    #[serde(default, deserialize_with = "null_as_default")]
    pub choices: Vec<ChunkChoice>,
    /// What the answer used; in the last chunk, if at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

/// What is new in one choice.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChunkChoice {
    /// Which choice.
    #[serde(default, deserialize_with = "null_as_default")]
    pub index: u32,
    /// What is new.
    #[serde(default, deserialize_with = "null_as_default")]
    pub delta: Delta,
    /// Why it stopped, in the choice's last chunk.
    #[serde(default)]
    pub finish_reason: Option<FinishReason>,
    /// Log probabilities of what is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Value>,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The new piece of a message.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// Who speaks, in the first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// More text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// More of tool calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub tool_calls: Vec<ToolCallDelta>,
    /// Unknown fields, such as `reasoning_content`.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The new piece of a tool call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ToolCallDelta {
    /// Which call of the message.
    #[serde(default, deserialize_with = "null_as_default")]
    pub index: u32,
    /// The call's id, in its first piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, in its first piece.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// More of the function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionCallDelta>,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The new piece of a function call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FunctionCallDelta {
    /// The name, in its first piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More of the arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ChatChunk {
    /// A chunk of the first choice's text.
    pub fn text_delta(model: impl Into<String>, text: impl Into<String>) -> Self {
        let delta = Delta { content: Some(text.into()), ..Delta::default() };
        Self {
            object: "chat.completion.chunk".to_owned(),
            model: model.into(),
            choices: vec![ChunkChoice { delta, ..ChunkChoice::default() }],
            ..Self::default()
        }
    }

    /// The new text of the first choice; empty when there is none.
    pub fn text(&self) -> &str {
        let first = self.choices.iter().find(|choice| choice.index == 0);
        first.and_then(|choice| choice.delta.content.as_deref()).unwrap_or_default()
    }

    /// Whether it carries anything of the answer: text, refusal, tool calls or a field we do not know. A role alone, an
    /// empty text or a keep-alive is not content, so it must not reset a first-chunk timeout.
    pub fn has_content(&self) -> bool {
        let filled = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let said = |value: &Value| !(value.is_null() || value.as_str().is_some_and(str::is_empty));
        self.choices.iter().any(|choice| {
            let delta = &choice.delta;
            filled(&delta.content)
                || filled(&delta.refusal)
                || !delta.tool_calls.is_empty()
                || delta.extra.values().any(said)
        })
    }

    /// The whole answer as a single chunk, for replaying one that was not streamed.
    pub fn from_completion(completion: &ChatCompletion) -> Self {
        let choices = completion.choices.iter().map(|choice| {
            let message = &choice.message;
            let tool_calls = message.tool_calls.iter().zip(0..).map(|(call, index)| ToolCallDelta {
                index,
                id: Some(call.id.clone()),
                kind: Some(call.kind.clone()),
                function: Some(FunctionCallDelta {
                    name: Some(call.function.name.clone()),
                    arguments: Some(call.function.arguments.clone()),
                    extra: call.function.extra.clone(),
                }),
                extra: call.extra.clone(),
            });
            let delta = Delta {
                role: Some(message.role.clone()),
                content: message.content.is_some().then(|| message.text()),
                refusal: message.refusal.clone(),
                tool_calls: tool_calls.collect(),
                extra: message.extra.clone(),
            };
            ChunkChoice {
                index: choice.index,
                delta,
                finish_reason: choice.finish_reason.clone(),
                logprobs: choice.logprobs.clone(),
                extra: choice.extra.clone(),
            }
        });
        Self {
            id: completion.id.clone(),
            object: "chat.completion.chunk".to_owned(),
            created: completion.created,
            model: completion.model.clone(),
            choices: choices.collect(),
            usage: completion.usage.clone(),
            extra: completion.extra.clone(),
        }
    }
}
