//! A cache at work, to look into and to change.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use super::order::{Order, Outcome, Wish};
use super::shared::Shared;
use super::{CacheStats, EntryInfo, Selector, Values};
use crate::client::LlmClient;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::types::{ChatCompletion, ChatRequest, ChatResponse};

/// Calls at a time in a warm-up, unless set.
const CONCURRENCY: usize = 4;

/// The cache of a client at work: [`OptimizedClient::cache`](crate::OptimizedClient::cache). Cloning shares it.
///
/// Requests are given as to the client itself: they go through the layers above the cache, such as history, because the
/// prompt that comes out of them is the key. A layer of your own that stands there sees them too, with an empty answer
/// coming back where there is nothing to say. Their [`CacheControl`](crate::types::CacheControl) and
/// [`Tenant`](crate::types::Tenant) count as in a call.
///
/// Once the client is shut down every operation but [`stats`](Self::stats) and those of [`namespace`](Self::namespace),
/// which ask nothing of the client, fails with [`ErrorKind::Shutdown`](crate::ErrorKind::Shutdown); a shutdown waits for
/// those under way.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use sluicegate::{OptimizedClient, cache::{Cache, Selector}, testing::Scripted};
/// use sluicegate::types::{CacheControl, ChatCompletion, ChatRequest};
///
/// let llm = OptimizedClient::builder(Scripted::new()).cache(Cache::memory(100)).build()?;
/// let cache = llm.cache().expect("it was given one");
/// let question = ChatRequest::new("gpt-5-mini").user("What does it cost?").with(CacheControl::new().tag("prices"));
/// assert!(cache.get(question.clone()).await?.is_none());
///
/// cache.put(question.clone(), ChatCompletion::text("gpt-5-mini", "Nine dollars.")).await?;
/// assert_eq!(llm.chat(question.clone()).await?.text(), "Nine dollars.");
/// assert_eq!(cache.peek(question.clone()).await?.unwrap().tags, ["prices"]);
///
/// assert_eq!(cache.remove_selected(&Selector::Tag("prices".into())).await?, 1);
/// assert_eq!(cache.stats().namespace("responses").unwrap().hits, 1);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct CacheHandle {
    pub(super) held: Arc<Held>,
    /// Calls at a time in a warm-up.
    pub(super) concurrency: usize,
}

pub(super) struct Held {
    /// The whole stack.
    pub(super) client: Arc<dyn LlmClient>,
    /// The stack below what counts calls: an order is none.
    below: Arc<dyn LlmClient>,
    pub(super) shared: Arc<Shared>,
    pub(super) env: Env,
    /// Cancelled when the last handle goes, the client's own included: nothing in the background outlives it.
    pub(super) ended: CancellationToken,
    _guard: DropGuard,
    /// As long as this handle is there, so is what works in the background for it.
    _alive: Arc<DropGuard>,
}

impl CacheHandle {
    pub(super) fn new(
        client: Arc<dyn LlmClient>,
        below: Arc<dyn LlmClient>,
        shared: Arc<Shared>,
        env: Env,
        alive: Arc<DropGuard>,
    ) -> Self {
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let held = Held { client, below, shared, env, ended, _guard: guard, _alive: alive };
        Self { held: Arc::new(held), concurrency: CONCURRENCY }
    }

    /// What it did so far. It looks at every entry in memory, about 0.1 us each: for a report, not for every call.
    pub fn stats(&self) -> CacheStats {
        self.held.shared.tiers.stats()
    }

    /// The user's own values in the namespace of this name: on the same tiers, with the same removals as the answers.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest) when the cache was not given one of this name.
    pub fn namespace(&self, name: &str) -> Result<Values> {
        Values::new(Arc::clone(&self.held.shared), name)
    }

    /// The stored answer of this request, counted as a hit; none counts as a miss, and nothing is asked upstream, as with
    /// [`CacheControl::only_if_cached`](crate::types::CacheControl::only_if_cached).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest) for a request that no call could be made with, and
    /// whatever the layers above the cache raise.
    pub async fn get(&self, request: ChatRequest) -> Result<Option<ChatResponse>> {
        let (response, outcome) = self.order(request, Wish::Get).await?;
        Ok(matches!(outcome, Outcome::Got(true)).then_some(response))
    }

    /// What is known of the stored answer of this request. Nothing is counted, nothing moved: neither its place in the
    /// order of eviction nor the answer itself from a farther tier to a nearer one. Its age is not held against
    /// [`CacheControl::max_age`](crate::types::CacheControl::max_age).
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn peek(&self, request: ChatRequest) -> Result<Option<EntryInfo>> {
        let (_, outcome) = self.order(request, Wish::Peek).await?;
        Ok(if let Outcome::Peeked(info) = outcome { info } else { None })
    }

    /// Keeps an answer made elsewhere, as if a call had brought it: for as long, in the namespace and under the tags that
    /// the request names. Its price is that of the model asked for, if it carries its usage. Whether it was kept: the
    /// store policy, `no_store` and a time to live of zero refuse.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn put(&self, request: ChatRequest, answer: impl Into<Arc<ChatCompletion>>) -> Result<bool> {
        let (_, outcome) = self.order(request, Wish::Put(answer.into())).await?;
        Ok(matches!(outcome, Outcome::Put(true)))
    }

    /// Forgets the answer of this request in every tier; how many entries that were, where the tiers can tell. A call that
    /// starts after it has returned is not served with what was stored or asked for before.
    ///
    /// # Errors
    /// As [`get`](Self::get), and what kept a tier from forgetting: it may still serve it.
    pub async fn remove(&self, request: ChatRequest) -> Result<u64> {
        let (_, outcome) = self.order(request, Wish::Remove).await?;
        Ok(if let Outcome::Removed(count) = outcome { count } else { 0 })
    }

    /// Forgets what the selector takes, in every tier; how many entries that were, where the tiers can tell. A call that
    /// starts after it has returned is not served with what was stored or asked for before. It waits for the tiers as
    /// long as they take; dropping it leaves some of them asked and others not.
    ///
    /// # Errors
    /// What kept a tier from forgetting, once all have been asked: it may still serve them.
    pub async fn remove_selected(&self, selector: &Selector) -> Result<u64> {
        self.enter(self.held.shared.tiers.remove(selector)).await
    }

    /// Forgets what the selector takes at once, and again after the delay: for sources whose readers may still see what
    /// was before for so long, such as a replica that lags. The second time runs in the background, also when this call is
    /// dropped; at once when the client is shut down or the last handle goes. How many entries the first time forgot.
    ///
    /// # Errors
    /// As [`remove_selected`](Self::remove_selected), for the first time; a failure of the second is counted by tier.
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) outside a Tokio runtime: then nothing is removed.
    pub async fn remove_later(&self, selector: &Selector, delay: Duration) -> Result<u64> {
        let again = self.remove_again(selector.clone(), delay);
        self.enter(async {
            let runtime = tokio::runtime::Handle::try_current().map_err(|_| {
                let text =
                    "there is no Tokio runtime for the second removal, so nothing was removed; use remove_selected";
                Error::new(ErrorKind::Unsupported, "cache", text)
            })?;
            self.held.env.tasks().spawn_on(again, &runtime);
            self.held.shared.tiers.remove(selector).await
        })
        .await
    }

    /// Holds no handle: the last one that goes hurries it.
    fn remove_again(&self, selector: Selector, delay: Duration) -> impl Future<Output = ()> + Send + use<> {
        let (shared, env, ended) = (Arc::clone(&self.held.shared), self.held.env.clone(), self.held.ended.clone());
        async move {
            tokio::select! {
                () = env.sleep(delay) => {}
                () = env.closing().cancelled() => {}
                () = ended.cancelled() => {}
            }
            // What failed is counted there; nobody is left to be told.
            let _ = shared.tiers.remove(&selector).await;
        }
    }

    /// Forgets everything, in every tier and namespace.
    ///
    /// # Errors
    /// As [`remove_selected`](Self::remove_selected).
    pub async fn clear(&self) -> Result<u64> {
        self.remove_selected(&Selector::All).await
    }

    /// Does the work unless the client is shut down; a shutdown waits for it.
    pub(super) async fn enter<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        // Taken before looking: either we see that it closes, or who closes it waits for us.
        let _inside = self.held.env.tasks().token();
        if self.held.env.closing().is_cancelled() {
            return Err(Error::new(ErrorKind::Shutdown, "cache", "shutdown() was called; build a new client"));
        }
        work.await
    }

    async fn order(&self, request: ChatRequest, wish: Wish) -> Result<(ChatResponse, Outcome)> {
        request.check()?;
        let order = Order::new(wish);
        let response = self.enter(self.held.below.chat(request.with(order.clone()))).await?;
        let outcome = order.outcome().ok_or_else(|| {
            let text = "the request did not reach the cache: a layer above it answered or changed it";
            Error::new(ErrorKind::Unsupported, "cache", text)
        })?;
        Ok((response, outcome))
    }
}

impl fmt::Debug for CacheHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: usize = self.held.shared.tiers.memories().map(|memory| memory.len()).sum();
        f.debug_struct("CacheHandle").field("entries", &entries).finish_non_exhaustive()
    }
}
