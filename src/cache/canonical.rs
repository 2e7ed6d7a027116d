//! A request as bytes: everything that can change the answer, in one buffer, in one order.
//!
//! The form is length-prefixed and versioned, fields stand in a fixed order, objects are sorted by key (another crate
//! may have switched on `serde_json/preserve_order`), and negative zero is zero. It is written into a reused buffer and
//! hashed once: fed field by field, blake3 is up to ten times slower. Every struct is taken apart without `..`, so a field
//! added to it cannot be forgotten here.

use serde_json::Value;

use crate::client::ClientInfo;
use crate::types::{
    ChatBody, ChatRequest, Content, Extra, FunctionCall, FunctionDef, ImageUrl, InputAudio, Message, Part,
    ResponseFormat, Role, Stop, Tenant, Tool, ToolCall, ToolChoice,
};

/// Raised whenever the canonical form changes, so that entries of other versions are not found.
const VERSION: u8 = 1;

/// Marks a message of role and text only, as most are. Must differ from the tags of `content`.
const TEXT_ALONE: u8 = 3;

/// Writes the canonical form of a chat request to this client.
pub(super) fn write_chat(bytes: &mut Vec<u8>, info: &ClientInfo, request: &ChatRequest) {
    let ClientInfo { provider, endpoint, account } = info;
    let mut out = Canonical(bytes);
    out.tag(VERSION);
    out.str(provider);
    out.str(endpoint);
    out.str(account);
    out.option(request.extensions.get::<Tenant>(), |out, Tenant(tenant)| out.str(tenant));
    out.body(request);
}

struct Canonical<'a>(&'a mut Vec<u8>);

impl Canonical<'_> {
    fn tag(&mut self, tag: u8) {
        self.0.push(tag);
    }

    fn len(&mut self, len: usize) {
        self.0.extend_from_slice(&(len as u64).to_le_bytes());
    }

    fn str(&mut self, text: &str) {
        self.len(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn i64(&mut self, number: i64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn f64(&mut self, number: f64) {
        // Adding zero turns -0.0 into 0.0.
        self.0.extend_from_slice(&(number + 0.0).to_bits().to_le_bytes());
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.tag(0),
            Some(value) => {
                self.tag(1);
                write(self, value);
            }
        }
    }

    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.len(items.len());
        for item in items {
            write(self, item);
        }
    }

    fn body(&mut self, body: &ChatBody) {
        let ChatBody {
            model,
            messages,
            temperature,
            top_p,
            n,
            max_tokens,
            max_completion_tokens,
            stop,
            presence_penalty,
            frequency_penalty,
            logit_bias,
            logprobs,
            top_logprobs,
            seed,
            user,
            tools,
            tool_choice,
            parallel_tool_calls,
            response_format,
            reasoning_effort,
            extra,
        } = body;
        self.str(model);
        self.len(messages.len());
        for message in messages.iter() {
            self.message(message);
        }
        // Most requests set none of the rest: one byte says so.
        let plain = [temperature, top_p, presence_penalty, frequency_penalty].iter().all(|number| number.is_none())
            && [n, max_tokens, max_completion_tokens, top_logprobs].iter().all(|number| number.is_none())
            && [logprobs, parallel_tool_calls].iter().all(|flag| flag.is_none())
            && [user, reasoning_effort].iter().all(|text| text.is_none())
            && (seed.is_none() && stop.is_none() && logit_bias.is_none() && tools.is_empty())
            && (tool_choice.is_none() && response_format.is_none() && extra.is_empty());
        self.tag(u8::from(!plain));
        if plain {
            return;
        }
        for number in [temperature, top_p, presence_penalty, frequency_penalty] {
            self.option(*number, Self::f64);
        }
        for number in [n, max_tokens, max_completion_tokens, top_logprobs] {
            self.option(*number, Self::u32);
        }
        for flag in [logprobs, parallel_tool_calls] {
            self.option(*flag, |out, flag| out.tag(u8::from(flag)));
        }
        self.option(*seed, Self::i64);
        self.option(user.as_deref(), Self::str);
        self.option(reasoning_effort.as_deref(), Self::str);
        self.option(stop.as_ref(), |out, stop| match stop {
            Stop::One(text) => out.list(&[text], |out, text| out.str(text)),
            Stop::Many(texts) => out.list(texts, |out, text| out.str(text)),
        });
        self.option(logit_bias.as_ref(), |out, biases| {
            out.len(biases.len());
            for (token, bias) in biases {
                out.str(token);
                out.f64(*bias);
            }
        });
        self.list(tools, Self::tool);
        self.option(tool_choice.as_ref(), |out, choice| match choice {
            ToolChoice::Mode(mode) => {
                out.tag(0);
                out.str(mode);
            }
            ToolChoice::Named(value) => {
                out.tag(1);
                out.value(value);
            }
        });
        self.option(response_format.as_ref(), |out, format| match format {
            ResponseFormat::Text => out.tag(0),
            ResponseFormat::JsonObject => out.tag(1),
            ResponseFormat::JsonSchema { json_schema } => {
                out.tag(2);
                out.value(json_schema);
            }
            ResponseFormat::Other(value) => {
                out.tag(3);
                out.value(value);
            }
        });
        // How the answer travels does not change it: a call and a stream share one entry.
        self.extra_without(extra, &["stream", "stream_options"]);
    }

    fn message(&mut self, message: &Message) {
        let Message { role, content, name, tool_calls, tool_call_id, refusal, extra } = message;
        self.role(role);
        let bare = name.is_none() && tool_calls.is_empty() && tool_call_id.is_none() && refusal.is_none();
        if let (true, true, Some(Content::Text(text))) = (bare, extra.is_empty(), content) {
            self.tag(TEXT_ALONE);
            return self.str(text);
        }
        match content {
            None => self.tag(0),
            Some(Content::Text(text)) => {
                self.tag(1);
                self.str(text);
            }
            Some(Content::Parts(parts)) => {
                self.tag(2);
                self.list(parts, Self::part);
            }
        }
        self.option(name.as_deref(), Self::str);
        self.list(tool_calls, |out, call| {
            let ToolCall { id, kind, function, extra } = call;
            out.str(id);
            out.str(kind);
            let FunctionCall { name, arguments, extra: inner } = function;
            out.str(name);
            out.str(arguments);
            out.extra(inner);
            out.extra(extra);
        });
        self.option(tool_call_id.as_deref(), Self::str);
        self.option(refusal.as_deref(), Self::str);
        self.extra(extra);
    }

    fn role(&mut self, role: &Role) {
        let tag = match role {
            Role::System => 0,
            Role::Developer => 1,
            Role::User => 2,
            Role::Assistant => 3,
            Role::Tool => 4,
            Role::Function => 5,
            Role::Other(_) => 255,
        };
        self.tag(tag);
        if let Role::Other(other) = role {
            self.str(other);
        }
    }

    fn part(&mut self, part: &Part) {
        match part {
            Part::Text { text, extra } => {
                self.tag(0);
                self.str(text);
                self.extra(extra);
            }
            Part::ImageUrl { image_url: ImageUrl { url, detail, extra: inner }, extra } => {
                self.tag(1);
                self.str(url);
                self.option(detail.as_ref(), |out, detail| out.str(detail.as_str()));
                self.extra(inner);
                self.extra(extra);
            }
            Part::InputAudio { input_audio: InputAudio { data, format, extra: inner }, extra } => {
                self.tag(2);
                self.str(data);
                self.str(format);
                self.extra(inner);
                self.extra(extra);
            }
            Part::Other(value) => {
                self.tag(3);
                self.value(value);
            }
        }
    }

    fn tool(&mut self, tool: &Tool) {
        let Tool { kind, function, extra } = tool;
        self.str(kind);
        self.option(function.as_ref(), |out, function| {
            let FunctionDef { name, description, parameters, strict, extra } = function;
            out.str(name);
            out.option(description.as_deref(), Self::str);
            out.option(parameters.as_ref(), Self::value);
            out.option(*strict, |out, strict| out.tag(u8::from(strict)));
            out.extra(extra);
        });
        self.extra(extra);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.tag(0),
            Value::Bool(flag) => {
                self.tag(1);
                self.tag(u8::from(*flag));
            }
            Value::Number(number) => {
                if let Some(number) = number.as_i64() {
                    self.tag(2);
                    self.i64(number);
                } else if let Some(number) = number.as_u64() {
                    self.tag(3);
                    self.0.extend_from_slice(&number.to_le_bytes());
                } else {
                    // Beyond i64 and u64 only a float is left, or a number kept as text by `arbitrary_precision`.
                    self.tag(4);
                    self.str(&number.to_string());
                }
            }
            Value::String(text) => {
                self.tag(5);
                self.str(text);
            }
            Value::Array(items) => {
                self.tag(6);
                self.list(items, Self::value);
            }
            Value::Object(map) => {
                self.tag(7);
                self.extra(map);
            }
        }
    }

    fn extra(&mut self, map: &Extra) {
        self.extra_without(map, &[]);
    }

    fn extra_without(&mut self, map: &Extra, left_out: &[&str]) {
        if map.is_empty() {
            return self.len(0);
        }
        let mut fields: Vec<_> = map.iter().filter(|(name, _)| !left_out.contains(&name.as_str())).collect();
        fields.sort_unstable_by_key(|(name, _)| *name);
        self.list(&fields, |out, (name, value)| {
            out.str(name);
            out.value(value);
        });
    }
}

#[cfg(test)]
#[path = "canonical_tests.rs"]
mod tests;
