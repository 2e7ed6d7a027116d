//! A run under way.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::ask::{Checked, Parts, Taken, ask};
use super::progress::Tally;
use super::{BulkItem, Drain, Progress, jsonl};
use crate::batch::ORIGIN;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::offload::LARGE_JSON;

type Asked = Pin<Box<dyn Future<Output = (BulkItem, Option<Error>)> + Send>>;

/// A bulk run: a stream of one [`BulkItem`] per request.
///
/// It works while it is polled and only then; nothing is spawned. An `Err` is a failure of the run itself, not of an
/// item: the checkpoint belongs to another input, or cannot be written. What was under way is yielded before it, it is
/// the last there is, and nothing was taken after it was found.
///
/// Dropping it cancels the calls under way; what is recorded stays recorded.
#[must_use = "it works only while it is polled, and dropping it cancels it"]
pub struct BulkRun {
    source: Option<Pin<Box<dyn Stream<Item = Checked> + Send>>>,
    parts: Arc<Parts>,
    env: Env,
    concurrency: usize,
    /// Of an ordered run: so many items are taken and not yielded, at most.
    window: Option<usize>,
    under_way: FuturesUnordered<Asked>,
    /// Finished before their turn.
    early: BTreeMap<u64, BulkItem>,
    taken: u64,
    yielded: u64,
    ids: HashSet<u128>,
    tally: Tally,
    progress: watch::Sender<Progress>,
    drain: CancellationToken,
    drained: Pin<Box<WaitForCancellationFutureOwned>>,
    failure: Option<Error>,
    ending: Option<Pin<Box<dyn Future<Output = Result<()>> + Send>>>,
    ended: bool,
}

impl BulkRun {
    pub(super) fn new(
        source: Pin<Box<dyn Stream<Item = Checked> + Send>>,
        parts: Parts,
        (concurrency, window): (usize, Option<usize>),
        total: Option<u64>,
    ) -> Self {
        let (env, drain) = (parts.env.clone(), parts.drain.clone());
        let drained = Box::pin(drain.clone().cancelled_owned());
        let tally = Tally::new(total, env.now());
        let progress = watch::Sender::new(tally.progress);
        Self {
            source: Some(source),
            parts: Arc::new(parts),
            env,
            concurrency,
            window,
            under_way: FuturesUnordered::new(),
            early: BTreeMap::new(),
            taken: 0,
            yielded: 0,
            ids: HashSet::new(),
            tally,
            progress,
            drain,
            drained,
            failure: None,
            ending: None,
            ended: false,
        }
    }

    /// How far it is, to look at or to wait for changes of. Items are counted as they finish, in whatever order they
    /// are yielded.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// A handle that ends it early and well.
    pub fn drain(&self) -> Drain {
        Drain(self.drain.clone())
    }

    /// The next item. Cancel-safe: what is under way stays under way.
    pub async fn next(&mut self) -> Option<Result<BulkItem>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Runs to the end; what came of it. The items are dropped, so this is for runs with a checkpoint, or to fill a
    /// cache.
    ///
    /// # Errors
    /// The failure of the run itself. Failures of items are counted.
    pub async fn finish(mut self) -> Result<Progress> {
        while let Some(item) = self.next().await {
            item?;
        }
        Ok(self.tally.progress)
    }

    /// Runs to the end and writes a line of JSON per item, as [`jsonl::line`] makes it; the writer is flushed, not
    /// closed. With a checkpoint, start with an empty file again: recorded items are written again, the same as before.
    ///
    /// # Errors
    /// The failure of the run itself, and the writer's, of kind [`ErrorKind::Other`]; what is under way is then
    /// cancelled.
    pub async fn write_to(mut self, mut writer: impl AsyncWrite + Send + Unpin) -> Result<Progress> {
        let failed = |error| Error::new(ErrorKind::Other, ORIGIN, "writing the results failed").with_source(error);
        while let Some(item) = self.next().await {
            match item {
                Ok(item) => {
                    let is_large = item.result.as_ref().is_ok_and(|answer| answer.completion().weight(0) > LARGE_JSON);
                    let line = self.env.offload(is_large, move || jsonl::line(&item)).await;
                    writer.write_all(&line).await.map_err(failed)?;
                }
                Err(error) => {
                    // The run's own failure is told, whatever the writer says; what was answered is not lost with it.
                    let _flushed = writer.flush().await;
                    return Err(error);
                }
            }
        }
        writer.flush().await.map_err(failed)?;
        Ok(self.tally.progress)
    }

    fn has_room(&self) -> bool {
        let waiting = self.taken.saturating_sub(self.yielded);
        self.under_way.len() < self.concurrency && self.window.is_none_or(|window| waiting < window as u64)
    }

    /// No more is taken from now on.
    fn stop(&mut self) {
        if self.source.take().is_some() {
            self.tally.progress.stopped = true;
            self.tell();
        }
    }

    fn tell(&mut self) {
        self.tally.progress.under_way = self.under_way.len() as u64;
        self.progress.send_replace(self.tally.progress);
    }

    fn start(&mut self, request: Checked) {
        let mut taken = Taken::new(self.taken, request);
        if self.taken == 0
            && let Some(checkpoint) = &self.parts.checkpoint
            && let Err(error) = checkpoint.begin(taken.identity)
        {
            self.failure = Some(error);
            return self.stop();
        }
        self.taken += 1;
        if !self.ids.insert(taken.identity.id) {
            let text = "an earlier item of this run has the same id; give each its own";
            taken.request = Err(Error::new(ErrorKind::InvalidRequest, ORIGIN, text));
        }
        self.under_way.push(Box::pin(ask(Arc::clone(&self.parts), taken)));
    }

    /// Takes what there is room for; whether there is more to come.
    fn take(&mut self, cx: &mut Context<'_>) {
        while self.has_room() {
            let Some(source) = &mut self.source else { return };
            match source.as_mut().poll_next(cx) {
                Poll::Ready(Some(request)) => self.start(request),
                Poll::Ready(None) => self.source = None,
                Poll::Pending => return,
            }
        }
    }

    fn finished(&mut self, item: BulkItem, unrecorded: Option<Error>) {
        self.tally.count(&item, self.env.now());
        self.early.insert(item.index, item);
        if let Some(error) = unrecorded {
            self.failure.get_or_insert(error);
            self.stop();
        }
        self.tell();
    }

    /// The item whose turn it is.
    fn due(&mut self) -> Option<BulkItem> {
        let item = match self.window {
            Some(_) => self.early.remove(&self.yielded),
            None => self.early.pop_first().map(|(_, item)| item),
        }?;
        self.yielded += 1;
        Some(item)
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BulkItem>>> {
        let parts = Arc::clone(&self.parts);
        let ending = self.ending.get_or_insert_with(|| {
            Box::pin(async move {
                match &parts.checkpoint {
                    Some(checkpoint) => checkpoint.sync().await,
                    None => Ok(()),
                }
            })
        });
        let synced = ready!(ending.as_mut().poll(cx));
        self.ended = true;
        self.ending = None;
        self.tally.end(self.env.now());
        self.tell();
        Poll::Ready(self.failure.take().or(synced.err()).map(Err))
    }
}

impl Stream for BulkRun {
    type Item = Result<BulkItem>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        if this.source.is_some() && this.drained.as_mut().poll(cx).is_ready() {
            this.stop();
        }
        loop {
            if let Some(item) = this.due() {
                return Poll::Ready(Some(Ok(item)));
            }
            this.take(cx);
            if this.tally.progress.under_way != this.under_way.len() as u64 {
                this.tell();
            }
            match this.under_way.poll_next_unpin(cx) {
                Poll::Ready(Some((item, unrecorded))) => this.finished(item, unrecorded),
                Poll::Ready(None) if this.source.is_none() => return this.poll_end(cx),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl fmt::Debug for BulkRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkRun").field("progress", &self.tally.progress).finish_non_exhaustive()
    }
}
