//! An OpenAI-compatible HTTP server on the loopback in front of a simulated provider, for examples and tests.
//!
//! It speaks HTTP/1.1 and HTTP/2 (prior knowledge) on one port, takes any key, and answers
//! `POST /v1/chat/completions` (JSON and SSE), `POST /v1/embeddings`, `GET /v1/models`, and the Batch API (`/v1/files`,
//! `/v1/batches`). A client that hangs up cancels its call.

#![allow(dead_code, reason = "every example and test uses its own part of it")]

pub(crate) mod batches;
mod wire;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use futures_util::stream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sluicegate::providers::Simulated;
use sluicegate::types::{ChatBody, ChatChunk, ChatRequest, ChatStream, EmbedRequest, StreamEvent, Usage};
use sluicegate::{ErrorKind, LlmClient};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// A running server. Dropping it closes its port and every connection at once.
#[derive(Debug)]
pub(crate) struct SimulatedServer {
    address: SocketAddr,
    accepting: JoinHandle<()>,
    batches: batches::Batches,
}

impl SimulatedServer {
    /// Listens on a free port of 127.0.0.1.
    pub(crate) async fn start(simulated: Simulated) -> io::Result<Self> {
        Self::start_on(simulated, 0).await
    }

    /// Listens on this port of 127.0.0.1.
    pub(crate) async fn start_on(simulated: Simulated, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let address = listener.local_addr()?;
        let batches = batches::Batches::default();
        let routes = routes(simulated.clone()).merge(batches::routes(batches.clone(), simulated)).fallback(unknown);
        // Prompts with pictures are larger than axum's default of 2 MB, and so are files.
        let routes = routes.layer(DefaultBodyLimit::disable());
        Ok(Self { address, accepting: tokio::spawn(accept(listener, routes)), batches })
    }

    /// Its files and batches.
    pub(crate) fn batches(&self) -> &batches::Batches {
        &self.batches
    }

    /// What a client takes as its base URL.
    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Closes its port and every connection, and waits until that is done.
    pub(crate) async fn stop(mut self) {
        self.accepting.abort();
        // The only way for it to end is this abort.
        let _aborted = (&mut self.accepting).await;
    }
}

impl Drop for SimulatedServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, routes: Router) {
    // Dropped with this task, and with it every connection and its calls.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                // Chunks are small and each is waited for; without the option they come late, not wrong.
                let _late = socket.set_nodelay(true);
                let service = TowerToHyperService::new(routes.clone());
                connections.spawn(async move {
                    // A connection that breaks is the client's affair.
                    let _broken = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

fn routes(simulated: Simulated) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/embeddings", post(embeddings))
        .route("/v1/models", get(models))
        .with_state(simulated)
}

async fn unknown() -> Response {
    wire::refused(StatusCode::NOT_FOUND, "Invalid URL")
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Box<Response>> {
    serde_json::from_slice(body).map_err(|error| {
        let message = format!("We could not parse the JSON body of your request: {error}");
        Box::new(wire::refused(StatusCode::BAD_REQUEST, &message))
    })
}

async fn chat(State(simulated): State<Simulated>, body: Bytes) -> Response {
    let mut body: ChatBody = match parse(&body) {
        Ok(body) => body,
        Err(refused) => return *refused,
    };
    // How the answer is delivered is not part of the question: the same answer either way.
    let streamed = body.extra.remove("stream").is_some_and(|value| value == true);
    let options = body.extra.remove("stream_options").unwrap_or_default();
    let with_usage = options.get("include_usage").is_some_and(|value| value == true);
    let request = ChatRequest::from(body);
    if !streamed {
        return match simulated.chat(request).await {
            Ok(response) => {
                (wire::limit_headers(&simulated.rate_limits()), Json(&**response.completion())).into_response()
            }
            Err(error) => wire::failed(&error),
        };
    }
    match simulated.chat_stream(request).await {
        Ok(stream) => {
            let headers =
                [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
            let limits = wire::limit_headers(&simulated.rate_limits());
            (limits, headers, sse(stream, with_usage)).into_response()
        }
        Err(error) => wire::failed(&error),
    }
}

/// The events of a stream, the usage if it was asked for, and `[DONE]`; or an error event, or a body that breaks off.
fn sse(stream: ChatStream, with_usage: bool) -> Body {
    let last = ChatChunk::default();
    Body::from_stream(stream::unfold(Some((stream, last)), move |state| async move {
        let (mut stream, mut last) = state?;
        match stream.next().await? {
            Ok(StreamEvent::Chunk(chunk)) => {
                last = ChatChunk { choices: Vec::new(), ..(*chunk).clone() };
                let mut chunk = (*chunk).clone();
                if with_usage {
                    chunk.extra.insert("usage".to_owned(), Value::Null);
                }
                Some((Ok(wire::event(&chunk)), Some((stream, last))))
            }
            Ok(StreamEvent::Finish(finish)) => {
                let usage = finish.usage.filter(|_| with_usage);
                Some((Ok(ending(last, usage)), None))
            }
            // Hyper closes the connection, or resets the HTTP/2 stream, when a body fails.
            Err(error) if error.kind() == ErrorKind::Truncated => Some((Err(io::Error::other(error)), None)),
            Err(error) => Some((Ok(wire::event(&wire::error_body(&error))), None)),
        }
    }))
}

fn ending(last: ChatChunk, usage: Option<Usage>) -> String {
    let usage = usage.map(|usage| wire::event(&ChatChunk { usage: Some(usage), ..last }));
    usage.unwrap_or_default() + "data: [DONE]\n\n"
}

async fn embeddings(State(simulated): State<Simulated>, body: Bytes) -> Response {
    let request: EmbedRequest = match parse(&body) {
        Ok(request) => request,
        Err(refused) => return *refused,
    };
    match simulated.embed(request).await {
        Ok(response) => (wire::limit_headers(&simulated.rate_limits()), Json(response)).into_response(),
        Err(error) => wire::failed(&error),
    }
}

/// A few names, for clients that look; any name is answered.
async fn models() -> Json<Value> {
    let names = ["gpt-5", "gpt-5-mini", "gpt-5-nano", "text-embedding-3-small"];
    let model = |id| json!({"id": id, "object": "model", "created": 1_735_689_600, "owned_by": "simulated"});
    Json(json!({"object": "list", "data": names.map(model)}))
}
