//! Streamed answers: event by event, to a proper end or to a precise error.

use std::io::{self, Write};

use axum::body::Body;
use futures_util::stream;
use serde_json::json;
use sluicegate::types::{ChatStream, StreamEvent};
use sluicegate::{Error, ErrorKind, LlmClient};

use super::server::{Server, answer, delta, fed, json_reply, last, question, reply, send};

const SSE: &[(&str, &str)] = &[("content-type", "text/event-stream; charset=utf-8")];

async fn text(stream: &mut ChatStream) -> String {
    stream.next().await.unwrap().unwrap().text().to_owned()
}

async fn error(stream: &mut ChatStream) -> Error {
    let error = stream.next().await.unwrap().unwrap_err();
    assert!(stream.next().await.is_none());
    error
}

#[tokio::test]
async fn each_event_is_handed_out_before_the_next_is_sent() {
    let (mut server, feed, stream) = fed(SSE).await;
    let mut stream = stream.unwrap();
    let body = server.asked().await.1;
    assert_eq!((&body["stream"], &body["stream_options"]), (&json!(true), &json!({"include_usage": true})));

    for word in ["héllo", "wörld"] {
        send(&feed, ": keep-alive\n\n");
        send(&feed, delta(word));
        assert_eq!(text(&mut stream).await, word);
    }
    // Cut inside a character.
    let event = delta("🦀").into_bytes();
    let middle = event.iter().position(|byte| *byte == 0xf0).unwrap() + 2;
    send(&feed, event[..middle].to_vec());
    send(&feed, event[middle..].to_vec());
    assert_eq!(text(&mut stream).await, "🦀");
    send(&feed, last());
    assert_eq!(text(&mut stream).await, "");
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}});
    send(&feed, format!("data: {usage}\n\ndata: [DONE]\n\n"));
    assert_eq!(text(&mut stream).await, "");
    let Some(Ok(StreamEvent::Finish(finish))) = stream.next().await else { panic!("no finish") };
    assert_eq!(finish.usage.unwrap().total_tokens, 3);
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_stream_without_done_is_whole_when_its_choices_are() {
    let (_server, feed, stream) = fed(SSE).await;
    send(&feed, delta("a") + &last());
    drop(feed);
    assert_eq!(stream.unwrap().collect().await.unwrap().text(), "a");
}

#[tokio::test]
async fn a_stream_that_just_ends_is_truncated() {
    let (_server, feed, stream) = fed(SSE).await;
    let mut stream = stream.unwrap();
    send(&feed, delta("a"));
    assert_eq!(text(&mut stream).await, "a");
    drop(feed);
    let error = error(&mut stream).await;
    assert_eq!((error.kind(), error.origin()), (ErrorKind::Truncated, "openai"));
}

#[tokio::test]
async fn a_broken_connection_is_the_networks_fault() {
    let (_server, feed, stream) = fed(SSE).await;
    let mut stream = stream.unwrap();
    send(&feed, delta("a"));
    assert_eq!(text(&mut stream).await, "a");
    feed.send(Err(io::Error::other("cut"))).unwrap();
    let error = error(&mut stream).await;
    assert_eq!((error.kind(), error.message()), (ErrorKind::Network, "the connection broke"));
}

#[tokio::test]
async fn a_compressed_stream_is_read_event_by_event_until_its_connection_breaks() {
    let (_server, feed, stream) = fed(&[("content-type", "text/event-stream"), ("content-encoding", "gzip")]).await;
    let mut stream = stream.unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    for word in ["a", "b"] {
        gzip.write_all(delta(word).as_bytes()).unwrap();
        gzip.flush().unwrap();
        send(&feed, std::mem::take(gzip.get_mut()));
        assert_eq!(text(&mut stream).await, word);
    }
    feed.send(Err(io::Error::other("cut"))).unwrap();
    assert_eq!(error(&mut stream).await.kind(), ErrorKind::Network);
}

#[tokio::test]
async fn an_error_inside_a_stream_is_one() {
    let (_server, feed, stream) = fed(SSE).await;
    let mut stream = stream.unwrap();
    send(&feed, delta("a") + "data: {\"error\": {\"message\": \"slow down\", \"code\": \"rate_limit_exceeded\"}}\n\n");
    assert_eq!(text(&mut stream).await, "a");
    let error = error(&mut stream).await;
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    assert_eq!((error.provider_message(), error.code()), (Some("slow down"), Some("rate_limit_exceeded")));
}

#[tokio::test]
async fn an_event_larger_than_the_limit_ends_the_stream() {
    let body = delta("fine") + "data: " + &"x".repeat(5000);
    let server = Server::start(move || reply(200, SSE, body.clone())).await;
    let client = server.builder().max_body_bytes(1000).build().unwrap();
    let mut stream = client.chat_stream(question()).await.unwrap();
    assert_eq!(text(&mut stream).await, "fine");
    assert_eq!(error(&mut stream).await.kind(), ErrorKind::Decode);
}

#[tokio::test]
async fn plain_json_in_place_of_a_stream_is_a_stream_of_one() {
    let server = Server::start(|| json_reply(&answer("whole"))).await;
    let mut stream = server.client().chat_stream(question()).await.unwrap();
    assert_eq!(text(&mut stream).await, "whole");
    let Some(Ok(StreamEvent::Finish(finish))) = stream.next().await else { panic!("no finish") };
    assert_eq!(finish.usage.unwrap().total_tokens, 7);
}

#[tokio::test]
async fn a_refused_stream_fails_before_it_opens() {
    let server = Server::start(|| reply(503, &[("retry-after", "2")], "overloaded")).await;
    let error = server.client().chat_stream(question()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry_after().unwrap().as_secs()), (ErrorKind::Server, 2));
}

#[tokio::test]
async fn a_dropped_stream_closes_the_connection() {
    let (_server, feed, stream) = fed(SSE).await;
    let mut stream = stream.unwrap();
    send(&feed, delta("a"));
    assert_eq!(text(&mut stream).await, "a");
    drop(stream);
    // The server's body is dropped only when it learns that nobody listens.
    feed.closed().await;
}

#[tokio::test]
async fn a_finished_stream_gives_its_connection_back() {
    let server = Server::start(|| {
        // In chunks, so that the end of the body comes after the last event and has to be read for itself.
        let pieces = [delta("a"), last(), "data: [DONE]\n\n".to_owned()];
        reply(200, SSE, Body::from_stream(stream::iter(pieces.map(Ok::<_, io::Error>))))
    })
    .await;
    let client = server.client();
    for _ in 0..3 {
        assert_eq!(client.chat_stream(question()).await.unwrap().collect().await.unwrap().text(), "a");
    }
    assert_eq!(server.connections(), 1);
}
