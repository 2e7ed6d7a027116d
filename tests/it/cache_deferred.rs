//! Stored answers of calls that may wait for hours: refreshed by a batch, and nobody waits for that who cannot.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use sluicegate::batch::{BatchProvider, DeferLayer, SentBatch};
use sluicegate::cache::{Cache, CacheLayer};
use sluicegate::testing::Scripted;
use sluicegate::types::{ChatRequest, ChatResponse, Deadline, Deferrable};
use sluicegate::{ErrorKind, OptimizedClient, Result};
use tokio::time::{Instant, sleep, timeout};

const HOUR: Duration = Duration::from_secs(3600);

/// Batches that take two hours.
#[derive(Debug, Default)]
struct Desk {
    sent: AtomicUsize,
    cancelled: AtomicUsize,
}

#[derive(Debug)]
struct Door(Arc<Desk>);

#[derive(Debug)]
struct OnDesk(Arc<Desk>, usize);

#[async_trait]
impl BatchProvider for Door {
    async fn send(&self, requests: Vec<ChatRequest>) -> Result<Box<dyn SentBatch>> {
        self.0.sent.fetch_add(1, SeqCst);
        Ok(Box::new(OnDesk(Arc::clone(&self.0), requests.len())))
    }
}

#[async_trait]
impl SentBatch for OnDesk {
    async fn answers(&mut self) -> Result<Vec<Result<ChatResponse>>> {
        sleep(2 * HOUR).await;
        Ok((0..self.1).map(|_| Ok(ChatResponse::from_text("batched"))).collect())
    }

    async fn cancel(&mut self) -> Result<()> {
        self.0.cancelled.fetch_add(1, SeqCst);
        Ok(())
    }
}

struct House {
    desk: Arc<Desk>,
    ordinary: Arc<Scripted>,
    cache: CacheLayer,
    llm: OptimizedClient,
}

fn question() -> ChatRequest {
    ChatRequest::new("gpt-5-mini").user("Why is the sky blue?")
}

impl House {
    /// The answer is stale, and a call that may wait has found it: a batch with its refresh is under way.
    async fn with_refresh(patient: impl FnOnce(ChatRequest) -> ChatRequest, stale: Duration) -> Self {
        let (desk, ordinary) = (Arc::new(Desk::default()), Arc::new(Scripted::new().always("ordinary")));
        let life = Duration::from_secs(100);
        let settings = Cache::memory(100).ttl(life).jitter(0.0).stale_while_revalidate(stale);
        let (cache, defer) = (CacheLayer::from(settings), DeferLayer::new(Door(Arc::clone(&desk)), 12 * HOUR));
        let client = OptimizedClient::builder(Arc::clone(&ordinary)).defer(defer).cache(cache.clone());
        let house = Self { desk, ordinary, cache, llm: client.build().unwrap() };
        house.llm.chat(question()).await.unwrap();
        sleep(life).await;
        let found = house.llm.chat(patient(question())).await.unwrap();
        assert!(found.trace().stale && found.text() == "ordinary");
        sleep(Duration::from_secs(100)).await;
        assert_eq!((house.desk.sent.load(SeqCst), house.cache.open_flights(), house.ordinary.calls()), (1, 1, 1));
        house
    }
}

fn may_wait(request: ChatRequest) -> ChatRequest {
    request.with(Deferrable::Yes)
}

#[tokio::test(start_paused = true)]
async fn a_refresh_of_who_may_wait_is_left_to_a_batch_and_waited_for() {
    let by_deadline = |request: ChatRequest| request.with(Deadline((Instant::now() + 13 * HOUR).into()));
    for patient in [Box::new(may_wait) as Box<dyn FnOnce(ChatRequest) -> ChatRequest>, Box::new(by_deadline)] {
        let house = House::with_refresh(patient, 3 * HOUR).await;
        sleep(2 * HOUR).await;
        let fresh = house.llm.chat(question()).await.unwrap();
        assert!(!fresh.trace().stale && fresh.text() == "batched");
        assert_eq!((house.desk.cancelled.load(SeqCst), house.ordinary.calls()), (0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn who_cannot_wait_does_not_join_a_refresh_that_can() {
    let stale = Duration::from_secs(200);
    let house = House::with_refresh(may_wait, stale).await;
    sleep(stale).await;
    let urgent = timeout(HOUR, house.llm.chat(question())).await.expect("it does not wait for the batch").unwrap();
    assert_eq!((urgent.text(), house.ordinary.calls()), ("ordinary", 2));
}

#[tokio::test(start_paused = true)]
async fn who_cannot_wait_has_a_stale_answer_refreshed_at_once() {
    let house = House::with_refresh(may_wait, 3 * HOUR).await;
    // The patient do not ask again; the urgent do, once.
    assert!(house.llm.chat(may_wait(question())).await.unwrap().trace().stale);
    assert!(house.llm.chat(question()).await.unwrap().trace().stale);
    sleep(Duration::from_secs(1)).await;
    assert_eq!((house.desk.sent.load(SeqCst), house.ordinary.calls()), (1, 2));
    assert!(!house.llm.chat(question()).await.unwrap().trace().stale);
}

/// More than run at a time otherwise.
#[tokio::test(start_paused = true)]
async fn refreshes_in_batches_take_no_place_of_the_others() {
    let house = House::with_refresh(may_wait, 3 * HOUR).await;
    let life = Duration::from_secs(100);
    let other = |number: usize| ChatRequest::new("gpt-5-mini").user(format!("Why {number}?"));
    for number in 0..40 {
        house.llm.chat(other(number)).await.unwrap();
    }
    sleep(life).await;
    for number in 0..40 {
        assert!(house.llm.chat(may_wait(other(number))).await.unwrap().trace().stale);
    }
    sleep(life).await;
    assert_eq!((house.cache.open_flights(), house.cache.skipped_refreshes()), (41, 0));
    assert!(house.llm.chat(question()).await.unwrap().trace().stale);
    sleep(Duration::from_secs(1)).await;
    assert!(!house.llm.chat(question()).await.unwrap().trace().stale, "who cannot wait has one of the others");
}

#[test]
fn a_deadline_that_defers_nothing_is_refused_at_build() {
    let built = |least: Duration| {
        let defer = DeferLayer::new(Door(Arc::default()), least);
        OptimizedClient::builder(Scripted::new()).defer(defer).deadline(12 * HOUR).build()
    };
    let error = built(13 * HOUR).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("no call could be left to a batch"), "{error}");
    built(12 * HOUR).unwrap();
}
