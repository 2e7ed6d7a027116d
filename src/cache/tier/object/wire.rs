//! The store, asked within a time and for a size.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Error as Store, GetOptions, GetRange, GetResultPayload, ObjectStore, ObjectStoreExt,
    PutOptions, PutPayload,
};

use super::fault::{self, ORIGIN};
use crate::env::{Clock, after};
use crate::error::{Error, ErrorKind, Result};

/// What was read.
pub(super) enum Found {
    Nothing,
    /// More than was to be read; none of it has been.
    TooLarge,
    Bytes(Bytes),
}

#[derive(Clone)]
pub(super) struct Wire {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) clock: Arc<dyn Clock>,
    /// The store has said that it takes no attributes.
    plain: Arc<AtomicBool>,
}

impl Wire {
    pub(super) fn new(store: Arc<dyn ObjectStore>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, plain: Arc::default() }
    }

    pub(super) fn until(&self, budget: Duration) -> Instant {
        after(self.clock.now(), budget)
    }

    /// Waits for the store, but no longer than until then.
    pub(super) async fn within<T>(&self, until: Instant, asked: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            answer = asked => Ok(answer),
            () = self.clock.sleep_until(until) => Err(Error::new(ErrorKind::Timeout, ORIGIN, "no reply in time")),
        }
    }

    /// At most so many bytes: all of them, or with a range those.
    pub(super) async fn read(&self, until: Instant, name: &Path, part: Option<usize>, most: usize) -> Result<Found> {
        let range = part.map(|end| GetRange::Bounded(0..end as u64));
        let read = async {
            let found = self.store.get_opts(name, GetOptions { range, ..GetOptions::default() }).await?;
            let size = found.range.end.saturating_sub(found.range.start);
            if size > most as u64 {
                return Ok(Found::TooLarge);
            }
            match found.payload {
                GetResultPayload::File(..) => found.bytes().await.map(Found::Bytes),
                // Not `bytes()`: it reads on if the store sends more than it said.
                GetResultPayload::Stream(mut parts) => {
                    let mut whole = BytesMut::with_capacity(size as usize);
                    while let Some(part) = parts.next().await.transpose()? {
                        if whole.len() + part.len() > most {
                            return Ok(Found::TooLarge);
                        }
                        whole.extend_from_slice(&part);
                    }
                    Ok(Found::Bytes(whole.freeze()))
                }
            }
        };
        match self.within(until, read).await? {
            Err(Store::NotFound { .. }) => Ok(Found::Nothing),
            found => found.map_err(|error| fault::from(&error)),
        }
    }

    /// Writes, over whatever is there. A store that takes no attributes is written to without, from then on.
    pub(super) async fn write(&self, until: Instant, name: &Path, bytes: Vec<u8>, caching: String) -> Result<()> {
        let payload = PutPayload::from(bytes);
        let write = async {
            if !self.plain.load(Relaxed) {
                let attributes = Attributes::from_iter([
                    (Attribute::ContentType, "application/octet-stream".to_owned()),
                    (Attribute::CacheControl, caching),
                ]);
                match self.store.put_opts(name, payload.clone(), PutOptions::from(attributes)).await {
                    Err(Store::NotSupported { .. } | Store::NotImplemented { .. }) => self.plain.store(true, Relaxed),
                    written => return written,
                }
            }
            self.store.put(name, payload).await
        };
        self.within(until, write).await?.map(drop).map_err(|error| fault::from(&error))
    }

    /// Removes it. One that is not there counts as removed.
    pub(super) async fn delete(&self, until: Instant, name: &Path) -> Result<()> {
        match self.within(until, self.store.delete(name)).await? {
            Ok(()) | Err(Store::NotFound { .. }) => Ok(()),
            Err(error) => Err(fault::from(&error)),
        }
    }
}
