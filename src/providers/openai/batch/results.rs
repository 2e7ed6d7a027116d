//! Which result belongs to which request, and what became of the requests without one.

use std::collections::HashMap;
use std::sync::Arc;

use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::super::{ORIGIN, error};
use super::api::Api;
use super::job::{Asked, Part};
use super::kind::{BatchRequest, price};
use super::wire::{BatchObject, BatchStatus, Line, Reply};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result, Retryability};
use crate::types::{Cost, Usage};

/// What came of one request of a batch.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BatchItem<A> {
    /// Its number among those that were submitted, from 0 on; or what others called it.
    pub custom_id: String,
    /// Its answer, or why there is none.
    pub result: Result<A>,
}

pub(super) struct Results;

impl Results {
    /// A result per request of this batch.
    pub(super) async fn read<R: BatchRequest>(api: &Api, part: &Part) -> Result<Vec<BatchItem<R::Answer>>> {
        let inputs: HashMap<String, usize> =
            part.asked.iter().flatten().map(|asked| (asked.id.clone(), asked.inputs)).collect();
        let inputs = Arc::new(inputs);
        let mut results = HashMap::new();
        for file in part.object.files() {
            let (inputs, env, model) = (Arc::clone(&inputs), api.env.clone(), part.model.clone());
            let lines = api.lines(file, move |line| {
                let line: Line<'_> = serde_json::from_slice(line).ok()?;
                let inputs = inputs.get(line.custom_id.as_str()).copied();
                let result = result::<R>(&env, &line, inputs, price(env.prices(), model.as_deref()));
                Some((line.custom_id, result))
            });
            // An unreadable line is the lack of a result, and told as that.
            for (id, result) in lines.await?.into_iter().flatten() {
                results.entry(id).or_insert(result);
            }
        }
        let lacking = lacking(&part.object);
        let asked = match &part.asked {
            Some(asked) => asked.clone(),
            // All are there.
            None if part.object.status == BatchStatus::Completed
                && results.len() as u64 == part.object.counts().total =>
            {
                results.keys().map(|id| Asked { id: id.clone(), inputs: 0 }).collect()
            }
            None => Self::asked(api, &part.object).await?,
        };
        let item = |Asked { id, .. }: Asked| {
            let result = results.remove(&id).unwrap_or_else(|| Err(lacking.clone()));
            BatchItem { custom_id: id, result }
        };
        Ok(asked.into_iter().map(item).collect())
    }

    /// What was asked, as the uploaded file says.
    async fn asked(api: &Api, batch: &BatchObject) -> Result<Vec<Asked>> {
        let id = |line: &[u8]| serde_json::from_slice::<Line<'_>>(line).ok().map(|line| line.custom_id);
        match api.lines(&batch.input_file_id, id).await {
            Ok(ids) => Ok(ids.into_iter().flatten().map(|id| Asked { id, inputs: 0 }).collect()),
            Err(cause) if cause.kind() == ErrorKind::NotFound => {
                let text =
                    format!("batch {} lacks results, and its requests are deleted: nobody knows which", batch.id);
                Err(Error::new(ErrorKind::NotFound, ORIGIN, text).with_source(cause))
            }
            Err(cause) => Err(cause),
        }
    }
}

fn result<R: BatchRequest>(
    env: &Env,
    line: &Line<'_>,
    inputs: Option<usize>,
    price: impl Fn(&str, &Usage) -> Option<Cost>,
) -> Result<R::Answer> {
    match (&line.response, line.error) {
        (Some(Reply { status_code: 200..=299, body }), _) => R::answer(body.get().as_bytes(), inputs, price),
        (Some(Reply { status_code, body }), _) => {
            Err(error::from_status(*status_code, &HeaderMap::new(), body.get().as_bytes(), env.wall()))
        }
        (None, Some(failure)) => {
            let failure: Value = serde_json::from_str(failure.get()).unwrap_or_default();
            Err(match failure.get("code").and_then(Value::as_str) {
                Some("batch_expired") => expired(),
                Some("batch_cancelled") => cancelled(),
                _ => error::from_value(&json!({"error": failure})),
            })
        }
        (None, None) => Err(missing()),
    }
}

/// Why a request of this batch has no result.
fn lacking(batch: &BatchObject) -> Error {
    match batch.status {
        BatchStatus::Failed => refused(batch),
        BatchStatus::Expired => expired(),
        BatchStatus::Cancelled | BatchStatus::Cancelling => cancelled(),
        _ => missing(),
    }
}

fn later(kind: ErrorKind, code: &str, message: &str) -> Error {
    Error::new(kind, ORIGIN, message).with_code(code).with_retryability(Retryability::After(None))
}

fn expired() -> Error {
    later(ErrorKind::Timeout, "batch_expired", "the window of its batch closed before it was asked")
}

fn cancelled() -> Error {
    later(ErrorKind::Other, "batch_cancelled", "its batch was cancelled before it was asked")
}

fn missing() -> Error {
    later(ErrorKind::Server, "batch_item_missing", "its batch has ended without a result for it")
}

/// The whole file was refused: because a line of it is wrong, or because too many tokens wait in batches.
fn refused(batch: &BatchObject) -> Error {
    let failure = batch.failure();
    let code = failure.and_then(|failure| failure.code.as_deref()).unwrap_or("batch_failed");
    let at = failure.and_then(|failure| failure.line).map(|line| format!(", for its line {line}")).unwrap_or_default();
    let kind = match code {
        "token_limit_exceeded" | "rate_limit_exceeded" => ErrorKind::RateLimited,
        "billing_hard_limit_reached" | "insufficient_quota" => ErrorKind::QuotaExhausted,
        _ => ErrorKind::InvalidRequest,
    };
    let text = format!("the file of its batch was refused{at}; the provider's reason is in provider_message()");
    let error = Error::new(kind, ORIGIN, text).with_code(code);
    // One line may be at fault; all others would be answered on their own.
    let error = match kind {
        ErrorKind::QuotaExhausted => error,
        _ => error.with_retryability(Retryability::After(None)),
    };
    match failure.and_then(|failure| failure.message.as_deref()) {
        Some(message) => error.with_provider_message(message),
        None => error,
    }
}
