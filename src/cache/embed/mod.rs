//! Vectors, kept per text: what is known is found, what somebody is fetching is waited for, the rest is asked for once.

mod fetch;
mod merge;
mod order;

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};

use super::fill::Parts;
use super::layer::not_cached;
use super::namespace::EMBEDDINGS;
use super::share::Since;
use super::space::Space;
use super::tiers::Found;
use super::{CacheTier, Entry, Labels, Payload, Probe};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{CacheControl, Deadline, EmbedRequest, EmbedResponse};
use fetch::{Order, fetch};
use merge::{Origin, Piece, merge};

pub(super) use fetch::Fetched;

/// So many look-ups, or puts, of one batch are with the tiers at a time: enough for a connection to send them together,
/// few enough that a tier which bounds its own queue takes two batches at once.
const ABREAST: usize = 32;

/// The inputs of a request, each once.
struct Batch {
    probes: Vec<Arc<Probe>>,
    /// For each of them, its first position in the request.
    first: Vec<usize>,
    /// For each position of the request, which of them stands there.
    stands: Vec<usize>,
}

impl Batch {
    fn of(parts: &Parts, request: &EmbedRequest) -> Self {
        let (info, now, items) = (parts.inner.info(), parts.env.now(), request.input.items());
        let mut this = Self { probes: Vec::new(), first: Vec::new(), stands: Vec::with_capacity(items.len()) };
        let mut known: HashMap<u128, usize> = HashMap::with_capacity(items.len());
        for (position, item) in items.into_iter().enumerate() {
            let probe = parts.shared.keys.embedding(info, request, item, now);
            let known = known.entry(probe.fingerprint()).or_insert(this.probes.len());
            // Two inputs of one fingerprint are two inputs.
            if this.probes.get(*known).is_none_or(|known| known.bytes() != probe.bytes()) {
                *known = this.probes.len();
                this.probes.push(Arc::new(probe));
                this.first.push(position);
            }
            this.stands.push(*known);
        }
        this
    }
}

/// The namespace of this call.
fn space<'a>(parts: &'a Parts, control: Option<&CacheControl>) -> Result<&'a Space> {
    let name = control.and_then(|control| control.namespace.as_deref()).unwrap_or(EMBEDDINGS);
    parts.shared.tiers.near().space(name)
}

/// What is stored for these inputs and may be taken; from memory only, or from all tiers.
async fn look_up(
    parts: &Parts,
    space: &Space,
    probes: &[Arc<Probe>],
    control: Option<&CacheControl>,
    everywhere: bool,
) -> Vec<Option<Found>> {
    let mut found: Vec<Option<Found>> = vec![None; probes.len()];
    if control.is_some_and(|control| control.no_cache) {
        return found;
    }
    if let Some(memory) = space.memory() {
        for (found, probe) in found.iter_mut().zip(probes) {
            *found = memory.find(probe).map(|entry| (entry, memory.name()));
        }
    }
    if everywhere {
        let missing: Vec<usize> = (0..probes.len()).filter(|index| found[*index].is_none()).collect();
        let find = |index: usize| async move {
            let tiers = &parts.shared.tiers;
            (index, tiers.find(&parts.env, space, &probes[index]).await)
        };
        let mut asked = stream::iter(missing).map(find).buffer_unordered(ABREAST);
        while let Some((index, answer)) = asked.next().await {
            found[index] = answer;
        }
    }
    let max_age = control.and_then(|control| control.max_age);
    for (found, probe) in found.iter_mut().zip(probes) {
        // A tier keeps what is stale for answers; vectors are served fresh or not at all.
        let is_fresh = |entry: &Entry| probe.now() < entry.fresh_until();
        let of_age = |entry: &Entry| max_age.is_none_or(|max| entry.age(probe.now()) <= max);
        let takes =
            |(entry, _): &Found| matches!(entry.payload(), Payload::Vector(_)) && is_fresh(entry) && of_age(entry);
        *found = found.take().filter(takes);
    }
    found
}

/// The vectors of this request, each in the place of its input.
pub(super) async fn embed(parts: &Arc<Parts>, request: EmbedRequest) -> Result<EmbedResponse> {
    let control = request.extensions.get::<CacheControl>();
    let space = space(parts, control)?;
    if request.input.is_empty() {
        // For whoever refuses it when there is no cache.
        return parts.inner.embed(request).await;
    }
    let batch = Batch::of(parts, &request);
    let found = look_up(parts, space, &batch.probes, control, true).await;
    let hit = |(entry, tier): Found| Piece { entry, origin: Origin::Tier(tier) };
    let pieces: Vec<Option<Piece>> = found.into_iter().map(|found| found.map(hit)).collect();
    if pieces.iter().all(Option::is_some) {
        return Ok(served(parts, space, &batch, pieces, Vec::new()));
    }
    if control.is_some_and(|control| control.only_if_cached) {
        space.counts.missed_times(pieces.iter().filter(|piece| piece.is_none()).count());
        return Err(not_cached());
    }
    // Boxed, so that a hit does not carry the miss's state around.
    Box::pin(miss(parts, request, batch, pieces)).await
}

/// The answer, counted: each text as a call of its own, as often as it stands in the batch.
fn served(
    parts: &Parts,
    space: &Space,
    batch: &Batch,
    pieces: Vec<Option<Piece>>,
    paid: Vec<EmbedResponse>,
) -> EmbedResponse {
    let mut paid_for = vec![false; pieces.len()];
    for which in &batch.stands {
        if let Some(piece) = &pieces[*which] {
            // As in the answer's trace: what was asked for once serves its other places in the batch too.
            let again = piece.origin == Origin::Paid && std::mem::replace(&mut paid_for[*which], true);
            space.counts.served(&piece.trace(again));
        }
    }
    merge(&batch.stands, pieces, paid, parts.env.now())
}

async fn miss(
    parts: &Arc<Parts>,
    request: EmbedRequest,
    mut batch: Batch,
    mut pieces: Vec<Option<Piece>>,
) -> Result<EmbedResponse> {
    let control = request.extensions.get::<CacheControl>();
    let tags = control.map_or(&[][..], |control| &control.tags);
    let labels = Arc::new(Labels::new(&request.model).tags(tags));
    let (tiers, space) = (&parts.shared.tiers, space(parts, control)?);
    let mut paid = Vec::new();
    loop {
        let missing: Vec<usize> = (0..pieces.len()).filter(|index| pieces[*index].is_none()).collect();
        if missing.is_empty() {
            return Ok(served(parts, space, &batch, pieces, paid));
        }
        let probes: Vec<_> = missing.iter().map(|index| Arc::clone(&batch.probes[*index])).collect();
        let since = Since { moment: tiers.near().now(), labels: Arc::clone(&labels) };
        // What was asked for before a removal is not for those who ask after it.
        let joinable = |since: &Since, probe: &Probe| tiers.near().spares_asked(since.moment, &since.labels, probe);
        let start = |mine: Vec<usize>| -> super::share::Work<Arc<Fetched>> {
            Box::pin(fetch(Order {
                parts: Arc::clone(parts),
                request: request.clone(),
                probes: mine.iter().map(|index| Arc::clone(&probes[*index])).collect(),
                positions: mine.iter().map(|index| batch.first[missing[*index]]).collect(),
                since: since.clone(),
            }))
        };
        let joined = parts.shared.batches.join(&probes, &since, joinable, start)?;
        let heard = join_all(joined.waiters).await;
        let mut ended = None;
        for heard in &heard {
            match heard.outcome.as_deref() {
                Ok(Fetched::Vectors { answer: Some(answer), .. }) if heard.pays => paid.push(answer.clone()),
                Ok(Fetched::AsItCame(answer)) if heard.started => ended = Some(Ok(answer.clone())),
                Ok(Fetched::AsItCame(answer)) => ended = ended.or(Some(Err(fetch::unmatched(answer)))),
                Err(error) if !try_again(parts, heard.started, error, &request) => {
                    ended = ended.or(Some(Err(error.clone())));
                }
                Ok(_) | Err(_) => {}
            }
        }
        if let Some(ended) = ended {
            // What others were asking for is theirs to count.
            space.counts.missed_times(joined.seats.iter().filter(|(waiter, _)| heard[*waiter].started).count());
            return ended;
        }
        for (index, (waiter, place)) in missing.into_iter().zip(joined.seats) {
            let Ok(Fetched::Vectors { vectors, .. }) = heard[waiter].outcome.as_deref() else {
                batch.probes[index] = Arc::new(batch.probes[index].again(parts.env.now()));
                continue;
            };
            let (entry, tier) = &vectors[place];
            let origin = match tier {
                Some(tier) => Origin::Tier(tier),
                None if heard[waiter].pays => Origin::Paid,
                None => Origin::Coalesced,
            };
            pieces[index] = Some(Piece { entry: Arc::clone(entry), origin });
        }
    }
}

/// Whether another's call failed for a reason that was its own alone: its deadline.
fn try_again(parts: &Parts, started: bool, error: &Error, request: &EmbedRequest) -> bool {
    let mine = request.extensions.get::<Deadline>();
    !started && error.kind() == ErrorKind::Deadline && mine.is_none_or(|Deadline(until)| parts.env.now() < *until)
}
