//! The handle on a cache at work: its numbers, its entries, their removal.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sluicegate::cache::tier::Memory;
use sluicegate::cache::{
    Cache, CacheHandle, CacheStats, CacheTier, Entry, Imported, Namespace, Probe, Selector, Warmed,
};
use sluicegate::env::TokioClock;
use sluicegate::history::Normalize;
use sluicegate::testing::{Gate, Reply, Scripted};
use sluicegate::types::{
    CacheControl, ChatCompletion, ChatRequest, Cost, Price, PriceTable, Priority, Source, Tenant, Usage,
};
use sluicegate::{ErrorKind, OptimizedClient, Result};

fn ask(text: &str) -> ChatRequest {
    ChatRequest::new("m").user(text)
}

fn tagged(text: &str, tag: &str) -> ChatRequest {
    ask(text).with(CacheControl::new().tag(tag))
}

fn built(upstream: &Arc<Scripted>, cache: Cache) -> (OptimizedClient, CacheHandle) {
    built_at(TokioClock::new(), upstream, cache)
}

/// Clients of one clock agree on the time of day too.
fn built_at(clock: TokioClock, upstream: &Arc<Scripted>, cache: Cache) -> (OptimizedClient, CacheHandle) {
    let prices = PriceTable::empty().set("m", Price::new(1.0, 1.0, 1.0));
    let builder = OptimizedClient::builder(Arc::clone(upstream)).cache(cache).prices(prices).clock(clock);
    let client = builder.build().unwrap();
    let handle = client.cache().unwrap();
    (client, handle)
}

/// Lets others run until it is so.
async fn until(so: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if so() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it never came");
}

fn responses(stats: &CacheStats) -> (u64, u64, u64, u64, u64) {
    let one = stats.namespace("responses").unwrap();
    (one.hits, one.misses, one.coalesced, one.stored, one.declined)
}

#[tokio::test(start_paused = true)]
async fn every_call_is_counted_once() {
    let gate = Gate::closed();
    let filtered = ChatCompletion { choices: Vec::new(), ..ChatCompletion::text("m", "") };
    let upstream = Scripted::new().usage(Some(Usage::new(900_000, 100_000))).gate(&gate);
    let upstream = Arc::new(upstream.then(Reply::text("ok")).then(Reply::Completion(Box::new(filtered))));
    let (client, cache) = built(&upstream, Cache::memory(100));
    assert_eq!(cache.stats().namespaces.len(), 4);

    let (first, second, third, ()) = tokio::join!(
        client.chat(ask("a")),
        client.chat(ask("a")),
        async { client.chat_stream(ask("a")).await?.collect().await },
        async { gate.open() }
    );
    let sources = [first, second, third].map(|answer| answer.unwrap().trace().source);
    assert_eq!(sources, [Source::Upstream, Source::Coalesced, Source::Coalesced]);
    client.chat(ask("a")).await.unwrap();
    client.chat_stream(ask("a")).await.unwrap().collect().await.unwrap();
    client.chat(ask("b")).await.unwrap();
    let only = CacheControl::new().only_if_cached();
    assert_eq!(client.chat(ask("c").with(only)).await.unwrap_err().kind(), ErrorKind::CacheMiss);

    let stats = cache.stats();
    assert_eq!(responses(&stats), (2, 3, 2, 1, 1));
    let one = stats.namespace("responses").unwrap();
    assert_eq!((one.saved_tokens, one.saved), (4_000_000, Cost::from_picos(4_000_000_000_000)));
    assert_eq!((one.entries, one.evictions, one.stale), (1, 0, 0));
    assert!(one.bytes > 100, "{}", one.bytes);
    assert_eq!(one.hit_ratio(), 4.0 / 7.0);
    assert_eq!(one.hits_by_tier["memory"], 2);
    let memory = stats.tier("memory").unwrap();
    assert_eq!((memory.hits, memory.puts, memory.errors), (2, 1, 0));

    let text = stats.to_string();
    assert!(text.contains("responses") && !text.contains("embeddings"), "{text}");
    assert!(text.lines().all(|line| line.len() <= 140), "{text}");
    let json = serde_json::to_value(&stats).unwrap();
    assert_eq!(json["namespaces"][0]["saved_dollars"], 4.0);
    assert_eq!(json["tiers"][0]["hits"], 2);
}

#[tokio::test]
async fn failures_are_misses_and_what_is_pushed_out_is_counted() {
    let failing = Reply::Fail(sluicegate::Error::new(ErrorKind::Server, "test", "down"));
    let upstream = Arc::new(Scripted::new().then(failing.clone()).then(failing));
    let (client, cache) = built(&upstream, Cache::memory(2));
    assert!(client.chat(ask("a")).await.is_err());
    assert!(client.chat_stream(ask("a")).await.is_err());
    assert_eq!(responses(&cache.stats()), (0, 2, 0, 0, 0));
    for n in 0..10 {
        client.chat(ask(&n.to_string())).await.unwrap();
    }
    let stats = cache.stats();
    let one = stats.namespace("responses").unwrap();
    assert_eq!(one.stored, 10);
    assert_eq!(one.entries + one.evictions, 10, "{one:?}");
}

/// A tier that works, fails, or lingers over a removal.
#[derive(Debug)]
struct Far {
    memory: Memory,
    failing: parking_lot::Mutex<bool>,
    removing: tokio::sync::Semaphore,
    removals: AtomicUsize,
}

impl Far {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            memory: Memory::new(100, 1 << 20).unwrap(),
            failing: false.into(),
            removing: tokio::sync::Semaphore::new(1_000),
            removals: AtomicUsize::new(0),
        })
    }

    fn play(&self) -> Result<()> {
        let down = || sluicegate::Error::new(ErrorKind::Network, "test", "down");
        if *self.failing.lock() { Err(down()) } else { Ok(()) }
    }
}

#[async_trait]
impl CacheTier for Far {
    fn name(&self) -> &'static str {
        "far"
    }

    async fn get(&self, probe: &Probe) -> Result<Option<Arc<Entry>>> {
        self.play()?;
        self.memory.get(probe).await
    }

    async fn put(&self, probe: &Probe, entry: Arc<Entry>) -> Result<()> {
        self.play()?;
        self.memory.put(probe, entry).await
    }

    async fn remove(&self, selector: &Selector) -> Result<u64> {
        self.play()?;
        self.removals.fetch_add(1, Ordering::SeqCst);
        self.removing.acquire().await.unwrap().forget();
        self.memory.remove(selector).await
    }
}

#[tokio::test(start_paused = true)]
async fn tiers_are_counted_each() {
    let (far, upstream) = (Far::new(), Arc::new(Scripted::new()));
    let (first, _) = built(&upstream, Cache::memory(100).tier(Arc::clone(&far)));
    let (second, cache) = built(&upstream, Cache::memory(100).tier(Arc::clone(&far)));
    first.chat(ask("a")).await.unwrap();
    second.chat(ask("a")).await.unwrap();
    second.chat(ask("a")).await.unwrap();
    let hits = cache.stats().namespace("responses").unwrap().hits_by_tier.clone();
    assert_eq!((hits["memory"], hits["far"]), (1, 1));
    let stats = cache.stats();
    let far_stats = stats.tier("far").unwrap();
    assert_eq!((far_stats.hits, far_stats.misses, far_stats.puts, far_stats.errors), (1, 0, 0, 0));
    assert_eq!((stats.tier("memory").unwrap().hits, stats.tier("memory").unwrap().puts), (1, 1));

    *far.failing.lock() = true;
    for question in ["b", "c", "d"] {
        second.chat(ask(question)).await.unwrap();
    }
    let stats = cache.stats();
    let far_stats = stats.tier("far").unwrap();
    assert_eq!((far_stats.errors, far_stats.passed_over), (5, 4));
}

#[tokio::test(start_paused = true)]
async fn requests_are_taken_as_the_client_takes_them() {
    let upstream = Arc::new(Scripted::new());
    let cache = Cache::memory(100).ttl(Duration::from_secs(60)).jitter(0.0).namespace(Namespace::new("steps"));
    let builder = OptimizedClient::builder(Arc::clone(&upstream)).cache(cache).normalize(Normalize::safe());
    let client = builder.build().unwrap();
    let cache = client.cache().unwrap();

    assert!(cache.get(ask("hi")).await.unwrap().is_none());
    assert!(cache.peek(ask("hi")).await.unwrap().is_none());
    assert!(cache.put(ask("hi  \r\n\r\n\r\n"), ChatCompletion::text("m", "made elsewhere")).await.unwrap());
    assert_eq!(client.chat(ask("hi")).await.unwrap().text(), "made elsewhere", "normalised, as a call is");
    assert_eq!(cache.get(ask("hi ")).await.unwrap().unwrap().text(), "made elsewhere");
    assert_eq!((upstream.calls(), client.report().calls), (0, 1), "an order is no call");

    tokio::time::advance(Duration::from_secs(20)).await;
    let before = cache.stats();
    let info = cache.peek(ask("hi")).await.unwrap().unwrap();
    assert_eq!((info.tier, info.namespace.as_str(), info.stale), ("memory", "responses", false));
    assert_eq!((info.age, info.ttl_left), (Duration::from_secs(20), Duration::from_secs(40)));
    assert!(info.bytes > 100 && info.tags.is_empty());
    assert_eq!(cache.stats(), before, "a peek is not counted");
    let sesame = || tagged("sesame", "prices");
    cache.put(sesame(), ChatCompletion::text("m", "open")).await.unwrap();
    let printed = format!("{:?} {cache:?}", cache.peek(sesame()).await.unwrap().unwrap());
    assert!(!printed.contains("sesame") && !printed.contains("prices") && !printed.contains("open"), "{printed}");
    assert_eq!(cache.remove(sesame()).await.unwrap(), 1);

    // Tenants and namespaces are apart, as in a call.
    assert!(cache.peek(ask("hi").with(Tenant("t".into()))).await.unwrap().is_none());
    let steps = || ask("hi").with(CacheControl::new().namespace("steps").tag("x"));
    assert!(cache.peek(steps()).await.unwrap().is_none());
    assert!(cache.put(steps(), ChatCompletion::text("m", "a step")).await.unwrap());
    assert_eq!(cache.peek(steps()).await.unwrap().unwrap().tags, ["x"]);
    let unknown = ask("hi").with(CacheControl::new().namespace("nowhere"));
    assert_eq!(cache.get(unknown).await.unwrap_err().kind(), ErrorKind::InvalidRequest);
    assert_eq!(cache.get(ChatRequest::new("m")).await.unwrap_err().kind(), ErrorKind::InvalidRequest);

    // What a call would not keep is not kept.
    let cut = ChatCompletion { choices: Vec::new(), ..ChatCompletion::default() };
    assert!(!cache.put(ask("cut"), cut).await.unwrap());
    let refused = ask("no").with(CacheControl::new().no_store());
    assert!(!cache.put(refused, ChatCompletion::text("m", "x")).await.unwrap());
    assert!(cache.peek(ask("no")).await.unwrap().is_none() && cache.peek(ask("cut")).await.unwrap().is_none());
    assert_eq!(cache.stats().namespace("responses").unwrap().declined, 1);

    let key = cache.peek(steps()).await.unwrap().unwrap().key;
    assert_eq!(cache.remove_selected(&Selector::Key(key)).await.unwrap(), 1);
    assert_eq!(cache.remove(ask("hi ")).await.unwrap(), 1);
    assert_eq!(cache.remove(ask("hi")).await.unwrap(), 0);
    assert_eq!(client.chat(ask("hi")).await.unwrap().trace().source, Source::Upstream);
    assert_eq!(cache.clear().await.unwrap(), 1);
    assert!(OptimizedClient::builder(Scripted::new()).build().unwrap().cache().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_peek_moves_nothing_inward() {
    let (far, upstream) = (Far::new(), Arc::new(Scripted::new()));
    let (first, _) = built(&upstream, Cache::memory(100).tier(Arc::clone(&far)));
    let (_second, cache) = built(&upstream, Cache::memory(100).tier(Arc::clone(&far)));
    first.chat(ask("a")).await.unwrap();
    for _ in 0..2 {
        assert_eq!(cache.peek(ask("a")).await.unwrap().unwrap().tier, "far");
    }
    cache.get(ask("a")).await.unwrap().unwrap();
    assert_eq!(cache.peek(ask("a")).await.unwrap().unwrap().tier, "memory");
}

/// Everything a removal can be told by.
fn selectors() -> Vec<Selector> {
    let named = |text: &str| text.to_owned();
    vec![
        Selector::All,
        Selector::Namespace(named("responses")),
        Selector::Pattern(named("responses/m")),
        Selector::Tag(named("prices")),
    ]
}

#[tokio::test(start_paused = true)]
async fn who_asks_after_a_removal_joins_no_flight_from_before() {
    for selector in selectors() {
        for streaming in [false, true] {
            let gate = Gate::closed();
            let upstream =
                Scripted::new().then(Reply::text("old")).then(Reply::text("new")).always("newer").gate(&gate);
            let upstream = Arc::new(upstream);
            let (client, cache) = built(&upstream, Cache::memory(100));
            let start = || {
                let client = client.clone();
                tokio::spawn(async move {
                    let request = tagged("a", "prices");
                    if !streaming {
                        return client.chat(request).await.unwrap();
                    }
                    client.chat_stream(request).await.unwrap().collect().await.unwrap()
                })
            };
            let reached = async |calls: usize| {
                until(|| upstream.active() >= calls).await;
            };
            let before = start();
            reached(1).await;
            assert_eq!(cache.remove_selected(&Selector::Tag("others".into())).await.unwrap(), 0);
            let joins = start();
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert_eq!(upstream.active(), 1, "it was not taken");
            cache.remove_selected(&selector).await.unwrap();
            let after = start();
            reached(2).await;
            gate.open();
            assert_eq!(before.await.unwrap().text(), "old", "who waited goes on");
            assert_eq!(joins.await.unwrap().text(), "old");
            assert_eq!(after.await.unwrap().text(), "new", "{selector:?}, streaming {streaming}");
            let stored = cache.get(tagged("a", "prices")).await.unwrap();
            assert_eq!(stored.unwrap().text(), "new", "{selector:?}, streaming {streaming}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_removal_by_request_detaches_too() {
    let gate = Gate::closed();
    let upstream = Arc::new(Scripted::new().then(Reply::text("old")).then(Reply::text("new")).gate(&gate));
    let (client, cache) = built(&upstream, Cache::memory(100));
    let (before, other) = (client.clone(), client.clone());
    let before = tokio::spawn(async move { before.chat(ask("a")).await });
    until(|| upstream.active() >= 1).await;
    cache.remove(ask("a")).await.unwrap();
    let after = tokio::spawn(async move { other.chat(ask("a")).await });
    until(|| upstream.active() >= 2).await;
    gate.open();
    assert_eq!(before.await.unwrap().unwrap().text(), "old");
    assert_eq!(after.await.unwrap().unwrap().text(), "new");
}

/// A reader takes the old answer from the far tier just before it is removed there, and would keep it in memory after.
#[tokio::test(start_paused = true)]
async fn what_was_read_outside_during_a_removal_does_not_come_back() {
    #[derive(Debug)]
    struct SlowRead(Arc<Far>, tokio::sync::Semaphore);

    #[async_trait]
    impl CacheTier for SlowRead {
        fn name(&self) -> &'static str {
            "slow"
        }
        async fn get(&self, probe: &Probe) -> Result<Option<Arc<Entry>>> {
            let found = self.0.get(probe).await;
            if found.as_ref().is_ok_and(Option::is_some) {
                self.1.acquire().await.unwrap().forget();
            }
            found
        }
        async fn put(&self, probe: &Probe, entry: Arc<Entry>) -> Result<()> {
            self.0.put(probe, entry).await
        }
        async fn remove(&self, selector: &Selector) -> Result<u64> {
            self.0.remove(selector).await
        }
    }

    let (far, upstream) = (Far::new(), Arc::new(Scripted::new()));
    let slow = Arc::new(SlowRead(Arc::clone(&far), tokio::sync::Semaphore::new(0)));
    let (first, _) = built(&upstream, Cache::memory(100).tier(Arc::clone(&far)));
    let (second, cache) =
        built(&upstream, Cache::memory(100).tier(Arc::clone(&slow)).tier_timeout(Duration::from_secs(3_600)));
    first.chat(ask("a")).await.unwrap();

    far.removing.forget_permits(1_000);
    let removal = tokio::spawn({
        let cache = cache.clone();
        async move { cache.clear().await }
    });
    until(|| far.removals.load(Ordering::SeqCst) > 0).await;
    // Its removal has begun; a reader finds the old answer there.
    let reader = tokio::spawn({
        let second = second.clone();
        async move { second.chat(ask("a")).await.unwrap().trace().source }
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    far.removing.add_permits(1_000);
    removal.await.unwrap().unwrap();
    slow.1.add_permits(1_000);
    assert_eq!(reader.await.unwrap(), Source::Cache("slow"));
    assert_eq!(second.chat(ask("a")).await.unwrap().trace().source, Source::Upstream);
}

#[tokio::test(start_paused = true)]
async fn a_later_removal_comes_again_and_is_hurried_by_the_end() {
    let far = Far::new();
    let removals = || far.removals.load(Ordering::SeqCst);
    let upstream = Arc::new(Scripted::new());
    let (client, cache) = built(&upstream, Cache::memory(100).tier(Arc::clone(&far)));
    client.chat(ask("a")).await.unwrap();
    assert_eq!(cache.remove_later(&Selector::All, Duration::from_secs(10)).await.unwrap(), 2);
    client.chat(ask("a")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(removals(), 1);
    assert!(cache.peek(ask("a")).await.unwrap().is_some());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(removals(), 2);
    assert!(cache.peek(ask("a")).await.unwrap().is_none());

    // Shutdown runs what is left at once, and nothing is taken any more.
    cache.remove_later(&Selector::All, Duration::from_secs(86_400)).await.unwrap();
    let started = tokio::time::Instant::now();
    client.shutdown().await;
    assert_eq!((removals(), started.elapsed()), (4, Duration::ZERO));
    assert_eq!(cache.get(ask("a")).await.unwrap_err().kind(), ErrorKind::Shutdown);
    assert_eq!(cache.clear().await.unwrap_err().kind(), ErrorKind::Shutdown);
    assert!(cache.stats().namespace("responses").unwrap().misses > 0);

    // So does the last handle that goes.
    let (client, cache) = built(&upstream, Cache::memory(100).tier(Arc::clone(&far)));
    cache.remove_later(&Selector::All, Duration::from_secs(86_400)).await.unwrap();
    drop(client);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(removals(), 5);
    drop(cache);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(removals(), 6);
}

async fn exported(cache: &CacheHandle) -> (u64, String) {
    let mut file = Vec::new();
    let written = cache.export(&mut file).await.unwrap();
    (written, String::from_utf8(file).unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_is_exported_is_served_elsewhere_for_the_life_that_is_left() {
    let usage = Some(Usage::new(100, 10));
    let upstream = Arc::new(Scripted::new().always("one\ntwo").usage(usage));
    let settings = || Cache::memory(100).ttl(Duration::from_secs(60)).jitter(0.0).namespace(Namespace::new("steps"));
    let clock = TokioClock::new();
    let (client, cache) = built_at(clock, &upstream, settings());
    client.chat(tagged("a", "prices")).await.unwrap();
    client.chat_stream(ask("b")).await.unwrap().collect().await.unwrap();
    client.chat(ask("steps").with(CacheControl::new().namespace("steps").ttl(Duration::from_secs(5)))).await.unwrap();
    client.chat(ask("t").with(Tenant("t".into()))).await.unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    let (written, file) = exported(&cache).await;
    assert_eq!((written, file.lines().count()), (4, 4));
    assert!(file.lines().all(|line| line.starts_with(r#"{"sluicegate":1,"#)), "{file}");

    let (other, there) = built_at(clock, &upstream, settings());
    tokio::time::advance(Duration::from_secs(18)).await;
    let imported = there.import(file.as_bytes()).await.unwrap();
    assert_eq!((imported.stored, imported.expired, imported.unknown, imported.damaged), (3, 1, 0, 0));
    let info = there.peek(ask("a")).await.unwrap().unwrap();
    assert_eq!((info.age.as_secs(), info.ttl_left.as_secs(), info.tags), (20, 39, vec!["prices".to_owned()]));
    assert_eq!(info.cost, Some(Cost::from_picos(110_000_000)));
    let calls = upstream.calls();
    assert_eq!(other.chat(ask("a")).await.unwrap().text(), "one\ntwo");
    let original = client.chat_stream(ask("b")).await.unwrap().collect().await.unwrap();
    let mut stream = other.chat_stream(ask("b")).await.unwrap();
    let mut chunks = 0;
    while let Some(event) = stream.next().await {
        event.unwrap();
        chunks += 1;
    }
    assert!(chunks > 2, "its chunks came along: {chunks}");
    assert_eq!(other.chat(ask("b")).await.unwrap().completion(), original.completion());
    assert_eq!(upstream.calls(), calls);
    assert!(there.peek(ask("t")).await.unwrap().is_none(), "another tenant's stays so");
    assert!(there.peek(ask("t").with(Tenant("t".into()))).await.unwrap().is_some());
    tokio::time::advance(Duration::from_secs(40)).await;
    assert!(there.peek(ask("a")).await.unwrap().is_none(), "it kept its life");
}

#[tokio::test(start_paused = true)]
async fn lines_that_cannot_be_taken_are_counted_and_passed_over() {
    let upstream = Arc::new(Scripted::new());
    let settings = || Cache::memory(100).ttl(Duration::from_secs(60)).jitter(0.0);
    let clock = TokioClock::new();
    let (client, cache) = built_at(clock, &upstream, settings().namespace(Namespace::new("steps")));
    client.chat(ask("a")).await.unwrap();
    client.chat(ask("b").with(CacheControl::new().namespace("steps"))).await.unwrap();
    let (_, file) = exported(&cache).await;
    let line = |namespace: &str| file.lines().find(|line| line.contains(namespace)).unwrap();
    let (good, steps) = (line("\"responses\""), line("\"steps\""));
    // Every byte that is changed is seen: not one of them makes another answer.
    let mut damaged = String::new();
    for place in (0..good.len()).step_by(7) {
        let mut bytes = good.as_bytes().to_vec();
        bytes[place] = if bytes[place] == b'x' { b'y' } else { b'x' };
        damaged.push_str(&String::from_utf8(bytes).unwrap());
        damaged.push('\n');
    }
    let count = damaged.lines().count() as u64;
    let newer = good.replace(r#""sluicegate":1"#, r#""sluicegate":2"#);
    let cut = &good[..good.len() - 1];
    let text = format!("{steps}\n{newer}\n{{\"a\":1}}\n\n  \nno json\n{cut}\n{good}\r\n{good}");
    let (other, there) = built_at(clock, &upstream, settings());
    let imported = there.import(damaged.as_bytes()).await.unwrap();
    assert_eq!((imported.stored, imported.damaged + imported.unknown), (0, count));
    let imported = there.import(text.as_bytes()).await.unwrap();
    let Imported { stored, older, expired, unknown, damaged, .. } = imported;
    assert_eq!((stored, older, expired, unknown, damaged), (2, 0, 0, 3, 2));
    assert_eq!(other.chat(ask("a")).await.unwrap().trace().source, Source::Cache("memory"));

    // A newer answer is not replaced.
    tokio::time::advance(Duration::from_secs(1)).await;
    other.chat(ask("a").with(CacheControl::new().no_cache())).await.unwrap();
    let imported = there.import(good.as_bytes()).await.unwrap();
    assert_eq!((imported.stored, imported.older), (0, 1));
    let (_, far) = built(&upstream, Cache::on(Far::new()));
    assert_eq!(far.import(good.as_bytes()).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(exported(&far).await.0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_warm_up_fills_the_cache_a_few_calls_at_a_time() {
    let failing = Reply::Fail(sluicegate::Error::new(ErrorKind::Server, "test", "down"));
    let cut = Reply::Completion(Box::new(ChatCompletion { choices: Vec::new(), ..ChatCompletion::default() }));
    let upstream = Scripted::new().latency(Duration::from_secs(1)).then(Reply::text("ok")).then(failing).then(cut);
    let upstream = Arc::new(upstream);
    let (client, cache) = built(&upstream, Cache::memory(100));
    client.chat(ask("0")).await.unwrap();
    let requests: Vec<_> = (0..20).map(|n| ask(&n.to_string())).chain([ChatRequest::new("m")]).collect();
    let warm = cache.warm_up(requests);
    let mut progress = warm.progress();
    progress.changed().await.unwrap();
    assert!(progress.borrow_and_update().asked < 20);
    let warmed = warm.await;
    let Warmed { asked, already, stored, not_kept, failed, unreadable, stopped, .. } = warmed;
    assert_eq!((asked, already, stored, not_kept, failed, unreadable, stopped), (21, 1, 17, 1, 2, 0, false));
    assert_eq!(*progress.borrow(), warmed);
    assert_eq!(upstream.peak(), 4);
    let low = |request: &ChatRequest| request.extensions.get() == Some(&Priority::Low);
    assert!(upstream.requests()[1..].iter().all(low));
    assert_eq!(client.report().calls, 21, "through the whole client");

    let again = cache.with_concurrency(2).warm_up((20..30).map(|n| ask(&n.to_string()))).await;
    assert_eq!((again.asked, again.stored), (10, 10));
}

#[tokio::test(start_paused = true)]
async fn a_warm_up_ends_with_its_handle_and_with_the_client() {
    let gate = Gate::closed();
    let upstream = Arc::new(Scripted::new().gate(&gate));
    let (client, cache) = built(&upstream, Cache::memory(100));
    let reached = async |calls: usize| {
        until(|| upstream.active() == calls).await;
    };
    let dropped = cache.warm_up((0..20).map(|n| ask(&n.to_string())));
    reached(4).await;
    drop(dropped);
    reached(0).await;

    let warm = cache.warm_up((0..20).map(|n| ask(&n.to_string())));
    reached(4).await;
    client.shutdown().await;
    let warmed = warm.await;
    assert!(warmed.stopped && warmed.asked == 0, "{warmed:?}");
    reached(0).await;
    assert!(cache.warm_up([ask("late")]).await.stopped);
}

/// Without a runtime nothing can be spawned; then it goes on as far as it is awaited.
#[test]
fn a_warm_up_does_not_need_to_be_started_inside_a_runtime() {
    let upstream = Arc::new(Scripted::new());
    let (_client, cache) = built(&upstream, Cache::memory(100));
    let warm = cache.warm_up([ask("a"), ask("b")]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(warm).stored, 2);
}

#[tokio::test(start_paused = true)]
async fn the_hottest_of_one_run_warm_the_next() {
    let upstream = Arc::new(Scripted::new());
    let settings = || Cache::memory(1_000).ttl(Duration::from_secs(600)).track_hottest(8);
    let (client, cache) = built(&upstream, settings());
    let steps =
        |n: usize| ask(&n.to_string()).with(Tenant(format!("t{n}"))).with(CacheControl::new().tag("x").no_cache());
    for n in 0..20 {
        client.chat(steps(n)).await.unwrap();
    }
    for round in 0..2_000 {
        for n in [0, 1, 2, round % 20] {
            let request = ask(&n.to_string()).with(Tenant(format!("t{n}"))).with(CacheControl::new().tag("x"));
            client.chat(request).await.unwrap();
        }
    }
    let hottest = cache.hottest();
    assert_eq!(hottest.len(), 8);
    let mut first: Vec<_> = hottest[..3].iter().map(|(request, _)| request.messages[0].text()).collect();
    first.sort();
    assert_eq!(first, ["0", "1", "2"]);
    assert!(hottest[..3].iter().all(|(_, hits)| (1_400..3_500).contains(hits)), "{:?}", hottest[0].1);

    let mut log = Vec::new();
    assert_eq!(cache.export_hottest(&mut log).await.unwrap(), 8);
    log.extend_from_slice(b"\nnot a body\n");
    let (next, there) = built(&upstream, settings());
    let warmed = there.warm_up_from(std::io::Cursor::new(log)).await;
    assert_eq!((warmed.asked, warmed.stored, warmed.unreadable), (8, 8, 1));
    let answer = next.chat(ask("1").with(Tenant("t1".into()))).await.unwrap();
    assert_eq!(answer.trace().source, Source::Cache("memory"));
    assert_eq!(there.peek(ask("1").with(Tenant("t1".into()))).await.unwrap().unwrap().tags, ["x"]);
    let (_, untracked) = built(&upstream, Cache::memory(10));
    assert!(untracked.hottest().is_empty());
}
