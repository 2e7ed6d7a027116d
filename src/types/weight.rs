//! About how many bytes of memory data takes, which is about how many it takes as JSON.

use serde_json::Value;

use super::{ChatBody, ChatChunk, ChatCompletion, Choice, Content, Extra, Message, Part, Tool};
#[cfg(feature = "openai")]
use super::{EmbedInput, EmbedRequest};

impl ChatCompletion {
    /// About how many bytes of memory it takes, if it came in so many chunks; none when it was not streamed.
    pub(crate) fn weight(&self, chunks: usize) -> usize {
        const CHUNK: usize = size_of::<ChatChunk>() + 256;
        let choice_weight = |choice: &Choice| {
            let logprobs = choice.logprobs.as_ref().map_or(0, value_weight);
            choice.message.weight() + logprobs + extra_weight(&choice.extra)
        };
        let choices: usize = self.choices.iter().map(choice_weight).sum();
        let texts = choices + extra_weight(&self.extra);
        512 + 512 * self.choices.len() + texts * (1 + usize::from(chunks > 0)) + CHUNK * chunks
    }
}

impl ChatBody {
    /// About how many bytes its messages, media included, its tools and its unknown fields take.
    pub(crate) fn weight(&self) -> usize {
        let tool_weight = |tool: &Tool| {
            let function = tool.function.as_ref().map_or(0, |function| {
                let texts = function.name.len() + function.description.as_ref().map_or(0, String::len);
                texts + function.parameters.as_ref().map_or(0, value_weight)
            });
            256 + function + extra_weight(&tool.extra)
        };
        let messages: usize = self.messages.iter().map(|message| 256 + message.weight()).sum();
        messages + self.tools.iter().map(tool_weight).sum::<usize>() + extra_weight(&self.extra)
    }
}

#[cfg(feature = "openai")]
impl EmbedRequest {
    /// About how many bytes its input takes.
    pub(crate) fn weight(&self) -> usize {
        // A token is a number of some digits, and a comma.
        const TOKEN: usize = 7;
        match &self.input {
            EmbedInput::Text(text) => text.len(),
            EmbedInput::Texts(texts) => texts.iter().map(|text| 3 + text.len()).sum(),
            EmbedInput::Tokens(tokens) => TOKEN * tokens.len(),
            EmbedInput::TokenLists(lists) => lists.iter().map(|tokens| 3 + TOKEN * tokens.len()).sum(),
        }
    }
}

impl Message {
    /// About how many bytes its content takes, media included: all of it in most messages, for next to no time.
    pub(crate) fn content_weight(&self) -> usize {
        match &self.content {
            None => 0,
            Some(Content::Text(text)) => text.len(),
            Some(Content::Parts(parts)) => parts.iter().map(part_weight).sum(),
        }
    }

    /// About how many bytes its contents take.
    fn weight(&self) -> usize {
        let content = self.content_weight();
        let calls = self.tool_calls.iter().map(|call| 256 + call.function.name.len() + call.function.arguments.len());
        content + calls.sum::<usize>() + extra_weight(&self.extra)
    }
}

fn part_weight(part: &Part) -> usize {
    256 + match part {
        Part::Text { text, .. } => text.len(),
        Part::ImageUrl { image_url, .. } => image_url.url.len(),
        Part::InputAudio { input_audio, .. } => input_audio.data.len(),
        Part::Other(value) => value_weight(value),
    }
}

/// About how many bytes unknown fields take.
pub(crate) fn extra_weight(extra: &Extra) -> usize {
    extra.iter().map(|(name, value)| 64 + name.len() + value_weight(value)).sum()
}

fn value_weight(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(value_weight).sum(),
            Value::Object(map) => extra_weight(map),
        }
}
