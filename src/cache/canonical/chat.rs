//! The body of a chat request.

use super::bytes::Canonical;
use crate::types::{
    ChatBody, Content, FunctionCall, FunctionDef, ImageUrl, InputAudio, Message, Part, ResponseFormat, Role, Stop,
    Tool, ToolCall, ToolChoice,
};

/// Marks a message of role and text only, as most are. Must differ from the tags of `content`.
const TEXT_ALONE: u8 = 3;

/// How the answer travels does not change it: a call and a stream share one entry.
const TRANSPORT: [&str; 2] = ["stream", "stream_options"];

impl Canonical<'_> {
    pub(super) fn body(&mut self, body: &ChatBody) {
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
        // Spelt out: as lists of references they would be put on the stack first.
        let plain = (temperature.is_none() && top_p.is_none() && n.is_none() && max_tokens.is_none())
            && (max_completion_tokens.is_none() && stop.is_none() && presence_penalty.is_none())
            && (frequency_penalty.is_none() && logit_bias.is_none() && logprobs.is_none() && top_logprobs.is_none())
            && (seed.is_none() && user.is_none() && tools.is_empty() && tool_choice.is_none())
            && (parallel_tool_calls.is_none() && response_format.is_none() && reasoning_effort.is_none())
            && (extra.is_empty() || extra.keys().all(|name| TRANSPORT.contains(&name.as_str())));
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
        self.extra_without(extra, &TRANSPORT);
    }

    fn message(&mut self, message: &Message) {
        let Message { role, content, name, tool_calls, tool_call_id, refusal, extra } = message;
        let bare = name.is_none() && tool_calls.is_empty() && tool_call_id.is_none() && refusal.is_none();
        if let (true, true, Some(Content::Text(text))) = (bare, extra.is_empty(), content) {
            return self.bare(role, text);
        }
        self.role(role);
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

    /// A message of a role and a text, as most are. What stands before the text is written in one step: that it is checked
    /// once whether the buffer has room is a tenth of what a short request costs.
    #[inline]
    fn bare(&mut self, role: &Role, text: &str) {
        match role_tag(role) {
            OTHER_ROLE => {
                self.role(role);
                self.tag(TEXT_ALONE);
                self.str(text);
            }
            tag => {
                let mut head = [tag, TEXT_ALONE, 0, 0, 0, 0, 0, 0, 0, 0];
                head[2..].copy_from_slice(&(text.len() as u64).to_le_bytes());
                self.0.extend_from_slice(&head);
                self.0.extend_from_slice(text.as_bytes());
            }
        }
    }

    fn role(&mut self, role: &Role) {
        self.tag(role_tag(role));
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
}

const OTHER_ROLE: u8 = 255;

fn role_tag(role: &Role) -> u8 {
    match role {
        Role::System => 0,
        Role::Developer => 1,
        Role::User => 2,
        Role::Assistant => 3,
        Role::Tool => 4,
        Role::Function => 5,
        Role::Other(_) => OTHER_ROLE,
    }
}
