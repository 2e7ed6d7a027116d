//! Requests written into files, uploaded, and made into batches.

use std::collections::BTreeMap;

use super::super::ORIGIN;
use super::Batches;
use super::api::HEAD;
use super::job::{Asked, Part};
use super::kind::BatchRequest;
use super::wire::{BatchObject, BatchStatus, NewBatch};
use crate::error::{Error, ErrorKind, Result};
use crate::offload::{LARGE_JSON, offload};

/// The provider's limit for all requests of a batch of embeddings.
const EMBEDDING_INPUTS: usize = 50_000;
const KEY: &str = "sluicegate_key";
const PART: &str = "sluicegate_part";
const HASH: &str = "sluicegate_hash";

/// A file that is being written, in the body that carries it, and hashed as it grows: at its end 200 MB would take a
/// tenth of a second to copy, and as long to hash.
struct File {
    body: Vec<u8>,
    /// Of its lines; only for those with a key.
    hash: Option<blake3::Hasher>,
    bytes: usize,
    asked: Vec<Asked>,
    inputs: usize,
}

impl File {
    fn new(keyed: bool) -> Self {
        let hash = keyed.then(blake3::Hasher::new);
        Self { body: HEAD.into(), hash, bytes: 0, asked: Vec::new(), inputs: 0 }
    }

    fn add(&mut self, pieces: [&[u8]; 3]) {
        for piece in pieces {
            self.body.extend_from_slice(piece);
            self.bytes += piece.len();
            if let Some(hash) = &mut self.hash {
                hash.update(piece);
            }
        }
    }

    fn hash(&self) -> Option<String> {
        self.hash.as_ref().map(|hash| hash.finalize().to_hex().to_string())
    }
}

pub(super) struct Submission<'a> {
    batches: &'a Batches,
    endpoint: &'static str,
    /// By what was submitted under the same key before.
    known: Vec<BatchObject>,
    pub(super) parts: Vec<Part>,
}

impl<'a> Submission<'a> {
    pub(super) async fn begin<R: BatchRequest>(batches: &'a Batches) -> Result<Self> {
        let known = match &batches.key {
            Some(key) => {
                let ours =
                    |batch: &BatchObject| batch.metadata(KEY) == Some(key) && batch.status != BatchStatus::Failed;
                // All there are: one that a wrong clock hides would be paid twice.
                batches.api.find(ours, 0, false).await?
            }
            None => Vec::new(),
        };
        Ok(Self { batches, endpoint: R::ENDPOINT, known, parts: Vec::new() })
    }

    pub(super) async fn write<R: BatchRequest>(&mut self, requests: impl IntoIterator<Item = R>) -> Result<()> {
        let (tasks, keyed) = (self.batches.api.client.tasks(), self.batches.key.is_some());
        let mut open: BTreeMap<String, File> = BTreeMap::new();
        let mut written = 0;
        for (number, request) in requests.into_iter().enumerate() {
            let (model, inputs) = (request.model().to_owned(), request.inputs());
            let is_large = request.weight() > LARGE_JSON;
            let body = offload(tasks, is_large, move || request.body()).await.map_err(|error| {
                Error::new(error.kind(), ORIGIN, format!("request {number}: {}", error.message())).with_source(error)
            })?;
            let head =
                format!("{{\"custom_id\":\"{number}\",\"method\":\"POST\",\"url\":\"{}\",\"body\":", self.endpoint);
            let bytes = head.len() + body.len() + 2;
            if bytes > self.batches.max_bytes {
                let text =
                    format!("request {number} has {bytes} bytes, more than max_bytes = {}", self.batches.max_bytes);
                return Err(Error::new(ErrorKind::InvalidRequest, ORIGIN, text));
            }
            let mut file = open.remove(&model).unwrap_or_else(|| File::new(keyed));
            let is_full = file.bytes + bytes > self.batches.max_bytes
                || file.asked.len() >= self.batches.max_requests
                || file.inputs + inputs > EMBEDDING_INPUTS;
            if is_full && !file.asked.is_empty() {
                self.send(&model, std::mem::replace(&mut file, File::new(keyed))).await?;
            }
            let add = move || {
                file.add([head.as_bytes(), &body, b"}\n"]);
                file
            };
            let mut file = offload(tasks, bytes > LARGE_JSON, add).await;
            file.asked.push(Asked { id: number.to_string(), inputs });
            file.inputs += inputs;
            open.insert(model, file);
            written += bytes;
            if written > LARGE_JSON {
                written = 0;
                tokio::task::yield_now().await;
            }
        }
        if open.is_empty() {
            return Err(Error::invalid(ORIGIN, "requests", "[]", "give at least one request"));
        }
        for (model, file) in open {
            self.send(&model, file).await?;
        }
        Ok(())
    }

    async fn send(&mut self, model: &str, file: File) -> Result<()> {
        let hash = file.hash();
        let object = match self.found(hash.as_deref())? {
            Some(object) => object,
            None => self.create(file.body, hash).await?,
        };
        self.parts.push(Part { object, asked: Some(file.asked), model: Some(model.to_owned()) });
        Ok(())
    }

    /// The batch of the file with this hash that was created before under the same key.
    fn found(&self, hash: Option<&str>) -> Result<Option<BatchObject>> {
        let number = self.parts.len().to_string();
        let Some(known) = self.known.iter().find(|batch| batch.metadata(PART) == Some(&number)) else {
            return Ok(None);
        };
        if known.metadata(HASH) != hash {
            let text = format!("its key stands for batch {} of other requests; use another key", known.id);
            return Err(Error::new(ErrorKind::InvalidRequest, ORIGIN, text));
        }
        Ok(Some(known.clone()))
    }

    async fn create(&self, body: Vec<u8>, hash: Option<String>) -> Result<BatchObject> {
        let api = &self.batches.api;
        let uploaded = api.upload(body).await?;
        let mut metadata = BTreeMap::new();
        if let (Some(key), Some(hash)) = (&self.batches.key, hash) {
            metadata.insert(KEY, key.clone());
            metadata.insert(PART, self.parts.len().to_string());
            metadata.insert(HASH, hash);
        }
        let (input_file_id, endpoint, completion_window) = (uploaded.id.as_str(), self.endpoint, "24h");
        let created = api.create(&NewBatch { input_file_id, endpoint, completion_window, metadata }, &uploaded).await;
        if let Err(error) = &created
            && error.status().is_some_and(|status| status < 500)
        {
            // Refused, so nothing needs it. It holds prompts; what cannot be deleted now ends after 30 days.
            let _deleted = api.delete(&uploaded.id).await;
        }
        created
    }

    /// Ends what was created before a failure: nobody would know of it.
    pub(super) async fn cancel(&self) {
        for part in &self.parts {
            // The failure that led here is told; this one would hide it.
            let _cancelled = self.batches.api.cancel(&part.object.id).await;
        }
    }
}

#[cfg(test)]
#[path = "submit_tests.rs"]
mod tests;
