//! The cache in the stack: look up, else join or start the flight.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;

use super::config::{Cache, Store};
use super::fill::{Parts, Shared, Tier, fly};
use super::flight::{FlightEvent, Landed, Listener};
use super::tier::Memory;
use super::{Probe, Selector};
use crate::client::{ClientInfo, LlmClient};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::layer::Layer;
use crate::types::{
    ChatRequest, ChatResponse, ChatStream, Deadline, EmbedRequest, EmbedResponse, Finish, Source, StreamEvent, Trace,
};

/// Serves repeated questions from the cache, and simultaneous ones with one upstream call.
///
/// # What it does
/// Finds the answer of exactly the same request: same tenant, client, model, messages and parameters. What it does not
/// find it asks for once; everybody who asks the same meanwhile gets the same answer. Complete answers are kept
/// (`stop`, `tool_calls`), sampled ones too; cut, filtered, refused and empty ones are passed on and not kept.
/// Embeddings pass through.
///
/// # Where it sits
/// [`Slot::Cache`](crate::Slot::Cache): inside History, because the final prompt is the key; outside Retry and Schedule,
/// because a hit needs neither.
///
/// # Cost
/// A hit: one buffer, one hash, one lookup, one comparison. A miss adds the flight: a few microseconds.
///
/// A client that asks its own cache for the very request it is answering would wait for itself; that is refused when it
/// happens on the same task, and cannot be seen when the client does it on a task it spawned.
///
/// # Streaming
/// Calls and streams share entries and flights. A late joiner gets the chunks so far, then the live ones; a hit replays
/// the chunks as they came. An answer that was never streamed is replayed as one chunk.
///
/// # Cancellation
/// A caller that goes away leaves the flight to the others, whoever started it; with the last one the upstream call is
/// cancelled. What the starter's request carries, its deadline and priority, holds for the flight: when its deadline ends
/// the flight before the first chunk, the others start anew; after it, they get that error. A panic inside the wrapped client becomes an error of kind `Panicked` for everybody who waited.
///
/// # Example
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use std::sync::Arc;
/// use sluicegate::{Env, Layer, LlmClient, cache::{Cache, CacheLayer}, testing::Scripted, types::ChatRequest};
///
/// let upstream = Arc::new(Scripted::new());
/// let client = CacheLayer::from(Cache::memory(100)).wrap(upstream.clone(), &Env::new())?;
/// let request = ChatRequest::new("gpt-5-mini").user("Why is the sky blue?");
/// client.chat(request.clone()).await?;
/// let again = client.chat(request).await?;
/// assert_eq!(again.trace().source.to_string(), "memory hit");
/// assert_eq!(upstream.calls(), 1);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct CacheLayer {
    ttl: Duration,
    tier_timeout: Duration,
    settings: String,
    tier: Result<Tier>,
    shared: Arc<Shared>,
}

impl From<Cache> for CacheLayer {
    fn from(cache: Cache) -> Self {
        let (tier, settings) = match cache.store {
            // A refused capacity is kept and told at `wrap`.
            Store::Memory { entries, bytes } => (
                Memory::new(entries, bytes).map(|memory| Tier::Memory(Arc::new(memory))),
                format!("memory, {entries} entries, {}", size(bytes)),
            ),
            Store::Custom(tier) => {
                let settings = tier.name().to_owned();
                (Ok(Tier::Custom(tier)), settings)
            }
        };
        let settings = format!("{settings}, ttl {:?}", cache.ttl);
        Self { ttl: cache.ttl, tier_timeout: cache.tier_timeout, settings, tier, shared: Arc::default() }
    }
}

/// Bytes for people: `256 MiB`, `100000 bytes`.
fn size(bytes: u64) -> String {
    match bytes {
        whole if whole % (1 << 20) == 0 => format!("{} MiB", whole >> 20),
        whole if whole % (1 << 10) == 0 => format!("{} KiB", whole >> 10),
        other => format!("{other} bytes"),
    }
}

impl CacheLayer {
    /// How many upstream calls and streams it waits for now.
    pub fn open_flights(&self) -> usize {
        self.shared.flights.len()
    }

    /// How often a tier failed and was passed over.
    pub fn tier_errors(&self) -> u64 {
        self.shared.tier_errors.load(Ordering::Relaxed)
    }

    /// Forgets entries; how many, where the tier can tell.
    ///
    /// # Errors
    /// What kept the tier from forgetting: the entries may still be served.
    pub async fn remove(&self, selector: &Selector) -> Result<u64> {
        self.tier.clone()?.as_dyn().remove(selector).await
    }
}

impl Layer for CacheLayer {
    fn name(&self) -> &'static str {
        "cache"
    }

    fn settings(&self) -> String {
        self.settings.clone()
    }

    fn wrap(&self, inner: Arc<dyn LlmClient>, env: &Env) -> Result<Arc<dyn LlmClient>> {
        if self.ttl.is_zero() {
            let advice = "keep answers for at least a millisecond, or leave the cache out";
            return Err(Error::config("cache", "ttl", "0s", advice));
        }
        if self.tier_timeout.is_zero() {
            let advice = "give the tier at least a millisecond to answer";
            return Err(Error::config("cache", "tier_timeout", "0s", advice));
        }
        let tier = self.tier.clone()?;
        let source = Source::Cache(tier.as_dyn().name());
        Ok(Arc::new(Cached(Arc::new(Parts {
            inner,
            tier,
            source,
            ttl: self.ttl,
            tier_limit: self.tier_timeout,
            shared: Arc::clone(&self.shared),
            env: env.clone(),
        }))))
    }
}

impl fmt::Debug for CacheLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheLayer").field("settings", &self.settings).finish_non_exhaustive()
    }
}

struct Cached(Arc<Parts>);

impl fmt::Debug for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("inner", &self.0.inner).finish_non_exhaustive()
    }
}

impl Cached {
    fn listen(&self, probe: Probe, request: &ChatRequest, streaming: bool) -> Result<Listener> {
        let (parts, request) = (Arc::clone(&self.0), request.clone());
        self.0.shared.flights.join(probe, |probe| fly(parts, probe, request, streaming))
    }

    /// Whether a joined flight failed for a reason that was its starter's alone: the starter's deadline.
    fn try_again(&self, leader: bool, error: &Error, request: &ChatRequest) -> bool {
        let mine = request.extensions.get::<Deadline>();
        !leader && error.kind() == ErrorKind::Deadline && mine.is_none_or(|Deadline(until)| self.0.env.now() < *until)
    }

    async fn miss(&self, mut probe: Probe, request: ChatRequest) -> Result<ChatResponse> {
        loop {
            let mut listener = self.listen(probe, &request, false)?;
            let landed = std::future::poll_fn(|cx| listener.poll_landed(cx)).await;
            let leader = listener.is_leader();
            match landed {
                Ok(landed) if leader => return Ok(landed.answer),
                Ok(landed) => return Ok(landed.entry.respond(self.trace(leader, &landed))),
                Err(error) if self.try_again(leader, &error, &request) => probe = self.0.probe(&request),
                Err(error) => return Err(error),
            }
        }
    }

    async fn miss_stream(&self, mut probe: Probe, request: ChatRequest) -> Result<ChatStream> {
        loop {
            let mut listener = self.listen(probe, &request, true)?;
            let leader = listener.is_leader();
            // Waits for the first event, so that a failure before it is this call's error, not the stream's.
            match std::future::poll_fn(|cx| listener.poll_event(cx)).await {
                Ok(first) => return Ok(self.stream(listener, first)),
                Err(error) if self.try_again(leader, &error, &request) => probe = self.0.probe(&request),
                Err(error) => return Err(error),
            }
        }
    }

    fn trace(&self, leader: bool, landed: &Landed) -> Trace {
        if leader { *landed.answer.trace() } else { self.0.saved(&landed.entry, Source::Coalesced) }
    }

    /// What a listener hears, as a stream.
    fn stream(&self, listener: Listener, first: FlightEvent) -> ChatStream {
        let source = if listener.is_leader() { Source::Upstream } else { Source::Coalesced };
        let opening = Trace { source, ..Trace::default() };
        if let FlightEvent::Landed(landed) = &first {
            // The flight was a call, not a stream: its answer comes as one chunk.
            return landed.entry.replay(self.trace(listener.is_leader(), landed));
        }
        let this = Self(Arc::clone(&self.0));
        let (mut listener, mut first) = (listener, Some(first));
        ChatStream::new(stream::poll_fn(move |cx| {
            let event = match first.take() {
                Some(event) => Ok(event),
                None => std::task::ready!(listener.poll_event(cx)),
            };
            Poll::Ready(Some(event.map(|event| match event {
                FlightEvent::Chunk(chunk) => StreamEvent::Chunk(chunk),
                FlightEvent::Landed(landed) => {
                    let usage = landed.entry.completion().usage.clone();
                    StreamEvent::Finish(Box::new(Finish { usage, trace: this.trace(listener.is_leader(), &landed) }))
                }
            })))
        }))
        .with_trace(opening)
    }
}

#[async_trait]
impl LlmClient for Cached {
    fn info(&self) -> &ClientInfo {
        self.0.inner.info()
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        let probe = self.0.probe(&request);
        match self.0.find(&probe).await {
            Some(entry) => Ok(entry.respond(entry.saved(self.0.source, probe.now()))),
            // Boxed, so that a hit does not carry the miss's state around.
            None => Box::pin(self.miss(probe, request)).await,
        }
    }

    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        let probe = self.0.probe(&request);
        match self.0.find(&probe).await {
            Some(entry) => Ok(entry.replay(entry.saved(self.0.source, probe.now()))),
            None => Box::pin(self.miss_stream(probe, request)).await,
        }
    }

    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        self.0.inner.embed(request).await
    }
}
