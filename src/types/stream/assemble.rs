//! Chunks put together into the answer they are pieces of.

use std::collections::BTreeMap;

use serde_json::Value;

use super::chunk::{ChatChunk, ChunkChoice, ToolCallDelta};
use crate::types::{ChatCompletion, Choice, Content, Extra, FunctionCall, Message, Role, ToolCall};

/// Puts the chunks of one answer together without loss: text, refusals, tool calls, log probabilities, usage, and
/// fields it does not know (`reasoning_content`).
#[derive(Debug, Default)]
pub struct Assembler {
    completion: ChatCompletion,
    choices: BTreeMap<u32, (Choice, Calls)>,
}

/// Tool calls by index; several under one index where the endpoint gives them all the same, or none.
type Calls = BTreeMap<u32, Vec<ToolCall>>;

impl Assembler {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next chunk.
    pub fn push(&mut self, chunk: &ChatChunk) {
        let whole = &mut self.completion;
        fill(&mut whole.id, &chunk.id);
        fill(&mut whole.model, &chunk.model);
        if whole.created == 0 {
            whole.created = chunk.created;
        }
        if chunk.usage.is_some() {
            whole.usage.clone_from(&chunk.usage);
        }
        replace(&mut whole.extra, &chunk.extra);
        for piece in &chunk.choices {
            let (choice, calls) = self.choices.entry(piece.index).or_insert_with(|| {
                let message = Message::empty(Role::Assistant);
                let choice =
                    Choice { index: piece.index, message, finish_reason: None, logprobs: None, extra: Extra::new() };
                (choice, Calls::new())
            });
            push_choice(choice, calls, piece);
        }
    }

    /// The answer so far.
    pub fn finish(mut self) -> ChatCompletion {
        self.completion.object = "chat.completion".to_owned();
        self.completion.choices = self
            .choices
            .into_values()
            .map(|(mut choice, calls)| {
                choice.message.tool_calls = calls.into_values().flatten().collect();
                choice
            })
            .collect();
        self.completion
    }
}

fn push_choice(choice: &mut Choice, calls: &mut Calls, piece: &ChunkChoice) {
    let message = &mut choice.message;
    if let Some(role) = &piece.delta.role {
        message.role = role.clone();
    }
    if let Some(text) = &piece.delta.content {
        match &mut message.content {
            Some(Content::Text(known)) => known.push_str(text),
            _ => message.content = Some(Content::Text(text.clone())),
        }
    }
    if let Some(text) = &piece.delta.refusal {
        message.refusal.get_or_insert_default().push_str(text);
    }
    append(&mut message.extra, &piece.delta.extra);
    for piece in &piece.delta.tool_calls {
        let same_index = calls.entry(piece.index).or_default();
        match same_index.last_mut().filter(|call| !begins_another(call, piece)) {
            Some(call) => push_call(call, piece),
            None => {
                let mut call = empty_call();
                push_call(&mut call, piece);
                same_index.push(call);
            }
        }
    }
    if piece.finish_reason.is_some() {
        choice.finish_reason.clone_from(&piece.finish_reason);
    }
    if let Some(logprobs) = &piece.logprobs {
        match &mut choice.logprobs {
            Some(known) => append_value(known, logprobs),
            None => choice.logprobs = Some(logprobs.clone()),
        }
    }
    replace(&mut choice.extra, &piece.extra);
}

/// Whether a piece begins another call than this one of the same index: it has an id of its own, and a name. Some
/// endpoints make up a new id for each piece, but only the first piece has a name.
fn begins_another(call: &ToolCall, piece: &ToolCallDelta) -> bool {
    let id = piece.id.as_deref().unwrap_or_default();
    let name = piece.function.as_ref().and_then(|function| function.name.as_deref()).unwrap_or_default();
    !call.id.is_empty() && !id.is_empty() && call.id != id && !call.function.name.is_empty() && !name.is_empty()
}

fn empty_call() -> ToolCall {
    let kind = "function".to_owned();
    ToolCall { id: String::new(), kind, function: FunctionCall::default(), extra: Extra::new() }
}

fn push_call(call: &mut ToolCall, piece: &ToolCallDelta) {
    if let Some(id) = &piece.id {
        fill(&mut call.id, id);
    }
    if let Some(kind) = &piece.kind {
        call.kind.clone_from(kind);
    }
    replace(&mut call.extra, &piece.extra);
    let Some(function) = &piece.function else { return };
    if let Some(name) = &function.name {
        // Some endpoints repeat the whole name in every piece.
        if call.function.name != *name {
            call.function.name.push_str(name);
        }
    }
    if let Some(arguments) = &function.arguments {
        call.function.arguments.push_str(arguments);
    }
    replace(&mut call.function.extra, &function.extra);
}

fn fill(known: &mut String, new: &str) {
    if known.is_empty() {
        known.push_str(new);
    }
}

/// Facts about the whole: the last word counts.
fn replace(known: &mut Extra, new: &Extra) {
    for (key, value) in new {
        if !value.is_null() || !known.contains_key(key) {
            known.insert(key.clone(), value.clone());
        }
    }
}

/// Pieces of content: texts and lists grow.
fn append(known: &mut Extra, new: &Extra) {
    for (key, value) in new {
        match known.get_mut(key) {
            Some(place) => append_value(place, value),
            None => {
                known.insert(key.clone(), value.clone());
            }
        }
    }
}

fn append_value(known: &mut Value, new: &Value) {
    match (known, new) {
        (_, Value::Null) => {}
        (Value::String(known), Value::String(new)) => known.push_str(new),
        (Value::Array(known), Value::Array(new)) => known.extend(new.iter().cloned()),
        (Value::Object(known), Value::Object(new)) => append(known, new),
        (known, new) => *known = new.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn assemble(chunks: &[Value]) -> Value {
        let mut assembler = Assembler::new();
        for chunk in chunks {
            assembler.push(&serde_json::from_value(chunk.clone()).unwrap());
        }
        serde_json::to_value(assembler.finish()).unwrap()
    }

    #[test]
    fn keeps_reasoning_tools_logprobs_and_usage() {
        let whole = assemble(&[
            json!({"id": "r1", "model": "m", "created": 7, "system_fingerprint": "fp", "choices": [
                {"index": 0, "delta": {"role": "assistant", "content": "", "reasoning_content": "let "}}]}),
            json!({"id": "r1", "model": "m", "created": 7, "system_fingerprint": "fp", "choices": [
                {"index": 0, "delta": {"reasoning_content": "me"}, "logprobs": {"content": [{"token": "a"}]}}]}),
            json!({"choices": [{"index": 0, "delta": {"content": "A", "tool_calls": [
                {"index": 1, "id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\""}}]},
                "logprobs": {"content": [{"token": "b"}]}}]}),
            json!({"choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": "stop"},
                {"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
                 "finish_reason": "tool_calls"}]}),
            json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}),
        ]);
        let expected = json!({
            "id": "r1", "object": "chat.completion", "model": "m", "created": 7, "system_fingerprint": "fp",
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
            "choices": [
                {"index": 0, "finish_reason": "tool_calls", "logprobs": {"content": [{"token": "a"}, {"token": "b"}]},
                 "message": {"role": "assistant", "content": "A", "reasoning_content": "let me", "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
                    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}}]}},
                {"index": 1, "finish_reason": "stop", "message": {"role": "assistant", "content": "other"}}]
        });
        assert_eq!(whole, expected);
    }

    #[test]
    fn calls_without_an_index_stay_apart() {
        let whole = assemble(&[
            json!({"choices": [{"delta": {"tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
                {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{\"a\":"}}]}}]}),
            json!({"choices": [{"delta": {"tool_calls": [{"id": "made-up", "function": {"arguments": "2}"}}]}}]}),
        ]);
        let expected = json!([
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
            {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{\"a\":2}"}}]);
        assert_eq!(whole["choices"][0]["message"]["tool_calls"], expected);
    }

    #[test]
    fn one_chunk_of_a_completion_gives_the_completion_back() {
        let wire = json!({
            "id": "r1", "object": "chat.completion", "model": "m", "created": 7,
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
            "choices": [{"index": 0, "finish_reason": "stop", "message":
                {"role": "assistant", "content": "hi", "refusal": "no", "reasoning_content": "r", "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}}]
        });
        let completion: ChatCompletion = serde_json::from_value(wire).unwrap();
        let mut assembler = Assembler::new();
        assembler.push(&ChatChunk::from_completion(&completion));
        assert_eq!(assembler.finish(), completion);
    }
}
