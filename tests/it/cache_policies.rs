//! What a user says about keys and about what may be kept, through the whole stack.

use std::sync::Arc;
use std::time::Duration;

use sluicegate::cache::{Cache, CacheLayer, KeyField, KeyPolicy, KeyTexts, StorePolicy};
use sluicegate::testing::{Gate, Reply, Scripted};
use sluicegate::types::{CacheControl, ChatCompletion, ChatRequest, FinishReason, ResponseFormat, Source, Tenant};
use sluicegate::{ErrorKind, OptimizedClient};

fn client(upstream: &Arc<Scripted>, cache: Cache) -> (OptimizedClient, CacheLayer) {
    let layer = CacheLayer::from(cache);
    (OptimizedClient::builder(Arc::clone(upstream)).cache(layer.clone()).build().unwrap(), layer)
}

fn ask(text: &str) -> ChatRequest {
    ChatRequest::new("m").user(text)
}

async fn sources(client: &OptimizedClient, request: ChatRequest) -> (Source, Source) {
    let call = client.chat(request.clone()).await.unwrap();
    let streamed = client.chat_stream(request).await.unwrap().collect().await.unwrap();
    (call.trace().source, streamed.trace().source)
}

const FRESH: Source = Source::Upstream;
const HIT: Source = Source::Cache("memory");

#[tokio::test]
async fn sampled_answers_are_kept_unless_they_are_not_to_be() {
    for (keep, expected) in [(true, (FRESH, HIT)), (false, (FRESH, FRESH))] {
        let upstream = Arc::new(Scripted::new());
        let (client, _) = client(&upstream, Cache::memory(10).store(StorePolicy::new().sampled(keep)));
        assert_eq!(sources(&client, ask("none")).await, expected);
        assert_eq!(sources(&client, ask("hot").temperature(0.7)).await, expected);
        assert_eq!(sources(&client, ask("cold").temperature(0.0)).await, (FRESH, HIT));
        assert_eq!(sources(&client, ask("negative").temperature(-0.0)).await, (FRESH, HIT));
    }
}

#[tokio::test]
async fn what_passes_the_cache_by_shares_no_flight_and_is_not_found() {
    let gate = Gate::closed();
    let upstream = Arc::new(Scripted::new().gate(&gate));
    let (client, layer) = client(&upstream, Cache::memory(10).store(StorePolicy::new().sampled(false)));
    let drafts: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.chat(ask("a draft").temperature(1.0)).await.unwrap() })
        })
        .collect();
    let all_upstream = async {
        while upstream.active() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all_upstream).await.expect("each makes its own call");
    assert_eq!(layer.open_flights(), 0);
    gate.open();
    for draft in drafts {
        assert_eq!(draft.await.unwrap().trace().source, FRESH);
    }
    let stored_only = |control: CacheControl| ask("a draft").temperature(1.0).with(control.only_if_cached());
    let kind = async |request: ChatRequest| client.chat(request).await.unwrap_err().kind();
    assert_eq!(kind(stored_only(CacheControl::new())).await, ErrorKind::CacheMiss);
    assert_eq!(kind(stored_only(CacheControl::new().namespace("unknown"))).await, ErrorKind::InvalidRequest);
    assert!(client.chat_stream(stored_only(CacheControl::new())).await.is_err());
    assert_eq!(upstream.calls(), 3);
}

#[tokio::test]
async fn what_may_not_be_kept_is_passed_on_and_asked_for_again() {
    let reply = |text: &str, reason| {
        let mut completion = ChatCompletion::text("m", text);
        completion.choices[0].finish_reason = Some(reason);
        Reply::Completion(Box::new(completion))
    };
    let mut json = ask("q");
    json.response_format = Some(ResponseFormat::JsonObject);
    for (request, reply, expected) in [
        (ask("q"), reply("cut", FinishReason::Length), (FRESH, FRESH)),
        (ask("q"), reply(" ", FinishReason::Stop), (FRESH, FRESH)),
        (ask("q"), reply("{\"a\": ", FinishReason::Stop), (FRESH, HIT)),
        (json.clone(), reply("{\"a\": ", FinishReason::Stop), (FRESH, FRESH)),
        (json, reply("{\"a\": 1}", FinishReason::Stop), (FRESH, HIT)),
    ] {
        let upstream = Arc::new(Scripted::new().always_reply(reply.clone()));
        let (client, _) = client(&upstream, Cache::memory(10));
        assert_eq!(sources(&client, request).await, expected, "{reply:?}");
    }
    let upstream = Arc::new(Scripted::new().always("as of today"));
    let policy = StorePolicy::new().also(|_, answer| !answer.choices[0].message.text().contains("today"));
    let (client, _) = client(&upstream, Cache::memory(10).store(policy));
    assert_eq!(sources(&client, ask("q")).await, (FRESH, FRESH));
}

#[cfg(feature = "json-schema")]
#[tokio::test]
async fn an_answer_of_another_schema_is_not_kept() {
    let schema = serde_json::json!({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]});
    let mut request = ask("How old?");
    request.response_format =
        Some(ResponseFormat::JsonSchema { json_schema: serde_json::json!({"name": "person", "schema": schema}) });
    for (text, required, expected) in [
        (r#"{"age": 7}"#, true, (FRESH, HIT)),
        (r#"{"age": "seven"}"#, true, (FRESH, FRESH)),
        (r#"{"age": "seven"}"#, false, (FRESH, HIT)),
    ] {
        let upstream = Arc::new(Scripted::new().always(text));
        let (client, _) = client(&upstream, Cache::memory(10).store(StorePolicy::new().valid_schema(required)));
        assert_eq!(sources(&client, request.clone()).await, expected, "{text}");
    }
}

#[tokio::test]
async fn a_key_policy_makes_equal_what_it_says_and_sends_requests_as_they_are() {
    let upstream = Arc::new(Scripted::new());
    let policy = KeyPolicy::new().texts(KeyTexts::Folded).leave_out(KeyField::Seed);
    let (client, _) = client(&upstream, Cache::memory(10).keys(policy));
    let mut first = ask("Why is  the sky blue?");
    first.seed = Some(7);
    assert_eq!(sources(&client, first.clone()).await, (FRESH, HIT));
    assert_eq!(upstream.requests()[0].body(), first.body());
    assert_eq!(sources(&client, ask("why is the SKY blue")).await, (HIT, HIT));
    assert_eq!(sources(&client, ask("why is the sky red")).await, (FRESH, HIT));
    let tenant = ask("why is the SKY blue").with(Tenant("a".into()));
    assert_eq!(sources(&client, tenant).await, (FRESH, HIT), "no policy makes tenants equal");
}

#[test]
fn policies_are_said_and_their_mistakes_refused() {
    let upstream = Arc::new(Scripted::new());
    let cache = Cache::memory(10)
        .keys(KeyPolicy::new().salt("v7").leave_out(KeyField::Extra("metadata".into())))
        .store(StorePolicy::new().sampled(false));
    let said = client(&upstream, cache).0.describe();
    assert!(said.contains("ttl 3600s, keys salted and without metadata, temperature 0 only"), "{said}");
    let said = client(&upstream, Cache::memory(10)).0.describe();
    assert!(said.contains("ttl 3600s") && !said.contains("keys"), "{said}");

    let refused = |cache: Cache| {
        let built = OptimizedClient::builder(Scripted::new()).cache(cache).build();
        built.unwrap_err().to_string()
    };
    let keys = KeyPolicy::new().leave_out(KeyField::Extra("seed".into()));
    assert!(refused(Cache::memory(10).keys(keys)).contains("keys leave_out = Extra(\"seed\")"));
    let store = StorePolicy::new().finish_reasons([]);
    assert!(refused(Cache::memory(10).store(store)).contains("store finish_reasons = []"));
}
