//! What every layer is given: time, randomness, the token counter, prices, who to tell, and the end of it all.

mod clock;
mod observer;
mod random;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use clock::{Clock, TokioClock};
pub use observer::{Event, Observer, Operation, Outcome, Record};
pub use random::{Random, SeededRandom, ThreadRandom};

use crate::offload::offload;
use crate::tokens::{ContextWindows, Counters, TokenCounter};
use crate::types::{Deferrable, Extensions, PriceTable};

pub(crate) use clock::after;

/// What every layer is given. Cloning shares it.
///
/// Time and randomness come from here and nowhere else, so that a test can set them.
#[derive(Debug, Clone)]
pub struct Env(Arc<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    counter: Arc<dyn TokenCounter>,
    prices: Arc<PriceTable>,
    contexts: Arc<ContextWindows>,
    observers: Arc<[Arc<dyn Observer>]>,
    numbers: Option<Arc<dyn Observer>>,
    tasks: TaskTracker,
    closing: CancellationToken,
    deferral: Option<Duration>,
}

impl Env {
    /// Tokio's clock, thread randomness, token counts by [`Counters`], published prices, nobody to tell.
    pub fn new() -> Self {
        Self(Arc::new(Parts {
            clock: Arc::new(TokioClock::new()),
            random: Arc::new(ThreadRandom),
            counter: Arc::new(Counters::new()),
            prices: Arc::new(PriceTable::published()),
            contexts: Arc::new(ContextWindows::published()),
            observers: Arc::from([]),
            numbers: None,
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            deferral: None,
        }))
    }

    fn edit(self, change: impl FnOnce(&mut Parts)) -> Self {
        let mut parts = Arc::unwrap_or_clone(self.0);
        change(&mut parts);
        Self(Arc::new(parts))
    }

    /// Sets the clock.
    #[must_use]
    pub fn with_clock(self, clock: impl Clock) -> Self {
        self.edit(|parts| parts.clock = Arc::new(clock))
    }

    /// Sets the source of randomness.
    #[must_use]
    pub fn with_random(self, random: impl Random) -> Self {
        self.edit(|parts| parts.random = Arc::new(random))
    }

    /// Sets the token counter.
    #[must_use]
    pub fn with_counter(self, counter: impl TokenCounter) -> Self {
        self.edit(|parts| parts.counter = Arc::new(counter))
    }

    /// Sets the prices.
    #[must_use]
    pub fn with_prices(self, prices: PriceTable) -> Self {
        self.edit(|parts| parts.prices = Arc::new(prices))
    }

    /// Sets how many tokens the models take.
    #[must_use]
    pub fn with_contexts(self, contexts: ContextWindows) -> Self {
        self.edit(|parts| parts.contexts = Arc::new(contexts))
    }

    /// Adds somebody to tell.
    #[must_use]
    pub fn with_observer(self, observer: Arc<dyn Observer>) -> Self {
        self.edit(|parts| parts.observers = parts.observers.iter().cloned().chain([observer]).collect())
    }

    /// Names the client's own numbers: told as observers are, and nobody whom a model's name is copied for.
    pub(crate) fn with_numbers(self, numbers: Arc<dyn Observer>) -> Self {
        self.edit(|parts| parts.numbers = Some(numbers))
    }

    /// The clock itself, for what outlives a call.
    #[cfg(feature = "redis")]
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    /// Says that calls whose deadline is so far away may be left to a batch.
    pub(crate) fn with_deferral(self, least: Duration) -> Self {
        self.edit(|parts| parts.deferral = Some(least))
    }

    /// How far away a deadline must be, if calls are left to batches.
    pub(crate) fn deferral(&self) -> Option<Duration> {
        self.0.deferral
    }

    /// Whether a call with these controls may be left to a batch, for hours.
    pub(crate) fn defers(&self, extensions: &Extensions) -> bool {
        self.0.deferral.is_some_and(|least| Deferrable::may_wait(extensions, self.now(), least))
    }

    /// Monotonic time.
    pub fn now(&self) -> Instant {
        self.0.clock.now()
    }

    /// The time of day.
    pub fn wall(&self) -> SystemTime {
        self.0.clock.wall()
    }

    /// Waits so long. Cancel-safe.
    pub async fn sleep(&self, wait: Duration) {
        self.sleep_until(after(self.now(), wait)).await;
    }

    /// Waits until then. Cancel-safe.
    pub async fn sleep_until(&self, until: Instant) {
        self.0.clock.sleep_until(until).await;
    }

    /// `now + wait`, saturating.
    pub fn after(&self, wait: Duration) -> Instant {
        after(self.now(), wait)
    }

    /// A random number from 0 to 1, 1 excluded.
    pub fn unit(&self) -> f64 {
        // 53 bits fill a double's mantissa.
        (self.0.random.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// 64 random bits. Not for secrets.
    pub fn bits(&self) -> u64 {
        self.0.random.next()
    }

    /// The token counter.
    pub fn counter(&self) -> &Arc<dyn TokenCounter> {
        &self.0.counter
    }

    /// The prices.
    pub fn prices(&self) -> &PriceTable {
        &self.0.prices
    }

    /// How many tokens the models take.
    pub fn contexts(&self) -> &ContextWindows {
        &self.0.contexts
    }

    /// Whether anybody is to be told.
    pub fn is_observed(&self) -> bool {
        !self.0.observers.is_empty()
    }

    /// Tells everybody.
    pub fn observe(&self, event: &Event<'_>) {
        for observer in self.0.numbers.iter().chain(&*self.0.observers) {
            observer.observe(event);
        }
    }

    /// Where background work is spawned, so that [`shutdown`](crate::OptimizedClient::shutdown) can wait for it.
    pub fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    /// Does what takes longer than a poll may, about a millisecond, on Tokio's threads for blocking work; what is not large,
    /// and all without a runtime, right here. As much is done at once as there are cores, in all clients of the process
    /// together, first come, first served: work of more than some 10 ms is best done in turns.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let (env, text) = (sluicegate::Env::new(), "a word ".repeat(1_000_000));
    /// let words = env.offload(text.len() > 1 << 20, move || text.split(' ').count()).await;
    /// # assert_eq!(words, 2_000_001); }
    /// ```
    ///
    /// # Panics
    /// When the work does: its panic goes on here.
    ///
    /// # Cancellation
    /// Work that has begun goes on to its end, which [`tasks`](Self::tasks) waits for, and what came of it is dropped; work
    /// that has not is never begun.
    pub async fn offload<T, F>(&self, is_large: bool, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        offload(self.tasks(), is_large, work).await
    }

    /// Cancelled when the client shuts down: whoever waits stops waiting.
    pub fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }
}

impl Default for Env {
    fn default() -> Self {
        Self::new()
    }
}
