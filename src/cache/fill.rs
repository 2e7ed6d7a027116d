//! A miss on its way: ask upstream once, put the answer together, keep it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};

use super::flight::{FlightEvent, FlightSource, Flights, Landed};
use super::key_policy::KeyPolicy;
use super::near::Since;
use super::space::Space;
use super::store_policy::StorePolicy;
use super::tiers::{Found, Tiers};
use super::turn::{Held, Turn, under};
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
    pub(super) lease_term: Duration,
}

/// What a look-up and a miss need.
pub(super) struct Parts {
    pub(super) inner: Arc<dyn LlmClient>,
    pub(super) shared: Arc<Shared>,
    pub(super) env: Env,
}

/// When an answer was asked for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    since: Since,
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
            Some(name) => self.shared.tiers.near().space(name),
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

    fn asked(&self) -> Asked {
        Asked { since: self.shared.tiers.near().now(), at: self.env.now() }
    }

    /// The answer has come whole: keep it if it may be kept, and tell.
    ///
    /// Where no layer below has priced it, the price is that of the model asked for, as there.
    async fn land(
        &self,
        probe: &Probe,
        request: &ChatRequest,
        (asked, held): (Asked, Option<Held>),
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
        let tags = control.map_or(&[][..], |control| &control.tags);
        let entry = Entry::new(probe, Arc::clone(answer.completion()), chunks.into(), created, ttl, cost)
            .with_labels(Labels::new(&request.model).tags(tags))
            .with_took(created.saturating_duration_since(asked.at));
        let entry = Arc::new(entry);
        let wanted = !control.is_some_and(|control| control.no_store) && !ttl.is_zero();
        if wanted && self.shared.store.takes(request, answer.completion()) {
            let lease = held.and_then(Held::spend);
            self.shared.tiers.put(&self.env, (space, probe), &entry, asked.since, lease.as_ref()).await;
        } else if let Some(held) = held {
            held.open().await;
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
        let mut held = match parts.turn(space, &probe, control).await {
            Turn::Ask(held) => held,
            Turn::Found((entry, tier)) => {
                let answer = entry.respond(parts.saved(&entry, Source::Cache(tier)));
                return one(Ok(FlightEvent::Landed(Landed { entry, answer })));
            }
        };
        let asked = parts.asked();
        let failed = async |held: Option<Held>, error| {
            if let Some(held) = held {
                held.open().await;
            }
            one(Err(error))
        };
        if !streaming {
            return match under(&mut held, parts.inner.chat(request.clone())).await {
                Ok(answer) => one(parts.land(&probe, &request, (asked, held), answer, Vec::new()).await),
                Err(error) => failed(held, error).await,
            };
        }
        match under(&mut held, parts.inner.chat_stream(request.clone())).await {
            Ok(stream) => follow(parts, (probe, request, asked), held, stream),
            Err(error) => failed(held, error).await,
        }
    };
    Box::pin(stream::once(opening).flatten())
}

fn one(event: Result<FlightEvent>) -> FlightSource {
    Box::pin(stream::iter([event]))
}

/// Passes a stream's chunks on and puts the answer together as they go by.
fn follow(
    parts: Arc<Parts>,
    asked: (Arc<Probe>, ChatRequest, Asked),
    held: Option<Held>,
    stream: ChatStream,
) -> FlightSource {
    let state = (parts, asked, held, stream, Assembler::new(), Vec::new());
    Box::pin(stream::unfold(state, async |(parts, asked, mut held, mut stream, mut assembler, mut chunks)| {
        let event = match under(&mut held, stream.next()).await? {
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
                parts.land(probe, request, (*asked, held.take()), answer, std::mem::take(&mut chunks)).await
            }
            Err(error) => {
                if let Some(held) = held.take() {
                    held.open().await;
                }
                Err(error)
            }
        };
        Some((event, (parts, asked, held, stream, assembler, chunks)))
    }))
}
