//! The one trait everything here wraps and is.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::Result;
use crate::types::{ChatRequest, ChatResponse, ChatStream, EmbedRequest, EmbedResponse};

/// An LLM client: whatever can answer a chat, stream one, and embed texts.
///
/// Every decorator of this crate implements it and wraps one. There are no default methods: a wrapper that forgot one
/// would silently bypass the client it wraps. A closure becomes a client with
/// [`client_fn`](crate::providers::client_fn).
///
/// Cancellation: dropping a returned future or stream must abandon the call and free what it holds.
#[async_trait]
pub trait LlmClient: fmt::Debug + Send + Sync + 'static {
    /// Who answers. Part of every cache key, so it must not change while the client lives.
    fn info(&self) -> &ClientInfo;

    /// One whole answer.
    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse>;

    /// An answer as it is made.
    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream>;

    /// Vectors of texts, in the order of the input.
    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse>;
}

/// Who answers: two clients whose answers may differ must differ here. Nothing secret belongs in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct ClientInfo {
    /// The provider's name, as in OpenTelemetry's `gen_ai.provider.name`: `openai`, `anthropic`, …
    pub provider: String,
    /// Where it is, without credentials or query.
    pub endpoint: String,
    /// Whose account is billed: a name, never the key itself, so that a rotated key finds its answers again.
    pub account: String,
}

impl ClientInfo {
    /// A provider without endpoint or account.
    pub fn new(provider: impl Into<String>) -> Self {
        Self { provider: provider.into(), ..Self::default() }
    }

    /// Says where it is: scheme, host and path, without credentials or query.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = endpoint.into();
        self
    }

    /// Says whose account is billed: a name, never a key.
    #[must_use]
    pub fn with_account(mut self, account: impl Into<String>) -> Self {
        self.account = account.into();
        self
    }
}

/// What an `async fn` of the trait returns once `async_trait` has rewritten it.
pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Pointers hand on the pointee's own future. Written as `async fn` they would box it once more, and since a layer that
/// calls `self.inner.chat(…)` on an `Arc<dyn LlmClient>` lands here, that would double the cost of every layer.
macro_rules! forward {
    ($pointer:ident) => {
        impl<C: LlmClient + ?Sized> LlmClient for $pointer<C> {
            fn info(&self) -> &ClientInfo {
                (**self).info()
            }

            fn chat<'a, 'f>(&'a self, request: ChatRequest) -> Answer<'f, ChatResponse>
            where
                'a: 'f,
                Self: 'f,
            {
                (**self).chat(request)
            }

            fn chat_stream<'a, 'f>(&'a self, request: ChatRequest) -> Answer<'f, ChatStream>
            where
                'a: 'f,
                Self: 'f,
            {
                (**self).chat_stream(request)
            }

            fn embed<'a, 'f>(&'a self, request: EmbedRequest) -> Answer<'f, EmbedResponse>
            where
                'a: 'f,
                Self: 'f,
            {
                (**self).embed(request)
            }
        }
    };
}

forward!(Arc);
forward!(Box);
