//! Vectors kept per text: what is known is not asked for again, and every vector comes back in its own place.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sluicegate::cache::tier::Memory;
use sluicegate::cache::{Cache, CacheLayer, CacheTier, Entry, Namespace, Probe, Selector};
use sluicegate::providers::client_fn;
use sluicegate::types::{
    CacheControl, ChatResponse, Cost, Deadline, EmbedInput, EmbedItem, EmbedRequest, EmbedResponse, Embedding, Extra,
    Price, PriceTable, Scope, Source, Tenant, Usage, Vector,
};
use sluicegate::{Env, Error, ErrorKind, Layer, LlmClient, OptimizedClient, Result};

const MODEL: &str = "embedder";
const SECOND: Duration = Duration::from_secs(1);

/// What an upstream does to its answer.
type Twist = fn(&mut EmbedResponse);

/// An endpoint that embeds: a vector that belongs to its text and to no other, the last input's first.
struct Upstream {
    asked: Mutex<Vec<EmbedRequest>>,
    latency: Mutex<Duration>,
    twist: Mutex<Option<Twist>>,
    active: AtomicUsize,
}

struct Active<'a>(&'a AtomicUsize);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn vector(item: EmbedItem<'_>, as_text: bool) -> Vector {
    let spelled = match item {
        EmbedItem::Text(text) => format!("text {text}"),
        EmbedItem::Tokens(tokens) => format!("tokens {tokens:?}"),
    };
    match as_text {
        true => Vector::Base64(format!("{spelled} in base64")),
        false => Vector::Floats(spelled.bytes().map(|byte| f32::from(byte) / 3.0).collect()),
    }
}

impl Upstream {
    fn new() -> Arc<Self> {
        let (asked, latency, twist) = Default::default();
        Arc::new(Self { asked, latency, twist, active: AtomicUsize::new(0) })
    }

    fn slow() -> Arc<Self> {
        let this = Self::new();
        *this.latency.lock() = SECOND;
        this
    }

    fn client(self: &Arc<Self>) -> impl LlmClient + use<> {
        let this = Arc::clone(self);
        client_fn(|_| async { Ok(ChatResponse::from_text("")) }).with_embed(move |request| {
            let this = Arc::clone(&this);
            async move { this.embed(request).await }
        })
    }

    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        self.active.fetch_add(1, Ordering::SeqCst);
        let _active = Active(&self.active);
        self.asked.lock().push(request.clone());
        let latency = *self.latency.lock();
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let (items, as_text) = (request.input.items(), request.encoding_format.as_deref() == Some("base64"));
        let data = items.iter().enumerate().rev().map(|(index, item)| {
            let extra = Extra::from_iter([("object".to_owned(), "embedding".into())]);
            Embedding { index, embedding: vector(*item, as_text), extra }
        });
        let mut answer = EmbedResponse {
            object: "list".into(),
            data: data.collect(),
            model: format!("{MODEL}-2025-01-01"),
            usage: Some(Usage::new(10 * items.len() as u64, 0)),
            extra: Extra::from_iter([("region".to_owned(), "eu".into())]),
            ..EmbedResponse::default()
        };
        if let Some(twist) = *self.twist.lock() {
            twist(&mut answer);
        }
        Ok(answer)
    }

    fn calls(&self) -> usize {
        self.asked.lock().len()
    }

    /// The inputs of the latest call.
    fn last(&self) -> EmbedInput {
        self.asked.lock().last().unwrap().input.clone()
    }

    /// All texts it was ever asked for.
    fn texts(&self) -> Vec<String> {
        let requests = self.asked.lock();
        let items = requests.iter().flat_map(|request| request.input.items());
        items.map(|item| if let EmbedItem::Text(text) = item { text.to_owned() } else { String::new() }).collect()
    }
}

fn cached(upstream: &Arc<Upstream>, cache: Cache) -> (OptimizedClient, CacheLayer) {
    let layer = CacheLayer::from(cache);
    let prices = PriceTable::empty().set(MODEL, Price::new(1.0, 1.0, 0.0));
    (OptimizedClient::builder(upstream.client()).cache(layer.clone()).prices(prices).build().unwrap(), layer)
}

fn plain(upstream: &Arc<Upstream>) -> (OptimizedClient, CacheLayer) {
    cached(upstream, Cache::memory(100).jitter(0.0))
}

fn texts<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> EmbedRequest {
    EmbedRequest::new(MODEL, texts.into_iter().map(|text| text.as_ref().to_owned()))
}

fn numbered(range: std::ops::Range<usize>) -> EmbedRequest {
    texts(range.map(|n| format!("text {n:02}")))
}

fn with_input(input: EmbedInput) -> EmbedRequest {
    EmbedRequest { input, ..texts([""; 0]) }
}

/// Asks, and looks whether every vector is that of its input, in its place.
async fn ask(client: &OptimizedClient, request: EmbedRequest) -> Result<EmbedResponse> {
    let (input, as_text) = (request.input.clone(), request.encoding_format.as_deref() == Some("base64"));
    let answer = client.embed(request).await?;
    let places: Vec<_> = answer.data.iter().map(|one| (one.index, one.embedding.clone())).collect();
    let expected: Vec<_> = input.items().into_iter().map(|item| vector(item, as_text)).enumerate().collect();
    assert_eq!(places, expected);
    assert!(answer.data.iter().all(|one| one.extra["object"] == "embedding"));
    Ok(answer)
}

async fn source(client: &OptimizedClient, request: EmbedRequest) -> Result<Source, ErrorKind> {
    ask(client, request).await.map(|answer| answer.trace.source).map_err(|error| error.kind())
}

const HIT: Result<Source, ErrorKind> = Ok(Source::Cache("memory"));
const FRESH: Result<Source, ErrorKind> = Ok(Source::Upstream);

#[tokio::test(start_paused = true)]
async fn of_a_hundred_texts_only_the_ten_unknown_are_asked_for() {
    let upstream = Upstream::new();
    let (client, _) = plain(&upstream);
    let known = (0..100).filter(|n| n % 10 != 3).map(|n| format!("text {n:02}"));
    ask(&client, texts(known)).await.unwrap();
    tokio::time::advance(SECOND).await;
    let answer = ask(&client, numbered(0..100)).await.unwrap();
    assert_eq!(upstream.last(), texts((0..10).map(|n| format!("text {n}3"))).input);
    assert_eq!(upstream.calls(), 2);
    assert_eq!(answer.usage, Some(Usage::new(100, 0)), "what was billed now");
    assert_eq!((answer.trace.source, answer.trace.saved_tokens), (Source::Upstream, 900));
    let dollars = |picos: u64| Some(Cost::from_picos(picos * 1_000_000));
    assert_eq!((answer.trace.cost, answer.trace.saved), (dollars(100), dollars(900)));

    let again = ask(&client, numbered(0..100)).await.unwrap();
    assert_eq!((again.usage, again.trace.source), (Some(Usage::new(0, 0)), Source::Cache("memory")));
    assert_eq!(
        (again.trace.cost, again.trace.saved, again.trace.saved_tokens),
        (Some(Cost::ZERO), dollars(1000), 1000)
    );
    assert_eq!((again.trace.age, again.trace.ttl_left), (Some(SECOND), Some(Duration::from_secs(86_399))));
    assert_eq!((again.object, again.model, again.extra), (answer.object, answer.model, answer.extra));
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn a_text_that_stands_twice_is_asked_for_once() {
    let upstream = Upstream::new();
    let (client, _) = plain(&upstream);
    let answer = ask(&client, texts(["a", "b", "a", "", "a"])).await.unwrap();
    assert_eq!(upstream.last(), texts(["a", "b", ""]).input);
    assert_eq!((answer.trace.source, answer.trace.saved_tokens), (Source::Upstream, 20));
    assert_eq!(source(&client, texts(["b", "b"])).await, HIT);
}

#[tokio::test]
async fn each_form_stays_what_it_is() {
    let upstream = Upstream::new();
    let (client, _) = plain(&upstream);
    let forms = [
        EmbedInput::Text("7".into()),
        EmbedInput::Tokens(vec![7]),
        EmbedInput::TokenLists(vec![vec![7, 8], vec![8]]),
        EmbedInput::Texts(vec!["8".into()]),
    ];
    for input in forms {
        assert_eq!(source(&client, with_input(input.clone())).await, FRESH, "{input:?}");
        assert_eq!(upstream.last(), input);
        assert_eq!(source(&client, with_input(input)).await, HIT);
    }
    // A text is the same alone and in a batch, and so are token ids.
    assert_eq!(source(&client, texts(["8", "7"])).await, HIT);
    let lists = EmbedInput::TokenLists(vec![vec![8], vec![9], vec![7]]);
    assert_eq!(source(&client, with_input(lists)).await, FRESH);
    assert_eq!(upstream.last(), EmbedInput::TokenLists(vec![vec![9]]));

    let base64 = || EmbedRequest { encoding_format: Some("base64".into()), ..texts(["7", "8"]) };
    assert_eq!(source(&client, base64()).await, FRESH, "another key than that of numbers");
    assert_eq!(source(&client, base64()).await, HIT);
    let short = EmbedRequest { dimensions: Some(3), ..texts(["7"]) };
    assert_eq!(source(&client, short).await, FRESH);
    assert_eq!(source(&client, EmbedRequest { model: "other".into(), ..texts(["7"]) }).await, FRESH);
}

#[tokio::test]
async fn vectors_that_cannot_be_told_apart_are_never_kept_nor_merged() {
    let wrong: [(&str, Twist); 5] = [
        ("double", |answer| answer.data[0].index = answer.data[1].index),
        ("out of range", |answer| answer.data[0].index = usize::MAX),
        ("one too few", |answer| drop(answer.data.pop())),
        ("one too many", |answer| answer.data.push(answer.data[0].clone())),
        ("without indices", |answer| answer.data.iter_mut().for_each(|one| one.index = 0)),
    ];
    for (what, twist) in wrong {
        let upstream = Upstream::new();
        let (client, _) = plain(&upstream);
        ask(&client, texts(["known"])).await.unwrap();
        *upstream.twist.lock() = Some(twist);
        // Nothing is merged into the answer to the whole request: it is the caller's to judge.
        let answer = client.embed(texts(["a", "b"])).await.unwrap();
        let expected = upstream.embed(texts(["a", "b"])).await.unwrap();
        assert_eq!(answer.data, expected.data, "{what}: as it came");
        for request in [texts(["a", "known", "b"]), texts(["a", "b", "a"])] {
            let error = client.embed(request.clone()).await.unwrap_err();
            assert_eq!((error.kind(), error.usage()), (ErrorKind::Decode, Some(&Usage::new(20, 0))), "{what}");
            *upstream.twist.lock() = None;
            assert_eq!(
                source(&client, texts(["a"]).with(CacheControl::new().only_if_cached())).await,
                Err(ErrorKind::CacheMiss)
            );
            assert_eq!(source(&client, request.with(CacheControl::new().no_store())).await, FRESH, "{what}");
            *upstream.twist.lock() = Some(twist);
        }
        let control = CacheControl::new().no_cache();
        assert_eq!(client.embed(texts(["known", "a"]).with(control)).await.unwrap().data.len(), expected.data.len());
        *upstream.twist.lock() = None;
        assert_eq!(source(&client, texts(["known"])).await, HIT, "{what}: what was known is untouched");
    }
}

#[tokio::test]
async fn an_empty_vector_is_passed_on_and_not_kept() {
    let upstream = Upstream::new();
    let (client, _) = plain(&upstream);
    *upstream.twist.lock() = Some(|answer| answer.data[0].embedding = Vector::Floats(vec![]));
    client.embed(texts(["a", "b"])).await.unwrap();
    *upstream.twist.lock() = None;
    assert_eq!(source(&client, texts(["a", "b"])).await, FRESH);
    assert_eq!(upstream.last(), texts(["b"]).input);
}

#[tokio::test(start_paused = true)]
async fn a_call_says_how_it_uses_the_cache() {
    let upstream = Upstream::new();
    let (client, layer) = plain(&upstream);
    let control = CacheControl::new;
    let of = async |text: &str, control: CacheControl| source(&client, texts([text]).with(control)).await;
    assert_eq!(of("a", control().only_if_cached()).await, Err(ErrorKind::CacheMiss));
    assert_eq!(upstream.calls(), 0);
    assert_eq!(of("a", control().no_store()).await, FRESH);
    assert_eq!(of("a", control()).await, FRESH);
    assert_eq!(of("a", control().only_if_cached()).await, HIT);
    let partly = texts(["a", "new"]).with(control().only_if_cached());
    assert_eq!(source(&client, partly).await, Err(ErrorKind::CacheMiss));

    tokio::time::advance(60 * SECOND).await;
    assert_eq!(of("a", control().max_age(60 * SECOND)).await, HIT);
    assert_eq!(of("a", control().max_age(59 * SECOND)).await, FRESH);
    assert_eq!(of("a", control().no_cache()).await, FRESH);
    assert_eq!(of("b", control().ttl(SECOND)).await, FRESH);
    assert_eq!(of("b", control()).await, HIT);
    tokio::time::advance(SECOND).await;
    assert_eq!(of("b", control().ttl(Duration::ZERO)).await, FRESH);
    assert_eq!(of("b", control()).await, FRESH);

    assert_eq!(of("a", control().namespace("retrieval").tag("t")).await, FRESH);
    assert_eq!(of("a", control().namespace("retrieval")).await, HIT);
    assert_eq!(of("a", control().namespace("unknown")).await, Err(ErrorKind::InvalidRequest));
    assert_eq!(layer.remove(&Selector::Tag("t".into())).await.unwrap(), 1);
    assert_eq!(of("a", control()).await, HIT);
    assert_eq!(layer.remove(&Selector::Pattern(format!("embeddings/{MODEL}"))).await.unwrap(), 2);
    assert_eq!(of("a", control()).await, FRESH);
}

#[tokio::test(start_paused = true)]
async fn vectors_live_a_day_unless_their_namespace_says_otherwise() {
    for (namespace, life) in [(None, 24 * 3600 * SECOND), (Some(Namespace::embeddings().ttl(SECOND)), SECOND)] {
        let upstream = Upstream::new();
        let cache = namespace.into_iter().fold(Cache::memory(10).jitter(0.0), Cache::namespace);
        let (client, _) = cached(&upstream, cache);
        ask(&client, texts(["a"])).await.unwrap();
        tokio::time::advance(life - Duration::from_millis(1)).await;
        assert_eq!(source(&client, texts(["a"])).await, HIT);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(source(&client, texts(["a"])).await, FRESH);
    }
}

#[tokio::test]
async fn tenants_never_share() {
    let upstream = Upstream::new();
    let (client, _) = plain(&upstream);
    let of = async |tenant: &str, scope: Scope| {
        let request = texts(["a", "b"]).with(CacheControl::new().scope(scope)).with(Tenant(tenant.into()));
        source(&client, request).await
    };
    assert_eq!(source(&client, texts(["a", "b"])).await, FRESH);
    assert_eq!((of("one", Scope::Tenant).await, of("two", Scope::Tenant).await), (FRESH, FRESH));
    assert_eq!((of("one", Scope::Tenant).await, of("two", Scope::Tenant).await), (HIT, HIT));
    assert_eq!((of("one", Scope::Public).await, of("two", Scope::Public).await), (FRESH, HIT));
}

#[tokio::test(start_paused = true)]
async fn a_text_that_is_on_its_way_is_waited_for() {
    let upstream = Upstream::slow();
    let (client, layer) = plain(&upstream);
    let first = ask(&client, numbered(0..3));
    let second = async {
        tokio::time::sleep(SECOND / 2).await;
        ask(&client, numbered(2..5)).await
    };
    let third = async {
        tokio::time::sleep(SECOND * 3 / 4).await;
        ask(&client, numbered(1..4)).await
    };
    let (first, second, third) = tokio::join!(first, second, third);
    assert_eq!(upstream.texts(), ["text 00", "text 01", "text 02", "text 03", "text 04"]);
    let told = |answer: Result<EmbedResponse>| {
        let answer = answer.unwrap();
        (answer.trace.source, answer.usage.unwrap().prompt_tokens, answer.trace.saved_tokens)
    };
    assert_eq!(told(first), (Source::Upstream, 30, 0));
    assert_eq!(told(second), (Source::Upstream, 20, 10));
    assert_eq!(told(third), (Source::Coalesced, 0, 30));
    assert_eq!(layer.open_flights(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_overlapping_batches_each_text_is_asked_for_once() {
    let upstream = Upstream::new();
    *upstream.latency.lock() = Duration::from_millis(2);
    let (client, layer) = plain(&upstream);
    let mut random = fastrand::Rng::with_seed(3);
    let tasks: Vec<_> = (0..400)
        .map(|_| {
            let (client, start) = (client.clone(), random.usize(0..80));
            let request = numbered(start..start + random.usize(1..20));
            tokio::spawn(async move { drop(ask(&client, request).await.unwrap()) })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut asked = upstream.texts();
    let all = asked.len();
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), all, "some text was asked for twice");
    assert_eq!(layer.open_flights(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_starter_leaves_is_carried_on_by_who_waits() {
    let upstream = Upstream::slow();
    let (client, layer) = plain(&upstream);
    let mut starter = Box::pin(client.embed(numbered(0..4)));
    assert!(futures_util::poll!(starter.as_mut()).is_pending());
    let mut joiner = Box::pin(ask(&client, numbered(3..4)));
    assert!(futures_util::poll!(joiner.as_mut()).is_pending());
    drop(starter);
    let answer = joiner.await.unwrap();
    assert_eq!((upstream.calls(), answer.trace.source), (1, Source::Upstream));
    assert_eq!(answer.usage.unwrap().prompt_tokens, 40, "somebody says what was billed");
    assert_eq!(source(&client, numbered(0..4)).await, HIT, "the others' vectors are kept too");

    let mut last = Box::pin(client.embed(numbered(4..6)));
    assert!(futures_util::poll!(last.as_mut()).is_pending());
    assert_eq!((layer.open_flights(), upstream.active.load(Ordering::SeqCst)), (1, 1));
    drop(last);
    assert_eq!((layer.open_flights(), upstream.active.load(Ordering::SeqCst)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn failures_and_panics_are_everybodys_and_not_kept() {
    for (panics, kind) in [(false, ErrorKind::Server), (true, ErrorKind::Panicked)] {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let client = client_fn(|_| async { Ok(ChatResponse::from_text("")) }).with_embed(move |request| {
            let call = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::time::sleep(SECOND).await;
                match call {
                    0 if panics => panic!("scripted panic"),
                    0 => Err(Error::new(ErrorKind::Server, "test", "down")),
                    _ => Upstream::new().embed(request).await,
                }
            }
        });
        let layer = CacheLayer::from(Cache::memory(10));
        let client = OptimizedClient::builder(client).cache(layer.clone()).build().unwrap();
        let (one, two) = tokio::join!(ask(&client, texts(["a", "b"])), ask(&client, texts(["b", "c"])));
        assert_eq!((one.unwrap_err().kind(), two.unwrap_err().kind()), (kind, kind));
        assert_eq!((calls.load(Ordering::SeqCst), layer.open_flights()), (2, 0));
        assert_eq!(source(&client, texts(["c"])).await, HIT, "what was fetched beside it is kept");
        assert_eq!(source(&client, texts(["a", "b"])).await, FRESH);
    }
}

#[tokio::test(start_paused = true)]
async fn a_joiner_outlives_the_starters_deadline() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let client = client_fn(|_| async { Ok(ChatResponse::from_text("")) }).with_embed(move |request| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            tokio::time::sleep(SECOND).await;
            match request.extensions.get::<Deadline>() {
                Some(_) => Err(Error::new(ErrorKind::Deadline, "test", "too late")),
                None => Upstream::new().embed(request).await,
            }
        }
    });
    let client = OptimizedClient::builder(client).cache(Cache::memory(10)).build().unwrap();
    let hurried = texts(["a", "b"]).with(Deadline(tokio::time::Instant::now().into_std() + SECOND));
    let (starter, joiner) = tokio::join!(ask(&client, hurried), ask(&client, texts(["b", "c"])));
    assert_eq!(starter.unwrap_err().kind(), ErrorKind::Deadline);
    joiner.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_text_inside_its_own_fetch_is_refused_rather_than_waiting_for_itself() {
    let own: Arc<Mutex<Option<Arc<dyn LlmClient>>>> = Arc::default();
    let inside = Arc::clone(&own);
    let client = client_fn(|_| async { Ok(ChatResponse::from_text("")) }).with_embed(move |_| {
        let inside = inside.lock().clone();
        async move { inside.unwrap().embed(texts(["c", "a"])).await }
    });
    let client = CacheLayer::from(Cache::memory(10)).wrap(Arc::new(client), &Env::new()).unwrap();
    *own.lock() = Some(Arc::clone(&client));
    let asked = tokio::time::timeout(SECOND, client.embed(texts(["a", "b"]))).await.expect("waits for itself");
    assert_eq!(asked.unwrap_err().kind(), ErrorKind::InvalidRequest);
    *own.lock() = None;
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_for_before_a_removal_is_not_kept_and_not_joined() {
    let upstream = Upstream::slow();
    let (client, layer) = plain(&upstream);
    let before = ask(&client, texts(["a", "b"]));
    let after = async {
        tokio::time::sleep(SECOND / 2).await;
        layer.remove(&Selector::Tag("another".into())).await.unwrap();
        assert!(futures_util::poll!(Box::pin(client.embed(texts(["b"])))).is_pending());
        assert_eq!(upstream.calls(), 1, "a removal of something else parts nobody");
        layer.remove(&Selector::Namespace("embeddings".into())).await.unwrap();
        ask(&client, texts(["b"])).await
    };
    let (before, after) = tokio::join!(before, after);
    assert_eq!((before.unwrap().trace.source, after.unwrap().trace.source), (Source::Upstream, Source::Upstream));
    assert_eq!(upstream.texts(), ["a", "b", "b"]);
    assert_eq!(source(&client, texts(["a"])).await, FRESH);
    assert_eq!(source(&client, texts(["b"])).await, HIT);
}

/// Many tasks join, leave and finish on several threads at once: nobody hangs, nothing is left over.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_hangs_under_random_cancellation() {
    let upstream = Upstream::new();
    *upstream.latency.lock() = Duration::from_micros(500);
    // So short that entries expire at once and fetches are made again and again.
    let cache = Cache::memory(10).namespace(Namespace::embeddings().ttl(Duration::from_nanos(1)));
    let (client, layer) = cached(&upstream, cache);
    let mut random = fastrand::Rng::with_seed(7);
    let tasks: Vec<_> = (0..3_000)
        .map(|_| {
            let (client, start, patience) = (client.clone(), random.usize(0..4), random.u64(0..1_500));
            let (delay, leaves) = (Duration::from_micros(random.u64(0..20_000)), random.bool());
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let asked = ask(&client, numbered(start..start + 3));
                if leaves {
                    let _ = tokio::time::timeout(Duration::from_micros(patience), asked).await;
                } else {
                    asked.await.unwrap();
                }
            })
        })
        .collect();
    let all = futures_util::future::join_all(tasks);
    for task in tokio::time::timeout(Duration::from_secs(60), all).await.expect("somebody hangs") {
        task.unwrap();
    }
    assert_eq!((layer.open_flights(), upstream.active.load(Ordering::SeqCst)), (0, 0));
}

/// The wake-up that is easiest to lose: the work signals while one caller polls it, another finds it taken and goes to
/// sleep, and the first is never polled again.
#[test]
fn a_signal_during_a_poll_is_not_lost_on_those_who_found_the_work_taken() {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;

    struct Flag(AtomicBool);
    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    let (polling, is_polling) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let channels = Arc::new(Mutex::new(Some((polling, may_go_on))));
    let client = client_fn(|_| async { Ok(ChatResponse::from_text("")) }).with_embed(move |request| {
        let channels = Arc::clone(&channels);
        async move {
            std::future::poll_fn(|cx| {
                let Some((polling, may_go_on)) = channels.lock().take() else { return Poll::Ready(()) };
                cx.waker().wake_by_ref();
                polling.send(()).unwrap();
                may_go_on.recv().unwrap();
                Poll::Pending
            })
            .await;
            Upstream::new().embed(request).await
        }
    });
    let client = CacheLayer::from(Cache::memory(10)).wrap(Arc::new(client), &Env::new()).unwrap();
    let (mut first, mut second) = (client.embed(texts(["a"])), client.embed(texts(["a"])));
    let woken = Arc::new(Flag(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&woken));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = first.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        });
        is_polling.recv().unwrap();
        assert!(second.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        go_on.send(()).unwrap();
    });
    assert!(woken.0.load(Ordering::SeqCst), "nobody will ever poll again");
    assert!(matches!(second.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Ready(Ok(_))));
}

/// A tier that takes its time; it keeps what it is given, and counts how many ask it at once.
#[derive(Debug)]
struct Far {
    memory: Memory,
    latency: Duration,
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Far {
    fn new(latency: Duration) -> Arc<Self> {
        let memory = Memory::new(1_000, 1 << 24).unwrap();
        Arc::new(Self { memory, latency, now: AtomicUsize::new(0), peak: AtomicUsize::new(0) })
    }

    async fn travel(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        let _now = Active(&self.now);
        self.peak.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(self.latency).await;
    }
}

#[async_trait]
impl CacheTier for Far {
    fn name(&self) -> &'static str {
        "far"
    }

    async fn get(&self, probe: &Probe) -> Result<Option<Arc<Entry>>> {
        self.travel().await;
        self.memory.get(probe).await
    }

    async fn put(&self, probe: &Probe, entry: Arc<Entry>) -> Result<()> {
        self.travel().await;
        self.memory.put(probe, entry).await
    }

    async fn remove(&self, selector: &Selector) -> Result<u64> {
        self.memory.remove(selector).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_outer_tier_is_asked_for_many_texts_at_a_time() {
    let (upstream, far) = (Upstream::new(), Far::new(Duration::from_millis(10)));
    let (first, _) = cached(&upstream, Cache::memory(100).tier(Arc::clone(&far)));
    let (second, _) = cached(&upstream, Cache::memory(100).tier(Arc::clone(&far)));
    ask(&first, numbered(0..90)).await.unwrap();
    let env = Env::new();
    let started = env.now();
    let answer = ask(&second, numbered(0..90)).await.unwrap();
    assert_eq!(answer.trace.source, Source::Cache("far"));
    let (peak, took) = (far.peak.load(Ordering::SeqCst), env.now() - started);
    assert!((16..=64).contains(&peak) && took <= Duration::from_millis(60), "{peak} at a time, {took:?}");
    assert_eq!(source(&second, numbered(0..90)).await, HIT, "memory has them now");
    assert_eq!(ask(&second, numbered(80..100)).await.unwrap().usage, Some(Usage::new(100, 0)));
    let (third, _) = cached(&upstream, Cache::on(Arc::clone(&far)));
    assert_eq!(source(&third, numbered(0..100)).await, Ok(Source::Cache("far")));
    assert_eq!(upstream.texts().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_stuck_tier_costs_a_batch_bounded_time() {
    let (upstream, far) = (Upstream::new(), Far::new(1_000 * SECOND));
    let (client, layer) = cached(&upstream, Cache::memory(100).tier(far).tier_timeout(Duration::from_millis(50)));
    let env = Env::new();
    let started = env.now();
    assert_eq!(source(&client, numbered(0..100)).await, FRESH);
    assert!(env.now() - started <= Duration::from_millis(100), "{:?}", env.now() - started);
    assert!(layer.tier_errors() <= 40, "the breaker holds the others back: {}", layer.tier_errors());
}

/// A tier that answers with another text's vector is not believed.
#[tokio::test]
async fn a_strangers_vector_is_never_taken() {
    #[derive(Debug, Default)]
    struct Mixed(Mutex<Option<Arc<Entry>>>);
    #[async_trait]
    impl CacheTier for Mixed {
        fn name(&self) -> &'static str {
            "mixed"
        }
        async fn get(&self, _: &Probe) -> Result<Option<Arc<Entry>>> {
            Ok(self.0.lock().clone())
        }
        async fn put(&self, _: &Probe, entry: Arc<Entry>) -> Result<()> {
            *self.0.lock() = Some(entry);
            Ok(())
        }
        async fn remove(&self, _: &Selector) -> Result<u64> {
            Ok(0)
        }
    }
    let upstream = Upstream::new();
    let (client, _) = cached(&upstream, Cache::on(Mixed::default()));
    for round in 0..3 {
        ask(&client, numbered(0..round + 2)).await.unwrap();
    }
}

#[cfg(feature = "disk")]
#[tokio::test]
async fn vectors_on_disk_are_exact_to_the_bit() {
    use sluicegate::cache::tier::Disk;
    let folder = tempfile::tempdir().unwrap();
    let odd = [f32::MIN_POSITIVE / 3.0, -0.0, f32::MAX, 0.1, f32::EPSILON, f32::NEG_INFINITY];
    let exact = move |request: EmbedRequest| async move {
        let embedding = |index| Embedding { index, embedding: Vector::Floats(odd.to_vec()), extra: Extra::new() };
        let data = (0..request.input.len()).map(embedding).collect();
        Ok(EmbedResponse { data, model: request.model, ..EmbedResponse::default() })
    };
    let bits = |answer: &EmbedResponse| -> Vec<Vec<u32>> {
        let floats = |one: &Embedding| match &one.embedding {
            Vector::Floats(floats) => floats.iter().map(|float| float.to_bits()).collect(),
            Vector::Base64(_) => Vec::new(),
        };
        answer.data.iter().map(floats).collect()
    };
    let expected = vec![odd.map(f32::to_bits).to_vec(); 40];
    for source in [Source::Upstream, Source::Cache("disk")] {
        let client = client_fn(|_| async { Ok(ChatResponse::from_text("")) }).with_embed(exact);
        let cache = Cache::memory(100).tier(Disk::open(folder.path()).build().unwrap());
        let client = OptimizedClient::builder(client).cache(cache).build().unwrap();
        let answer = client.embed(numbered(0..40)).await.unwrap();
        assert_eq!((answer.trace.source, bits(&answer)), (source, expected.clone()));
    }
}

#[tokio::test]
async fn a_request_without_input_is_for_the_client_to_refuse() {
    let client = client_fn(|_| async { Ok(ChatResponse::from_text("")) })
        .with_embed(|_| async { Err(Error::new(ErrorKind::InvalidRequest, "upstream", "no input")) });
    let client = CacheLayer::from(Cache::memory(10)).wrap(Arc::new(client), &Env::new()).unwrap();
    assert_eq!(client.embed(texts([""; 0])).await.unwrap_err().origin(), "upstream");
}
