//! A miss on its way: ask upstream once, put the answer together, keep it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::adaptive::Life;
use super::flight::{FlightEvent, FlightSource, Landed};
use super::freshness::{Verdict, is_fresher, keeps, passes, refreshes};
use super::key::Opening;
use super::near::Moment;
use super::refresh;
use super::shared::Shared;
use super::space::Space;
use super::tiers::Found;
use super::turn::{Held, Turn, under};
use super::{Entry, Labels, Probe};
use crate::client::LlmClient;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::types::{
    Assembler, CacheControl, ChatChunk, ChatRequest, ChatResponse, ChatStream, Source, StreamEvent, Trace,
};

/// What a look-up and a miss need.
pub(super) struct Parts {
    pub(super) inner: Arc<dyn LlmClient>,
    /// Written once for all calls.
    pub(super) opening: Opening,
    pub(super) shared: Arc<Shared>,
    pub(super) env: Env,
    /// Ends what runs in the background: the client is shutting down, or its last handle is gone.
    pub(super) stop: CancellationToken,
}

/// A request of more than this is copied and hashed elsewhere: where the memory is new, it takes 0.4 ms for each MiB.
const LONG: usize = 1 << 20;

/// A stored answer that a call takes.
pub(super) struct Hit {
    pub(super) entry: Arc<Entry>,
    pub(super) tier: &'static str,
    /// Whether it is to be asked for again in the background.
    pub(super) refresh: bool,
}

/// What is asked upstream.
pub(super) struct Question {
    pub(super) request: ChatRequest,
    pub(super) streaming: bool,
    /// The entry that is refreshed.
    pub(super) seen: Option<Arc<Entry>>,
}

impl Question {
    /// What the answer can be selected by: its model, the tags of the call, and those of the entry it replaces.
    pub(super) fn labels(&self) -> Labels {
        let control = self.request.extensions.get::<CacheControl>();
        let given = control.map_or(&[][..], |control| &control.tags).iter().map(String::as_str);
        let had = self.seen.iter().flat_map(|seen| seen.labels().tags.iter().map(|tag| &**tag));
        let had = had.filter(|tag| !control.is_some_and(|control| control.tags.iter().any(|given| given == tag)));
        Labels::new(&self.request.model).tags(given.chain(had))
    }
}

/// When an answer was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    since: Moment,
    at: Instant,
}

impl Parts {
    #[inline]
    pub(super) fn probe(&self, request: &ChatRequest) -> Probe {
        let now = self.env.now();
        if self.shared.keys.is_exact() && Opening::is_of(request) {
            return Probe::chat_opened(&self.opening, request, now);
        }
        self.shared.keys.chat(self.inner.info(), request, now)
    }

    /// Whether its probe is to be [made elsewhere](Self::probe_of_long).
    pub(super) fn is_long(request: &ChatRequest) -> bool {
        request.messages.iter().map(|message| message.content_weight()).sum::<usize>() > LONG
    }

    /// The same, made where it holds nobody up.
    pub(super) async fn probe_of_long(self: &Arc<Self>, request: &ChatRequest) -> Probe {
        let (parts, request) = (Arc::clone(self), request.clone());
        // Boxed, so that what is short does not carry this around.
        Box::pin(self.env.offload(true, move || parts.probe(&request))).await
    }

    /// The namespace of this call.
    pub(super) fn space(&self, control: Option<&CacheControl>) -> Result<&Space> {
        match control.and_then(|control| control.namespace.as_deref()) {
            None => Ok(self.shared.tiers.responses()),
            Some(name) => self.shared.tiers.near().space(name),
        }
    }

    /// Whether it may be left to a batch, for hours. Streams never are.
    pub(super) fn defers(&self, request: &ChatRequest, streaming: bool) -> bool {
        !streaming && self.env.defers(&request.extensions)
    }

    /// A stored answer that this call takes without asking.
    pub(super) async fn find(&self, space: &Space, probe: &Probe, control: Option<&CacheControl>) -> Option<Hit> {
        if control.is_some_and(|control| control.no_cache) {
            return None;
        }
        let (entry, tier) = self.shared.tiers.find(&self.env, space, probe).await?;
        let mut refresh = match self.judge(&entry, probe, control) {
            Verdict::Serve => false,
            Verdict::ServeAndRefresh if refresh::is_possible() => true,
            Verdict::ServeAndRefresh if probe.now() < entry.fresh_until() => false,
            // The flight looks beyond memory; a call that must not start one has to do so here.
            Verdict::Ask if control.is_some_and(|control| control.only_if_cached) => {
                let beyond = self.shared.tiers.find_beyond_memory(&self.env, space, probe);
                let (entry, tier) = Box::pin(beyond).await?;
                let takes = self.judge(&entry, probe, control) != Verdict::Ask;
                return takes.then_some(Hit { entry, tier, refresh: false });
            }
            Verdict::ServeAndRefresh | Verdict::Ask => return None,
        };
        if let Some(adaptive) = &self.shared.adaptive {
            adaptive.hit(probe, &entry);
        }
        if let Some(predict) = &self.shared.predict {
            refresh |= predict.hit(probe, &entry) && control.is_none_or(refreshes) && refresh::is_possible();
        }
        Some(Hit { entry, tier, refresh })
    }

    #[inline]
    fn judge(&self, entry: &Entry, probe: &Probe, control: Option<&CacheControl>) -> Verdict {
        self.shared.freshness.judge(entry, control, probe.now(), &self.env)
    }

    /// What has been stored since this was found missing, or beyond memory, and makes asking needless.
    pub(super) async fn stored_meanwhile(&self, space: &Space, probe: &Probe, question: &Question) -> Option<Found> {
        let control = question.request.extensions.get::<CacheControl>();
        if question.seen.is_none() && control.is_some_and(|control| control.no_cache) {
            return None;
        }
        let takes = |(entry, _): &Found| match &question.seen {
            Some(seen) => is_fresher(entry, seen, probe.now()),
            // Not a stale one: who has joined may take less than who started the flight.
            None => probe.now() < entry.fresh_until() && self.judge(entry, probe, control) != Verdict::Ask,
        };
        let found = self.shared.tiers.find(&self.env, space, probe).await?;
        if takes(&found) {
            return Some(found);
        }
        self.shared.tiers.find_beyond_memory(&self.env, space, probe).await.filter(takes)
    }

    /// What this call takes instead of its failure. It is looked up now: it may have been removed since the call began.
    pub(super) async fn instead_of(&self, error: &Error, request: &ChatRequest) -> Option<(Arc<Entry>, Trace)> {
        let freshness = &self.shared.freshness;
        let control = request.extensions.get::<CacheControl>();
        if freshness.grace().is_zero() || !passes(error.kind()) || control.is_some_and(|control| control.no_cache) {
            return None;
        }
        let (probe, space) = (self.probe(request), self.space(control).ok()?);
        let (entry, tier) = self.shared.tiers.find(&self.env, space, &probe).await?;
        let takes = freshness.consoles(&entry, control, probe.now());
        takes.then(|| {
            let trace = self.hit(space, (&probe, request), (&entry, tier));
            (entry, trace)
        })
    }

    /// How long an answer to this call lives, and the life of its key that begins with it.
    fn life(&self, space: &Space, probe: &Probe, control: Option<&CacheControl>) -> (Duration, Option<Arc<Life>>) {
        if let Some(own) = control.and_then(|control| control.ttl) {
            return (own, None);
        }
        let life = self.shared.adaptive.as_ref().map(|adaptive| adaptive.next(probe, space.ttl));
        let length = life.as_ref().map_or(space.ttl, |life| life.length());
        (self.shared.freshness.jittered(length, &self.env), life)
    }

    /// The call failed upstream: remember it if it is to be remembered, and let others try.
    async fn failed(
        &self,
        probe: &Probe,
        question: &Question,
        (asked, held): (Asked, Option<Held>),
        error: Error,
    ) -> Error {
        let control = question.request.extensions.get::<CacheControl>();
        if control.is_none_or(keeps) {
            self.shared.tiers.near().failed(probe, question.labels(), &error, self.env.now(), asked.since);
        }
        if let Some(held) = held {
            held.failed(&error).await;
        }
        error
    }

    /// A stored answer as the end of a flight.
    fn stored(&self, entry: Arc<Entry>, tier: &'static str) -> FlightSource {
        let answer = entry.respond(self.saved(&entry, Source::Cache(tier)));
        one(Ok(FlightEvent::Landed(Landed { entry, answer, kept: true, stored: true })))
    }

    pub(super) fn asked(&self) -> Asked {
        Asked { since: self.shared.tiers.near().now(), at: self.env.now() }
    }

    /// The answer has come whole: keep it if it may be kept, and tell.
    ///
    /// Where no layer below has priced it, the price is that of the model asked for, as there.
    pub(super) async fn land(
        &self,
        probe: &Probe,
        question: &Question,
        (asked, held): (Asked, Option<Held>),
        mut answer: ChatResponse,
        chunks: Vec<Arc<ChatChunk>>,
    ) -> Result<FlightEvent> {
        let request = &question.request;
        let billed = || self.env.prices().cost(&request.model, answer.usage.as_ref()?);
        let cost = answer.trace().cost.or_else(billed);
        answer.trace_mut().cost = cost;
        let created = self.env.now();
        let control = request.extensions.get::<CacheControl>();
        let space = self.space(control)?;
        let (ttl, life) = self.life(space, probe, control);
        let entry = Entry::new(probe, Arc::clone(answer.completion()), chunks.into(), created, ttl, cost)
            .with_labels(question.labels())
            .with_grace(self.shared.freshness.grace())
            .with_took(created.saturating_duration_since(asked.at));
        let entry = Arc::new(entry);
        let wanted = control.is_none_or(keeps);
        let kept = wanted && space.counts.admit(self.shared.store.takes(request, answer.completion()));
        if kept {
            if let (Some(adaptive), Some(life)) = (&self.shared.adaptive, life) {
                let _ = entry.life().set(Arc::clone(&life));
                adaptive.began(probe, life);
            }
            if let Some(predict) = &self.shared.predict {
                predict.stored(probe, &entry, question.seen.is_none());
            }
            let lease = held.and_then(Held::spend);
            self.shared.tiers.put(&self.env, (space, probe), &entry, asked.since, lease.as_ref()).await;
        } else if let Some(held) = held {
            held.open().await;
        }
        Ok(FlightEvent::Landed(Landed { entry, answer, kept, stored: false }))
    }

    pub(super) fn saved(&self, entry: &Entry, source: Source) -> Trace {
        entry.saved(source, self.env.now())
    }
}

/// Asks upstream, as a call or as a stream, and keeps the answer.
pub(super) fn fly(parts: Arc<Parts>, probe: Arc<Probe>, question: Question) -> FlightSource {
    let opening = async move {
        let control = question.request.extensions.get::<CacheControl>();
        let space = match parts.space(control) {
            Ok(space) => space,
            Err(error) => return one(Err(error)),
        };
        // Another flight may have landed between our look-up and the start of this one.
        if let Some((entry, tier)) = parts.stored_meanwhile(space, &probe, &question).await {
            return parts.stored(entry, tier);
        }
        // A refresh is there to find out; so is a call that takes nothing stored.
        let believes = question.seen.is_none() && !control.is_some_and(|control| control.no_cache);
        let max_age = control.and_then(|control| control.max_age);
        if believes && let Some(error) = parts.shared.tiers.near().failure(&probe, max_age) {
            return one(Err(error));
        }
        let mut held = match parts.turn(space, &probe, &question).await {
            Turn::Ask(held) => held,
            Turn::Found((entry, tier)) => return parts.stored(entry, tier),
        };
        let asked = parts.asked();
        if !question.streaming {
            return match under(&mut held, parts.inner.chat(question.request.clone())).await {
                Ok(answer) => one(parts.land(&probe, &question, (asked, held), answer, Vec::new()).await),
                Err(error) => one(Err(parts.failed(&probe, &question, (asked, held), error).await)),
            };
        }
        match under(&mut held, parts.inner.chat_stream(question.request.clone())).await {
            Ok(stream) => follow(parts, (probe, question, asked), held, stream),
            Err(error) => one(Err(parts.failed(&probe, &question, (asked, held), error).await)),
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
    asked: (Arc<Probe>, Question, Asked),
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
                let (probe, question, asked) = &asked;
                parts.land(probe, question, (*asked, held.take()), answer, std::mem::take(&mut chunks)).await
            }
            Err(error) => {
                let (probe, question, asked) = &asked;
                Err(parts.failed(probe, question, (*asked, held.take()), error).await)
            }
        };
        Some((event, (parts, asked, held, stream, assembler, chunks)))
    }))
}
