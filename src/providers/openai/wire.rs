//! Bodies: ours as they go out, the provider's as they come in.

use std::borrow::Cow;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio_util::task::TaskTracker;

use super::{ORIGIN, error};
use crate::error::{Error, ErrorKind, Result};
use crate::offload::{LARGE_JSON, offload};
use crate::types::{ChatBody, ChatChunk, ChatCompletion, EmbedRequest, EmbedResponse, Extra};

#[derive(Serialize)]
struct Outgoing<'b> {
    #[serde(flatten)]
    body: Cow<'b, ChatBody>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<Value>,
}

/// The JSON of a chat request. Whether it streams is for the called method to say, so a caller's own `stream` yields;
/// a caller's `stream_options` are kept, except that usage is always asked for.
pub(super) fn chat(body: &ChatBody, stream: bool) -> Result<Vec<u8>> {
    let mut body = Cow::Borrowed(body);
    let mut options = None;
    if body.extra.contains_key("stream") || body.extra.contains_key("stream_options") {
        let own = body.to_mut();
        own.extra.remove("stream");
        options = own.extra.remove("stream_options");
    }
    let stream_options = stream.then(|| {
        let mut options = match options {
            Some(Value::Object(options)) => options,
            _ => Map::new(),
        };
        options.insert("include_usage".to_owned(), Value::Bool(true));
        Value::Object(options)
    });
    json(&Outgoing { body, stream, stream_options })
}

/// The JSON of an embedding request.
pub(super) fn embed(request: &EmbedRequest) -> Result<Vec<u8>> {
    json(request)
}

fn json(body: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(body).map_err(|cause| {
        Error::new(ErrorKind::InvalidRequest, ORIGIN, "the request cannot be written as JSON").with_source(cause)
    })
}

/// What is read of a body, elsewhere if it is long; the body goes there.
pub(super) async fn apart<B, T>(
    tasks: &TaskTracker,
    body: B,
    read: impl FnOnce(&[u8]) -> Result<T> + Send + 'static,
) -> Result<T>
where
    B: AsRef<[u8]> + Send + 'static,
    T: Send + 'static,
{
    offload(tasks, body.as_ref().len() > LARGE_JSON, move || read(body.as_ref())).await
}

/// A whole answer.
pub(super) fn completion(body: &[u8]) -> Result<ChatCompletion> {
    let completion: ChatCompletion = parse(body, "the answer is not a chat completion")?;
    refuse_error(&completion.object, &completion.extra, body)?;
    if completion.choices.is_empty() {
        // Every field has a default, so any JSON object would pass for an answer that says nothing.
        return Err(error::undecodable("the answer has no choices"));
    }
    Ok(completion)
}

/// One event of a stream.
pub(super) fn chunk(data: &[u8]) -> Result<ChatChunk> {
    let chunk: ChatChunk = parse(data, "an event of the stream is not a chunk")?;
    refuse_error(&chunk.object, &chunk.extra, data)?;
    Ok(chunk)
}

/// As many vectors as were asked for, put in the order of the input.
pub(super) fn embeddings(body: &[u8], wanted: usize) -> Result<EmbedResponse> {
    let response = embeddings_of_any(body)?;
    if response.data.len() != wanted {
        let found = response.data.len();
        return Err(error::undecodable(format!("{found} vectors came for {wanted} inputs")));
    }
    Ok(response)
}

/// Vectors in the order of the input, of an input that is not at hand.
pub(super) fn embeddings_of_any(body: &[u8]) -> Result<EmbedResponse> {
    let mut response: EmbedResponse = parse(body, "the answer is not a list of embeddings")?;
    refuse_error(&response.object, &response.extra, body)?;
    response.data.sort_by_key(|embedding| embedding.index);
    if response.data.is_empty() {
        return Err(error::undecodable("the answer has no vectors"));
    }
    if response.data.iter().zip(0..).any(|(embedding, place)| embedding.index != place) {
        return Err(error::undecodable("the vectors' indices are not those of the inputs"));
    }
    Ok(response)
}

fn parse<T: DeserializeOwned>(body: &[u8], complaint: &str) -> Result<T> {
    serde_json::from_slice(body).map_err(|cause| {
        // An error object need not have the shape of the answer it stands in for.
        match serde_json::from_slice::<Value>(body) {
            Ok(value) if value.get("error").is_some_and(|error| !error.is_null()) => error::from_value(&value),
            _ => error::undecodable(complaint).with_source(cause),
        }
    })
}

/// Gateways report a failing upstream with status 200 and an error in the body.
fn refuse_error(object: &str, extra: &Extra, body: &[u8]) -> Result<()> {
    let failed = object == "error" || extra.get("error").is_some_and(|error| !error.is_null());
    if failed { Err(error::from_body(body)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ChatRequest;
    use serde_json::json;

    fn sent(extra: Value, stream: bool) -> (Value, String) {
        let mut request = ChatRequest::new("m").user("hi");
        if let Value::Object(extra) = extra {
            request.extra = extra;
        }
        let bytes = chat(&request, stream).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        (serde_json::from_str(&text).unwrap(), text)
    }

    #[test]
    fn the_method_decides_on_streaming_and_no_field_is_sent_twice() {
        let messages = json!([{"role": "user", "content": "hi"}]);
        let (plain, _) = sent(json!({"top_k": 5}), false);
        assert_eq!(plain, json!({"model": "m", "messages": messages, "top_k": 5, "stream": false}));

        let extra = json!({"stream": true, "stream_options": {"include_usage": false, "chunk": 3}});
        let (plain, text) = sent(extra.clone(), false);
        assert_eq!(plain, json!({"model": "m", "messages": messages, "stream": false}));
        assert_eq!(text.matches("\"stream\"").count(), 1);

        let (streamed, text) = sent(extra, true);
        let options = json!({"include_usage": true, "chunk": 3});
        assert_eq!(streamed, json!({"model": "m", "messages": messages, "stream": true, "stream_options": options}));
        assert_eq!(text.matches("\"stream_options\"").count(), 1);

        let (odd, _) = sent(json!({"stream_options": "yes"}), true);
        assert_eq!(odd["stream_options"], json!({"include_usage": true}));
    }

    #[test]
    fn an_answer_that_is_none_is_refused() {
        let table = [
            ("{}", ErrorKind::Decode),
            ("<html>", ErrorKind::Decode),
            (r#"{"choices": "none"}"#, ErrorKind::Decode),
            (r#"{"error": {"code": 429}}"#, ErrorKind::RateLimited),
            (r#"{"choices": 3, "error": {"code": 429}}"#, ErrorKind::RateLimited),
            (r#"{"object": "error", "message": "x", "code": 404}"#, ErrorKind::NotFound),
        ];
        for (body, kind) in table {
            assert_eq!(completion(body.as_bytes()).unwrap_err().kind(), kind, "{body}");
        }
        let fine = r#"{"error": null, "choices": [{"message": {"role": "assistant", "content": "hi"}}]}"#;
        assert!(completion(fine.as_bytes()).is_ok());
    }

    #[test]
    fn vectors_are_ordered_and_counted() {
        let body = |indices: &[usize]| {
            let data: Vec<_> = indices.iter().map(|i| json!({"index": i, "embedding": [*i as f32]})).collect();
            json!({"object": "list", "data": data}).to_string()
        };
        let response = embeddings(body(&[2, 0, 1]).as_bytes(), 3).unwrap();
        assert_eq!(response.data.iter().map(|one| one.index).collect::<Vec<_>>(), [0, 1, 2]);
        for (indices, wanted) in [(&[0, 1][..], 3), (&[0, 0, 1], 3), (&[0, 1, 3], 3), (&[0, 1], 1), (&[], 1)] {
            assert_eq!(embeddings(body(indices).as_bytes(), wanted).unwrap_err().kind(), ErrorKind::Decode);
        }
    }
}
