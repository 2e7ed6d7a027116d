//! A chat answer in the OpenAI wire shape, and what happened on its way.

use std::any::Any;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::message::null_as_default;
use super::open_enum::open_enum;
use super::{Extensions, Extra, Message, Role, Trace, Usage};

open_enum! {
    /// Why the model stopped.
    FinishReason {
        /// It was done.
        Stop = "stop",
        /// The output limit or the window was reached: the answer is cut.
        Length = "length",
        /// It wants tools called.
        ToolCalls = "tool_calls",
        /// It wants a function called, in the oldest form of tools.
        FunctionCall = "function_call",
        /// The provider's filter cut it.
        ContentFilter = "content_filter",
    }
}

/// A complete answer as the provider sent it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatCompletion {
    /// The provider's id.
    #[serde(default, deserialize_with = "null_as_default")]
    pub id: String,
    /// `chat.completion`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub object: String,
    /// Unix seconds.
    #[serde(default, deserialize_with = "null_as_default")]
    pub created: u64,
    /// The model that answered, which may be a dated name of the one asked for.
    #[serde(default, deserialize_with = "null_as_default")]
    pub model: String,
    /// The answers, usually one.
    #[serde(default, deserialize_with = "null_as_default")]
    pub choices: Vec<Choice>,
    /// What it used, if the provider said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Unknown fields, such as `system_fingerprint`.
    #[serde(flatten)]
    pub extra: Extra,
}

/// One of the answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Its place.
    #[serde(default, deserialize_with = "null_as_default")]
    pub index: u32,
    /// What the model says.
    pub message: Message,
    /// Why it stopped.
    #[serde(default)]
    pub finish_reason: Option<FinishReason>,
    /// Log probabilities, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Value>,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Choice {
    /// A plain text answer that came to its end.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            index: 0,
            message: Message::assistant(text),
            finish_reason: Some(FinishReason::Stop),
            logprobs: None,
            extra: Extra::new(),
        }
    }
}

impl ChatCompletion {
    /// A plain text answer of this model.
    pub fn text(model: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            object: "chat.completion".to_owned(),
            model: model.into(),
            choices: vec![Choice::text(text)],
            ..Self::default()
        }
    }

    /// Whether every choice came to a proper end (`stop`, `tool_calls`, `function_call`), and there is at least one.
    pub fn is_complete(&self) -> bool {
        !self.choices.is_empty()
            && self.choices.iter().all(|choice| {
                matches!(
                    choice.finish_reason,
                    Some(FinishReason::Stop | FinishReason::ToolCalls | FinishReason::FunctionCall)
                )
            })
    }
}

/// An answer and what happened on its way. The completion is shared, so a cached answer is handed out without a copy;
/// its fields are read directly (`response.choices`).
#[derive(Debug, Clone, Default)]
pub struct ChatResponse {
    completion: Arc<ChatCompletion>,
    trace: Trace,
    // Boxed: few answers carry any, and every layer moves the response.
    extensions: Option<Box<Extensions>>,
}

impl ChatResponse {
    /// Wraps a completion, with an empty trace.
    pub fn new(completion: impl Into<Arc<ChatCompletion>>) -> Self {
        Self { completion: completion.into(), trace: Trace::default(), extensions: None }
    }

    /// A plain text answer, with unknown usage.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self::new(ChatCompletion::text("", text))
    }

    /// The first choice's text; empty when it has none. Of an answer in parts, which is rare, the first text part.
    pub fn text(&self) -> &str {
        let message = self.completion.choices.first().map(|choice| &choice.message);
        message.and_then(|message| message.texts().next()).unwrap_or_default()
    }

    /// What happened on its way.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// What happened on its way, for a layer to add to.
    pub fn trace_mut(&mut self) -> &mut Trace {
        &mut self.trace
    }

    /// A fact that a layer or provider tells beside the answer, such as [`RateLimits`](super::RateLimits).
    pub fn extension<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.extensions.as_ref()?.get()
    }

    /// Tells a fact beside the answer, replacing one of the same type.
    #[must_use]
    pub fn with<T: Any + Send + Sync>(mut self, fact: T) -> Self {
        self.extensions.get_or_insert_default().insert(fact);
        self
    }

    /// The shared completion.
    pub fn completion(&self) -> &Arc<ChatCompletion> {
        &self.completion
    }

    /// The first choice's message, ready to be appended to the conversation.
    pub fn message(&self) -> Message {
        let first = self.completion.choices.first();
        first.map_or_else(|| Message::empty(Role::Assistant), |choice| choice.message.clone())
    }
}

impl Deref for ChatResponse {
    type Target = ChatCompletion;

    fn deref(&self) -> &ChatCompletion {
        &self.completion
    }
}

impl From<ChatCompletion> for ChatResponse {
    fn from(completion: ChatCompletion) -> Self {
        Self::new(completion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nulls_in_an_answer_are_understood() {
        let sparse = json!({
            "id": null, "object": null, "created": null, "model": null,
            "choices": [{"index": null, "finish_reason": "tool_calls", "message": {"role": "assistant", "content": null,
                "tool_calls": [{"id": null, "type": null, "function": {"name": "f", "arguments": null}}]}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": null,
                "prompt_tokens_details": {"cached_tokens": null}, "completion_tokens_details": null}
        });
        let completion: ChatCompletion = serde_json::from_value(sparse).unwrap();
        let call = &completion.choices[0].message.tool_calls[0];
        assert_eq!(
            (call.kind.as_str(), call.function.name.as_str(), call.function.arguments.as_str()),
            ("function", "f", "")
        );
        let usage = completion.usage.unwrap();
        assert_eq!((usage.prompt_tokens, usage.cached_tokens()), (3, 0));
    }

    #[test]
    fn nulls_in_a_chunk_are_understood() {
        let sparse = json!({"id": null, "created": null, "choices": [{"index": null, "delta": null},
            {"delta": {"tool_calls": [{"index": null, "id": null, "function": {"name": null, "arguments": "{}"}}]}}]});
        let chunk: crate::types::ChatChunk = serde_json::from_value(sparse).unwrap();
        assert_eq!(chunk.choices.len(), 2);
    }
}
