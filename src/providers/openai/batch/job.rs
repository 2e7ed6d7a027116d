//! A batch under way.

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Batches;
use super::api::{Api, may_pass};
use super::kind::BatchRequest;
use super::results::{BatchItem, Results};
use super::told::tell;
use super::wire::{BatchObject, BatchStatus};
use crate::error::Result;

/// A batch goes on while its provider cannot be asked; so long nobody is told.
const OUTAGE: Duration = Duration::from_secs(3600);

/// What was asked under an id.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) id: String,
    pub(super) inputs: usize,
}

/// One of the provider's batches.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) object: BatchObject,
    /// `None` if it was created by others.
    pub(super) asked: Option<Vec<Asked>>,
    pub(super) model: Option<String>,
}

/// How far a batch is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchProgress {
    /// Requests in all.
    pub total: u64,
    /// Answered.
    pub completed: u64,
    /// Failed.
    pub failed: u64,
    /// How many batches of the provider it is.
    pub batches: usize,
    /// How many of them have ended.
    pub ended: usize,
    /// The state of the first that has not ended, or of the last.
    pub status: BatchStatus,
}

impl BatchProgress {
    fn of(parts: &[Part]) -> Self {
        let sum = |count: fn(&Part) -> u64| parts.iter().map(count).sum();
        // While its file is being looked at, a batch counts no requests.
        let asked = |part: &Part| part.asked.as_ref().map_or(0, |asked| asked.len() as u64);
        let current = parts.iter().find(|part| !part.object.status.is_final()).or(parts.last());
        Self {
            total: parts.iter().map(|part| part.object.counts().total.max(asked(part))).sum(),
            completed: sum(|part| part.object.counts().completed),
            failed: sum(|part| part.object.counts().failed),
            batches: parts.len(),
            ended: parts.iter().filter(|part| part.object.status.is_final()).count(),
            status: current.map_or(BatchStatus::Completed, |part| part.object.status.clone()),
        }
    }

    /// Whether all of it has ended: the results are there.
    pub fn has_ended(&self) -> bool {
        self.ended == self.batches
    }
}

impl fmt::Display for BatchProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { total, completed, failed, batches, ended, status } = self;
        write!(f, "{completed} of {total} answered, {failed} failed, {ended} of {batches} batches ended ({status:?})")
    }
}

/// Requests that were sent as a batch, or as several where one file could not hold them. See
/// [`Batches`]: dropping it stops nothing.
#[must_use = "it is answered whether or not somebody reads it; keep its ids"]
pub struct Batch<R: BatchRequest> {
    api: Api,
    poll_every: Duration,
    keep_input: bool,
    since: Instant,
    /// Whether observers were told of its results, or are told by others.
    told: bool,
    parts: Vec<Part>,
    progress: watch::Sender<BatchProgress>,
    kind: PhantomData<fn() -> R>,
}

impl<R: BatchRequest> Batch<R> {
    pub(super) fn new(batches: &Batches, parts: Vec<Part>) -> Self {
        let progress = watch::Sender::new(BatchProgress::of(&parts));
        let Batches { api, poll_every, keep_input, .. } = batches.clone();
        let since = api.env.now();
        Self { api, poll_every, keep_input, since, told: false, parts, progress, kind: PhantomData }
    }

    /// Observers are told by who sent it.
    pub(super) fn untold(self) -> Self {
        Self { told: true, ..self }
    }

    /// The provider's ids of it, for [`Batches::resume`].
    pub fn ids(&self) -> Vec<String> {
        self.parts.iter().map(|part| part.object.id.clone()).collect()
    }

    /// How far it was when it was last asked, to look at or to wait for changes of.
    pub fn progress(&self) -> watch::Receiver<BatchProgress> {
        self.progress.subscribe()
    }

    /// Asks how far it is.
    ///
    /// # Errors
    /// As calls, after five attempts.
    pub async fn status(&mut self) -> Result<BatchProgress> {
        for part in self.parts.iter_mut().filter(|part| !part.object.status.is_final()) {
            part.object = self.api.get(&part.object.id).await?;
        }
        Ok(self.tell())
    }

    /// Waits until all of it has ended, well or not. Cancel-safe.
    ///
    /// # Errors
    /// As calls. A failure that may pass is an error only after an hour of nothing else; the batch goes on, and it can be
    /// waited for again.
    pub async fn wait(&mut self) -> Result<BatchProgress> {
        let mut heard = self.api.env.now();
        loop {
            let mut failed = None;
            for part in self.parts.iter_mut().filter(|part| !part.object.status.is_final()) {
                match self.api.look(&part.object.id).await {
                    Ok(object) => part.object = object,
                    Err(error) if may_pass(&error) => failed = Some(error),
                    Err(error) => return Err(error),
                }
            }
            let now = self.api.env.now();
            let pause = match failed {
                Some(error) if now.saturating_duration_since(heard) >= OUTAGE => return Err(error),
                Some(error) => error.retry_after().unwrap_or_default().min(OUTAGE).max(self.poll_every),
                None => {
                    heard = now;
                    self.poll_every
                }
            };
            let progress = self.tell();
            if progress.has_ended() {
                return Ok(progress);
            }
            self.api.env.sleep(pause).await;
        }
    }

    /// Waits for its end and reads the results: one per request, by their number. Each is an answer, or an error as a call
    /// would raise it, or one of these, told by its [`code`](crate::Error::code):
    ///
    /// | Code | Kind | The request |
    /// |---|---|---|
    /// | `batch_expired` | [`Timeout`](crate::ErrorKind::Timeout) | was not asked before the window closed |
    /// | `batch_cancelled` | [`Other`](crate::ErrorKind::Other) | was not asked before the batch was cancelled |
    /// | `batch_item_missing` | [`Server`](crate::ErrorKind::Server) | is in neither of the files of results |
    /// | the provider's | [`InvalidRequest`](crate::ErrorKind::InvalidRequest), [`RateLimited`](crate::ErrorKind::RateLimited) | was not asked: the file was refused, for a fault in a line of it or a full queue |
    ///
    /// All of these may be asked again: of a refused file, a single line may be at fault. Then the uploaded requests are deleted, unless
    /// [`keep_input`](Batches::keep_input) is set; the results can be read again. The first time, observers are told of
    /// each of them.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), and of reading the files, after five attempts each. Nothing is deleted then.
    pub async fn results(&mut self) -> Result<Vec<BatchItem<R::Answer>>> {
        self.wait().await?;
        let mut read = Vec::new();
        for part in &self.parts {
            read.push(Results::read::<R>(&self.api, part).await?);
        }
        if !std::mem::replace(&mut self.told, true) {
            let waited = self.api.env.now().saturating_duration_since(self.since);
            self.parts.iter().zip(&read).for_each(|(part, items)| tell::<R>(&self.api.env, part, items, waited));
        }
        let mut items: Vec<_> = read.into_iter().flatten().collect();
        items.sort_by_cached_key(|item| item.custom_id.parse::<u64>().unwrap_or(u64::MAX));
        if !self.keep_input {
            for part in &self.parts {
                // The results are what counts; a file that stays is removed by the provider after 30 days.
                let _deleted = self.api.delete(&part.object.input_file_id).await;
            }
        }
        Ok(items)
    }

    /// Asks for all of it to be cancelled, and does not wait for that: it takes up to 10 minutes. What was answered by then
    /// is paid, and is there to be read. A batch that has ended stays as it is.
    ///
    /// # Errors
    /// As calls, after five attempts; of several batches the rest are cancelled all the same.
    pub async fn cancel(&mut self) -> Result<()> {
        let mut failed = None;
        for part in self.parts.iter_mut().filter(|part| !part.object.status.is_final()) {
            match self.api.cancel(&part.object.id).await {
                Ok(object) => part.object = object,
                Err(error) => {
                    // It may have ended a moment before.
                    match self.api.get(&part.object.id).await {
                        Ok(object) if object.status.is_final() => part.object = object,
                        _ => failed = failed.or(Some(error)),
                    }
                }
            }
        }
        self.tell();
        failed.map_or(Ok(()), Err)
    }

    /// Deletes all of its files at the provider, those of results included. Only once it has ended are they all there.
    ///
    /// # Errors
    /// As calls, after five attempts.
    pub async fn delete_files(&self) -> Result<()> {
        for part in &self.parts {
            for file in part.object.files().chain([part.object.input_file_id.as_str()]) {
                self.api.delete(file).await?;
            }
        }
        Ok(())
    }

    pub(super) fn keeps_files(&self) -> bool {
        self.keep_input
    }

    fn tell(&self) -> BatchProgress {
        let progress = BatchProgress::of(&self.parts);
        self.progress.send_if_modified(|known| {
            *known != progress && {
                *known = progress.clone();
                true
            }
        });
        progress
    }
}

impl<R: BatchRequest> fmt::Debug for Batch<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("ids", &self.ids()).field("progress", &*self.progress.borrow()).finish()
    }
}
