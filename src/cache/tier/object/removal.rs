//! Removing many: names are listed, heads are read where the name does not tell, and what is taken goes page by page.

use std::pin::pin;
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use object_store::path::Path;
use object_store::{Error as Store, ObjectMeta, ObjectStoreExt};

use super::fault;
use super::names::Names;
use super::wire::{Found, Wire};
use crate::cache::envelope::{HEAD, Head, head};
use crate::cache::{CacheKey, Selector};
use crate::error::{Error, Result};

/// Heads read at a time: enough to hide the round trips, few enough to leave the store to those who read answers.
const AT_A_TIME: usize = 16;
/// Names removed in one go; S3 takes so many in one request.
const PAGE: usize = 1_000;

pub(super) struct Removal<'a> {
    pub(super) wire: &'a Wire,
    pub(super) names: &'a Names,
    /// For each step: an answer of the store, a name of a list.
    pub(super) patience: Duration,
}

impl Removal<'_> {
    /// How many were removed. What cannot be removed does not keep the rest from it; the first failure is told at the end.
    pub(super) async fn run(&self, selector: &Selector) -> Result<u64> {
        match selector {
            Selector::Key(key) => self.keys(std::slice::from_ref(key)).await,
            Selector::Keys(keys) => self.keys(keys).await,
            Selector::Namespace(namespace) => {
                let listed = self.list(self.names.namespace(namespace));
                self.remove(listed.map(|meta| meta.map(|meta| Some(meta.location)))).await
            }
            Selector::All => {
                let listed = self.list(self.names.root().clone());
                self.remove(listed.map(|meta| meta.map(|meta| Some(meta.location)))).await
            }
            Selector::Tag(_) | Selector::Pattern(_) => {
                let listed = self.list(self.names.version());
                let judged = listed.map(|meta| async move { self.judge(meta?, selector).await });
                self.remove(judged.buffer_unordered(AT_A_TIME)).await
            }
        }
    }

    /// A key does not say its namespace, so it is looked for in each that is there.
    async fn keys(&self, keys: &[CacheKey]) -> Result<u64> {
        let version = self.names.version();
        let folders =
            self.wire.within(self.wire.until(self.patience), self.wire.store.list_with_delimiter(Some(&version)));
        let folders = match folders.await? {
            Ok(listed) => listed.common_prefixes,
            Err(Store::NotFound { .. }) => return Ok(0),
            Err(error) => return Err(fault::from(&error)),
        };
        let mut places = Vec::with_capacity(keys.len() * folders.len());
        for folder in &folders {
            places.extend(keys.iter().map(|key| Names::within(folder.clone(), key)));
        }
        let found = stream::iter(places).map(|place| async move {
            match self.wire.within(self.wire.until(self.patience), self.wire.store.head(&place)).await? {
                Ok(_) => Ok(Some(place)),
                Err(Store::NotFound { .. }) => Ok(None),
                Err(error) => Err(fault::from(&error)),
            }
        });
        self.remove(found.buffer_unordered(AT_A_TIME)).await
    }

    /// All of ours in this folder.
    fn list(&self, folder: Path) -> impl Stream<Item = Result<ObjectMeta>> + Send {
        let listed = self.wire.store.list(Some(&folder)).map(|meta| meta.map_err(|error| fault::from(&error)));
        self.patiently(listed.boxed()).filter(|meta| {
            let ours = meta.as_ref().map_or(true, |meta| self.names.gave(&meta.location));
            std::future::ready(ours)
        })
    }

    /// Fails, and ends, where the next one does not come in time.
    fn patiently<T: Send>(&self, items: BoxStream<'static, Result<T>>) -> impl Stream<Item = Result<T>> + Send {
        stream::unfold(Some(items), move |items| async move {
            let mut items = items?;
            match self.wire.within(self.wire.until(self.patience), items.next()).await {
                Ok(Some(Ok(item))) => Some((Ok(item), Some(items))),
                Ok(Some(Err(error))) | Err(error) => Some((Err(error), None)),
                Ok(None) => None,
            }
        })
    }

    /// The name, if the selector takes what lies there.
    async fn judge(&self, meta: ObjectMeta, selector: &Selector) -> Result<Option<Path>> {
        let size = usize::try_from(meta.size).unwrap_or(usize::MAX);
        let mut part = HEAD.min(size);
        // An empty range is no range. Twice at most: the second time it is told how much there must be.
        while part > 0 {
            let until = self.wire.until(self.patience);
            let Found::Bytes(bytes) = self.wire.read(until, &meta.location, Some(part), part).await? else { break };
            match head(&bytes, selector) {
                Head::Taken(true) => return Ok(Some(meta.location)),
                Head::Needs(more) if more > part && more <= size => part = more,
                _ => break,
            }
        }
        Ok(None)
    }

    async fn remove(&self, taken: impl Stream<Item = Result<Option<Path>>>) -> Result<u64> {
        let (mut removed, mut failed) = (0, None);
        let mut pages = pin!(taken.chunks(PAGE));
        while let Some(page) = pages.next().await {
            let mut names = Vec::new();
            for name in page {
                match name {
                    Ok(name) => names.extend(name),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            removed += self.page(names, &mut failed).await;
        }
        failed.map_or(Ok(removed), Err)
    }

    async fn page(&self, names: Vec<Path>, failed: &mut Option<Error>) -> u64 {
        let mut removed = 0;
        let mut answers = self.wire.store.delete_stream(stream::iter(names.into_iter().map(Ok)).boxed());
        loop {
            match self.wire.within(self.wire.until(self.patience), answers.next()).await {
                Ok(None) => return removed,
                Ok(Some(Ok(_))) => removed += 1,
                // Somebody else was faster.
                Ok(Some(Err(Store::NotFound { .. }))) => {}
                Ok(Some(Err(error))) => *failed = failed.take().or(Some(fault::from(&error))),
                Err(error) => {
                    *failed = failed.take().or(Some(error));
                    return removed;
                }
            }
        }
    }
}
