//! The builder, and the client it builds.

mod batch;
mod gate;

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::DropGuard;

use crate::cache::{CacheHandle, CacheLayer};
use crate::client::{ClientInfo, LlmClient};
use crate::env::{Clock, Env, Observer, Random};
use crate::error::{Error, Result};
use crate::history::{HistoryLayer, Normalize, Repair};
use crate::layer::{Layer, Slot};
use crate::observe::{AttemptLayer, ObserveLayer, Report, Stats};
use crate::resilience::{DeadlineLayer, RetryLayer, TimeoutLayer};
use crate::schedule::ScheduleLayer;
use crate::tokens::{ContextWindows, TokenCounter};
use crate::types::{ChatRequest, ChatResponse, ChatStream, EmbedRequest, EmbedResponse, PriceTable};
use gate::{Gate, Inside};

/// A client wrapped into its stack. Cloning shares it; it is itself an [`LlmClient`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use std::time::Duration;
/// use sluicegate::{OptimizedClient, LlmClient, providers::client_fn};
/// use sluicegate::{cache::Cache, history::Window, types::{ChatRequest, ChatResponse}};
///
/// let client = client_fn(|_request| async { Ok(ChatResponse::from_text("Rayleigh scattering.")) });
/// let llm = OptimizedClient::builder(client)
///     .cache(Cache::memory(10_000).ttl(Duration::from_secs(3600)))
///     .history(Window::tokens(8_000))
///     .build()?;
/// let answer = llm.chat(ChatRequest::new("gpt-5-mini").user("Why is the sky blue?")).await?;
/// assert_eq!(answer.text(), "Rayleigh scattering.");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct OptimizedClient(Arc<Inner>);

struct Inner {
    outermost: Arc<dyn LlmClient>,
    cache: Option<CacheHandle>,
    lines: Vec<(Slot, &'static str, String)>,
    stats: Arc<Stats>,
    env: Env,
    gate: Arc<Gate>,
    /// Background work ends with the last handle.
    _closing: Arc<DropGuard>,
}

/// Builds an [`OptimizedClient`]. Nothing but the client is mandatory, and the order of the calls does not matter: each
/// layer has its [`Slot`].
#[derive(Debug)]
#[must_use = "nothing is wrapped until build() is called"]
pub struct Builder {
    client: Arc<dyn LlmClient>,
    layers: Vec<Placed>,
    cache: Option<CacheLayer>,
    history: Option<HistoryLayer>,
    normalize: Option<Normalize>,
    repair: Option<Repair>,
    twice: Option<Slot>,
    env: Env,
}

#[derive(Debug, Clone)]
struct Placed {
    slot: Slot,
    side: Side,
    layer: Arc<dyn Layer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Outside,
    /// A second layer of the crate's own in a slot, outside the other.
    First,
    Own,
    Inside,
}

impl OptimizedClient {
    /// Starts to wrap a client.
    pub fn builder(client: impl LlmClient) -> Builder {
        Builder {
            client: Arc::new(client),
            layers: Vec::new(),
            cache: None,
            history: None,
            normalize: None,
            repair: None,
            twice: None,
            env: Env::new(),
        }
    }

    /// One whole answer. Dropping the future abandons the call and frees all it holds.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest) for a request no provider can serve, [`ErrorKind::Shutdown`](crate::ErrorKind::Shutdown) after
    /// [`shutdown`](Self::shutdown), and whatever the stack's layers and the wrapped client raise.
    pub async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        request.check()?;
        let _inside = Inside::enter(&*self.0.gate)?;
        self.0.outermost.chat(request).await
    }

    /// An answer as it is made. Dropping the stream abandons the call and frees all it holds.
    ///
    /// # Errors
    /// As [`chat`](Self::chat); what fails after the first chunk is the stream's last item.
    pub async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        request.check()?;
        let inside = Inside::enter(Arc::clone(&self.0.gate))?;
        Ok(self.0.outermost.chat_stream(request).await?.hold(inside))
    }

    /// Vectors of texts, in the order of the input.
    ///
    /// # Errors
    /// As [`chat`](Self::chat).
    pub async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        request.check()?;
        let _inside = Inside::enter(&*self.0.gate)?;
        self.0.outermost.embed(request).await
    }

    /// The real stack, outermost first: slot, layer and settings, one a line, and the client at the end.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (slot, name, settings) in &self.0.lines {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:<9} {name:<9} {settings}", slot.to_string());
        }
        let info = self.info();
        let _ = write!(text, "client    {} {}", info.provider, info.endpoint);
        text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }

    /// The cache at work, if it was given one with [`Builder::cache`]: its numbers, its entries, its removal.
    pub fn cache(&self) -> Option<CacheHandle> {
        self.0.cache.clone()
    }

    /// What it did so far.
    pub fn report(&self) -> Report {
        self.0.stats.report()
    }

    /// Takes no more calls, fails those that wait for admission with [`ErrorKind::Shutdown`](crate::ErrorKind::Shutdown), and waits until those
    /// under way (open streams included) and all background work have ended. Wrap it in a timeout of your own to bound
    /// the wait; dropping it leaves the client shut. Calling it again waits again.
    pub async fn shutdown(&self) {
        self.0.gate.close();
        self.0.env.closing().cancel();
        self.0.gate.drained().await;
        self.0.env.tasks().close();
        self.0.env.tasks().wait().await;
    }
}

#[async_trait]
impl LlmClient for OptimizedClient {
    fn info(&self) -> &ClientInfo {
        self.0.outermost.info()
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        self.chat(request).await
    }

    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        self.chat_stream(request).await
    }

    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        self.embed(request).await
    }
}

impl fmt::Debug for OptimizedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.lines.iter().map(|(_, name, _)| name).collect();
        f.debug_struct("OptimizedClient").field("stack", &names).finish_non_exhaustive()
    }
}

impl Builder {
    fn set(mut self, slot: Slot, side: Side, layer: impl Layer) -> Self {
        if self.layers.iter().any(|placed| placed.slot == slot && placed.side == side) {
            self.twice.get_or_insert(slot);
        }
        self.layers.push(Placed { slot, side, layer: Arc::new(layer) });
        self
    }

    /// Caches answers, and serves simultaneous equal requests with one upstream call.
    pub fn cache(mut self, cache: impl Into<CacheLayer>) -> Self {
        let layer = cache.into();
        self.cache = Some(layer.clone());
        self.set(Slot::Cache, Side::Own, layer)
    }

    /// Keeps prompts within a budget.
    pub fn history(mut self, policy: impl Into<HistoryLayer>) -> Self {
        if self.history.replace(policy.into()).is_some() {
            self.twice.get_or_insert(Slot::History);
        }
        self
    }

    /// Brings prompts into one form before they are counted and looked up.
    pub fn normalize(mut self, normalize: Normalize) -> Self {
        self.normalize = Some(normalize);
        self
    }

    /// Puts conversations right that came broken, or refuses them, before they are sent.
    pub fn repair(mut self, repair: Repair) -> Self {
        self.repair = Some(repair);
        self
    }

    /// Admits calls by priority, within limits of concurrency, requests and tokens.
    pub fn schedule(self, scheduler: impl Into<ScheduleLayer>) -> Self {
        self.set(Slot::Schedule, Side::Own, scheduler.into())
    }

    /// Retries what may be retried, with one shared budget.
    pub fn retry(self, retry: impl Into<RetryLayer>) -> Self {
        self.set(Slot::Retry, Side::Own, retry.into())
    }

    /// Bounds the provider's time: until the stream is open, until its first content, between chunks, in all.
    pub fn timeouts(self, timeouts: impl Into<TimeoutLayer>) -> Self {
        self.set(Slot::Timeout, Side::Own, timeouts.into())
    }

    /// Bounds the whole call, queueing and retries included; more than zero. A call's own
    /// [`Deadline`](crate::types::Deadline) applies when it is tighter, and also when this is not set.
    pub fn deadline(self, limit: Duration) -> Self {
        self.set(Slot::Deadline, Side::Own, DeadlineLayer::new(limit))
    }

    /// Puts a layer of your own just inside a slot's layer, whether that is set or not. One per place: give several as
    /// a [`Chain`](crate::Chain), outermost first.
    pub fn inside(self, slot: Slot, layer: impl Layer) -> Self {
        self.set(slot, Side::Inside, layer)
    }

    /// Puts a layer of your own just outside a slot's layer, whether that is set or not. One per place: give several as
    /// a [`Chain`](crate::Chain), outermost first.
    pub fn outside(self, slot: Slot, layer: impl Layer) -> Self {
        self.set(slot, Side::Outside, layer)
    }

    /// Sets the prices that costs are computed with. [`PriceTable::published`] unless set.
    pub fn prices(mut self, prices: PriceTable) -> Self {
        self.env = self.env.with_prices(prices);
        self
    }

    /// Sets the token counter. [`Counters`](crate::tokens::Counters) unless set, whose first exact count takes 150 to 300 ms:
    /// see [`warm_up`](crate::tokens::warm_up).
    pub fn counter(mut self, counter: impl TokenCounter) -> Self {
        self.env = self.env.with_counter(counter);
        self
    }

    /// Sets how many tokens the models take. [`ContextWindows::published`] unless set.
    pub fn contexts(mut self, contexts: ContextWindows) -> Self {
        self.env = self.env.with_contexts(contexts);
        self
    }

    /// Adds somebody to be told of every call and attempt.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.env = self.env.with_observer(observer);
        self
    }

    /// Sets the clock, for tests.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.env = self.env.with_clock(clock);
        self
    }

    /// Sets the source of jitter and sampling, for tests.
    pub fn random(mut self, random: impl Random) -> Self {
        self.env = self.env.with_random(random);
        self
    }

    /// Builds the stack.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for the first setting that cannot work: which one, its value, what to do.
    pub fn build(mut self) -> Result<OptimizedClient> {
        if let Some(slot) = self.twice {
            let advice = "set each once; give several layers of your own for one place as a Chain, outermost first";
            return Err(Error::config("builder", &slot.to_string(), "set twice", advice));
        }
        if self.history.is_some() || self.normalize.is_some() || self.repair.is_some() {
            let mut history = self.history.take().unwrap_or_default();
            if let Some(normalize) = self.normalize {
                history = history.with_normalize(normalize);
            }
            if let Some(repair) = self.repair {
                history = history.with_repair(repair);
            }
            self = self.set(Slot::History, Side::Own, history);
        }
        if !self.layers.iter().any(|placed| placed.slot == Slot::Deadline && placed.side == Side::Own) {
            self = self.set(Slot::Deadline, Side::Own, DeadlineLayer::callers());
        }
        let stats = Arc::new(Stats::new());
        self.env = self.env.with_numbers(Arc::clone(&stats) as _);
        self = self.set(Slot::Observe, Side::Own, ObserveLayer::new(Arc::clone(&stats)));
        self = self.set(Slot::Attempt, Side::Own, AttemptLayer::new(Arc::clone(&stats)));
        self.layers.sort_by_key(|placed| (placed.slot, placed.side));
        let mut client = self.client;
        let mut below = Arc::clone(&client);
        for placed in self.layers.iter().rev() {
            if placed.slot == Slot::Observe && placed.side == Side::Own {
                below = Arc::clone(&client);
            }
            client = placed.layer.wrap(client, &self.env)?;
        }
        // Shared with the handle on the cache: background work ends with whichever of them goes last.
        let _closing = Arc::new(self.env.closing().clone().drop_guard());
        let handle = |layer: CacheLayer| layer.handle(Arc::clone(&client), below, &self.env, Arc::clone(&_closing));
        let cache = self.cache.map(handle).transpose()?;
        let line = |placed: &Placed| (placed.slot, placed.layer.name(), placed.layer.settings());
        let lines = self.layers.iter().map(line).collect();
        let gate = Arc::new(Gate::default());
        Ok(OptimizedClient(Arc::new(Inner { outermost: client, cache, lines, stats, env: self.env, gate, _closing })))
    }
}
