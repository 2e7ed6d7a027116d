//! What no tier has: asked for in one call, taken apart, kept text by text.

use std::sync::Arc;
use std::time::Instant;

use futures_util::{StreamExt, stream};

use super::order::only;
use super::{ABREAST, look_up, space};
use crate::cache::fill::Parts;
use crate::cache::payload::StoredVector;
use crate::cache::share::Since;
use crate::cache::{Entry, Payload, Probe};
use crate::error::{Error, ErrorKind, Result};
use crate::types::embed_parts::{by_index, divide, length};
use crate::types::{CacheControl, Cost, EmbedRequest, EmbedResponse, Embedding, Vector};

/// What one call is to fetch.
pub(super) struct Order {
    pub(super) parts: Arc<Parts>,
    /// As the caller made it.
    pub(super) request: EmbedRequest,
    /// Those of its inputs that are missing, each once.
    pub(super) probes: Vec<Arc<Probe>>,
    /// Where they stand in it.
    pub(super) positions: Vec<usize>,
    pub(super) since: Since,
}

/// What was fetched.
pub(in crate::cache) enum Fetched {
    /// A vector for each input of the order.
    Vectors {
        /// With the tier that had it after all.
        vectors: Vec<(Arc<Entry>, Option<&'static str>)>,
        /// What the upstream call answered beside the vectors, if one was needed.
        answer: Option<EmbedResponse>,
    },
    /// The answer to the caller's own request, whole and as it came: its vectors belong to no input for certain.
    AsItCame(EmbedResponse),
}

/// The answer's vectors cannot be told apart. What it was billed is told.
pub(super) fn unmatched(answer: &EmbedResponse) -> Error {
    let text = "the vectors do not state exactly one index for each input, so none was taken or kept; \
                with CacheControl::no_cache a batch of different texts is passed on as it comes";
    let error = Error::new(ErrorKind::Decode, "cache", text);
    match &answer.usage {
        Some(usage) => error.with_usage(usage.clone()),
        None => error,
    }
}

pub(super) async fn fetch(order: Order) -> Result<Arc<Fetched>> {
    let Order { parts, request, probes, positions, .. } = &order;
    let control = request.extensions.get::<CacheControl>();
    let space = space(parts, control)?;
    // Others may have landed between our look-up and this; what they brought is in memory, if there is memory.
    let again = look_up(parts, space, probes, control, space.memory().is_none()).await;
    let missing: Vec<usize> = (0..probes.len()).filter(|index| again[*index].is_none()).collect();
    let mut vectors: Vec<_> = again.into_iter().map(|found| found.map(|(entry, tier)| (entry, Some(tier)))).collect();
    let mut told = None;
    if !missing.is_empty() {
        let whole = missing.len() == request.input.len();
        let asked = if whole { request.clone() } else { only(request, missing.iter().map(|index| positions[*index])) };
        let at = parts.env.now();
        let mut answer = parts.inner.embed(asked).await?;
        // Where no layer below has priced it, the price is that of the model asked for, as there.
        let billed = || parts.env.prices().cost(&request.model, answer.usage.as_ref()?);
        answer.trace.cost = answer.trace.cost.or_else(billed);
        let Some(places) = by_index(&answer.data, missing.len()) else {
            return if whole { Ok(Arc::new(Fetched::AsItCame(answer))) } else { Err(unmatched(&answer)) };
        };
        for (index, entry) in missing.iter().zip(keep(&order, &missing, &mut answer, &places, at).await) {
            vectors[*index] = Some((entry, None));
        }
        told = Some(answer);
    }
    Ok(Arc::new(Fetched::Vectors { vectors: vectors.into_iter().flatten().collect(), answer: told }))
}

/// Makes an entry of each vector and keeps it if it may be kept. `places` says where in the answer they are.
async fn keep(
    order: &Order,
    missing: &[usize],
    answer: &mut EmbedResponse,
    places: &[usize],
    asked: Instant,
) -> Vec<Arc<Entry>> {
    let Order { parts, request, probes, positions, since } = order;
    let control = request.extensions.get::<CacheControl>();
    let Ok(space) = space(parts, control) else { return Vec::new() };
    let items = request.input.items();
    let lengths: Vec<u64> = missing.iter().map(|index| length(items[positions[*index]])).collect();
    // Nobody says what each input took: their shares by length are estimates.
    let tokens = divide(answer.usage.as_ref().map_or(0, |usage| usage.prompt_tokens), &lengths);
    let costs = answer.trace.cost.map(|cost| divide(cost.picos(), &lengths));
    let created = parts.env.now();
    let jittered = || parts.shared.freshness.jittered(space.ttl, &parts.env);
    let ttl = control.and_then(|control| control.ttl).unwrap_or_else(jittered);
    let mut data: Vec<Option<Embedding>> = std::mem::take(&mut answer.data).into_iter().map(Some).collect();
    let mut entries = Vec::with_capacity(missing.len());
    for (nth, (index, place)) in missing.iter().zip(places).enumerate() {
        let Some(embedding) = data.get_mut(*place).and_then(Option::take) else { continue };
        let (model, extra) = (answer.model.clone(), answer.extra.clone());
        let vector = StoredVector { embedding: Embedding { index: 0, ..embedding }, model, tokens: tokens[nth], extra };
        let entry = Entry::of(&probes[*index], Payload::Vector(Arc::new(vector)), created, ttl)
            .with_labels((*since.labels).clone())
            .with_took(created.saturating_duration_since(asked))
            .with_cost(costs.as_ref().map(|costs| Cost::from_picos(costs[nth])));
        entries.push(Arc::new(entry));
    }
    if control.is_some_and(|control| control.no_store) || ttl.is_zero() {
        return entries;
    }
    let kept: Vec<_> = missing.iter().zip(&entries).filter(|(_, entry)| says_something(entry)).collect();
    stream::iter(kept)
        .for_each_concurrent(ABREAST, |(index, entry)| {
            parts.shared.tiers.put(&parts.env, (space, &probes[*index]), entry, since.moment, None)
        })
        .await;
    entries
}

/// A vector of no numbers is a failure in disguise.
fn says_something(entry: &Entry) -> bool {
    match entry.payload() {
        Payload::Vector(stored) => match &stored.embedding.embedding {
            Vector::Floats(floats) => !floats.is_empty(),
            Vector::Base64(text) => !text.is_empty(),
        },
        _ => false,
    }
}
