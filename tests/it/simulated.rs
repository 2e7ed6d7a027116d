//! The simulated provider behind real HTTP, as an OpenAI client sees it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy allows them in test functions, not in their helpers")]

#[path = "../../examples/support/simulated_server.rs"]
pub(crate) mod simulated_server;

use std::time::Duration;

use reqwest::{Client, Response};
use serde_json::{Value, json};
use simulated_server::SimulatedServer;
use sluicegate::providers::Simulated;
use sluicegate::providers::simulated::{SimulatedBuilder, SimulatedStats};

/// As fast as it goes: no test here is about time.
fn quick() -> SimulatedBuilder {
    Simulated::builder().first_chunk(Duration::ZERO, 0.0).tokens_per_second(1e9).output_tokens(20, 20)
}

struct Setup {
    simulated: Simulated,
    server: SimulatedServer,
    client: Client,
}

impl Setup {
    async fn new(builder: SimulatedBuilder) -> Self {
        let simulated = builder.build().unwrap();
        let server = SimulatedServer::start(simulated.clone()).await.unwrap();
        Self { simulated, server, client: Client::new() }
    }

    async fn post(&self, path: &str, body: Value) -> reqwest::Result<Response> {
        self.client.post(format!("{}{path}", self.server.base_url())).json(&body).send().await
    }

    async fn chat(&self, more: Value) -> Response {
        self.post("/chat/completions", chat_body(more)).await.unwrap()
    }

    /// Waits until the provider has come to this.
    async fn until(&self, reached: impl Fn(&SimulatedStats) -> bool) {
        let mut often = tokio::time::interval(Duration::from_millis(1));
        for _ in 0..30_000 {
            if reached(&self.simulated.stats()) {
                return;
            }
            often.tick().await;
        }
        panic!("never reached: {:?}", self.simulated.stats());
    }
}

fn chat_body(more: Value) -> Value {
    let mut body = json!({"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Why is the sky blue?"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn answers_in_json() {
    let setup = Setup::new(quick().rpm(600).tpm(60_000)).await;
    let response = setup.chat(json!({})).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "content-type"), "application/json");
    let expected = [
        ("x-ratelimit-limit-requests", "600"),
        ("x-ratelimit-remaining-requests", "59"),
        ("x-ratelimit-limit-tokens", "60000"),
    ];
    for (name, value) in expected {
        assert_eq!(header(&response, name), value, "{name}");
    }
    assert!(header(&response, "x-ratelimit-reset-requests").ends_with('s'));
    let body: Value = response.json().await.unwrap();
    assert_eq!((&body["object"], &body["model"]), (&json!("chat.completion"), &json!("gpt-5-mini")));
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["choices"][0]["message"]["role"], "assistant");
    assert_eq!(body["usage"]["completion_tokens"], 20);
}

#[tokio::test]
async fn streams_as_openai_does_over_http_1_and_2() {
    let mut setup = Setup::new(quick()).await;
    let whole: Value = setup.chat(json!({})).await.json().await.unwrap();
    for client in [Client::new(), Client::builder().http2_prior_knowledge().build().unwrap()] {
        setup.client = client;
        let response = setup.chat(json!({"stream": true, "stream_options": {"include_usage": true}})).await;
        assert_eq!(header(&response, "content-type"), "text/event-stream; charset=utf-8");
        let text = response.text().await.unwrap();
        let events: Vec<_> = text.strip_suffix("\n\n").unwrap().split("\n\n").collect();
        let data: Vec<_> = events.iter().map(|event| event.strip_prefix("data: ").unwrap()).collect();
        let (done, chunks) = data.split_last().unwrap();
        assert_eq!(*done, "[DONE]");
        let chunks: Vec<Value> = chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
        assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
        assert!(
            chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == chunks[0]["id"])
        );
        let (last, chunks) = chunks.split_last().unwrap();
        assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(20)));
        assert!(chunks.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)));
        assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
        let said = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
        assert_eq!(said.collect::<String>(), whole["choices"][0]["message"]["content"].as_str().unwrap());
    }
    let plain = setup.chat(json!({"stream": true})).await.text().await.unwrap();
    assert!(!plain.contains("usage") && plain.ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn refuses_with_429_and_says_when_to_come_back() {
    let setup = Setup::new(quick().rpm(1).tpm(60_000)).await;
    let large = setup.chat(json!({"max_tokens": 10_000})).await;
    assert_eq!((large.status().as_u16(), header(&large, "x-should-retry")), (429, "false"));
    assert_eq!(header(&large, "retry-after"), "");
    let error = large.json::<Value>().await.unwrap()["error"].take();
    assert!(error["message"].as_str().unwrap().starts_with("Request too large"), "{error}");
    assert_eq!(error["type"], "tokens");

    assert_eq!(setup.chat(json!({})).await.status(), 200);
    for stream in [false, true] {
        let refused = setup.chat(json!({"stream": stream})).await;
        assert_eq!(refused.status(), 429);
        let seconds: u64 = header(&refused, "retry-after").parse().unwrap();
        let millis: u64 = header(&refused, "retry-after-ms").parse().unwrap();
        assert!((1..=60).contains(&seconds) && millis.div_ceil(1_000) == seconds, "{seconds} s, {millis} ms");
        assert_eq!(header(&refused, "x-ratelimit-remaining-requests"), "0");
        let error = refused.json::<Value>().await.unwrap()["error"].take();
        assert_eq!((&error["type"], &error["code"]), (&json!("requests"), &json!("rate_limit_exceeded")));
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_its_call() {
    let hour = Duration::from_secs(3_600);
    // One waits for its first byte, the other has begun to stream.
    let slow = [(quick().first_chunk(hour, 0.0), false), (quick().tokens_per_second(1e-3), true)];
    for (builder, stream) in slow {
        for http2 in [false, true] {
            let mut setup = Setup::new(builder.clone()).await;
            if http2 {
                setup.client = Client::builder().http2_prior_knowledge().build().unwrap();
            }
            let body = chat_body(json!({"stream": stream}));
            let mut call = Box::pin(setup.post("/chat/completions", body));
            let mut response = None;
            if stream {
                let opened = response.insert((&mut call).await.unwrap());
                assert!(opened.chunk().await.unwrap().unwrap().starts_with(b"data: "));
            } else {
                tokio::select! {
                    () = setup.until(|stats| stats.in_flight == 1) => {}
                    answer = &mut call => panic!("answered an hour early: {answer:?}"),
                }
            }
            assert_eq!(setup.simulated.stats().in_flight, 1);
            drop((call, response));
            setup.until(|stats| stats.in_flight == 0).await;
            assert_eq!(setup.simulated.stats().output_tokens, 0);
        }
    }
}

#[tokio::test]
async fn a_stopped_server_ends_its_calls() {
    let Setup { simulated, server, client } = Setup::new(quick().first_chunk(Duration::from_secs(3_600), 0.0)).await;
    let url = format!("{}/chat/completions", server.base_url());
    let call = client.post(&url).json(&chat_body(json!({}))).send();
    let stop = async {
        let mut often = tokio::time::interval(Duration::from_millis(1));
        while simulated.stats().in_flight == 0 {
            often.tick().await;
        }
        server.stop().await;
    };
    let (answer, ()) = tokio::join!(call, stop);
    assert!(answer.is_err());
    assert_eq!(simulated.stats().in_flight, 0);
}

#[tokio::test]
async fn broken_streams_are_an_error_event_or_a_cut_body() {
    let setup = Setup::new(quick().stream_fault_rate(1.0)).await;
    let event = setup.chat(json!({"stream": true})).await.text().await.unwrap();
    assert!(event.contains("\n\ndata: {\"error\":{") && !event.contains("[DONE]"), "{event}");
    let cut = setup.chat(json!({"stream": true})).await;
    assert_eq!(cut.status(), 200);
    assert!(cut.text().await.is_err());
}

#[tokio::test]
async fn errors_are_json() {
    let setup = Setup::new(quick().error_rate(1.0)).await;
    let failed = setup.chat(json!({"stream": true})).await;
    assert!([500, 503].contains(&failed.status().as_u16()));
    assert_eq!(failed.json::<Value>().await.unwrap()["error"]["type"], "server_error");
    for body in [json!({"model": "gpt-5-mini", "messages": []}), json!({"messages": 7})] {
        let refused = setup.post("/chat/completions", body).await.unwrap();
        assert_eq!(refused.status(), 400);
        assert_eq!(refused.json::<Value>().await.unwrap()["error"]["type"], "invalid_request_error");
    }
    assert_eq!(setup.post("/nothing", json!({})).await.unwrap().status(), 404);
}

#[tokio::test]
async fn embeds_and_lists_models() {
    let setup = Setup::new(quick()).await;
    let body = json!({"model": "text-embedding-3-small", "input": ["blue", "sky"]});
    let answer: Value = setup.post("/embeddings", body).await.unwrap().json().await.unwrap();
    assert_eq!((&answer["object"], &answer["data"][1]["object"]), (&json!("list"), &json!("embedding")));
    assert_eq!(answer["data"][1]["embedding"].as_array().unwrap().len(), 64);
    let models = setup.client.get(format!("{}/models", setup.server.base_url())).send().await.unwrap();
    assert_eq!(models.json::<Value>().await.unwrap()["data"][1]["id"], "gpt-5-mini");
}
