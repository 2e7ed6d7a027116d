//! A server that answers as a test tells it to, and remembers what it was asked.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::response::Response;
use axum::serve::ListenerExt;
use futures_util::stream;
use serde_json::{Value, json};
use sluicegate::providers::{OpenAi, OpenAiBuilder};
use sluicegate::types::{ChatRequest, ChatStream};
use sluicegate::{Error, LlmClient, Result};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What a test asks for whenever the question does not matter.
pub(crate) fn question() -> ChatRequest {
    ChatRequest::new("m").user("hi")
}

pub(crate) fn answer(text: &str) -> Value {
    json!({
        "id": "r1", "object": "chat.completion", "model": "m-1",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    })
}

pub(crate) fn reply(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

pub(crate) fn json_reply(body: &Value) -> Response {
    reply(200, &[("content-type", "application/json")], body.to_string())
}

pub(crate) struct Server {
    pub(crate) base: String,
    accepted: Arc<AtomicUsize>,
    asked: mpsc::UnboundedReceiver<(Parts, Value)>,
    task: JoinHandle<()>,
}

impl Server {
    /// Answers every request with what `answer` makes, on a port of its own.
    pub(crate) async fn start(answer: impl Fn() -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/v1", listener.local_addr().unwrap());
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        let listener = listener.tap_io(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let (tell, asked) = mpsc::unbounded_channel();
        let answer = Arc::new(answer);
        let router = Router::new().fallback(move |request: Request| {
            let (tell, answer) = (tell.clone(), Arc::clone(&answer));
            async move {
                let (parts, body) = request.into_parts();
                let body = to_bytes(body, usize::MAX).await.unwrap();
                let _ = tell.send((parts, serde_json::from_slice(&body).unwrap()));
                answer()
            }
        });
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { base, accepted, asked, task }
    }

    pub(crate) fn builder(&self) -> OpenAiBuilder {
        OpenAi::builder(&self.base)
    }

    pub(crate) fn client(&self) -> OpenAi {
        self.builder().build().unwrap()
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The next request it got.
    pub(crate) async fn asked(&mut self) -> (Parts, Value) {
        self.asked.recv().await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The error of one chat that is answered with this.
pub(crate) async fn failure(answer: impl Fn() -> Response + Send + Sync + 'static) -> Error {
    Server::start(answer).await.client().chat(question()).await.unwrap_err()
}

/// Writes a body piece by piece. Dropping it ends the body; sending an `Err` breaks the connection.
pub(crate) type Feed = mpsc::UnboundedSender<io::Result<Bytes>>;

/// A streamed answer whose body the test writes.
pub(crate) async fn fed(headers: &'static [(&'static str, &'static str)]) -> (Server, Feed, Result<ChatStream>) {
    let (feed, pieces) = mpsc::unbounded_channel();
    let pieces = std::sync::Mutex::new(Some(pieces));
    let server = Server::start(move || {
        let pieces: Option<mpsc::UnboundedReceiver<io::Result<Bytes>>> = pieces.lock().unwrap().take();
        let body = Body::from_stream(stream::unfold(pieces.unwrap(), async |mut pieces| {
            let piece = pieces.recv().await?;
            Some((piece, pieces))
        }));
        reply(200, headers, body)
    })
    .await;
    let stream = server.client().chat_stream(question()).await;
    (server, feed, stream)
}

pub(crate) fn send(feed: &Feed, text: impl Into<Bytes>) {
    feed.send(Ok(text.into())).unwrap();
}

pub(crate) fn delta(text: &str) -> String {
    format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": text}}]}))
}

pub(crate) fn last() -> String {
    format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
}
