//! The user's own values on the tiers of the cache.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::share::{Shares, Since, Work};
use super::shared::Shared;
use super::space::Space;
use super::turn::{Held, Turn, turn, under};
use super::{Entry, Labels, Payload, Probe, Selector, StoredValue};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Source, Tenant, Trace};

/// The user's own values in one namespace of a cache: what was found for a question, what a tool answered, whatever is
/// dear to get and can be written as JSON. They share the tiers and the removals of the answers, and never
/// meet them. Made by [`CacheHandle::namespace`](super::CacheHandle::namespace), and by
/// [`CacheLayer::namespace`](super::CacheLayer::namespace) before there is a client; cloning shares the cache.
///
/// # What it does
/// [`get_or_fetch`](Self::get_or_fetch) finds a value by its key, or fetches it: once, however many ask for it at the
/// same time in this process. Failures are told to all who waited, and not kept. A hit in memory hands out the same
/// [`Arc`], parsed once.
///
/// A value is stored as JSON. What cannot be read as the type that is asked for is a miss, and is replaced; so give
/// each type a namespace or a prefix of its own: JSON alone cannot tell apart two types of one shape.
///
/// Its name in a [`Selector::Pattern`] is its key: `retrieval/doc:*` takes all keys that begin with `doc:`.
///
/// # Example
/// Passages for a question, looked up once and forgotten when their source changes:
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use sluicegate::{OptimizedClient, cache::{Cache, Selector}, testing::Scripted};
/// # async fn search(question: &str) -> std::io::Result<Vec<String>> { Ok(vec![format!("about {question}")]) }
///
/// let llm = OptimizedClient::builder(Scripted::new()).cache(Cache::memory(10_000)).build()?;
/// let cache = llm.cache().expect("it was given one");
///
/// let passages = cache.namespace("retrieval")?.tenant("acme").tag("handbook");
/// let found = passages.get_or_fetch::<Vec<String>, _, _>("holidays", search("holidays")).await?;
/// let again = passages.get_or_fetch::<Vec<String>, _, _>("holidays", search("holidays")).await?;
/// assert!(std::sync::Arc::ptr_eq(&found, &again), "the second search never began");
///
/// cache.remove_selected(&Selector::Tag("handbook".into())).await?;
/// assert!(passages.get::<Vec<String>>("holidays").await?.is_none());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Values {
    shared: Arc<Shared>,
    namespace: Arc<str>,
    tenant: Option<Tenant>,
    ttl: Option<Duration>,
    tags: Vec<String>,
}

/// What values need beside the tiers.
#[derive(Default)]
pub(super) struct ValueParts {
    shares: Arc<Shares<Brought>>,
    /// That of the client which was wrapped first.
    env: OnceLock<Env>,
}

impl ValueParts {
    /// The layer has been wrapped around a client: from now on there is a clock.
    pub(super) fn works_with(&self, env: &Env) {
        let _ = self.env.set(env.clone());
    }

    /// How many fetches are under way.
    pub(super) fn under_way(&self) -> usize {
        self.shares.len()
    }
}

/// What a fetch brought: the value, and as it is stored, if it can be.
#[derive(Clone)]
struct Brought {
    typed: Arc<dyn Any + Send + Sync>,
    stored: Option<Arc<StoredValue>>,
    /// The tier that had it after all.
    tier: Option<&'static str>,
}

impl Brought {
    fn take<T: DeserializeOwned + Send + Sync + 'static>(self) -> Option<Arc<T>> {
        self.typed.downcast().ok().or_else(|| self.stored?.get())
    }
}

impl Values {
    pub(super) fn new(shared: Arc<Shared>, namespace: &str) -> Result<Self> {
        shared.tiers.near().space(namespace)?;
        Ok(Self { shared, namespace: namespace.into(), tenant: None, ttl: None, tags: Vec::new() })
    }

    /// The values of this tenant, which nobody else finds; those of no tenant unless set.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(Tenant(tenant.into()));
        self
    }

    /// Keeps values for so long, instead of the namespace's own time to live. Zero keeps nothing.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Adds a tag under which values kept from now on can be removed. Tags are not part of the key.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// The value of this key, if it is stored and can be read as this type.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the layer has not been wrapped around a client yet. A tier that fails is a miss.
    pub async fn get<T: DeserializeOwned + Send + Sync + 'static>(&self, key: &str) -> Result<Option<Arc<T>>> {
        let (env, space) = self.at_work()?;
        let probe = self.probe(key, env);
        match self.find(env, space, &probe).await {
            Some((value, _, tier)) => {
                space.counts.served(&from(Source::Cache(tier)));
                Ok(Some(value))
            }
            None => {
                space.counts.missed();
                Ok(None)
            }
        }
    }

    /// The value of this key; when it is not stored, what `fetch` brings, which is then kept.
    ///
    /// Whoever asks for the same key meanwhile waits for that fetch, and its own never begins; in a
    /// [fleet](super::Cache::fleet) in every process. What was removed or put
    /// anew while the fetch was under way is not overwritten by it. A value that cannot be written as JSON is handed
    /// out and not kept.
    ///
    /// # Errors
    /// What `fetch` failed with, as the [`source`](std::error::Error::source) of an [`ErrorKind::Other`], or as it is
    /// when it is an [`Error`] of this crate; told to all who waited. (Whoever waited for a fetch that ran into its own
    /// deadline fetches anew.) [`ErrorKind::Panicked`] when it panicked; [`ErrorKind::InvalidRequest`] when it asks for
    /// its own key; [`ErrorKind::Config`] when the layer has not been wrapped around a client yet.
    ///
    /// # Cancellation
    /// The fetch is driven by those who wait for it, and goes with the last of them.
    pub async fn get_or_fetch<T, F, E>(&self, key: &str, fetch: F) -> Result<Arc<T>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (env, space) = self.at_work()?;
        let probe = self.probe(key, env);
        match self.find(env, space, &probe).await {
            Some((value, _, tier)) => {
                space.counts.served(&from(Source::Cache(tier)));
                Ok(value)
            }
            // Boxed, so that a hit does not carry the miss's state around.
            None => Box::pin(self.miss(key, probe, fetch)).await,
        }
    }

    /// Keeps a value, in place of the one that was there. A fetch under way for its key does not overwrite it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] when it cannot be written as JSON, [`ErrorKind::Config`] when the layer has not
    /// been wrapped around a client yet. A tier that fails is passed over.
    pub async fn put<T: Serialize + Send + Sync + 'static>(&self, key: &str, value: T) -> Result<Arc<T>> {
        let (env, space) = self.at_work()?;
        let (probe, value) = (self.probe(key, env), Arc::new(value));
        let stored = StoredValue::new(&value).map_err(|error| {
            Error::new(ErrorKind::InvalidRequest, "cache", "the value cannot be written as JSON").with_source(error)
        })?;
        let tiers = &self.shared.tiers;
        if self.shared.values.shares.is_under_way(&probe) {
            tiers.near().note_removal(&Selector::Key(probe.key()));
        }
        let since = Since { moment: tiers.near().now(), labels: self.labels(key) };
        self.keep((env, space), &probe, &Arc::new(stored), (&since, None), Duration::ZERO).await;
        Ok(value)
    }

    /// Forgets the value of this key in every tier; how many entries that were, where the tiers can tell. What a fetch
    /// under way brings is not kept, and who asks from now on fetches anew.
    ///
    /// # Errors
    /// What kept a tier from forgetting it, once all have been asked; [`ErrorKind::Config`] when the layer has not been
    /// wrapped around a client yet.
    pub async fn remove(&self, key: &str) -> Result<u64> {
        let (env, _) = self.at_work()?;
        let key = self.probe(key, env).key();
        self.shared.tiers.remove(&Selector::Key(key)).await
    }

    /// The clock and the namespace.
    fn at_work(&self) -> Result<(&Env, &Space)> {
        let env = self.shared.values.env.get().ok_or_else(|| {
            let advice = "wrap the layer around a client before its values are used: it brings the clock";
            Error::config("cache", "namespace", format!("{:?}", self.namespace), advice)
        })?;
        Ok((env, self.shared.tiers.near().space(&self.namespace)?))
    }

    fn probe(&self, key: &str, env: &Env) -> Probe {
        Probe::value(&self.namespace, self.tenant.as_ref(), key, env.now())
    }

    fn labels(&self, key: &str) -> Arc<Labels> {
        Arc::new(Labels::new(key).tags(&self.tags))
    }

    async fn find<T>(&self, env: &Env, space: &Space, probe: &Probe) -> Option<(Arc<T>, Arc<StoredValue>, &'static str)>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        let (entry, tier) = self.shared.tiers.find(env, space, probe).await?;
        // A tier keeps what is stale for answers; values are served fresh or not at all.
        if entry.fresh_until() <= probe.now() {
            return None;
        }
        let (value, stored) = value_of(&entry)?;
        Some((value, stored, tier))
    }

    async fn miss<T, F, E>(&self, key: &str, probe: Probe, fetch: F) -> Result<Arc<T>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (_, space) = self.at_work()?;
        let (tiers, shares) = (&self.shared.tiers, &self.shared.values.shares);
        let (probe, labels) = (Arc::new(probe), self.labels(key));
        let mut fetch = Some(fetch);
        loop {
            let since = Since { moment: tiers.near().now(), labels: Arc::clone(&labels) };
            let start = |_| -> Work<Brought> {
                let (this, probe, since) = (self.clone(), Arc::clone(&probe), since.clone());
                match fetch.take() {
                    Some(fetch) => Box::pin(async move { this.bring(&probe, &since, fetch).await }),
                    // It began once, and who began it has its outcome.
                    None => Box::pin(async { Err(Error::new(ErrorKind::Other, "cache", "it was fetched already")) }),
                }
            };
            let joinable = |since: &Since, probe: &Probe| tiers.near().spares_asked(since.moment, &since.labels, probe);
            let joined = shares.join(std::slice::from_ref(&probe), &since, joinable, start)?;
            let Some(waiter) = joined.waiters.into_iter().next() else { continue };
            let heard = waiter.await;
            match heard.outcome {
                Ok(brought) => {
                    let source = match brought.tier {
                        _ if !heard.pays => Source::Coalesced,
                        Some(tier) => Source::Cache(tier),
                        None => Source::Upstream,
                    };
                    // Else another type was fetched under this key.
                    if let Some(value) = brought.take() {
                        space.counts.served(&from(source));
                        return Ok(value);
                    }
                }
                // Its deadline was not ours.
                Err(error) if !heard.started && error.kind() == ErrorKind::Deadline => {}
                Err(error) => {
                    // Who joined it is counted nowhere, as with answers.
                    space.counts.missed_times(usize::from(heard.started));
                    return Err(error);
                }
            }
        }
    }

    async fn bring<T, F, E>(&self, probe: &Arc<Probe>, since: &Since, fetch: F) -> Result<Brought>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (env, space) = self.at_work()?;
        // Another fetch may have landed between our look-up and the start of this one.
        if let Some((value, stored, tier)) = self.find::<T>(env, space, probe).await {
            return Ok(Brought { typed: value, stored: Some(stored), tier: Some(tier) });
        }
        let (tiers, term) = (&self.shared.tiers, self.shared.lease_term);
        let look = |probe: Probe| async move {
            let found = tiers.find(env, space, &probe).await;
            found.filter(|(entry, _)| probe.now() < entry.fresh_until() && value_of::<T>(entry).is_some())
        };
        let mut held = match turn((tiers, term), env, (probe, || (*since.labels).clone()), look).await {
            Turn::Ask(held) => held,
            // Another process has fetched it.
            Turn::Found((entry, tier)) => match value_of::<T>(&entry) {
                Some((value, stored)) => return Ok(Brought { typed: value, stored: Some(stored), tier: Some(tier) }),
                None => None,
            },
        };
        let asked = env.now();
        let fetched = under(&mut held, fetch).await.map(Arc::new).map_err(failed);
        let stored = fetched.as_ref().ok().and_then(|value| StoredValue::new(value).ok()).map(Arc::new);
        match &stored {
            Some(stored) => {
                let took = env.now().saturating_duration_since(asked);
                self.keep((env, space), probe, stored, (since, held), took).await;
            }
            // The others need not wait for what is not kept.
            None => release(held).await,
        }
        Ok(Brought { typed: fetched?, stored, tier: None })
    }

    async fn keep(
        &self,
        (env, space): (&Env, &Space),
        probe: &Probe,
        value: &Arc<StoredValue>,
        (since, held): (&Since, Option<Held>),
        took: Duration,
    ) {
        let ttl = self.ttl.unwrap_or_else(|| self.shared.freshness.jittered(space.ttl, env));
        if ttl.is_zero() {
            return release(held).await;
        }
        let lease = held.and_then(Held::spend);
        let entry = Entry::of(probe, Payload::Value(Arc::clone(value)), env.now(), ttl)
            .with_labels((*since.labels).clone())
            .with_took(took);
        self.shared.tiers.put(env, (space, probe), &Arc::new(entry), since.moment, lease.as_ref()).await;
    }
}

/// The value of this type in an entry.
fn value_of<T: DeserializeOwned + Send + Sync + 'static>(entry: &Entry) -> Option<(Arc<T>, Arc<StoredValue>)> {
    match entry.payload() {
        Payload::Value(stored) => Some((stored.get()?, Arc::clone(stored))),
        _ => None,
    }
}

async fn release(held: Option<Held>) {
    if let Some(held) = held {
        held.open().await;
    }
}

/// What is counted of a call: a value has no tokens and no price.
fn from(source: Source) -> Trace {
    Trace { source, ..Trace::default() }
}

/// The fetch's own error, as ours.
fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    match error.into().downcast::<Error>() {
        Ok(own) => *own,
        Err(other) => Error::new(ErrorKind::Other, "cache", "the value could not be fetched").with_boxed_source(other),
    }
}

impl fmt::Debug for Values {
    // A tenant's name is nobody's to read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Values").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}
