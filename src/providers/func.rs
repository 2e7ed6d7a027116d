//! A closure as a client.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use async_trait::async_trait;

use crate::client::{ClientInfo, LlmClient};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{ChatRequest, ChatResponse, ChatStream, EmbedRequest, EmbedResponse};

type Call<In, Out> = Box<dyn Fn(In) -> Pin<Box<dyn Future<Output = Result<Out>> + Send>> + Send + Sync>;

/// A client made of closures; see [`client_fn`].
pub struct FnClient {
    info: ClientInfo,
    chat: Call<ChatRequest, ChatResponse>,
    stream: Option<Call<ChatRequest, ChatStream>>,
    embed: Option<Call<EmbedRequest, EmbedResponse>>,
}

fn boxed<In, Out, F, Fut>(call: F) -> Call<In, Out>
where
    F: Fn(In) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Out>> + Send + 'static,
{
    Box::new(move |input| Box::pin(call(input)))
}

/// Makes a client of a closure that answers one chat.
///
/// A stream asked of it yields the whole answer as one chunk, unless [`with_stream`](FnClient::with_stream) adds a
/// closure that really streams. Embeddings are refused unless [`with_embed`](FnClient::with_embed) adds them.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use sluicegate::{LlmClient, providers::client_fn, types::{ChatRequest, ChatResponse}};
///
/// let client = client_fn(|request: ChatRequest| async move {
///     Ok(ChatResponse::from_text(format!("{} messages", request.messages.len())))
/// });
/// assert_eq!(client.chat(ChatRequest::new("m").user("hi")).await?.text(), "1 messages");
/// # Ok(()) }
/// ```
pub fn client_fn<F, Fut>(chat: F) -> FnClient
where
    F: Fn(ChatRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<ChatResponse>> + Send + 'static,
{
    FnClient { info: ClientInfo::new("fn"), chat: boxed(chat), stream: None, embed: None }
}

impl FnClient {
    /// Adds a closure that streams.
    #[must_use]
    pub fn with_stream<F, Fut>(mut self, stream: F) -> Self
    where
        F: Fn(ChatRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<ChatStream>> + Send + 'static,
    {
        self.stream = Some(boxed(stream));
        self
    }

    /// Adds a closure that embeds.
    #[must_use]
    pub fn with_embed<F, Fut>(mut self, embed: F) -> Self
    where
        F: Fn(EmbedRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<EmbedResponse>> + Send + 'static,
    {
        self.embed = Some(boxed(embed));
        self
    }

    /// Says who answers. Set it when a cache outlives the process or is shared: it is part of every key.
    #[must_use]
    pub fn with_info(mut self, info: ClientInfo) -> Self {
        self.info = info;
        self
    }
}

impl fmt::Debug for FnClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FnClient").field("info", &self.info).finish_non_exhaustive()
    }
}

#[async_trait]
impl LlmClient for FnClient {
    fn info(&self) -> &ClientInfo {
        &self.info
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        (self.chat)(request).await
    }

    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        match &self.stream {
            Some(stream) => stream(request).await,
            None => (self.chat)(request).await.map(|response| ChatStream::from_response(&response)),
        }
    }

    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        match &self.embed {
            Some(embed) => embed(request).await,
            None => {
                let advice = "this client cannot embed; add a closure with FnClient::with_embed";
                Err(Error::new(ErrorKind::Unsupported, "fn", advice))
            }
        }
    }
}
