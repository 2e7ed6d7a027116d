//! A cached stream replays what the provider sent, chunk for chunk and byte for byte, from every tier.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use sluicegate::OptimizedClient;
use sluicegate::cache::{Cache, CacheLayer};
use sluicegate::types::{ChatRequest, ChatStream, Finish, Source, StreamEvent};

use crate::openai::server::{Server, reply};

const SSE: &[(&str, &str)] = &[("content-type", "text/event-stream")];

fn chunk(delta: Value) -> Value {
    json!({"id": "c1", "object": "chat.completion.chunk", "created": 1_800_000_000_u64, "model": "m-1",
        "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

fn end(reason: &str) -> Value {
    let mut end = chunk(json!({}));
    end["choices"][0]["finish_reason"] = json!(reason);
    end
}

/// What providers send beyond plain text.
fn streams() -> Vec<(&'static str, Vec<Value>)> {
    let usage = json!({"id": "c1", "object": "chat.completion.chunk", "created": 1_800_000_000_u64, "model": "m-1",
        "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21,
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 7, "accepted_prediction_tokens": 1}, "queue_time": 0.017}});
    let mut with_logprobs = chunk(json!({"content": "blue"}));
    with_logprobs["choices"][0]["logprobs"] =
        json!({"content": [{"token": "blue", "logprob": -0.000_012_345_678_901_234_5, "bytes": [98, 108]}]});
    with_logprobs["system_fingerprint"] = json!("fp_1");
    with_logprobs["choices"][0]["content_filter_results"] = json!({"hate": {"filtered": false, "severity": "safe"}});
    let mut second_choice = chunk(json!({"content": "second"}));
    second_choice["choices"][0]["index"] = json!(1);
    let mut second_end = end("stop");
    second_end["choices"][0]["index"] = json!(1);
    let call = |index: u32, more: Value| {
        let mut call = json!({"index": index});
        call.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        chunk(json!({"tool_calls": [call]}))
    };
    vec![
        (
            "reasoning",
            vec![
                chunk(json!({"role": "assistant", "content": "", "reasoning_content": "First, "})),
                chunk(json!({"reasoning_content": "light \u{0}\u{feff}scatters.",
                    "reasoning_details": [{"type": "reasoning.encrypted", "data": "b64=="}]})),
                chunk(json!({"content": "Rayleigh 🦀 scattering\r\n"})),
                end("stop"),
                usage.clone(),
            ],
        ),
        (
            "parallel tool calls in pieces",
            vec![
                chunk(json!({"role": "assistant"})),
                call(0, json!({"id": "t0", "type": "function", "function": {"name": "look_up", "arguments": ""}})),
                call(1, json!({"id": "t1", "type": "function", "function": {"name": "add", "arguments": ""}, "x": 1})),
                call(0, json!({"function": {"arguments": "{\"q\": \"sky"}})),
                call(1, json!({"function": {"arguments": "{\"a\": 1", "y": null}})),
                call(0, json!({"function": {"arguments": "\"}"}})),
                call(1, json!({"function": {"arguments": ", \"b\": 2.50}"}})),
                end("tool_calls"),
                usage.clone(),
            ],
        ),
        (
            "audio",
            vec![
                chunk(json!({"role": "assistant", "content": "", "audio": {"id": "a1"}})),
                chunk(json!({"audio": {"data": "UklGRg==", "transcript": "The "}})),
                chunk(json!({"audio": {"data": "AAAA////", "expires_at": 1_800_000_600_u64}})),
                chunk(json!({"content": "The sky"})),
                end("stop"),
            ],
        ),
        (
            "unknown fields, log probabilities, two choices, usage",
            vec![
                with_logprobs,
                second_choice,
                chunk(json!({"content": " sky", "annotations": [{"url": "u"}]})),
                end("stop"),
                second_end,
                usage,
            ],
        ),
    ]
}

/// The chunks as JSON text, and the finish.
async fn drain(mut stream: ChatStream) -> (Vec<String>, Finish) {
    let mut chunks = Vec::new();
    loop {
        match stream.next().await.unwrap().unwrap() {
            StreamEvent::Chunk(chunk) => chunks.push(serde_json::to_string(&*chunk).unwrap()),
            StreamEvent::Finish(finish) => return (chunks, *finish),
        }
    }
}

async fn replays(cache: impl Fn() -> Cache, tier: &'static str) {
    for (what, sent) in streams() {
        let calls = Arc::new(AtomicUsize::new(0));
        let (counted, body) = (Arc::clone(&calls), sent.iter().map(|chunk| format!("data: {chunk}\n\n")));
        let body = body.collect::<String>() + "data: [DONE]\n\n";
        let server = Server::start(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            reply(200, SSE, body.clone())
        })
        .await;
        let request = || ChatRequest::new("m").user(what);
        let client = || OptimizedClient::builder(server.client()).cache(CacheLayer::from(cache())).build().unwrap();
        let first = client();
        let (live, finish) = drain(first.chat_stream(request()).await.unwrap()).await;
        assert_eq!(finish.trace.source, Source::Upstream, "{what}");
        let live_values: Vec<_> = live.iter().map(|text| serde_json::from_str::<Value>(text).unwrap()).collect();
        assert_eq!(live_values, sent, "{what}: handed out as it was sent");
        // A memory tier is the first client's own; others are found by the next.
        let again = if tier == "memory" { first } else { client() };
        let (replayed, told) = drain(again.chat_stream(request()).await.unwrap()).await;
        assert_eq!(told.trace.source, Source::Cache(tier), "{what}");
        assert_eq!(replayed, live, "{what}: byte for byte");
        assert_eq!(told.usage, finish.usage, "{what}: what the answer once took");
        assert_eq!(told.trace.cost.unwrap(), sluicegate::types::Cost::ZERO, "{what}: and nothing is billed now");
        // The call is served from the same log.
        let whole = again.chat(request()).await.unwrap();
        let collected = again.chat_stream(request()).await.unwrap().collect().await.unwrap();
        assert_eq!(
            serde_json::to_string(&**whole.completion()).unwrap(),
            serde_json::to_string(&**collected.completion()).unwrap(),
            "{what}"
        );
        assert_eq!(calls.load(Ordering::SeqCst), 1, "{what}");
        again.shutdown().await;
    }
}

#[tokio::test]
async fn from_memory() {
    replays(|| Cache::memory(100), "memory").await;
}

#[cfg(feature = "disk")]
#[tokio::test]
async fn from_disk() {
    use sluicegate::cache::tier::Disk;
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::open(folder.path().join("answers")).build().unwrap());
    replays(|| Cache::on(Arc::clone(&disk)), "disk").await;
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn from_redis() {
    use crate::redis::server;
    use crate::redis::wait::{HANG, until};
    use sluicegate::cache::tier::Redis;
    let server = server::Server::start(&[]).await;
    let redis = Redis::builder(server.url()).get_timeout(HANG / 2).put_timeout(HANG / 2).build().unwrap();
    until("the tier joins", || async { redis.is_connected() }).await;
    replays(|| Cache::on(redis.clone()).tier_timeout(HANG / 2), "redis").await;
}
