//! Refusals and failures, and that none of them shows a secret.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::stream;
use serde_json::json;
use sluicegate::providers::OpenAi;
use sluicegate::{Error, ErrorKind, LlmClient, Retryability};
use tokio::net::TcpListener;

use super::server::{Server, failure, question, reply};

const CANARY: &str = "sk-canary-7f3a";

/// Status, code, headers; kind and retryability of the error they become.
type Refusal = (u16, &'static str, &'static [(&'static str, &'static str)], ErrorKind, Retryability);

/// A base URL where nobody listens.
async fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}/v1", listener.local_addr().unwrap())
}

/// All that can be printed of an error, sources included.
fn shown(error: &Error) -> String {
    let mut shown = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(cause) = source {
        shown += &format!(" {cause} {cause:?}");
        source = cause.source();
    }
    shown
}

#[tokio::test]
async fn each_refusal_has_its_kind_and_its_hint() {
    use ErrorKind::*;
    let after = |millis| Retryability::After(Some(Duration::from_millis(millis)));
    let table: [Refusal; 12] = [
        (400, "bad", &[], InvalidRequest, Retryability::Never),
        (400, "context_length_exceeded", &[], ContextLength, Retryability::Never),
        (400, "content_filter", &[], ContentFilter, Retryability::Never),
        (401, "invalid_api_key", &[("retry-after", "1")], Auth, Retryability::Never),
        (404, "model_not_found", &[], NotFound, Retryability::Never),
        (408, "slow", &[], Timeout, Retryability::After(None)),
        (429, "rate_limit_exceeded", &[("retry-after", "1.5")], RateLimited, after(1500)),
        (429, "rate_limit_exceeded", &[("retry-after", "9"), ("retry-after-ms", "20")], RateLimited, after(20)),
        (429, "insufficient_quota", &[("x-should-retry", "true")], QuotaExhausted, Retryability::Never),
        (500, "oops", &[("x-should-retry", "false")], Server, Retryability::Never),
        (529, "overloaded", &[("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT")], Server, after(86_400_000)),
        (302, "moved", &[("location", "/elsewhere")], Other, Retryability::Never),
    ];
    for (status, code, headers, kind, retryability) in table {
        let headers: Vec<_> = headers.iter().copied().chain([("x-ratelimit-limit-requests", "60")]).collect();
        let body = json!({"error": {"message": "provider text", "type": "t", "code": code, "param": null}}).to_string();
        let error = failure(move || reply(status, &headers, body.clone())).await;
        assert_eq!((error.kind(), error.status(), error.code()), (kind, Some(status), Some(code)));
        assert_eq!(error.retryability(), retryability, "{status} {code}");
        assert_eq!(error.provider_message(), Some("provider text"));
        assert_eq!(error.rate_limits().unwrap().limit_requests, Some(60));
        assert!(!shown(&error).contains("provider text"));
    }
}

#[tokio::test]
async fn a_refusal_without_end_is_read_only_so_far() {
    let error = failure(|| {
        let endless = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(&[b'x'; 1000])));
        reply(502, &[], Body::from_stream(endless))
    })
    .await;
    assert_eq!((error.kind(), error.status()), (ErrorKind::Server, Some(502)));
    assert_eq!(error.provider_message().unwrap().len(), 2048);
}

#[tokio::test]
async fn an_answer_that_is_no_answer_is_undecodable() {
    for body in ["<html>login</html>", "{}", "", "{\"choices\": 3}"] {
        let error = failure(move || reply(200, &[], body)).await;
        assert_eq!((error.kind(), error.origin()), (ErrorKind::Decode, "openai"), "{body}");
    }
}

#[tokio::test]
async fn an_endless_answer_is_stopped_at_the_limit() {
    let server = Server::start(|| {
        let endless = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(&[b' '; 1000])));
        reply(200, &[], Body::from_stream(endless))
    })
    .await;
    let client = server.builder().max_body_bytes(10_000).build().unwrap();
    let error = client.chat(question()).await.unwrap_err();
    assert_eq!((error.kind(), error.retryability()), (ErrorKind::Decode, Retryability::Never));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_the_networks_fault() {
    let error = failure(|| {
        let pieces = [Ok(Bytes::from_static(b"{\"choices\"")), Err(io::Error::other("cut"))];
        reply(200, &[], Body::from_stream(stream::iter(pieces)))
    })
    .await;
    assert_eq!((error.kind(), error.retryability()), (ErrorKind::Network, Retryability::After(None)));
}

#[tokio::test]
async fn nobody_listening_is_the_networks_fault() {
    let client = OpenAi::builder(&nowhere().await).build().unwrap();
    let error = client.chat(question()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network);
    assert!(error.message().contains("could not connect"), "{error}");
    assert!(error.source().is_some());
}

#[tokio::test]
async fn no_key_is_ever_shown() {
    let base = format!("{}?key={CANARY}", nowhere().await);
    let client = OpenAi::builder(&base).api_key(CANARY).header("x-api-key", CANARY).build().unwrap();
    let mut all = format!("{client:?} {client:#?} {:?}", client.info());
    all += &shown(&client.chat(question()).await.unwrap_err());
    all += &shown(&client.chat_stream(question()).await.unwrap_err());

    // The provider quotes the key back at us.
    let body = json!({"error": {"message": format!("Incorrect API key: {CANARY}"), "code": "invalid_api_key"}});
    let bodies = [(401, body.to_string()), (200, body.to_string()), (200, format!("{{\"choices\": \"{CANARY}"))];
    for (status, body) in bodies {
        let mut server = Server::start(move || reply(status, &[], body.clone())).await;
        server.base += &format!("?key={CANARY}");
        let error = server.builder().api_key(CANARY).build().unwrap().chat(question()).await.unwrap_err();
        all += &shown(&error);
    }

    // A body that breaks off: the error of a response knows its URL.
    let mut server =
        Server::start(|| reply(200, &[], Body::from_stream(stream::iter([Err::<Bytes, _>(io::Error::other("cut"))]))))
            .await;
    server.base += &format!("?key={CANARY}");
    all += &shown(&server.builder().api_key(CANARY).build().unwrap().chat(question()).await.unwrap_err());
    assert!(!all.contains(CANARY), "{all}");
}
