//! What a message and a prompt cost beside the texts in them: one set of rules for every counter.

use serde_json::Value;

use super::image::Images;
use super::media;
use crate::types::{ChatBody, Content, Message, Part, ResponseFormat, Role, Tool};

/// What a family of models adds to the texts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Beside role, name and content.
    pub(super) per_message: u64,
    pub(super) per_name: u64,
    /// Primes the reply.
    pub(super) per_reply: u64,
    /// Starts a function's definition.
    pub(super) per_function: u64,
    /// Once, if there are tools: the provider's own instructions how to use them.
    pub(super) per_tools: u64,
    pub(super) images: Images,
}

impl Rules {
    pub(super) fn message(&self, message: &Message, count: &impl Fn(&str) -> u64) -> u64 {
        let content = match &message.content {
            None => 0,
            Some(Content::Text(text)) => count(text),
            Some(Content::Parts(parts)) => sum(parts.iter().map(|part| self.part(part, count))),
        };
        let name = message.name.as_ref().map_or(0, |name| self.per_name.saturating_add(count(name)));
        let calls = message.tool_calls.iter().map(|call| {
            let arguments = count(&call.function.arguments);
            self.per_message.saturating_add(count(&call.function.name)).saturating_add(arguments)
        });
        let refusal = message.refusal.as_ref().map_or(0, |text| count(text));
        sum([self.per_message, role(&message.role, count), content, name, sum(calls), refusal])
    }

    fn part(&self, part: &Part, count: &impl Fn(&str) -> u64) -> u64 {
        match part {
            Part::Text { text, .. } => count(text),
            Part::ImageUrl { image_url, .. } => self.images.of_url(&image_url.url, image_url.detail.as_ref()),
            Part::InputAudio { input_audio, .. } => media::audio(input_audio),
            Part::Other(value) => {
                let (text, media) = media::without(value, &self.images);
                media.saturating_add(count(&text))
            }
        }
    }

    /// What a prompt of these `tools` tokens costs beside its messages.
    pub(super) fn beside(&self, body: &ChatBody, count: &impl Fn(&str) -> u64, tools: u64) -> u64 {
        let format = match &body.response_format {
            Some(ResponseFormat::JsonSchema { json_schema }) => json(json_schema, count),
            Some(ResponseFormat::Other(format)) => json(format, count),
            _ => 0,
        };
        sum([tools, format, self.per_reply])
    }

    /// OpenAI cookbook, `num_tokens_for_tools`, and beyond it what it does not know.
    pub(super) fn tools(&self, tools: &[Tool], count: &impl Fn(&str) -> u64) -> u64 {
        const PER_END: u64 = 12;
        if tools.is_empty() {
            return 0;
        }
        let each = tools.iter().map(|tool| {
            let Some(function) = &tool.function else { return json(tool, count) };
            let description = function.description.as_deref().unwrap_or_default();
            let line = format!("{}:{}", function.name, without_stop(description));
            let parameters = function.parameters.as_ref().map_or(0, |schema| object(schema, count));
            sum([self.per_function, count(&line), parameters, PER_END])
        });
        self.per_tools.saturating_add(sum(each))
    }
}

/// The roles there are have a token each, in both vocabularies.
fn role(role: &Role, count: &impl Fn(&str) -> u64) -> u64 {
    match role {
        Role::Other(name) => count(name),
        _ => 1,
    }
}

/// Cookbook: `prop_init`, `prop_key`, `enum_item`; `enum_init` is what the first choice costs less.
const PER_OBJECT: u64 = 3;
const PER_PROPERTY: u64 = 3;
const PER_CHOICE: u64 = 3;

/// The properties of an object, and as JSON text what the cookbook's rule has no word for.
fn object(schema: &Value, count: &impl Fn(&str) -> u64) -> u64 {
    let Some(fields) = schema.as_object() else { return json(schema, count) };
    sum(fields.iter().map(|(field, value)| match (field.as_str(), value) {
        ("type" | "description" | "enum" | "required" | "additionalProperties" | "$schema", _) => 0,
        ("properties", Value::Object(properties)) if properties.is_empty() => 0,
        ("properties", Value::Object(properties)) => {
            let each = properties.iter().map(|(name, schema)| property(name, schema, count));
            PER_OBJECT.saturating_add(sum(each))
        }
        ("items", Value::Object(_)) => property("", value, count),
        _ => count(field).saturating_add(json(value, count)).saturating_add(2),
    }))
}

fn property(name: &str, schema: &Value, count: &impl Fn(&str) -> u64) -> u64 {
    let kind = match schema.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        Some(kinds) => kinds.to_string(),
        None => String::new(),
    };
    let description = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let line = count(&format!("{name}:{kind}:{}", without_stop(description)));
    let choices = schema.get("enum").and_then(Value::as_array).map_or(0, |choices| {
        let each = choices.iter().map(|choice| match choice {
            Value::String(choice) => PER_CHOICE + count(choice),
            choice => PER_CHOICE + json(choice, count),
        });
        sum(each).saturating_sub(PER_CHOICE)
    });
    sum([PER_PROPERTY, line, choices, object(schema, count)])
}

fn json(value: &impl serde::Serialize, count: &impl Fn(&str) -> u64) -> u64 {
    serde_json::to_string(value).map_or(0, |text| count(&text))
}

fn without_stop(description: &str) -> &str {
    description.strip_suffix('.').unwrap_or(description)
}

fn sum(parts: impl IntoIterator<Item = u64>) -> u64 {
    parts.into_iter().fold(0, u64::saturating_add)
}
