//! Batches as what deferred calls are sent to.

use async_trait::async_trait;

use super::{Batch, Batches};
use crate::deferred::{BatchProvider, SentBatch};
use crate::error::Result;
use crate::types::{ChatRequest, ChatResponse};

#[async_trait]
impl BatchProvider for Batches {
    async fn send(&self, requests: Vec<ChatRequest>) -> Result<Box<dyn SentBatch>> {
        // Who waits for these ends with the process, and so does their key.
        let batches = Self { key: None, ..self.clone() };
        Ok(Box::new(batches.submit(requests).await?.untold()))
    }
}

#[async_trait]
impl SentBatch for Batch<ChatRequest> {
    async fn answers(&mut self) -> Result<Vec<Result<ChatResponse>>> {
        let items = self.results().await?;
        if !self.keeps_files() {
            // They are answered; what cannot be deleted ends after 30 days.
            let _deleted = self.delete_files().await;
        }
        Ok(items.into_iter().map(|item| item.result).collect())
    }

    async fn cancel(&mut self) -> Result<()> {
        Self::cancel(self).await
    }
}
