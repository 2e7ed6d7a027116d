use super::*;
use crate::types::ChatRequest;
use serde_json::{Value, json};
use std::collections::HashMap;

fn bytes_to(client: &str, request: &ChatRequest) -> Vec<u8> {
    in_namespace("responses", client, request)
}

fn in_namespace(name: &str, client: &str, request: &ChatRequest) -> Vec<u8> {
    let mut bytes = Vec::new();
    let scope = request.extensions.get().copied().unwrap_or_default();
    write_chat(&mut bytes, (name, Sharing::of(&request.extensions, scope)), (&ClientInfo::new(client), ""), request);
    bytes
}

fn bytes_of(request: &ChatRequest) -> Vec<u8> {
    bytes_to("p", request)
}

fn parse(wire: Value) -> ChatRequest {
    serde_json::from_value::<ChatBody>(wire).unwrap().into()
}

/// Every leaf of a full request, changed one at a time, must change the bytes.
#[test]
fn everything_that_can_change_the_answer_changes_the_key() {
    let full = json!({
        "model": "m", "temperature": 0.5, "top_p": 0.9, "n": 1, "max_tokens": 5, "max_completion_tokens": 6,
        "stop": ["x"], "presence_penalty": 0.1, "frequency_penalty": 0.2, "logit_bias": {"7": 1.0},
        "logprobs": true, "top_logprobs": 2, "seed": 3, "user": "u", "parallel_tool_calls": true,
        "reasoning_effort": "low", "tool_choice": {"function": {"name": "f"}}, "service_tier": "flex",
        "response_format": {"type": "json_schema", "json_schema": {"name": "s"}},
        "tools": [{"type": "function", "vendor": 1, "function":
            {"name": "f", "description": "d", "parameters": {"a": [1, 2.5, null]}, "strict": true, "more": 1}}],
        "messages": [
            {"role": "user", "name": "n", "weight": 1, "content": [
                {"type": "text", "text": "t", "cache_control": {"type": "e"}},
                {"type": "image_url", "extra": 1, "image_url": {"url": "u", "detail": "low", "w": 9}},
                {"type": "input_audio", "extra": 1, "input_audio": {"data": "d", "format": "wav", "w": 9}},
                {"type": "file", "file": {"id": "f1"}}]},
            {"role": "assistant", "refusal": "r", "content": "c", "tool_calls": [
                {"id": "c1", "type": "function", "x": 1, "function": {"name": "f", "arguments": "{}", "y": 1}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"}]
    });
    let mut leaves = Vec::new();
    collect_leaves(&full, String::new(), &mut leaves);
    assert!(leaves.len() > 45, "{}", leaves.len());
    let mut seen = HashMap::from([(bytes_of(&parse(full.clone())), "the request itself".to_owned())]);
    for path in leaves {
        let mut changed = full.clone();
        let leaf = changed.pointer_mut(&path).unwrap();
        *leaf = match &*leaf {
            Value::String(text) => json!(format!("{text}2")),
            Value::Number(number) if number.is_f64() => json!(number.as_f64().unwrap() + 0.25),
            Value::Number(number) => json!(number.as_u64().unwrap() + 1),
            Value::Bool(flag) => json!(!flag),
            _ => json!("was null"),
        };
        if let Some(other) = seen.insert(bytes_of(&parse(changed)), path.clone()) {
            panic!("{path} gives the same key as {other}");
        }
    }
}

fn collect_leaves(value: &Value, path: String, leaves: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| collect_leaves(v, format!("{path}/{k}"), leaves)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, v)| collect_leaves(v, format!("{path}/{i}"), leaves));
        }
        _ => leaves.push(path),
    }
}

#[test]
fn tenants_and_clients_have_their_own_keys() {
    let request = ChatRequest::new("m").user("hi");
    let of = |tenant: &str| bytes_of(&request.clone().with(Tenant(tenant.into())));
    assert_ne!(of("a"), of("b"));
    assert_ne!(of(""), bytes_of(&request));
    assert_ne!(bytes_to("q", &request), bytes_of(&request));
}

#[test]
fn scopes_and_namespaces_have_their_own_keys() {
    let request = ChatRequest::new("m").user("hi");
    let public = bytes_of(&request.clone().with(Scope::Public));
    assert_ne!(public, bytes_of(&request));
    assert_eq!(public, bytes_of(&request.clone().with(Scope::Public).with(Tenant("a".into()))));
    assert_ne!(in_namespace("other", "p", &request), bytes_of(&request));
    assert_eq!(namespace(&in_namespace("other", "p", &request)), "other");
    let mut value = Vec::new();
    write_value(&mut value, "retrieval", Sharing::Tenant(None), "doc:42");
    assert_eq!(namespace(&value), "retrieval");
    for cut in 0..value.len() {
        // Cut anywhere, it is read without panic.
        let _ = namespace(&value[..cut]);
    }
}

/// Every field of an embedding request, and its input's kind, must change the bytes.
#[test]
fn everything_that_can_change_a_vector_changes_its_key() {
    let base = || EmbedRequest::new("m", ["a"]);
    let bytes = |request: &EmbedRequest, item: EmbedItem<'_>| {
        let mut bytes = Vec::new();
        let sharing = Sharing::Tenant(None);
        write_embedding(&mut bytes, ("embeddings", sharing), (&ClientInfo::new("p"), ""), request, item);
        bytes
    };
    let (text, mut all) = (EmbedItem::Text("a"), std::collections::HashSet::new());
    assert!(all.insert(bytes(&base(), text)));
    assert!(all.insert(bytes(&base(), EmbedItem::Text("b"))));
    assert!(all.insert(bytes(&base(), EmbedItem::Tokens(&[97]))));
    assert!(all.insert(bytes(&EmbedRequest { model: "n".into(), ..base() }, text)));
    assert!(all.insert(bytes(&EmbedRequest { dimensions: Some(1), ..base() }, text)));
    assert!(all.insert(bytes(&EmbedRequest { encoding_format: Some("base64".into()), ..base() }, text)));
    assert!(all.insert(bytes(&EmbedRequest { user: Some("u".into()), ..base() }, text)));
    let mut extra = base();
    extra.extra.insert("task".into(), json!("query"));
    assert!(all.insert(bytes(&extra, text)));
}

#[test]
fn what_does_not_change_the_answer_does_not_change_the_key() {
    let plain = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.0,
        "metadata": {"a": 1, "b": 2}});
    let mut other = plain.clone();
    other["stream"] = json!(true);
    other["stream_options"] = json!({"include_usage": true});
    other["temperature"] = json!(-0.0);
    other["metadata"] = json!({"b": 2, "a": 1});
    assert_eq!(bytes_of(&parse(plain)), bytes_of(&parse(other)));
}

#[test]
fn texts_cannot_run_into_each_other() {
    let two = |a: &str, b: &str| bytes_of(&ChatRequest::new("m").user(a).user(b));
    assert_ne!(two("ab", "c"), two("a", "bc"));
}
