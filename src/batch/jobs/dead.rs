//! What could not be done.

use fred::bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::task::TaskTracker;

use super::{JobFailure, JobId, JobQueue, payload, scripts, text, unexpected, verdict};
use crate::error::Result;

/// A job that could not be done.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter<T> {
    /// Its name.
    pub id: JobId,
    /// Its payload; none when this version cannot read it.
    pub payload: Option<T>,
    /// How many attempts were begun.
    pub attempts: u32,
    /// Why it is here.
    pub failure: JobFailure,
    entry: String,
}

const PAGE: usize = 256;

impl<T, O> JobQueue<T, O>
where
    T: Serialize + DeserializeOwned + Send + 'static,
    O: Serialize + DeserializeOwned + Send + 'static,
{
    /// The dead letters, oldest first, at most so many.
    ///
    /// # Errors
    /// What Redis or the way to it failed with.
    pub async fn dead_letters(&self, most: usize) -> Result<Vec<DeadLetter<T>>> {
        let (mut letters, mut from): (Vec<DeadLetter<T>>, _) = (Vec::new(), "-".to_owned());
        loop {
            let page = most.saturating_sub(letters.len()).min(PAGE);
            if page == 0 {
                return Ok(letters);
            }
            let values = vec![from.as_str().into(), (page as i64).into()];
            let found = self.desk.ask(scripts::DEAD, vec![self.desk.names.dead()], values).await?;
            let before = letters.len();
            for fields in found.chunks_exact(6) {
                letters.push(letter(self.desk.env.tasks(), fields).await?);
            }
            match letters.last() {
                Some(last) if letters.len() - before == page => from = format!("({}", last.entry),
                _ => return Ok(letters),
            }
        }
    }

    /// Enqueues a dead letter again, under its old id, with all its attempts before it. Whether it was still there.
    ///
    /// # Errors
    /// What Redis or the way to it failed with.
    pub async fn requeue(&self, letter: &DeadLetter<T>) -> Result<bool> {
        let (names, id) = (&self.desk.names, &letter.id);
        let keys = vec![names.dead(), names.stream(), names.job(id), names.result(id)];
        let values = vec![letter.entry.as_str().into(), id.as_str().into()];
        Ok(verdict(&self.desk.ask(scripts::REQUEUE, keys, values).await?) == b"queued")
    }

    /// Deletes a dead letter. Whether it was still there. Why it died can be asked for until its result's life is over.
    ///
    /// # Errors
    /// What Redis or the way to it failed with.
    pub async fn discard(&self, letter: &DeadLetter<T>) -> Result<bool> {
        let values = vec![letter.entry.as_str().into()];
        Ok(verdict(&self.desk.ask(scripts::DISCARD, vec![self.desk.names.dead()], values).await?) == b"1")
    }
}

async fn letter<T: DeserializeOwned + Send + 'static>(tasks: &TaskTracker, fields: &[Bytes]) -> Result<DeadLetter<T>> {
    let [entry, id, payload, attempts, reason, message] = fields else { return Err(unexpected()) };
    Ok(DeadLetter {
        id: JobId::parse(&text(id)).map_err(|_| unexpected())?,
        payload: payload::read(tasks, payload.clone()).await.and_then(std::result::Result::ok),
        attempts: text(attempts).parse().map_err(|_| unexpected())?,
        failure: JobFailure { reason: text(reason), message: text(message) },
        entry: text(entry),
    })
}
