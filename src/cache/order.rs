//! What the handle wants of the cache, written on a request.
//!
//! The final prompt is the key, and only the layers above the cache know how to make it. So the handle sends a request
//! down the stack like any call's, with an order in its extensions; the cache layer carries it out, writes the outcome on
//! the order, and lets nothing go further down.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::fill::{Parts, Question};
use super::flight::FlightEvent;
use super::freshness::keeps;
use super::{CacheKey, Entry, Probe, Selector};
use crate::error::Result;
use crate::types::{CacheControl, ChatCompletion, ChatRequest, ChatResponse, Cost};

/// What is wanted.
#[derive(Clone)]
pub(super) enum Wish {
    Get,
    Peek,
    Put(Arc<ChatCompletion>),
    Remove,
}

/// What came of it.
pub(super) enum Outcome {
    /// There is one, and it is the response; or there is none.
    Got(bool),
    Peeked(Option<EntryInfo>),
    Put(bool),
    Removed(u64),
}

/// A wish, and the place for its outcome. In a request's extensions it tells the cache layer what to do.
#[derive(Clone)]
pub(super) struct Order(Arc<(Wish, Mutex<Option<Outcome>>)>);

impl Order {
    pub(super) fn new(wish: Wish) -> Self {
        Self(Arc::new((wish, Mutex::new(None))))
    }

    /// What came of it; none if it has not reached a cache.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.0.1.lock().take()
    }
}

/// What is known of a stored answer.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct EntryInfo {
    /// The nearest tier that has it.
    pub tier: &'static str,
    /// The namespace it is in.
    pub namespace: String,
    /// Its key, for [`Selector::Key`].
    pub key: CacheKey,
    /// How old it is.
    pub age: Duration,
    /// How long it is still fresh; zero when it is stale.
    pub ttl_left: Duration,
    /// Whether it is past its time to live, and kept for those who take it so.
    pub stale: bool,
    /// About how many bytes of memory it takes.
    pub bytes: u64,
    /// The tags it was given.
    pub tags: Vec<String>,
    /// What it was billed when it was made, if known.
    pub cost: Option<Cost>,
}

impl EntryInfo {
    fn of(entry: &Entry, tier: &'static str, probe: &Probe) -> Self {
        let ttl_left = entry.fresh_until().saturating_duration_since(probe.now());
        Self {
            tier,
            namespace: entry.namespace().to_owned(),
            key: entry.key(),
            age: entry.age(probe.now()),
            ttl_left,
            stale: ttl_left.is_zero(),
            bytes: entry.weight(),
            tags: entry.labels().tags.iter().map(|tag| tag.to_string()).collect(),
            cost: entry.cost(),
        }
    }
}

impl fmt::Debug for EntryInfo {
    // Tags are the user's own words and may name a person.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("EntryInfo");
        out.field("tier", &self.tier).field("namespace", &self.namespace).field("age", &self.age);
        out.field("ttl_left", &self.ttl_left).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Parts {
    /// Does what the order says, and nothing else.
    pub(super) async fn carry_out(&self, order: &Order, request: &ChatRequest) -> Result<ChatResponse> {
        let mut response = ChatResponse::default();
        let outcome = match &order.0.0 {
            Wish::Get => {
                let stored = self.get(request).await?;
                let found = stored.is_some();
                response = stored.unwrap_or_default();
                Outcome::Got(found)
            }
            Wish::Peek => {
                let probe = self.probe(request);
                let space = self.space(request.extensions.get())?;
                let found = self.shared.tiers.peek(&self.env, space, &probe).await;
                Outcome::Peeked(found.map(|(entry, tier)| EntryInfo::of(&entry, tier, &probe)))
            }
            Wish::Put(completion) => Outcome::Put(self.put(request, completion).await?),
            Wish::Remove => {
                let key = self.probe(request).key();
                Outcome::Removed(self.shared.tiers.remove(&Selector::Key(key)).await?)
            }
        };
        *order.0.1.lock() = Some(outcome);
        Ok(response)
    }

    async fn get(&self, request: &ChatRequest) -> Result<Option<ChatResponse>> {
        let probe = self.probe(request);
        // It asks nothing upstream, so it looks as a call does that takes only what is stored.
        let control = request.extensions.get::<CacheControl>().cloned().unwrap_or_default().only_if_cached();
        let space = self.space(Some(&control))?;
        let found =
            if self.shared.store.passes_by(request) { None } else { self.find(space, &probe, Some(&control)).await };
        let Some(hit) = found else {
            space.counts.missed();
            return Ok(None);
        };
        Ok(Some(hit.entry.respond(self.hit(space, (&probe, request), (&hit.entry, hit.tier)))))
    }

    async fn put(&self, request: &ChatRequest, completion: &Arc<ChatCompletion>) -> Result<bool> {
        let control = request.extensions.get::<CacheControl>();
        let space = self.space(control)?;
        if !control.is_none_or(keeps) || !space.counts.admit(!self.shared.store.passes_by(request)) {
            return Ok(false);
        }
        let (probe, answer) = (self.probe(request), ChatResponse::new(Arc::clone(completion)));
        let question = Question { request: request.clone(), streaming: false, seen: None };
        let event = self.land(&probe, &question, (self.asked(), None), answer, Vec::new()).await?;
        Ok(matches!(event, FlightEvent::Landed(landed) if landed.kept))
    }
}
