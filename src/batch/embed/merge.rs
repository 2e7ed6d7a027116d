//! Several requests as one, and its answer as theirs.

use std::collections::HashMap;

use crate::batch::ORIGIN;
use crate::error::{Error, ErrorKind, Result};
use crate::types::embed_parts::{by_index, divide, length};
use crate::types::{
    Cost, Deadline, EmbedInput, EmbedItem, EmbedRequest, EmbedResponse, Embedding, Priority, Tenant, Usage,
};

/// What requests must have in common to be merged.
pub(super) fn group(request: &EmbedRequest) -> Vec<u8> {
    let EmbedRequest { model, input, dimensions, encoding_format, user, extra, extensions } = request;
    let as_tokens = matches!(input, EmbedInput::Tokens(_) | EmbedInput::TokenLists(_));
    let tenant = extensions.get::<Tenant>().map(|Tenant(name)| name);
    let priority = extensions.get::<Priority>().copied().unwrap_or_default() as u8;
    // Names and JSON values are always JSON; requests whose were not would be one group, and each is refused below.
    let all = (model, as_tokens, dimensions, encoding_format, user, extra, tenant, priority);
    serde_json::to_vec(&all).unwrap_or_default()
}

/// About how many tokens it is.
pub(super) fn tokens(request: &EmbedRequest) -> u64 {
    let of = |item: &EmbedItem<'_>| match item {
        EmbedItem::Text(text) => (text.len() as u64).div_ceil(3),
        EmbedItem::Tokens(tokens) => tokens.len() as u64,
    };
    request.input.items().iter().map(of).sum()
}

/// The different inputs of all, in the order in which they first stand, and for each input which of these it is.
fn distinct(requests: &[EmbedRequest]) -> (Vec<EmbedItem<'_>>, Vec<usize>) {
    let (mut items, mut known) = (Vec::new(), HashMap::new());
    let all = requests.iter().flat_map(|request| request.input.items());
    let places = all.map(|item| {
        *known.entry(item).or_insert_with(|| {
            items.push(item);
            items.len() - 1
        })
    });
    let places = places.collect();
    (items, places)
}

/// One request for the inputs of all, which are of one group, each once.
pub(super) fn merge(requests: &[EmbedRequest]) -> EmbedRequest {
    let [first, others @ ..] = requests else { return EmbedRequest::new("", [""; 0]) };
    let mut merged = first.clone();
    if others.is_empty() {
        return merged;
    }
    let (mut texts, mut lists) = (Vec::new(), Vec::new());
    for item in distinct(requests).0 {
        match item {
            EmbedItem::Text(text) => texts.push(text.to_owned()),
            EmbedItem::Tokens(tokens) => lists.push(tokens.to_vec()),
        }
    }
    merged.input = if lists.is_empty() { EmbedInput::Texts(texts) } else { EmbedInput::TokenLists(lists) };
    let deadlines: Option<Vec<Deadline>> = requests.iter().map(|request| request.extensions.get().copied()).collect();
    match deadlines.and_then(|deadlines| deadlines.into_iter().max()) {
        Some(latest) => merged.extensions.insert(latest),
        None => {
            merged.extensions.remove::<Deadline>();
        }
    }
    merged
}

/// To each request its vectors, its share of the usage and of the cost.
pub(super) fn split(answer: EmbedResponse, requests: &[EmbedRequest]) -> Result<Vec<Result<EmbedResponse>>> {
    if requests.len() == 1 {
        return Ok(vec![Ok(answer)]);
    }
    let EmbedResponse { object, data, model, usage, extra, trace } = answer;
    let (items, asked) = distinct(requests);
    let Some(places) = by_index(&data, items.len()) else {
        let text = "the vectors do not state exactly one index for each input, so none was taken";
        let error = Error::new(ErrorKind::Decode, ORIGIN, text);
        return Err(match usage {
            Some(usage) => error.with_usage(usage),
            None => error,
        });
    };
    let lengths = |request: &EmbedRequest| request.input.items().into_iter().map(length).sum();
    let weights: Vec<u64> = requests.iter().map(lengths).collect();
    let usages = usage.map(|usage| shares(&usage, &weights));
    let costs = trace.cost.map(|cost| divide(cost.picos(), &weights));
    let mut vectors = asked.into_iter().filter_map(|item| data.get(*places.get(item)?));
    let mut answers = Vec::with_capacity(requests.len());
    for (nth, request) in requests.iter().enumerate() {
        let own = vectors.by_ref().take(request.input.len()).enumerate();
        let mut trace = trace;
        trace.cost = costs.as_ref().and_then(|costs| costs.get(nth)).map(|picos| Cost::from_picos(*picos));
        answers.push(Ok(EmbedResponse {
            object: object.clone(),
            data: own.map(|(index, vector)| Embedding { index, ..vector.clone() }).collect(),
            model: model.clone(),
            usage: usages.as_ref().and_then(|usages| usages.get(nth)).cloned(),
            extra: extra.clone(),
            trace,
        }));
    }
    Ok(answers)
}

fn shares(usage: &Usage, weights: &[u64]) -> Vec<Usage> {
    let prompt = divide(usage.prompt_tokens, weights);
    let completion = divide(usage.completion_tokens, weights);
    let total = divide(usage.total_tokens, weights);
    let one = |((prompt_tokens, completion_tokens), total_tokens)| Usage {
        prompt_tokens,
        completion_tokens,
        total_tokens,
        ..Usage::default()
    };
    prompt.into_iter().zip(completion).zip(total).map(one).collect()
}
