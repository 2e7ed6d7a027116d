//! Requests written into files, uploaded, and made into batches.

use std::collections::BTreeMap;

use super::super::ORIGIN;
use super::Batches;
use super::job::{Asked, Part};
use super::kind::BatchRequest;
use super::wire::{BatchObject, BatchStatus, NewBatch};
use crate::error::{Error, ErrorKind, Result};

/// The provider's limit for all requests of a batch of embeddings.
const EMBEDDING_INPUTS: usize = 50_000;
const KEY: &str = "sluicegate_key";
const PART: &str = "sluicegate_part";
const HASH: &str = "sluicegate_hash";

/// A file that is being written.
#[derive(Default)]
struct File {
    lines: Vec<u8>,
    asked: Vec<Asked>,
    inputs: usize,
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
        let mut open: BTreeMap<String, File> = BTreeMap::new();
        for (number, request) in requests.into_iter().enumerate() {
            let body = request.body().map_err(|error| {
                Error::new(error.kind(), ORIGIN, format!("request {number}: {}", error.message())).with_source(error)
            })?;
            let (model, inputs) = (request.model().to_owned(), request.inputs());
            drop(request);
            let head =
                format!("{{\"custom_id\":\"{number}\",\"method\":\"POST\",\"url\":\"{}\",\"body\":", self.endpoint);
            let bytes = head.len() + body.len() + 2;
            if bytes > self.batches.max_bytes {
                let text =
                    format!("request {number} has {bytes} bytes, more than max_bytes = {}", self.batches.max_bytes);
                return Err(Error::new(ErrorKind::InvalidRequest, ORIGIN, text));
            }
            let file = open.entry(model.clone()).or_default();
            let is_full = file.lines.len() + bytes > self.batches.max_bytes
                || file.asked.len() >= self.batches.max_requests
                || file.inputs + inputs > EMBEDDING_INPUTS;
            if is_full && !file.asked.is_empty() {
                let full = std::mem::take(file);
                self.send(&model, full).await?;
            }
            let file = open.entry(model).or_default();
            file.lines.extend([head.as_bytes(), &body, b"}\n"].into_iter().flatten());
            file.asked.push(Asked { id: number.to_string(), inputs });
            file.inputs += inputs;
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
        let object = match self.found(&file)? {
            Some(object) => object,
            None => self.create(&file).await?,
        };
        self.parts.push(Part { object, asked: Some(file.asked), model: Some(model.to_owned()) });
        Ok(())
    }

    /// The batch of this file that was created before under the same key.
    fn found(&self, file: &File) -> Result<Option<BatchObject>> {
        let number = self.parts.len().to_string();
        let Some(known) = self.known.iter().find(|batch| batch.metadata(PART) == Some(&number)) else {
            return Ok(None);
        };
        if known.metadata(HASH) != Some(&hash(&file.lines)) {
            let text = format!("its key stands for batch {} of other requests; use another key", known.id);
            return Err(Error::new(ErrorKind::InvalidRequest, ORIGIN, text));
        }
        Ok(Some(known.clone()))
    }

    async fn create(&self, file: &File) -> Result<BatchObject> {
        let api = &self.batches.api;
        let uploaded = api.upload(&file.lines).await?;
        let mut metadata = BTreeMap::new();
        if let Some(key) = &self.batches.key {
            metadata.insert(KEY, key.clone());
            metadata.insert(PART, self.parts.len().to_string());
            metadata.insert(HASH, hash(&file.lines));
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

fn hash(lines: &[u8]) -> String {
    blake3::hash(lines).to_hex().to_string()
}
