//! A miss on its way: ask upstream once, put the answer together, keep it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};

use super::flight::{FlightEvent, FlightSource, Flights, Landed};
use super::tiers::{Found, Tiers};
use super::{Entry, Probe};
use crate::client::LlmClient;
use crate::env::Env;
use crate::error::Result;
use crate::types::{
    Assembler, CacheControl, ChatChunk, ChatRequest, ChatResponse, ChatStream, Source, StreamEvent, Trace,
};

/// What all clients wrapped by one layer share.
pub(super) struct Shared {
    pub(super) flights: Arc<Flights>,
    pub(super) tiers: Tiers,
}

/// What a look-up and a miss need.
pub(super) struct Parts {
    pub(super) inner: Arc<dyn LlmClient>,
    pub(super) ttl: Duration,
    pub(super) shared: Arc<Shared>,
    pub(super) env: Env,
}

impl Parts {
    pub(super) fn probe(&self, request: &ChatRequest) -> Probe {
        Probe::chat(self.inner.info(), request, self.env.now())
    }

    /// A stored answer that this call may take.
    pub(super) async fn find(&self, probe: &Probe, control: CacheControl) -> Option<Found> {
        if control.no_cache {
            return None;
        }
        let found = self.shared.tiers.find(&self.env, probe).await?;
        control.max_age.is_none_or(|max| found.0.age(probe.now()) <= max).then_some(found)
    }

    /// The answer has come whole: keep it if it may be kept, and tell.
    ///
    /// Where no layer below has priced it, the price is that of the model asked for, as there.
    async fn land(
        &self,
        probe: &Probe,
        asked: &ChatRequest,
        mut answer: ChatResponse,
        chunks: Vec<Arc<ChatChunk>>,
    ) -> FlightEvent {
        let billed = || self.env.prices().cost(&asked.model, answer.usage.as_ref()?);
        let cost = answer.trace().cost.or_else(billed);
        answer.trace_mut().cost = cost;
        let created = self.env.now();
        let control = control(asked);
        let ttl = control.ttl.unwrap_or(self.ttl);
        let entry = Entry::new(probe, Arc::clone(answer.completion()), chunks.into(), created, ttl, cost);
        let entry = Arc::new(entry);
        if entry.is_storable() && !control.no_store && !ttl.is_zero() {
            self.shared.tiers.put(&self.env, probe, &entry).await;
        }
        FlightEvent::Landed(Landed { entry, answer })
    }

    pub(super) fn saved(&self, entry: &Entry, source: Source) -> Trace {
        entry.saved(source, self.env.now())
    }
}

/// How this call uses the cache.
pub(super) fn control(request: &ChatRequest) -> CacheControl {
    request.extensions.get().copied().unwrap_or_default()
}

/// Asks upstream, as a call or as a stream, and keeps the answer.
pub(super) fn fly(parts: Arc<Parts>, probe: Arc<Probe>, request: ChatRequest, streaming: bool) -> FlightSource {
    let opening = async move {
        // Another flight may have landed between our look-up and the start of this one.
        if let Some((entry, tier)) = parts.find(&probe, control(&request)).await {
            let answer = entry.respond(parts.saved(&entry, Source::Cache(tier)));
            return one(Ok(FlightEvent::Landed(Landed { entry, answer })));
        }
        if !streaming {
            return match parts.inner.chat(request.clone()).await {
                Ok(answer) => one(Ok(parts.land(&probe, &request, answer, Vec::new()).await)),
                Err(error) => one(Err(error)),
            };
        }
        match parts.inner.chat_stream(request.clone()).await {
            Ok(stream) => follow(parts, probe, request, stream),
            Err(error) => one(Err(error)),
        }
    };
    Box::pin(stream::once(opening).flatten())
}

fn one(event: Result<FlightEvent>) -> FlightSource {
    Box::pin(stream::iter([event]))
}

/// Passes a stream's chunks on and puts the answer together as they go by.
fn follow(parts: Arc<Parts>, probe: Arc<Probe>, request: ChatRequest, stream: ChatStream) -> FlightSource {
    let state = (parts, (probe, request), stream, Assembler::new(), Vec::new());
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
                let (probe, request) = &asked;
                Ok(parts.land(probe, request, answer, std::mem::take(&mut chunks)).await)
            }
            Err(error) => Err(error),
        };
        Some((event, (parts, asked, stream, assembler, chunks)))
    }))
}
