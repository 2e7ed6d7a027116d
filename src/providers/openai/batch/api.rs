//! One exchange after the other with `/files` and `/batches`, tried again where that is safe.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, RequestBuilder, Response};

use super::super::client::OpenAi;
use super::super::{ORIGIN, error};
use super::wire::{BatchObject, FileObject, NewBatch, Page, parse};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result, Retryability};
use crate::offload::{LARGE_JSON, offload};

/// For an exchange without a file.
const CALL: Duration = Duration::from_secs(60);
/// For an exchange with one: 200 MB at 3 Mbit/s.
const TRANSFER: Duration = Duration::from_secs(600);
/// The first and four more: with the waits between them they outlast half a minute of failure.
const ATTEMPTS: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Cannot come up within the file: its lines are JSON, in which a line never begins with a hyphen.
macro_rules! boundary {
    () => {
        "sluicegate-batch-file"
    };
}
/// What comes before the lines of a file that is uploaded, and after them.
pub(super) const HEAD: &[u8] = concat!(
    "--",
    boundary!(),
    "\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--",
    boundary!(),
    "\r\ncontent-disposition: form-data; name=\"file\"; filename=\"batch.jsonl\"\r\ncontent-type: application/jsonl\r\n\r\n"
)
.as_bytes();
const TAIL: &[u8] = concat!("\r\n--", boundary!(), "--\r\n").as_bytes();

#[derive(Debug, Clone)]
pub(super) struct Api {
    pub(super) client: OpenAi,
    pub(super) env: Env,
}

pub(super) fn may_pass(error: &Error) -> bool {
    matches!(error.retryability(), Retryability::After(_))
}

impl Api {
    /// Before attempt number `attempt`, counted from 2: the provider's hint, or twice as long each time, with jitter.
    async fn back_off(&self, failed: &Error, attempt: u32) {
        let doubled = FIRST_WAIT.saturating_mul(1 << attempt.saturating_sub(2).min(8)).min(LONGEST_WAIT);
        let jittered = doubled.mul_f64(0.5 + self.env.unit() / 2.0);
        self.env.sleep(failed.retry_after().unwrap_or_default().min(LONGEST_WAIT).max(jittered)).await;
    }

    /// Asks until it is answered, fails for good, or has failed often enough. Only for what may be done twice.
    async fn again<T, Once: Future<Output = Result<T>>>(&self, once: impl Fn() -> Once) -> Result<T> {
        let mut attempt = 1;
        loop {
            match once().await {
                Err(error) if may_pass(&error) && attempt < ATTEMPTS => {
                    attempt += 1;
                    self.back_off(&error, attempt).await;
                }
                Err(error) => return Err(error.with_attempts(attempt)),
                Ok(answer) => return Ok(answer),
            }
        }
    }

    async fn exchange(&self, request: RequestBuilder, limit: Duration) -> Result<Vec<u8>> {
        let response = self.client.send(request.timeout(limit)).await?;
        self.client.read(response).await
    }

    /// Uploads a file of requests, which has its [`HEAD`]: its id, and when the provider says it came. One whose answer was lost is uploaded twice;
    /// the copy costs nothing, and the provider removes it after 30 days.
    pub(super) async fn upload(&self, mut body: Vec<u8>) -> Result<FileObject> {
        body.extend_from_slice(TAIL);
        let body = bytes::Bytes::from(body);
        let kind = concat!("multipart/form-data; boundary=", boundary!());
        self.again(|| {
            let request =
                self.client.request(Method::POST, &["files"], &[]).header(CONTENT_TYPE, kind).body(body.clone());
            async move { parse(&self.exchange(request, TRANSFER).await?, "file") }
        })
        .await
    }

    /// Removes a file. One that is gone already is fine.
    pub(super) async fn delete(&self, file: &str) -> Result<()> {
        let once = || self.exchange(self.client.request(Method::DELETE, &["files", file], &[]), CALL);
        match self.again(once).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Creates a batch, once. A failure that leaves open whether it was created is followed by a look at the batches there
    /// are: the one that has this file is it. Without that look nothing is created again.
    pub(super) async fn create(&self, batch: &NewBatch<'_>, file: &FileObject) -> Result<BatchObject> {
        let body = serde_json::to_vec(batch).map_err(|cause| {
            Error::new(ErrorKind::InvalidRequest, ORIGIN, "the batch cannot be written as JSON").with_source(cause)
        })?;
        let mut attempt = 1;
        loop {
            let request = self.client.request(Method::POST, &["batches"], &[]);
            let request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
            let created = self.exchange(request, CALL).await.and_then(|body| parse(&body, "batch"));
            let failed = match created {
                Err(error) if may_pass(&error) => error,
                settled => return settled,
            };
            attempt += 1;
            self.back_off(&failed, attempt).await;
            if failed.kind() != ErrorKind::RateLimited {
                let ours = |batch: &BatchObject| batch.input_file_id == file.id;
                let found = self.find(ours, file.created_at, true).await.map_err(|cause| {
                    let text = format!("whether the batch of file {} was created could not be found out", file.id);
                    Error::new(cause.kind(), ORIGIN, text).with_source(cause).with_retryability(Retryability::Never)
                })?;
                if let Some(found) = found.into_iter().next() {
                    return Ok(found);
                }
            }
            if attempt > ATTEMPTS {
                return Err(failed.with_attempts(ATTEMPTS));
            }
        }
    }

    /// The batches that are wanted, all or the first found. The provider lists the newest first; what it created before
    /// `since` (Unix seconds) is not looked at, if the list keeps that order.
    pub(super) async fn find(
        &self,
        wanted: impl Fn(&BatchObject) -> bool,
        since: u64,
        first: bool,
    ) -> Result<Vec<BatchObject>> {
        let (mut found, mut after) = (Vec::new(), None::<String>);
        loop {
            let once = || {
                let query: Vec<_> =
                    [("limit", "100")].into_iter().chain(after.as_deref().map(|id| ("after", id))).collect();
                let request = self.client.request(Method::GET, &["batches"], &query);
                async move { parse::<Page>(&self.exchange(request, CALL).await?, "list of batches") }
            };
            let page = self.again(once).await?;
            let last = page.data.last().map(|batch| batch.id.clone());
            let old = page.data.last().is_some_and(|batch| batch.created_at < since)
                && page.data.is_sorted_by_key(|batch| std::cmp::Reverse(batch.created_at));
            found.extend(page.data.into_iter().filter(&wanted));
            // A server that does not know `after` would give the same page for ever.
            if !page.has_more || old || last.is_none() || last == after || (first && !found.is_empty()) {
                return Ok(found);
            }
            after = last;
        }
    }

    /// A batch as it stands, asked once.
    pub(super) async fn look(&self, id: &str) -> Result<BatchObject> {
        parse(&self.exchange(self.client.request(Method::GET, &["batches", id], &[]), CALL).await?, "batch")
    }

    /// A batch as it stands.
    pub(super) async fn get(&self, id: &str) -> Result<BatchObject> {
        self.again(|| self.look(id)).await
    }

    /// Asks for a batch to be cancelled. Doing so twice changes nothing.
    pub(super) async fn cancel(&self, id: &str) -> Result<BatchObject> {
        self.again(|| async {
            let request = self.client.request(Method::POST, &["batches", id, "cancel"], &[]);
            parse(&self.exchange(request, CALL).await?, "batch")
        })
        .await
    }

    /// What `read` makes of each line of a file; of a long one on another thread.
    pub(super) async fn lines<T: Send + 'static>(
        &self,
        file: &str,
        read: impl Fn(&[u8]) -> T + Send + Sync + 'static,
    ) -> Result<Vec<T>> {
        let read = &Arc::new(read);
        self.again(|| async move {
            let request = self.client.request(Method::GET, &["files", file, "content"], &[]).timeout(TRANSFER);
            self.split(self.client.send(request).await?, read).await
        })
        .await
    }

    async fn split<T: Send + 'static>(
        &self,
        mut response: Response,
        read: &Arc<impl Fn(&[u8]) -> T + Send + Sync + 'static>,
    ) -> Result<Vec<T>> {
        let line = async |line: Vec<u8>| {
            let (read, is_large) = (Arc::clone(read), line.len() > LARGE_JSON);
            offload(self.client.tasks(), is_large, move || (!line.trim_ascii().is_empty()).then(|| read(&line))).await
        };
        let (mut lines, mut begun) = (Vec::new(), Vec::new());
        while let Some(piece) = response.chunk().await.map_err(error::from_transport)? {
            let mut rest = &piece[..];
            while let Some(end) = memchr::memchr(b'\n', rest) {
                begun.extend_from_slice(&rest[..end]);
                lines.extend(line(std::mem::take(&mut begun)).await);
                rest = &rest[end + 1..];
            }
            begun.extend_from_slice(rest);
            if begun.len() > self.client.max_body_bytes() {
                return Err(error::too_large("a line of the results", self.client.max_body_bytes()));
            }
            // The next piece may be there already, and the one after it.
            tokio::task::yield_now().await;
        }
        lines.extend(line(begun).await);
        Ok(lines)
    }
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
