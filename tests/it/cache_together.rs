//! Where the parts of the cache meet: freshness and tiers, joined flights and controls, the handle and policies.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sluicegate::cache::tier::Memory;
use sluicegate::cache::{
    Cache, CacheLayer, CacheTier, Entry, Negative, Payload, Probe, Selector, StorePolicy, StoredValue, StoredVector,
};
use sluicegate::providers::client_fn;
use sluicegate::testing::{Reply, Scripted};
use sluicegate::types::{
    CacheControl, ChatCompletion, ChatRequest, ChatResponse, EmbedItem, EmbedRequest, EmbedResponse, Embedding, Extra,
    Source, Vector,
};
use sluicegate::{Error, ErrorKind, LlmClient, OptimizedClient, Result};

const SECOND: Duration = Duration::from_secs(1);

fn question() -> ChatRequest {
    ChatRequest::new("m").user("Why is the sky blue?")
}

fn wrap(upstream: &Arc<Scripted>, cache: Cache) -> OptimizedClient {
    OptimizedClient::builder(Arc::clone(upstream)).cache(cache).build().unwrap()
}

fn down() -> Error {
    Error::new(ErrorKind::Server, "test", "down")
}

async fn ask(client: &OptimizedClient, request: ChatRequest, streaming: bool) -> Result<ChatResponse> {
    if streaming { client.chat_stream(request).await?.collect().await } else { client.chat(request).await }
}

/// Lets every task that can run do so.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// A tier outside: it can be away, overlook what it has, and linger over what it finds.
#[derive(Debug)]
struct Far {
    memory: Memory,
    away: Mutex<bool>,
    overlooks: AtomicUsize,
    reads: tokio::sync::Semaphore,
}

impl Far {
    fn new() -> Arc<Self> {
        let (memory, reads) = (Memory::new(100, 1 << 20).unwrap(), tokio::sync::Semaphore::new(1_000));
        Arc::new(Self { memory, away: false.into(), overlooks: AtomicUsize::new(0), reads })
    }

    fn is_there(&self) -> Result<()> {
        if *self.away.lock() { Err(down()) } else { Ok(()) }
    }
}

#[async_trait]
impl CacheTier for Far {
    fn name(&self) -> &'static str {
        "far"
    }

    async fn get(&self, probe: &Probe) -> Result<Option<Arc<Entry>>> {
        self.is_there()?;
        let overlooked = self.overlooks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if overlooked.is_ok() {
            return Ok(None);
        }
        self.reads.acquire().await.unwrap().forget();
        self.memory.get(probe).await
    }

    async fn put(&self, probe: &Probe, entry: Arc<Entry>) -> Result<()> {
        self.is_there()?;
        self.memory.put(probe, entry).await
    }

    async fn remove(&self, selector: &Selector) -> Result<u64> {
        self.memory.remove(selector).await
    }
}

#[tokio::test(start_paused = true)]
async fn vectors_and_values_are_not_served_stale_whatever_a_tier_has() {
    let far = Far::new();
    let layer = CacheLayer::from(Cache::memory(10).tier(Arc::clone(&far)).stale_while_revalidate(1_000 * SECOND));
    let client = client_fn(|_| async { Ok(ChatResponse::from_text("")) }).with_embed(|_| async {
        let embedding = Embedding { index: 0, embedding: Vector::Floats(vec![2.0]), extra: Extra::new() };
        Ok(EmbedResponse { data: vec![embedding], ..EmbedResponse::default() })
    });
    let client = OptimizedClient::builder(client).cache(layer.clone()).build().unwrap();
    let request = EmbedRequest::new("m", ["a".to_owned()]);
    let now = tokio::time::Instant::now().into_std();
    let keep = |probe: &Probe, payload| {
        let entry = Entry::of(probe, payload, now, 10 * SECOND).with_grace(1_000 * SECOND);
        far.memory.keep(probe, Arc::new(entry));
    };
    let embedding = Embedding { index: 0, embedding: Vector::Floats(vec![1.0]), extra: Extra::new() };
    let vector = StoredVector { embedding, model: "m".into(), tokens: 1, extra: Extra::new() };
    let printed = format!("{vector:?}");
    assert!(!printed.contains("1.0"), "{printed}");
    keep(&Probe::embedding(client.info(), &request, EmbedItem::Text("a"), now), Payload::Vector(Arc::new(vector)));
    keep(&Probe::value("retrieval", None, "k", now), Payload::Value(Arc::new(StoredValue::from_json(*b"1"))));

    let values = layer.namespace("retrieval").unwrap();
    assert_eq!(values.get::<u32>("k").await.unwrap().as_deref(), Some(&1));
    assert_eq!(client.embed(request.clone()).await.unwrap().trace.source, Source::Cache("far"));
    tokio::time::advance(10 * SECOND).await;
    assert_eq!(values.get::<u32>("k").await.unwrap(), None);
    let only = request.clone().with(CacheControl::new().only_if_cached().max_stale(100 * SECOND));
    assert_eq!(client.embed(only).await.unwrap_err().kind(), ErrorKind::CacheMiss);
    let answer = client.embed(request).await.unwrap();
    assert_eq!((answer.trace.source, &answer.data[0].embedding), (Source::Upstream, &Vector::Floats(vec![2.0])));
    let fetched = values.get_or_fetch("k", async { Ok::<_, std::io::Error>(2_u32) }).await.unwrap();
    assert_eq!(*fetched, 2);
}

/// The tier outside was away when the newer answer was put.
#[tokio::test(start_paused = true)]
async fn an_older_answer_outside_takes_no_newer_ones_place_in_memory() {
    let replies = [Reply::text("old"), Reply::text("new"), Reply::Fail(down())];
    let upstream = Arc::new(replies.into_iter().fold(Scripted::new(), Scripted::then));
    let far = Far::new();
    let client = wrap(&upstream, Cache::memory(100).tier(Arc::clone(&far)).jitter(0.0));
    client.chat(question()).await.unwrap();
    tokio::time::advance(SECOND).await;
    *far.away.lock() = true;
    client.chat(question().with(CacheControl::new().no_cache())).await.unwrap();
    *far.away.lock() = false;
    tokio::time::advance(10 * SECOND).await;
    let young = question().with(CacheControl::new().max_age(SECOND));
    assert_eq!(client.chat(young).await.unwrap_err().kind(), ErrorKind::Server);
    assert_eq!(client.chat(question()).await.unwrap().text(), "new");
}

/// Who starts a flight may find what another call has stored; who joins it with `no_cache` does not take that.
#[tokio::test(start_paused = true)]
async fn a_joiner_that_takes_nothing_stored_is_given_nothing_stored() {
    for streaming in [false, true] {
        let upstream = Arc::new(Scripted::new().then(Reply::text("old")).always("new"));
        let far = Far::new();
        let settings = || Cache::on(Arc::clone(&far)).tier_timeout(3_600 * SECOND);
        wrap(&upstream, settings()).chat(question()).await.unwrap();
        let client = wrap(&upstream, settings());
        far.overlooks.store(1, Ordering::SeqCst);
        far.reads.forget_permits(1_000);
        let start = |control: CacheControl| {
            let client = client.clone();
            tokio::spawn(async move { ask(&client, question().with(control), streaming).await.unwrap() })
        };
        let starter = start(CacheControl::new());
        settle().await;
        let joiner = start(CacheControl::new().no_cache());
        settle().await;
        far.reads.add_permits(1_000);
        let (starter, joiner) = (starter.await.unwrap(), joiner.await.unwrap());
        assert_eq!((starter.text(), starter.trace().source), ("old", Source::Cache("far")));
        assert_eq!((joiner.text(), joiner.trace().source), ("new", Source::Upstream), "streaming {streaming}");
        let stats = client.cache().unwrap().stats();
        let one = stats.namespace("responses").unwrap();
        assert_eq!((one.hits, one.misses, one.coalesced), (1, 1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_joiner_that_takes_nothing_stored_is_given_no_remembered_failure() {
    for streaming in [false, true] {
        let refusal = Error::new(ErrorKind::InvalidRequest, "test", "refused");
        let upstream = Arc::new(Scripted::new().then(Reply::Fail(refusal)).always("new"));
        let far = Far::new();
        let cache = Cache::on(Arc::clone(&far)).tier_timeout(3_600 * SECOND);
        let client = wrap(&upstream, cache.negative(Negative::new([ErrorKind::InvalidRequest])));
        client.chat(question()).await.unwrap_err();
        far.overlooks.store(1, Ordering::SeqCst);
        far.reads.forget_permits(1_000);
        let start = |control: CacheControl| {
            let client = client.clone();
            tokio::spawn(async move { ask(&client, question().with(control), streaming).await })
        };
        let starter = start(CacheControl::new());
        settle().await;
        let joiner = start(CacheControl::new().no_cache());
        settle().await;
        far.reads.add_permits(1_000);
        assert!(starter.await.unwrap().unwrap_err().is_remembered());
        assert_eq!(joiner.await.unwrap().unwrap().text(), "new", "streaming {streaming}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handle_finds_what_a_call_that_asks_nothing_would() {
    let upstream = Arc::new(Scripted::new().then(Reply::text("old")).always("new"));
    let far = Far::new();
    let settings = || Cache::memory(10).tier(Arc::clone(&far)).ttl(100 * SECOND).stale_if_error(100 * SECOND);
    let (first, second) = (wrap(&upstream, settings()), wrap(&upstream, settings()));
    first.chat(question()).await.unwrap();
    tokio::time::advance(110 * SECOND).await;
    second.chat(question().with(CacheControl::new().no_cache())).await.unwrap();
    let found = first.cache().unwrap().get(question()).await.unwrap().unwrap();
    assert_eq!((found.text(), found.trace().source, found.trace().stale), ("new", Source::Cache("far"), false));
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_passes_the_cache_by_is_not_put_or_got_by_hand_either() {
    let upstream = Arc::new(Scripted::new());
    let far = Far::new();
    let lax = wrap(&upstream, Cache::on(Arc::clone(&far)));
    lax.chat(question()).await.unwrap();
    let strict = wrap(&upstream, Cache::on(Arc::clone(&far)).store(StorePolicy::new().sampled(false)));
    let cache = strict.cache().unwrap();
    assert!(cache.get(question()).await.unwrap().is_none(), "a call would not be served with it");
    let other = ChatRequest::new("m").user("Why is grass green?");
    assert!(!cache.put(other.clone(), ChatCompletion::text("m", "x")).await.unwrap());
    assert!(cache.peek(other.clone()).await.unwrap().is_none());
    assert!(cache.put(other.clone().temperature(0.0), ChatCompletion::text("m", "x")).await.unwrap());
    assert_eq!(strict.chat(other.temperature(0.0)).await.unwrap().text(), "x");
    assert_eq!(cache.stats().namespace("responses").unwrap().declined, 1);
}

/// A policy is asked once for each answer, so that what it says first is what happens.
#[tokio::test]
async fn an_answer_put_by_hand_is_judged_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let policy = StorePolicy::new().also(move |_, _| counted.fetch_add(1, Ordering::SeqCst) == 0);
    let client = wrap(&Arc::new(Scripted::new()), Cache::memory(10).store(policy));
    let cache = client.cache().unwrap();
    assert!(cache.put(question(), ChatCompletion::text("m", "x")).await.unwrap());
    assert!(cache.peek(question()).await.unwrap().is_some());
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[test]
fn a_later_removal_outside_a_runtime_is_refused() {
    let client = wrap(&Arc::new(Scripted::new()), Cache::memory(10));
    let cache = client.cache().unwrap();
    let mut removal = pin!(cache.remove_later(&Selector::All, SECOND));
    let Poll::Ready(refused) = removal.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it waits for nothing")
    };
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
}

/// A waker that holds somebody else's call, as those of small executors do.
struct Holds(#[allow(dead_code, reason = "works when it is dropped")] Mutex<Option<Call>>);

type Call = Pin<Box<dyn Future<Output = Result<ChatResponse>> + Send>>;

impl Wake for Holds {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn a_caller_whose_waker_holds_another_can_leave() {
    let (done, left) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let gate = sluicegate::testing::Gate::closed();
        let client = wrap(&Arc::new(Scripted::new().gate(&gate)), Cache::memory(10));
        let call = |client: OptimizedClient| -> Call { Box::pin(async move { client.chat(question()).await }) };
        let (mut first, mut second) = (call(client.clone()), call(client));
        assert!(second.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let waker = Waker::from(Arc::new(Holds(Mutex::new(Some(second)))));
        assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        drop(first);
        done.send(()).unwrap();
    });
    assert!(left.recv_timeout(10 * SECOND).is_ok(), "it hangs");
}
