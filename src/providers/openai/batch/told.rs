//! What observers are told of the results of a batch.

use std::time::Duration;

use super::job::Part;
use super::kind::BatchRequest;
use super::results::BatchItem;
use crate::env::{Env, Event, Outcome, Record};

/// Tells of each request's part. `waited` counts where the provider does not say how long it took.
pub(super) fn tell<R: BatchRequest>(env: &Env, part: &Part, items: &[BatchItem<R::Answer>], waited: Duration) {
    // All requests of a part are of one model; whoever has its id only knows what answered them.
    let answered = items.iter().find_map(|item| item.result.as_ref().ok()).map(R::model_of);
    let model = part.model.as_deref().or(answered).unwrap_or("unknown");
    let duration = part.object.took().unwrap_or(waited);
    for item in items {
        let outcome = match &item.result {
            Ok(answer) => {
                let (usage, trace) = R::billed(answer);
                Outcome::Answered { usage, trace }
            }
            Err(error) => Outcome::Failed(error),
        };
        env.observe(&Event::Batched(Record::new(R::OPERATION, model, duration, None, outcome)));
    }
}
