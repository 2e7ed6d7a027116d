//! Filling a cache before it is needed.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::CacheHandle;
use super::log;
use crate::client::LlmClient;
use crate::error::{Error, ErrorKind, Result};
use crate::lines::Lines;
use crate::types::{ChatRequest, Priority, Source};

/// What came of a warm-up, so far or in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warmed {
    /// Requests that were asked, and answered or not: the sum of the next four.
    pub asked: u64,
    /// Answers that were stored already, or that another call was waiting for.
    pub already: u64,
    /// Answers that came from upstream and are stored now.
    pub stored: u64,
    /// Answers that came from upstream and were not kept, by policy or because the cache is full of better ones.
    pub not_kept: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Lines of a log that are no chat body; a log that cannot be read on counts as one more.
    pub unreadable: u64,
    /// Whether it ended before all was asked, because the client was shut down.
    pub stopped: bool,
}

/// A warm-up under way: a future of what came of it.
///
/// It runs in the background when it is started inside a Tokio runtime, else as far as it is awaited. Dropping it cancels
/// it, calls under way included; a shutdown of the client stops it.
#[must_use = "dropping it cancels it"]
pub struct WarmUp {
    work: Pin<Box<dyn Future<Output = Warmed> + Send>>,
    progress: watch::Receiver<Warmed>,
    _cancel: DropGuard,
}

impl WarmUp {
    /// What came of it so far, to look at or to wait for changes of.
    pub fn progress(&self) -> watch::Receiver<Warmed> {
        self.progress.clone()
    }
}

impl Future for WarmUp {
    type Output = Warmed;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Warmed> {
        self.work.as_mut().poll(cx)
    }
}

impl fmt::Debug for WarmUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WarmUp").field("progress", &*self.progress.borrow()).finish_non_exhaustive()
    }
}

impl CacheHandle {
    /// So many calls at a time in the warm-ups that this handle starts; at least 1. 4 unless set: enough to fill a cache in
    /// the background, few beside the calls that somebody waits for.
    #[must_use]
    pub fn with_concurrency(mut self, calls: usize) -> Self {
        self.concurrency = calls.max(1);
        self
    }

    /// Asks these requests through the whole client, with [`Priority::Low`](crate::types::Priority::Low): what is stored
    /// already costs a look-up, the rest its price. All limits, budgets and prices of the client apply.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
    /// use sluicegate::{OptimizedClient, cache::Cache, testing::Scripted, types::ChatRequest};
    /// let llm = OptimizedClient::builder(Scripted::new()).cache(Cache::memory(100)).build()?;
    /// let questions = ["Why is the sky blue?", "Why is the sea salt?", "Why is the sky blue?"];
    /// let requests = questions.map(|question| ChatRequest::new("gpt-5-mini").user(question));
    /// let warmed = llm.cache().unwrap().warm_up(requests).await;
    /// assert_eq!((warmed.asked, warmed.stored, warmed.already), (3, 2, 1));
    /// # Ok(()) }
    /// ```
    pub fn warm_up<I>(&self, requests: I) -> WarmUp
    where
        I: IntoIterator<Item = ChatRequest>,
        I::IntoIter: Send + 'static,
    {
        self.start(stream::iter(requests.into_iter().map(Some)))
    }

    /// As [`warm_up`](Self::warm_up), from a log: one chat body in the OpenAI wire shape per line of JSON. `stream` and
    /// `stream_options` are left out: they are not part of a request here. Lines that
    /// [`export_hottest`](Self::export_hottest) wrote carry their tenant, namespace and tags too.
    pub fn warm_up_from(&self, log: impl AsyncRead + Send + Unpin + 'static) -> WarmUp {
        let lines = Lines::new(BufReader::new(log));
        self.start(stream::unfold(Some(lines), async |lines| {
            let mut lines = lines?;
            loop {
                let request = match lines.next().await {
                    Ok(Some(Some(line))) if line.trim_ascii().is_empty() => continue,
                    Ok(Some(line)) => line.and_then(log::parse),
                    Ok(None) => return None,
                    Err(_) => return Some((None, None)),
                };
                return Some((request, Some(lines)));
            }
        }))
    }

    /// The requests whose stored answers were served most, hottest first, with their estimated hits; none unless
    /// [`Cache::track_hottest`](super::Cache::track_hottest) was set. Each is the final prompt, as the cache saw it.
    ///
    /// With k tracked, a number is too high by at most a k-th of all hits, and sampling one hit in 16 spreads it by about
    /// four times its square root. Who got more than a k-th of all hits is among them, as far as the sample can tell.
    pub fn hottest(&self) -> Vec<(ChatRequest, u64)> {
        self.held.shared.hot.as_ref().map_or_else(Vec::new, |hot| hot.hottest())
    }

    /// Writes [`hottest`](Self::hottest) as a log for [`warm_up_from`](Self::warm_up_from); how many lines. It holds
    /// prompts and tenants in clear text. The writer is flushed, not closed.
    ///
    /// # Errors
    /// What the writer says, with kind [`ErrorKind::Other`](crate::ErrorKind::Other).
    pub async fn export_hottest(&self, mut writer: impl AsyncWrite + Send + Unpin) -> Result<u64> {
        let failed = |error| Error::new(ErrorKind::Other, "cache", "writing the lines failed").with_source(error);
        let lines: Vec<_> = self.hottest().iter().filter_map(|(request, _)| log::line(request)).collect();
        for line in &lines {
            writer.write_all(line).await.map_err(failed)?;
        }
        writer.flush().await.map_err(failed)?;
        Ok(lines.len() as u64)
    }

    /// `None` stands for a line that cannot be read.
    fn start(&self, requests: impl Stream<Item = Option<ChatRequest>> + Send + 'static) -> WarmUp {
        let (sender, progress) = watch::channel(Warmed::default());
        let cancel = CancellationToken::new();
        let work = run(self.clone(), requests, sender, cancel.clone());
        let work: Pin<Box<dyn Future<Output = Warmed> + Send>> = match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                let (task, progress) = (self.held.env.tasks().spawn_on(work, &runtime), progress.clone());
                // A task that was torn down with its runtime leaves what came of it so far.
                Box::pin(async move { task.await.unwrap_or_else(|_| Warmed { stopped: true, ..*progress.borrow() }) })
            }
            Err(_) => Box::pin(work),
        };
        WarmUp { work, progress, _cancel: cancel.drop_guard() }
    }
}

async fn run(
    cache: CacheHandle,
    requests: impl Stream<Item = Option<ChatRequest>>,
    progress: watch::Sender<Warmed>,
    cancel: CancellationToken,
) -> Warmed {
    let closing = cache.held.env.closing().clone();
    let calls = requests.map(|request| ask(&cache, request)).buffer_unordered(cache.concurrency);
    let mut calls = std::pin::pin!(calls);
    let mut warmed = Warmed::default();
    loop {
        let came = tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            () = closing.cancelled() => None,
            came = calls.next() => Some(came),
        };
        match came {
            None => warmed.stopped = true,
            Some(Some(came)) => warmed.count(came),
            Some(None) => return warmed,
        }
        progress.send_replace(warmed);
        if warmed.stopped {
            return warmed;
        }
    }
}

enum Came {
    Already,
    Stored,
    NotKept,
    Failed,
    Unreadable,
}

impl Warmed {
    fn count(&mut self, came: Came) {
        let place = match came {
            Came::Unreadable => return self.unreadable += 1,
            Came::Already => &mut self.already,
            Came::Stored => &mut self.stored,
            Came::NotKept => &mut self.not_kept,
            Came::Failed => &mut self.failed,
        };
        *place += 1;
        self.asked += 1;
    }
}

async fn ask(cache: &CacheHandle, request: Option<ChatRequest>) -> Came {
    let Some(request) = request else { return Came::Unreadable };
    if request.check().is_err() {
        return Came::Failed;
    }
    match cache.held.client.chat(request.clone().with(Priority::Low)).await {
        Err(_) => Came::Failed,
        Ok(answer) if answer.trace().source != Source::Upstream => Came::Already,
        Ok(_) => match cache.peek(request).await {
            Ok(Some(_)) => Came::Stored,
            _ => Came::NotKept,
        },
    }
}
