//! A store that fails, hangs, sends without end, or takes no attributes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use parking_lot::Mutex;
use sluicegate::cache::tier::Objects;
use sluicegate::cache::tier::object::object_store::memory::InMemory;
use sluicegate::cache::tier::object::object_store::path::Path;
use sluicegate::cache::tier::object::object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use sluicegate::cache::{Cache, CacheLayer, CacheTier, Selector};
use sluicegate::testing::Scripted;
use sluicegate::types::ChatRequest;
use sluicegate::{Env, ErrorKind, OptimizedClient};

use super::{put, question, text};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Well,
    Failing,
    Hanging,
    /// Says that it sends a hundred bytes, and never ends.
    Endless,
    /// The first kilobyte comes, then nothing.
    HangingMidway,
    /// Takes no attributes.
    Plain,
}

#[derive(Debug, Clone)]
struct Sick {
    mood: Arc<Mutex<Mood>>,
    inner: Arc<InMemory>,
    puts: Arc<Mutex<usize>>,
}

impl Sick {
    fn new(mood: Mood) -> Self {
        Self { mood: Arc::new(Mutex::new(mood)), inner: Arc::new(InMemory::new()), puts: Arc::default() }
    }

    fn becomes(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    async fn play(&self) -> Result<()> {
        let mood = *self.mood.lock();
        match mood {
            Mood::Failing => Err(Error::Generic { store: "sick", source: "https://secret/?sig=secret".into() }),
            Mood::Hanging => std::future::pending().await,
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Sick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sick(secret)")
    }
}

#[async_trait]
impl ObjectStore for Sick {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.play().await?;
        *self.puts.lock() += 1;
        if *self.mood.lock() == Mood::Plain && !opts.attributes.is_empty() {
            return Err(Error::NotSupported { source: "attributes".into() });
        }
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotSupported { source: "multipart".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.play().await?;
        let mut found = self.inner.get_opts(location, options).await?;
        let kilobyte = || stream::once(async { Ok(vec![7; 1024].into()) });
        match *self.mood.lock() {
            Mood::Endless => {
                let parts = stream::repeat_with(|| Ok(vec![7; 1 << 20].into()));
                (found.payload, found.range) = (GetResultPayload::Stream(parts.boxed()), 0..100);
            }
            Mood::HangingMidway => {
                let parts = kilobyte().chain(stream::pending());
                (found.payload, found.range) = (GetResultPayload::Stream(parts.boxed()), 0..2048);
            }
            _ => {}
        }
        Ok(found)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let delete = move |location: Result<Path>| {
            let this = this.clone();
            async move {
                this.play().await?;
                Ok(location)
            }
        };
        let checked = locations.then(delete).map(|location: Result<Result<Path>>| location.and_then(|inner| inner));
        let inner = Arc::clone(&self.inner);
        checked
            .then(move |location| {
                let inner = Arc::clone(&inner);
                async move {
                    let location = location?;
                    inner.delete_stream(stream::iter([Ok(location)]).boxed()).next().await.unwrap()
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, listed) = (self.clone(), self.inner.list(prefix));
        let first = stream::once(async move { this.play().await }).filter_map(|played| async { played.err().map(Err) });
        first.chain(listed).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.play().await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn selectors() -> [Selector; 4] {
    [
        Selector::All,
        Selector::Tag("t".into()),
        Selector::Namespace("responses".into()),
        Selector::Key(question("a").key()),
    ]
}

#[tokio::test(start_paused = true)]
async fn every_call_ends_in_its_time() {
    let store = Sick::new(Mood::Well);
    let tier = Objects::builder(store.clone()).build().unwrap();
    put(&tier, &question("a"), "a").await;
    let env = Env::new();
    for (mood, kind) in [(Mood::Failing, ErrorKind::Network), (Mood::Hanging, ErrorKind::Timeout)] {
        store.becomes(mood);
        let before = env.now();
        assert_eq!(tier.get(&question("a")).await.unwrap_err().kind(), kind);
        assert!(env.now() - before <= Duration::from_millis(1_001), "{mood:?}: {:?}", env.now() - before);
        let entry = Arc::new(super::answer(&question("b"), "b"));
        let before = env.now();
        let error = tier.put(&question("b"), entry).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(!format!("{error} {error:?} {tier:?}").contains("secret"), "{error:?} {tier:?}");
        assert!(env.now() - before <= Duration::from_millis(5_001), "{mood:?}: {:?}", env.now() - before);
        for selector in selectors() {
            let before = env.now();
            assert_eq!(tier.remove(&selector).await.unwrap_err().kind(), kind, "{mood:?} {selector:?}");
            assert!(env.now() - before <= Duration::from_millis(5_001), "{mood:?}: {:?}", env.now() - before);
        }
    }
    assert_eq!(tier.stats().errors, 12);
    store.becomes(Mood::Well);
    assert_eq!(text(&tier, &question("a")).await.as_deref(), Some("a"), "nothing is left of it");
}

#[tokio::test(start_paused = true)]
async fn a_body_without_end_is_left() {
    let store = Sick::new(Mood::Well);
    let tier = Objects::builder(store.clone()).build().unwrap();
    put(&tier, &question("a"), "a").await;
    store.becomes(Mood::HangingMidway);
    assert_eq!(tier.get(&question("a")).await.unwrap_err().kind(), ErrorKind::Timeout);
    store.becomes(Mood::Endless);
    assert_eq!(text(&tier, &question("a")).await, None);
    assert_eq!((tier.stats().refused, tier.stats().errors), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn no_caller_sees_the_error() {
    for mood in [Mood::Failing, Mood::Hanging, Mood::Endless, Mood::HangingMidway] {
        let store = Sick::new(Mood::Well);
        let tier = Arc::new(Objects::builder(store.clone()).build().unwrap());
        let layer = CacheLayer::from(Cache::on(tier).tier_timeout(Duration::from_secs(2)));
        let client = OptimizedClient::builder(Scripted::new()).cache(layer).build().unwrap();
        client.chat(ChatRequest::new("m").user("a")).await.unwrap();
        store.becomes(mood);
        assert_eq!(client.chat(ChatRequest::new("m").user("a")).await.unwrap().text(), "ok", "{mood:?}");
        assert_eq!(client.chat(ChatRequest::new("m").user("b")).await.unwrap().text(), "ok", "{mood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_without_attributes_is_asked_for_them_once() {
    let store = Sick::new(Mood::Plain);
    let tier = Objects::builder(store.clone()).build().unwrap();
    for word in ["a", "b"] {
        put(&tier, &question(word), word).await;
        assert_eq!(text(&tier, &question(word)).await.as_deref(), Some(word));
    }
    assert_eq!((*store.puts.lock(), tier.stats().errors), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_takes_bounded_memory() {
    let store = Sick::new(Mood::Hanging);
    let tier = Arc::new(Objects::builder(store.clone()).max_in_flight(2).build().unwrap());
    let asking: Vec<_> = (0..2)
        .map(|_| {
            let tier = Arc::clone(&tier);
            tokio::spawn(async move { tier.get(&question("a")).await.map(drop) })
        })
        .collect();
    tokio::task::yield_now().await;
    assert_eq!(tier.get(&question("a")).await.unwrap_err().kind(), ErrorKind::Overloaded);
    // A dropped call gives its place back.
    for call in asking {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    store.becomes(Mood::Well);
    assert_eq!(text(&tier, &question("a")).await, None);
}
