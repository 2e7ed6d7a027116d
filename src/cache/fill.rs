//! A miss on its way: ask upstream once, put the answer together, keep it.

use std::sync::Arc;
use std::time::Instant;

use futures_util::{StreamExt, stream};

use super::flight::{FlightEvent, FlightSource, Flights, Landed};
use super::hot::Hot;
use super::key_policy::KeyPolicy;
use super::removals::Mark;
use super::space::Space;
use super::store_policy::StorePolicy;
use super::tiers::{Found, Tiers};
use super::{Entry, Labels, Probe};
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
    pub(super) keys: KeyPolicy,
    pub(super) store: StorePolicy,
    pub(super) hot: Option<Hot>,
}

/// What a look-up and a miss need.
pub(super) struct Parts {
    pub(super) inner: Arc<dyn LlmClient>,
    pub(super) shared: Arc<Shared>,
    pub(super) env: Env,
}

/// When an answer was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    mark: Mark,
    at: Instant,
}

impl Parts {
    pub(super) fn probe(&self, request: &ChatRequest) -> Probe {
        self.shared.keys.chat(self.inner.info(), request, self.env.now())
    }

    /// The namespace of this call.
    pub(super) fn space(&self, control: Option<&CacheControl>) -> Result<&Space> {
        match control.and_then(|control| control.namespace.as_deref()) {
            None => Ok(self.shared.tiers.responses()),
            Some(name) => self.shared.tiers.space(name),
        }
    }

    /// A stored answer that this call may take.
    pub(super) async fn find(&self, space: &Space, probe: &Probe, control: Option<&CacheControl>) -> Option<Found> {
        if control.is_some_and(|control| control.no_cache) {
            return None;
        }
        let found = self.shared.tiers.find(&self.env, space, probe).await?;
        let max_age = control.and_then(|control| control.max_age);
        max_age.is_none_or(|max| found.0.age(probe.now()) <= max).then_some(found)
    }

    pub(super) fn asked(&self) -> Asked {
        Asked { mark: self.shared.tiers.mark(), at: self.env.now() }
    }

    /// The answer has come whole: keep it if it may be kept, and tell.
    ///
    /// Where no layer below has priced it, the price is that of the model asked for, as there.
    pub(super) async fn land(
        &self,
        probe: &Probe,
        request: &ChatRequest,
        asked: Asked,
        mut answer: ChatResponse,
        chunks: Vec<Arc<ChatChunk>>,
    ) -> Result<FlightEvent> {
        let billed = || self.env.prices().cost(&request.model, answer.usage.as_ref()?);
        let cost = answer.trace().cost.or_else(billed);
        answer.trace_mut().cost = cost;
        let created = self.env.now();
        let control = request.extensions.get::<CacheControl>();
        let space = self.space(control)?;
        let ttl = control.and_then(|control| control.ttl).unwrap_or(space.ttl);
        let entry = Entry::new(probe, Arc::clone(answer.completion()), chunks.into(), created, ttl, cost)
            .with_labels(Labels::of(request))
            .with_took(created.saturating_duration_since(asked.at));
        let entry = Arc::new(entry);
        let wanted = !control.is_some_and(|control| control.no_store) && !ttl.is_zero();
        if wanted && space.counts.admit(self.shared.store.takes(request, answer.completion())) {
            self.shared.tiers.put(&self.env, space, probe, &entry, asked.mark).await;
        }
        Ok(FlightEvent::Landed(Landed { entry, answer }))
    }

    pub(super) fn saved(&self, entry: &Entry, source: Source) -> Trace {
        entry.saved(source, self.env.now())
    }
}

/// Asks upstream, as a call or as a stream, and keeps the answer.
pub(super) fn fly(parts: Arc<Parts>, probe: Arc<Probe>, request: ChatRequest, streaming: bool) -> FlightSource {
    let opening = async move {
        let control = request.extensions.get::<CacheControl>();
        let space = match parts.space(control) {
            Ok(space) => space,
            Err(error) => return one(Err(error)),
        };
        // Another flight may have landed between our look-up and the start of this one.
        if let Some((entry, tier)) = parts.find(space, &probe, control).await {
            let answer = entry.respond(parts.saved(&entry, Source::Cache(tier)));
            return one(Ok(FlightEvent::Landed(Landed { entry, answer })));
        }
        let asked = parts.asked();
        if !streaming {
            return match parts.inner.chat(request.clone()).await {
                Ok(answer) => one(parts.land(&probe, &request, asked, answer, Vec::new()).await),
                Err(error) => one(Err(error)),
            };
        }
        match parts.inner.chat_stream(request.clone()).await {
            Ok(stream) => follow(parts, (probe, request, asked), stream),
            Err(error) => one(Err(error)),
        }
    };
    Box::pin(stream::once(opening).flatten())
}

fn one(event: Result<FlightEvent>) -> FlightSource {
    Box::pin(stream::iter([event]))
}

/// Passes a stream's chunks on and puts the answer together as they go by.
fn follow(parts: Arc<Parts>, asked: (Arc<Probe>, ChatRequest, Asked), stream: ChatStream) -> FlightSource {
    let state = (parts, asked, stream, Assembler::new(), Vec::new());
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
                let (probe, request, asked) = &asked;
                parts.land(probe, request, *asked, answer, std::mem::take(&mut chunks)).await
            }
            Err(error) => Err(error),
        };
        Some((event, (parts, asked, stream, assembler, chunks)))
    }))
}
