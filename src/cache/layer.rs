//! The cache in the stack: look up, else join or start the flight.

use std::fmt;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use futures_util::stream;
use tokio_util::sync::DropGuard;

use super::config::Cache;
use super::embed::embed;
use super::fill::{Parts, Question, fly};
use super::flight::{FlightEvent, Landed, Listener};
use super::freshness::is_young_enough;
use super::handle::CacheHandle;
use super::key::Opening;
use super::order::Order;
use super::refresh;
use super::shared::Shared;
use super::{Probe, Selector, Values};
use crate::client::{ClientInfo, LlmClient};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::layer::Layer;
use crate::types::{
    CacheControl, ChatRequest, ChatResponse, ChatStream, Deadline, EmbedRequest, EmbedResponse, Finish, Source,
    StreamEvent, Trace,
};

/// Serves repeated questions from the cache, and simultaneous ones with one upstream call.
///
/// # What it does
/// Finds the answer of exactly the same request: same tenant, client, model, messages and parameters, unless a
/// [`KeyPolicy`](super::KeyPolicy) makes more of them equal. What it does not find it asks for once; everybody who asks
/// the same meanwhile gets the same answer. Complete answers are kept (`stop`, `tool_calls`), sampled ones too; cut,
/// filtered, refused and empty ones, and text where JSON was asked for, are passed on and not kept. A
/// [`StorePolicy`](super::StorePolicy) says otherwise.
///
/// Embeddings are kept text by text: of a batch only the texts nobody knows are asked for, each once, and each vector
/// comes back in the place of its text. A call's [`CacheControl`](crate::types::CacheControl) says otherwise for that call.
///
/// What is no longer fresh is asked for anew, unless [`Cache::stale_while_revalidate`] or [`Cache::stale_if_error`] allows
/// it to be served stale, or the call's own `max_stale`; [`Trace::stale`] tells. Refreshes in the background are tasks on
/// [`Env::tasks`]; they end with [`Env::closing`], and with the client this layer made.
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
/// # Embeddings
/// What a batch lacks is asked for in one call, except what another batch is asking for: that is waited for. The answer's
/// vectors are matched by the index each states. When they do not state exactly one for each input, none is kept: the
/// answer to a whole request is passed on as it came, and where it would have to be merged the call fails with
/// [`ErrorKind::Decode`](crate::ErrorKind::Decode). `usage` and [`Trace::cost`] are what was billed now, zero when all was
/// known; [`Trace::saved`] is what the other vectors once cost. A text's tokens and cost are its share, by length, of the
/// batch it came in: an estimate.
///
/// # Streaming
/// Calls and streams share entries and flights. A late joiner gets the chunks so far, then the live ones; a hit replays
/// the chunks as they came. An answer that was never streamed is replayed as one chunk.
///
/// # Cancellation
/// A caller that goes away leaves the flight to the others, whoever started it; with the last one the upstream call is
/// cancelled. What the starter's request carries, its deadline and priority, holds for the flight: when its deadline ends
/// the flight before the first chunk, the others start anew; after it, they get that error. A panic inside the wrapped
/// client becomes an error of kind `Panicked` for everybody who waited.
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
    settings: String,
    // A refused setting is kept here and told at `wrap`.
    shared: Result<Arc<Shared>>,
}

impl From<Cache> for CacheLayer {
    fn from(cache: Cache) -> Self {
        Self { settings: cache.describe(), shared: Shared::new(cache).map(Arc::new) }
    }
}

impl CacheLayer {
    /// How many upstream calls, streams and fetches of values it waits for now.
    pub fn open_flights(&self) -> usize {
        self.shared.as_ref().map_or(0, |shared| shared.flights.len() + shared.batches.len() + shared.values.under_way())
    }

    /// The user's own values in the namespace of this name: the same tiers, the same removals. They are at work once the
    /// layer has been wrapped around a client, whose clock they use.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest) when the cache was not given one of this name, or the
    /// setting that `wrap` would refuse.
    pub fn namespace(&self, name: &str) -> Result<Values> {
        Values::new(self.shared.clone()?, name)
    }

    /// How often a tier outside memory failed and was passed over.
    pub fn tier_errors(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.tiers.errors())
    }

    /// How often a refresh was not started because 32 were under way, or 1,024 of those that wait in a batch.
    pub fn skipped_refreshes(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.refreshes.skipped())
    }

    /// The cache at work in this stack.
    pub(crate) fn handle(
        &self,
        client: Arc<dyn LlmClient>,
        below: Arc<dyn LlmClient>,
        env: &Env,
        alive: Arc<DropGuard>,
    ) -> Result<CacheHandle> {
        Ok(CacheHandle::new(client, below, self.shared.clone()?, env.clone(), alive))
    }

    /// Forgets entries in every tier; how many, where the tiers can tell. It waits for the tiers as long as they take;
    /// dropping it leaves some of them asked and others not.
    ///
    /// # Errors
    /// What kept a tier from forgetting, once all have been asked: it may still serve them.
    pub async fn remove(&self, selector: &Selector) -> Result<u64> {
        self.shared.clone()?.tiers.remove(selector).await
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
        let shared = self.shared.clone()?;
        shared.tiers.follow();
        shared.values.works_with(env);
        let stop = env.closing().child_token();
        let guard = stop.clone().drop_guard();
        let opening = Opening::of(inner.info());
        Ok(Arc::new(Cached(Arc::new(Parts { inner, opening, shared, env: env.clone(), stop }), guard)))
    }
}

impl fmt::Debug for CacheLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheLayer").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The guard ends the refreshes when this goes.
struct Cached(Arc<Parts>, #[allow(dead_code, reason = "works when it is dropped")] DropGuard);

pub(super) fn not_cached() -> Error {
    let text = "only a stored answer was asked for (only_if_cached), and there is none";
    Error::new(ErrorKind::CacheMiss, "cache", text)
}

impl fmt::Debug for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("inner", &self.0.inner).finish_non_exhaustive()
    }
}

impl Cached {
    fn listen(&self, probe: Probe, request: &ChatRequest, streaming: bool) -> Result<Listener> {
        let question = Question { request: request.clone(), streaming, seen: None };
        let (parts, labels, defers) = (Arc::clone(&self.0), question.labels(), self.0.defers(request, streaming));
        self.0.shared.flights.join(probe, defers, || labels, |probe| fly(parts, probe, question))
    }

    /// Whether a joined flight failed for a reason that was its starter's alone: the starter's deadline, or a remembered
    /// failure that this call does not take.
    fn try_again(&self, leader: bool, error: &Error, request: &ChatRequest) -> bool {
        if leader {
            return false;
        }
        if error.is_remembered() {
            return request.extensions.get::<CacheControl>().is_some_and(|control| control.no_cache);
        }
        let mine = request.extensions.get::<Deadline>();
        error.kind() == ErrorKind::Deadline && mine.is_none_or(|Deadline(until)| self.0.env.now() < *until)
    }

    /// Whether a joined flight found something stored that its starter takes, and this call does not.
    fn refuses(&self, leader: bool, landed: &Landed, request: &ChatRequest) -> bool {
        let control = request.extensions.get::<CacheControl>();
        let young = |control| is_young_enough(&landed.entry, control, self.0.env.now());
        !leader && landed.stored && !control.is_none_or(young)
    }

    /// Whether the store policy sends this call past the cache.
    fn passes_by(&self, request: &ChatRequest) -> Result<bool> {
        if !self.0.shared.store.passes_by(request) {
            return Ok(false);
        }
        let control = request.extensions.get::<CacheControl>();
        self.0.space(control)?;
        if control.is_some_and(|control| control.only_if_cached) { Err(not_cached()) } else { Ok(true) }
    }

    async fn miss(&self, mut probe: Probe, request: ChatRequest) -> Result<ChatResponse> {
        loop {
            let mut listener = self.listen(probe, &request, false)?;
            let started = listener.is_leader();
            let landed = std::future::poll_fn(|cx| listener.poll_landed(cx)).await;
            let leader = listener.is_leader();
            match landed {
                Ok(landed) if self.refuses(started, &landed, &request) => probe = self.0.probe(&request),
                Ok(landed) if leader => {
                    self.0.landed(&landed, leader);
                    return Ok(landed.answer);
                }
                Ok(landed) => return Ok(landed.entry.respond(self.0.landed(&landed, leader))),
                Err(error) if self.try_again(leader, &error, &request) => probe = self.0.probe(&request),
                Err(error) => {
                    let instead = self.0.instead_of(&error, &request).await;
                    return match instead {
                        Some((entry, trace)) => Ok(entry.respond(trace)),
                        None => Err(self.0.missed(leader, &request, error)),
                    };
                }
            }
        }
    }

    async fn miss_stream(&self, mut probe: Probe, request: ChatRequest) -> Result<ChatStream> {
        loop {
            let mut listener = self.listen(probe, &request, true)?;
            let leader = listener.is_leader();
            // Waits for the first event, so that a failure before it is this call's error, not the stream's.
            match std::future::poll_fn(|cx| listener.poll_event(cx)).await {
                Ok(FlightEvent::Landed(landed)) if self.refuses(leader, &landed, &request) => {
                    probe = self.0.probe(&request);
                }
                Ok(first) => return Ok(self.stream(listener, first)),
                Err(error) if self.try_again(leader, &error, &request) => probe = self.0.probe(&request),
                Err(error) => {
                    let instead = self.0.instead_of(&error, &request).await;
                    return match instead {
                        Some((entry, trace)) => Ok(entry.replay(trace)),
                        None => Err(self.0.missed(leader, &request, error)),
                    };
                }
            }
        }
    }

    /// What a listener hears, as a stream.
    fn stream(&self, listener: Listener, first: FlightEvent) -> ChatStream {
        let source = if listener.is_leader() { Source::Upstream } else { Source::Coalesced };
        let opening = Trace { source, ..Trace::default() };
        if let FlightEvent::Landed(landed) = &first {
            // The flight was a call, not a stream: its answer comes as one chunk.
            return landed.entry.replay(self.0.landed(landed, listener.is_leader()));
        }
        let parts = Arc::clone(&self.0);
        let (mut listener, mut first) = (listener, Some(first));
        ChatStream::new(stream::poll_fn(move |cx| {
            let event = match first.take() {
                Some(event) => Ok(event),
                None => std::task::ready!(listener.poll_event(cx)),
            };
            Poll::Ready(Some(event.map(|event| match event {
                FlightEvent::Chunk(chunk) => StreamEvent::Chunk(chunk),
                FlightEvent::Landed(landed) => {
                    let usage = landed.answer.usage.clone();
                    StreamEvent::Finish(Box::new(Finish { usage, trace: parts.landed(&landed, listener.is_leader()) }))
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
        if let Some(order) = request.extensions.get::<Order>() {
            return Box::pin(self.0.carry_out(order, &request)).await;
        }
        if self.passes_by(&request)? {
            return self.0.inner.chat(request).await;
        }
        let probe = match Parts::is_long(&request) {
            true => self.0.probe_of_long(&request).await,
            false => self.0.probe(&request),
        };
        let control = request.extensions.get::<CacheControl>();
        let space = self.0.space(control)?;
        match self.0.find(space, &probe, control).await {
            Some(hit) => {
                if hit.refresh {
                    refresh::start(&self.0, &probe, &request, &hit.entry);
                }
                let trace = self.0.hit(space, (&probe, &request), (&hit.entry, hit.tier));
                Ok(hit.entry.respond(trace))
            }
            None if control.is_some_and(|control| control.only_if_cached) => {
                Err(self.0.missed(true, &request, not_cached()))
            }
            // Boxed, so that a hit does not carry the miss's state around.
            None => Box::pin(self.miss(probe, request)).await,
        }
    }

    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        if let Some(order) = request.extensions.get::<Order>() {
            return Ok(ChatStream::from_response(&Box::pin(self.0.carry_out(order, &request)).await?));
        }
        if self.passes_by(&request)? {
            return self.0.inner.chat_stream(request).await;
        }
        let probe = match Parts::is_long(&request) {
            true => self.0.probe_of_long(&request).await,
            false => self.0.probe(&request),
        };
        let control = request.extensions.get::<CacheControl>();
        let space = self.0.space(control)?;
        match self.0.find(space, &probe, control).await {
            Some(hit) => {
                if hit.refresh {
                    refresh::start(&self.0, &probe, &request, &hit.entry);
                }
                let trace = self.0.hit(space, (&probe, &request), (&hit.entry, hit.tier));
                Ok(hit.entry.replay(trace))
            }
            None if control.is_some_and(|control| control.only_if_cached) => {
                Err(self.0.missed(true, &request, not_cached()))
            }
            None => Box::pin(self.miss_stream(probe, request)).await,
        }
    }

    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        embed(&self.0, request).await
    }
}
