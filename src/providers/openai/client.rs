//! The client: one HTTP exchange per call.

use std::fmt;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, RequestBuilder, Response, Url};
use tokio_util::task::TaskTracker;

use super::batch::Batches;
use super::builder::OpenAiBuilder;
use super::{error, headers, sse, wire};
use crate::client::{ClientInfo, LlmClient};
use crate::env::{Clock, TokioClock};
use crate::error::Result;
use crate::offload::{LARGE_JSON, offload};
use crate::types::{ChatRequest, ChatResponse, ChatStream, EmbedRequest, EmbedResponse};

/// A refusal that is longer than this is a page, not a message: the rest is not read.
const REFUSAL_BYTES: usize = 64 << 10;

const JSON: &str = "application/json";

/// A client of one OpenAI-compatible endpoint.
///
/// **What it does.** Sends a request, decodes the answer or the refusal. The [`RateLimits`](crate::types::RateLimits)
/// that the provider states are beside a whole answer ([`ChatResponse::extension`]), beside the opening of a stream
/// ([`ChatStream::extension`]), or in the error. Proxies are taken from the environment
/// (`HTTPS_PROXY`, `NO_PROXY`, …).
///
/// **Cost.** Connections are kept and shared by all calls: HTTP/2 where TLS agrees on it, otherwise one connection per
/// call in flight. Bodies come compressed where the server offers gzip or zstd. Requests of more than 256 KiB are
/// written and answers and events of more than that read on Tokio's threads for blocking work.
///
/// **Streaming.** The call returns when the response head has come; each event is handed out as it arrives. An endpoint
/// that answers a stream request with plain JSON gives a stream of one chunk.
///
/// **Cancellation.** Dropping a future or a stream closes its HTTP/1.1 connection or resets its HTTP/2 stream, which is
/// how a provider learns to stop. A stream read to its end gives its connection back.
///
/// **Time.** Only connecting is limited; a `TimeoutLayer` limits the rest.
///
/// Cloning shares the connections.
///
/// ```no_run
/// # fn main() -> sluicegate::Result<()> {
/// use sluicegate::providers::OpenAi;
/// let public = OpenAi::new("sk-…")?;
/// let gateway = OpenAi::builder("https://gateway.example/v1").api_key("…").account("search-team").build()?;
/// let configured = OpenAi::from_env().build()?;
/// # let _ = (public, gateway, configured);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct OpenAi {
    http: reqwest::Client,
    base: Url,
    chat_url: Url,
    embed_url: Url,
    info: ClientInfo,
    max_body_bytes: usize,
    clock: TokioClock,
    /// What of its is done on other threads.
    tasks: TaskTracker,
}

impl OpenAi {
    /// A client of the public endpoint, `https://api.openai.com/v1`, with default settings.
    ///
    /// # Errors
    /// As [`OpenAiBuilder::build`].
    pub fn new(api_key: impl Into<String>) -> Result<Self> {
        OpenAiBuilder::public().api_key(api_key).build()
    }

    /// Settings for the endpoint at this base, to which `/chat/completions` and `/embeddings` are added. A query in it
    /// is sent with every request.
    pub fn builder(base_url: &str) -> OpenAiBuilder {
        OpenAiBuilder::new(base_url)
    }

    /// Settings from the variables `OPENAI_BASE_URL` (default: the public endpoint) and `OPENAI_API_KEY` (default:
    /// none), read now. One that is empty or not Unicode counts as unset.
    pub fn from_env() -> OpenAiBuilder {
        OpenAiBuilder::from_vars(|name| std::env::var(name).ok())
    }

    pub(super) fn new_from(http: reqwest::Client, base: &Url, info: ClientInfo, max_body_bytes: usize) -> Self {
        let (chat_url, embed_url) = (below(base, &["chat", "completions"]), below(base, &["embeddings"]));
        let (base, clock, tasks) = (base.clone(), TokioClock::new(), TaskTracker::new());
        Self { http, base, chat_url, embed_url, info, max_body_bytes, clock, tasks }
    }

    /// Batches at this endpoint: for work that can wait, at half the price.
    pub fn batches(&self) -> Batches {
        Batches::new(self.clone())
    }

    /// A request to what is at this path below the base.
    pub(super) fn request(&self, method: Method, path: &[&str], query: &[(&str, &str)]) -> RequestBuilder {
        let mut url = below(&self.base, path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.http.request(method, url)
    }

    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    pub(super) fn max_body_bytes(&self) -> usize {
        self.max_body_bytes
    }

    async fn post(&self, url: &Url, body: Vec<u8>, accept: &'static str) -> Result<Response> {
        self.send(self.http.post(url.clone()).header(CONTENT_TYPE, JSON).header(ACCEPT, accept).body(body)).await
    }

    /// Waits for the head of the answer; anything but 2xx is an error.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let mut response = request.send().await.map_err(error::from_transport)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let mut refusal = Vec::new();
        // The status says enough when its body breaks off.
        while let Ok(Some(piece)) = response.chunk().await {
            let room = REFUSAL_BYTES.min(self.max_body_bytes) - refusal.len();
            refusal.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.len() >= room {
                break;
            }
        }
        Err(error::from_status(status.as_u16(), response.headers(), &refusal, self.clock.wall()))
    }

    /// Reads a whole body, at most `max_body_bytes` of it, counted after decompression.
    pub(super) async fn read(&self, mut response: Response) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(error::from_transport)? {
            if piece.len() > self.max_body_bytes - body.len() {
                return Err(error::too_large("the answer", self.max_body_bytes));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// The body of a chat request, which goes where it is written.
    async fn written(&self, request: ChatRequest, stream: bool) -> Result<Vec<u8>> {
        let is_large = request.body().weight() > LARGE_JSON;
        let write = move || {
            request.check()?;
            wire::chat(&request, stream)
        };
        offload(&self.tasks, is_large, write).await
    }

    async fn written_embedding(&self, request: EmbedRequest) -> Result<Vec<u8>> {
        let is_large = request.weight() > LARGE_JSON;
        let write = move || {
            request.check()?;
            wire::embed(&request)
        };
        offload(&self.tasks, is_large, write).await
    }

    async fn read_chat(&self, response: Response) -> Result<ChatResponse> {
        let limits = headers::rate_limits(response.headers());
        let body = self.read(response).await?;
        let completion = wire::apart(&self.tasks, body, wire::completion).await?;
        let answer = ChatResponse::new(completion);
        Ok(match limits {
            Some(limits) => answer.with(limits),
            None => answer,
        })
    }

    async fn read_embeddings(&self, response: Response, wanted: usize) -> Result<EmbedResponse> {
        let body = self.read(response).await?;
        wire::apart(&self.tasks, body, move |body| wire::embeddings(body, wanted)).await
    }
}

#[async_trait]
impl LlmClient for OpenAi {
    fn info(&self) -> &ClientInfo {
        &self.info
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        let body = self.written(request, false).await?;
        let response = self.post(&self.chat_url, body, JSON).await?;
        self.read_chat(response).await
    }

    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        let body = self.written(request, true).await?;
        let response = self.post(&self.chat_url, body, "text/event-stream").await?;
        let kind = response.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes().to_ascii_lowercase());
        if kind.is_some_and(|kind| kind.starts_with(JSON.as_bytes())) {
            return self.read_chat(response).await.map(|answer| ChatStream::from_response(&answer));
        }
        let limits = headers::rate_limits(response.headers());
        let bytes = response.bytes_stream().map_err(error::from_transport);
        let stream = ChatStream::new(sse::chat_events(bytes, self.max_body_bytes, self.clock, self.tasks.clone()));
        Ok(match limits {
            Some(limits) => stream.with(limits),
            None => stream,
        })
    }

    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        let wanted = request.input.len();
        let body = self.written_embedding(request).await?;
        let response = self.post(&self.embed_url, body, JSON).await?;
        self.read_embeddings(response, wanted).await
    }
}

impl fmt::Debug for OpenAi {
    // The URLs may hold a key in their query, the HTTP client holds it in a header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAi")
            .field("info", &self.info)
            .field("max_body_bytes", &self.max_body_bytes)
            .finish_non_exhaustive()
    }
}

fn below(base: &Url, path: &[&str]) -> Url {
    let mut url = base.clone();
    url.set_fragment(None);
    // Only a URL without a host has no path to add to, and the builder refuses those.
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    url
}

#[cfg(test)]
#[path = "client_tests.rs"]
pub(super) mod tests;
