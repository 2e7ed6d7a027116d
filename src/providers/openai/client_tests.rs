//! What is long is written and read on another thread, and what is short is not.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use futures_util::{StreamExt, poll, stream};
use serde_json::json;
use tokio::sync::oneshot;

use super::*;
use crate::types::{ChatChunk, EmbedInput, StreamEvent};

const LONG: usize = 1 << 20;

/// What it comes to, and whether it had to wait while the only thread for blocking work was held up.
pub(in super::super) fn held_up<T>(work: impl Future<Output = Result<T>>) -> (T, bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let (release, released) = oneshot::channel::<()>();
        drop(tokio::task::spawn_blocking(move || released.blocking_recv()));
        let mut work = pin!(work);
        for _ in 0..100 {
            if let Poll::Ready(done) = poll!(&mut work) {
                return (done.unwrap(), false);
            }
            tokio::task::yield_now().await;
        }
        drop(release);
        (work.await.unwrap(), true)
    })
}

fn client() -> OpenAi {
    OpenAi::builder("http://gateway.example/v1").build().unwrap()
}

fn response(body: String) -> Response {
    axum::http::Response::new(body).into()
}

#[test]
fn a_long_request_and_a_long_answer() {
    for (bytes, waits) in [(1_000, false), (LONG, true)] {
        let (client, text) = (client(), "a".repeat(bytes));
        let (body, waited) = held_up(client.written(ChatRequest::new("m").user(text.as_str()), false));
        assert!(body.len() > bytes && waited == waits, "{bytes}");
        let answer = json!({"choices": [{"message": {"role": "assistant", "content": text}}]}).to_string();
        let (answer, waited) = held_up(client.read_chat(response(answer)));
        assert!(answer.text().len() == bytes && waited == waits, "{bytes}");
    }
}

#[test]
fn many_texts() {
    for (texts, waits) in [(2, false), (2_000, true)] {
        let (client, text) = (client(), "a".repeat(1_000));
        for input in [EmbedInput::Text(text.repeat(texts)), EmbedInput::Texts(vec![text.clone(); texts])] {
            let mut request = EmbedRequest::new("m", ["a"]);
            request.input = input;
            let (body, waited) = held_up(client.written_embedding(request));
            assert!(body.len() > 1_000 * texts && waited == waits, "{texts}");
        }
        let mut request = EmbedRequest::new("m", ["a"]);
        request.input = EmbedInput::TokenLists(vec![vec![100_000; 100]; texts]);
        assert_eq!(held_up(client.written_embedding(request)).1, waits, "{texts}");
    }
}

#[test]
fn many_vectors() {
    for (vectors, waits) in [(2, false), (200, true)] {
        let one = |index| json!({"index": index, "embedding": vec![0.25; 1_536]});
        let body = json!({"data": (0..vectors).map(one).collect::<Vec<_>>()}).to_string();
        let client = client();
        let read = async { client.read_embeddings(response(body), vectors).await };
        let (answer, waited) = held_up(read);
        assert!(answer.data.len() == vectors && waited == waits, "{vectors}");
    }
}

#[test]
fn a_long_event_of_a_stream() {
    for (bytes, waits) in [(1_000, false), (LONG, true)] {
        let event = serde_json::to_string(&ChatChunk::text_delta("m", "a".repeat(bytes))).unwrap();
        let pieces = stream::iter([Ok(format!("data: {event}\n\n").into())]);
        let mut events = pin!(sse::chat_events(pieces, 2 * LONG, TokioClock::new(), TaskTracker::new()));
        let (event, waited) = held_up(async { events.next().await.unwrap() });
        let StreamEvent::Chunk(chunk) = event else { panic!("no chunk: {event:?}") };
        assert!(chunk.choices[0].delta.content.as_ref().unwrap().len() == bytes && waited == waits, "{bytes}");
    }
}
