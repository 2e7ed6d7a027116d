//! A miss on its way: ask upstream once, put the answer together, keep it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};

use super::flight::{FlightEvent, FlightSource, Flights, Landed};
use super::guard::guarded;
use super::tier::Memory;
use super::{CacheTier, Entry, Probe};
use crate::client::LlmClient;
use crate::env::Env;
use crate::error::Result;
use crate::types::{Assembler, ChatChunk, ChatRequest, ChatResponse, ChatStream, Source, StreamEvent, Trace};

/// The memory tier is asked directly: it never waits, so a hit need not box a future for it.
#[derive(Debug, Clone)]
pub(super) enum Tier {
    Memory(Arc<Memory>),
    Custom(Arc<dyn CacheTier>),
}

impl Tier {
    pub(super) async fn get(&self, env: &Env, limit: Duration, probe: &Probe) -> Result<Option<Arc<Entry>>> {
        match self {
            Self::Memory(memory) => Ok(memory.find(probe)),
            Self::Custom(tier) => {
                let found = guarded(env, limit, tier.get(probe)).await?;
                // Whatever a tier hands out, only what was stored for exactly this request is served.
                Ok(found.filter(|entry| entry.serves(probe)))
            }
        }
    }

    pub(super) fn as_dyn(&self) -> &dyn CacheTier {
        match self {
            Self::Memory(memory) => &**memory,
            Self::Custom(tier) => &**tier,
        }
    }
}

/// What all clients wrapped by one layer share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) flights: Arc<Flights>,
    pub(super) tier_errors: AtomicU64,
}

/// What a look-up and a miss need.
pub(super) struct Parts {
    pub(super) inner: Arc<dyn LlmClient>,
    pub(super) tier: Tier,
    pub(super) source: Source,
    pub(super) ttl: Duration,
    pub(super) tier_limit: Duration,
    pub(super) shared: Arc<Shared>,
    pub(super) env: Env,
}

impl Parts {
    pub(super) fn probe(&self, request: &ChatRequest) -> Probe {
        Probe::chat(self.inner.info(), request, self.env.now())
    }

    pub(super) async fn find(&self, probe: &Probe) -> Option<Arc<Entry>> {
        let found = self.tier.get(&self.env, self.tier_limit, probe).await;
        found.unwrap_or_else(|_| {
            self.shared.tier_errors.fetch_add(1, Ordering::Relaxed);
            None
        })
    }

    /// The answer has come whole: keep it if it may be kept, and tell.
    ///
    /// Where no layer below has priced it, the price is that of the model asked for, as there.
    async fn land(
        &self,
        probe: &Probe,
        model: &str,
        mut answer: ChatResponse,
        chunks: Vec<Arc<ChatChunk>>,
    ) -> FlightEvent {
        let billed = || self.env.prices().cost(model, answer.usage.as_ref()?);
        let cost = answer.trace().cost.or_else(billed);
        answer.trace_mut().cost = cost;
        let created = self.env.now();
        let entry = Entry::new(probe, Arc::clone(answer.completion()), chunks.into(), created, self.ttl, cost);
        let entry = Arc::new(entry);
        if entry.is_storable() {
            let put = self.tier.as_dyn().put(probe, Arc::clone(&entry));
            if guarded(&self.env, self.tier_limit, put).await.is_err() {
                self.shared.tier_errors.fetch_add(1, Ordering::Relaxed);
            }
        }
        FlightEvent::Landed(Landed { entry, answer })
    }

    pub(super) fn saved(&self, entry: &Entry, source: Source) -> Trace {
        entry.saved(source, self.env.now())
    }
}

/// Asks upstream, as a call or as a stream, and keeps the answer.
pub(super) fn fly(parts: Arc<Parts>, probe: Arc<Probe>, request: ChatRequest, streaming: bool) -> FlightSource {
    let opening = async move {
        // Another flight may have landed between our look-up and the start of this one.
        if let Some(entry) = parts.find(&probe).await {
            let answer = entry.respond(parts.saved(&entry, parts.source));
            return one(Ok(FlightEvent::Landed(Landed { entry, answer })));
        }
        if !streaming {
            let model = request.model.clone();
            return match parts.inner.chat(request).await {
                Ok(answer) => one(Ok(parts.land(&probe, &model, answer, Vec::new()).await)),
                Err(error) => one(Err(error)),
            };
        }
        let model = request.model.clone();
        match parts.inner.chat_stream(request).await {
            Ok(stream) => follow(parts, probe, model, stream),
            Err(error) => one(Err(error)),
        }
    };
    Box::pin(stream::once(opening).flatten())
}

fn one(event: Result<FlightEvent>) -> FlightSource {
    Box::pin(stream::iter([event]))
}

/// Passes a stream's chunks on and puts the answer together as they go by.
fn follow(parts: Arc<Parts>, probe: Arc<Probe>, model: String, stream: ChatStream) -> FlightSource {
    let state = (parts, (probe, model), stream, Assembler::new(), Vec::new());
    Box::pin(stream::unfold(state, async |(parts, asked, mut stream, mut assembler, mut chunks)| {
        let event = match stream.next().await? {
            Ok(StreamEvent::Chunk(chunk)) => {
                assembler.push(&chunk);
                chunks.push(Arc::clone(&chunk));
                Ok(FlightEvent::Chunk(chunk))
            }
            Ok(StreamEvent::Finish(finish)) => {
                let mut completion = std::mem::take(&mut assembler).finish();
                completion.usage = completion.usage.or(finish.usage);
                let mut answer = ChatResponse::new(completion);
                *answer.trace_mut() = finish.trace;
                let (probe, model) = &asked;
                Ok(parts.land(probe, model, answer, std::mem::take(&mut chunks)).await)
            }
            Err(error) => Err(error),
        };
        Some((event, (parts, asked, stream, assembler, chunks)))
    }))
}
