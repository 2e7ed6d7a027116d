//! One batch, and what is done when all of it fails for the fault of one.

use std::ops::Range;
use std::pin::Pin;

use crate::batch::ORIGIN;
use crate::error::{Error, ErrorKind, Result};

/// What answers a batch: a result for each item, in their order, or one failure for all.
pub(super) type Work<In, Out> =
    Box<dyn Fn(Vec<In>) -> Pin<Box<dyn Future<Output = Result<Vec<Result<Out>>>> + Send>> + Send + Sync>;

/// Whether some item of the batch may be at fault, and the others not.
fn is_of_an_item(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::InvalidRequest | ErrorKind::ContextLength | ErrorKind::ContentFilter)
}

/// A result for each item. A batch that fails for the fault of an item is halved until that one stands alone.
pub(super) async fn answer<In: Clone, Out>(work: &Work<In, Out>, items: Vec<In>) -> Vec<Result<Out>> {
    let mut outcomes: Vec<Option<Result<Out>>> = items.iter().map(|_| None).collect();
    let mut open: Vec<Range<usize>> = std::iter::once(0..items.len()).collect();
    while let Some(range) = open.pop() {
        let part = items.get(range.clone()).map(<[In]>::to_vec).unwrap_or_default();
        let places = outcomes.iter_mut().skip(range.start).take(range.len());
        let failed = match work(part).await {
            Ok(results) if results.len() == range.len() => {
                places.zip(results).for_each(|(place, result)| *place = Some(result));
                continue;
            }
            // Nobody can say whose they are.
            Ok(results) => {
                let text = format!("{} results came for {} items, so none was taken", results.len(), range.len());
                Error::new(ErrorKind::Decode, ORIGIN, text)
            }
            Err(error) if range.len() > 1 && is_of_an_item(error.kind()) => {
                let middle = range.start + range.len() / 2;
                open.extend([middle..range.end, range.start..middle]);
                continue;
            }
            Err(error) => error,
        };
        places.for_each(|place| *place = Some(Err(failed.clone())));
    }
    let none = || Err(Error::new(ErrorKind::Other, ORIGIN, "the batch was not answered"));
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(none)).collect()
}
