//! A chat request in the OpenAI wire shape.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::message::null_as_default;
use super::{Extensions, Extra, Message, Messages, ResponseFormat};
use crate::error::{Error, Result};

/// A chat request: the body that goes on the wire, and the [`Extensions`] that do not.
///
/// Cloning is two reference counts; the first change to a shared body copies it (its messages stay shared). The body's
/// fields are reached directly: `request.temperature = Some(0.2)`.
///
/// ```
/// use sluicegate::types::{ChatRequest, Priority};
/// let request = ChatRequest::new("gpt-5-mini").system("Be brief.").user("Why is the sky blue?").with(Priority::High);
/// assert_eq!(request.messages.len(), 2);
/// ```
#[derive(Debug, Clone)]
pub struct ChatRequest {
    body: Arc<ChatBody>,
    /// Controls that travel with the call.
    pub extensions: Extensions,
}

/// The body of a chat request. Whether it streams is not part of it: that is the method that is called.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatBody {
    /// The model's name, as the provider knows it.
    #[serde(default)]
    pub model: String,
    /// The conversation.
    #[serde(default)]
    pub messages: Messages,
    /// Sampling temperature, 0 to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Nucleus sampling, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// How many choices, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// Output tokens at most; newer OpenAI models want `max_completion_tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Output tokens at most, reasoning included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_completion_tokens: Option<u32>,
    /// Where to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// -2 to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    /// -2 to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    /// Token biases, -100 to 100, by token id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Whether to return log probabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<bool>,
    /// How many alternatives per token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<u32>,
    /// Best-effort repeatability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// The end user, for abuse monitoring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Tools the model may call.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub tools: Vec<Tool>,
    /// Which tool it may or must call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoice>,
    /// Whether several tools may be called at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// Text, any JSON, or JSON of a schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat>,
    /// `minimal`, `low`, `medium`, `high`, or what the model knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
    /// Every other field, sent as it is.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Where to stop: one text or several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Stop {
    /// One text.
    One(String),
    /// Any of these.
    Many(Vec<String>),
}

/// A tool the model may call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// `function`, or a provider's own kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function, when `kind` is `function`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionDef>,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Tool {
    /// A function with a JSON schema of its parameters.
    pub fn function(name: impl Into<String>, description: impl Into<String>, parameters: Value) -> Self {
        let function = FunctionDef {
            name: name.into(),
            description: Some(description.into()),
            parameters: Some(parameters),
            strict: None,
            extra: Extra::new(),
        };
        Self { kind: "function".to_owned(), function: Some(function), extra: Extra::new() }
    }
}

/// A function the model may call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionDef {
    /// Its name.
    pub name: String,
    /// When to use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON schema of its parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
    /// Whether arguments must match the schema exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Which tool the model may or must call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ToolChoice {
    /// `auto`, `none`, `required`, or another word.
    Mode(String),
    /// A particular tool, as the provider writes it.
    Named(Value),
}

impl ChatRequest {
    /// A request to this model, without messages yet.
    pub fn new(model: impl Into<String>) -> Self {
        ChatBody { model: model.into(), ..ChatBody::default() }.into()
    }

    /// Adds instructions.
    #[must_use]
    pub fn system(self, text: impl Into<String>) -> Self {
        self.message(Message::system(text))
    }

    /// Adds a question.
    #[must_use]
    pub fn user(self, text: impl Into<String>) -> Self {
        self.message(Message::user(text))
    }

    /// Adds an earlier answer.
    #[must_use]
    pub fn assistant(self, text: impl Into<String>) -> Self {
        self.message(Message::assistant(text))
    }

    /// Adds a message.
    #[must_use]
    pub fn message(mut self, message: Message) -> Self {
        self.messages.push(message);
        self
    }

    /// Replaces the conversation.
    #[must_use]
    pub fn messages(mut self, messages: impl Into<Messages>) -> Self {
        self.messages = messages.into();
        self
    }

    /// Sets the sampling temperature, 0 to 2.
    #[must_use]
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.temperature = Some(temperature);
        self
    }

    /// Limits the answer to so many tokens (`max_completion_tokens`).
    #[must_use]
    pub fn max_tokens(mut self, tokens: u32) -> Self {
        self.max_completion_tokens = Some(tokens);
        self
    }

    /// Adds a tool.
    #[must_use]
    pub fn tool(mut self, tool: Tool) -> Self {
        self.tools.push(tool);
        self
    }

    /// Sets a per-call control, such as [`Priority`](super::Priority), [`Deadline`](super::Deadline) or
    /// [`Tenant`](super::Tenant).
    #[must_use]
    pub fn with<T: std::any::Any + Send + Sync>(mut self, control: T) -> Self {
        self.extensions.insert(control);
        self
    }

    /// The body that goes on the wire.
    pub fn body(&self) -> &ChatBody {
        &self.body
    }
}

impl ChatBody {
    /// The most output tokens the caller allows per choice, if it says so.
    pub fn output_limit(&self) -> Option<u32> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    /// Refuses what no provider can serve: no model, no messages, or a number that JSON cannot carry.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest), naming the field.
    pub fn check(&self) -> Result<()> {
        const ORIGIN: &str = "request";
        if self.model.is_empty() {
            return Err(Error::invalid(
                ORIGIN,
                "model",
                "\"\"",
                "name the model, as in ChatRequest::new(\"gpt-5-mini\")",
            ));
        }
        if self.messages.is_empty() {
            return Err(Error::invalid(ORIGIN, "messages", "[]", "add at least one message, as in .user(\"…\")"));
        }
        let numbers = [
            ("temperature", self.temperature),
            ("top_p", self.top_p),
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ];
        for (field, value) in numbers {
            if let Some(value) = value.filter(|value| !value.is_finite()) {
                // serde_json writes NaN and infinities as null, which would mean "not set".
                return Err(Error::invalid(ORIGIN, field, value, "use a finite number, or leave it out"));
            }
        }
        if let Some((token, bias)) = self.logit_bias.iter().flatten().find(|(_, bias)| !bias.is_finite()) {
            return Err(Error::invalid(ORIGIN, &format!("logit_bias[{token:?}]"), bias, "use a finite number"));
        }
        if self.n == Some(0) {
            return Err(Error::invalid(ORIGIN, "n", 0, "ask for at least one choice, or leave it out"));
        }
        Ok(())
    }
}

impl From<ChatBody> for ChatRequest {
    fn from(body: ChatBody) -> Self {
        Self { body: Arc::new(body), extensions: Extensions::new() }
    }
}

impl Deref for ChatRequest {
    type Target = ChatBody;

    fn deref(&self) -> &ChatBody {
        &self.body
    }
}

impl DerefMut for ChatRequest {
    fn deref_mut(&mut self) -> &mut ChatBody {
        Arc::make_mut(&mut self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_survive_a_round_trip() {
        let wire = serde_json::json!({
            "model": "m",
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                    {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
                    {"type": "file", "file": {"file_id": "f1"}}
                ]},
                {"role": "critic", "content": "odd role", "weight": 1},
                {"role": "assistant", "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}, "index": 0}]},
                {"role": "tool", "tool_call_id": "c1", "content": "42"}
            ],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},
                      {"type": "web_search", "depth": 2}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "response_format": {"type": "grammar", "grammar": "root ::= x"},
            "stop": ["a", "b"],
            "metadata": {"k": "v"}
        });
        let body: ChatBody = serde_json::from_value(wire.clone()).unwrap();
        assert_eq!(serde_json::to_value(&body).unwrap(), wire);
        assert_eq!(body.messages[1].role, super::super::Role::Other("critic".into()));
    }

    #[test]
    fn changing_a_shared_request_leaves_the_other_alone_and_shares_messages() {
        let first = ChatRequest::new("m").user("hello");
        let mut second = first.clone();
        second.temperature = Some(0.5);
        assert_eq!(first.temperature, None);
        assert!(first.messages.ptr_eq(&second.messages));
    }

    #[test]
    fn refuses_what_cannot_be_served() {
        let refused = |request: ChatRequest| request.check().unwrap_err().to_string();
        assert!(refused(ChatRequest::new("m")).contains("messages = []"));
        assert!(refused(ChatRequest::new("").user("x")).contains("model = \"\""));
        assert!(refused(ChatRequest::new("m").user("x").temperature(f64::NAN)).contains("temperature = NaN"));
        let mut none = ChatRequest::new("m").user("x");
        none.n = Some(0);
        assert!(refused(none).contains("n = 0"));
    }
}
