//! Whole answers: what goes out, what comes back, and over which connection.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::Version;
use serde_json::json;
use sluicegate::types::{EmbedRequest, RateLimits, Vector};
use sluicegate::{ErrorKind, LlmClient};

use super::server::{Server, answer, json_reply, question, reply};

#[tokio::test]
async fn a_chat_goes_out_and_comes_back() {
    let mut server = Server::start(|| {
        let limits = [("x-ratelimit-remaining-requests", "41"), ("x-ratelimit-reset-tokens", "6m0s")];
        reply(200, &limits, answer("hello").to_string())
    })
    .await;
    let builder = server.builder().api_key("sk-1").organization("org").project("proj").header("x-own", "yes");
    let client = builder.build().unwrap();
    let mut request = question();
    request.extra.insert("stream".to_owned(), json!(true));
    let response = client.chat(request).await.unwrap();

    assert_eq!(response.text(), "hello");
    assert_eq!(response.usage.as_ref().unwrap().total_tokens, 7);
    let limits = response.extension::<RateLimits>().unwrap();
    assert_eq!(limits.remaining_requests, Some(41));
    assert_eq!(limits.reset_tokens.unwrap().as_secs(), 360);

    let (head, body) = server.asked().await;
    assert_eq!((head.method.as_str(), head.uri.path()), ("POST", "/v1/chat/completions"));
    assert_eq!(head.version, Version::HTTP_11);
    let sent = ["authorization", "openai-organization", "openai-project", "x-own", "content-type", "accept"];
    let sent = sent.map(|name| head.headers[name].to_str().unwrap());
    assert_eq!(sent, ["Bearer sk-1", "org", "proj", "yes", "application/json", "application/json"]);
    assert_eq!(body, json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": false}));
}

#[tokio::test]
async fn a_query_in_the_base_stays_where_it_was() {
    let mut server = Server::start(|| json_reply(&answer("x"))).await;
    server.base.push_str("/?api-version=7");
    server.client().chat(question()).await.unwrap();
    assert_eq!(server.asked().await.0.uri, "/v1/chat/completions?api-version=7");
}

#[tokio::test]
async fn compressed_bodies_are_read_and_limited_after_decompression() {
    let big = answer(&"x".repeat(100_000)).to_string();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(big.as_bytes()).unwrap();
    let bodies = [("gzip", gzip.finish().unwrap()), ("zstd", zstd::encode_all(big.as_bytes(), 0).unwrap())];
    for (encoding, body) in bodies {
        assert!(body.len() < 2000);
        let sent = body.clone();
        let server = Server::start(move || reply(200, &[("content-encoding", encoding)], sent.clone())).await;
        assert_eq!(server.client().chat(question()).await.unwrap().text().len(), 100_000, "{encoding}");

        let small = server.builder().max_body_bytes(50_000).build().unwrap();
        let error = small.chat(question()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode);
        assert!(error.message().contains("max_body_bytes = 50000"), "{error}");

        // Flipped bytes in the middle are the provider's fault, not the network's.
        let mut broken = body;
        broken[6..40].fill(0xff);
        let server = Server::start(move || reply(200, &[("content-encoding", encoding)], broken.clone())).await;
        assert_eq!(server.client().chat(question()).await.unwrap_err().kind(), ErrorKind::Decode, "{encoding}");
    }
}

#[tokio::test]
async fn http2_works_from_the_first_byte() {
    let mut server = Server::start(|| json_reply(&answer("two"))).await;
    let client = server.builder().http2_prior_knowledge(true).build().unwrap();
    let (first, second) = tokio::join!(client.chat(question()), client.chat(question()));
    assert_eq!((first.unwrap().text(), second.unwrap().text()), ("two", "two"));
    assert_eq!(server.asked().await.0.version, Version::HTTP_2);
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let server = Server::start(|| json_reply(&answer("x"))).await;
    let client = server.client();
    for _ in 0..3 {
        client.chat(question()).await.unwrap();
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn vectors_come_in_the_order_of_the_input() {
    let mut server = Server::start(|| {
        json_reply(&json!({"object": "list", "model": "e", "data": [
            {"object": "embedding", "index": 1, "embedding": [0.25]},
            {"object": "embedding", "index": 0, "embedding": "AACAPw=="}]}))
    })
    .await;
    let client = server.client();
    let response = client.embed(EmbedRequest::new("e", ["a", "b"])).await.unwrap();
    let vectors: Vec<_> = response.data.into_iter().map(|one| one.embedding).collect();
    assert_eq!(vectors, [Vector::Base64("AACAPw==".to_owned()), Vector::Floats(vec![0.25])]);
    let (head, body) = server.asked().await;
    assert_eq!(head.uri, "/v1/embeddings");
    assert_eq!(body, json!({"model": "e", "input": ["a", "b"]}));

    let error = client.embed(EmbedRequest::new("e", ["a", "b", "c"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    assert_eq!(error.message(), "2 vectors came for 3 inputs");
}

#[tokio::test]
async fn what_cannot_be_served_is_not_sent() {
    let server = Server::start(|| json_reply(&answer("x"))).await;
    let client = server.client();
    let error = client.chat(question().temperature(f64::NAN)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    let none: [&str; 0] = [];
    assert_eq!(client.embed(EmbedRequest::new("e", none)).await.unwrap_err().kind(), ErrorKind::InvalidRequest);
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn an_endless_idle_limit_panics_nowhere() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    // The pool's own task runs on this thread too, and nobody waits for it: only a hook sees it panic.
    let (here, before) = (std::thread::current().id(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == here {
            PANICS.fetch_add(1, Ordering::SeqCst);
        }
        before(info);
    }));
    let server = Server::start(|| json_reply(&answer("x"))).await;
    let client = server.builder().pool_idle_timeout(Duration::MAX).connect_timeout(Duration::MAX).build().unwrap();
    for _ in 0..3 {
        client.chat(question()).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
}
