//! What is fresh is served, what is stale only to those who take it, and refreshed behind their backs.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use sluicegate::cache::tier::Memory;
use sluicegate::cache::{Cache, CacheLayer, Selector};
use sluicegate::env::{Clock, SeededRandom};
use sluicegate::testing::{Gate, Reply, Scripted};
use sluicegate::types::{CacheControl, ChatRequest, ChatResponse, Deadline, Priority, Source};
use sluicegate::{Env, Error, ErrorKind, Layer, LlmClient, OptimizedClient, Result, Timeouts};

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn question() -> ChatRequest {
    ChatRequest::new("m").user("Why is the sky blue?")
}

/// Lives of exactly 100 s.
fn cache() -> Cache {
    Cache::memory(100).ttl(seconds(100)).jitter(0.0)
}

fn wrap(upstream: &Arc<Scripted>, cache: impl Into<CacheLayer>) -> OptimizedClient {
    OptimizedClient::builder(Arc::clone(upstream)).cache(cache).build().unwrap()
}

fn failing(kind: ErrorKind) -> Reply {
    Reply::Fail(Error::new(kind, "test", "scripted"))
}

async fn ask(client: &impl LlmClient, request: ChatRequest, streaming: bool) -> Result<ChatResponse> {
    if streaming { client.chat_stream(request).await?.collect().await } else { client.chat(request).await }
}

/// Lets every task that can run do so.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// What a call came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Got {
    Fresh,
    Stale,
    New,
    Failed(ErrorKind),
}

fn got(answer: Result<ChatResponse>) -> Got {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Got::Failed(error.kind()),
    };
    let trace = *answer.trace();
    assert_eq!(trace.to_string().contains("stale"), trace.stale);
    match trace.source {
        Source::Upstream => {
            assert!(answer.text() == "new" && !trace.stale);
            Got::New
        }
        Source::Cache("memory") => {
            assert_eq!((answer.text(), trace.ttl_left == Some(Duration::ZERO)), ("old", trace.stale));
            if trace.stale { Got::Stale } else { Got::Fresh }
        }
        other => panic!("{other}"),
    }
}

/// The table of `cache::freshness`: windows, age and control of the call; what it comes to when upstream answers, when
/// it is down, when it refuses; how often upstream is asked in all, before and behind the caller's back.
#[tokio::test(start_paused = true)]
async fn the_table() {
    const MISS: Got = Got::Failed(ErrorKind::CacheMiss);
    const DOWN: Got = Got::Failed(ErrorKind::Server);
    const REFUSED: Got = Got::Failed(ErrorKind::InvalidRequest);
    use Got::{Fresh, New, Stale};
    let hit = [Fresh; 3];
    let served = [Stale; 3];
    let asked = [New, DOWN, REFUSED];
    let consoled = [New, Stale, REFUSED];
    let missed = [MISS; 3];
    let plain = CacheControl::new;
    let within = |staleness| plain().max_stale(seconds(staleness));
    let young = |age| plain().max_age(seconds(age));
    let stored = || plain().only_if_cached();
    #[rustfmt::skip]
    let rows = [
        // No window: what is stale is gone.
        ((0, 0), 99, plain(), hit, 0),
        ((0, 0), 100, plain(), asked, 1),
        ((0, 0), 100, within(50), asked, 1),
        ((0, 0), 100, stored(), missed, 0),
        // Stale while revalidate.
        ((50, 0), 99, plain(), hit, 0),
        ((50, 0), 99, plain().no_cache(), asked, 1),
        ((50, 0), 99, young(98), asked, 1),
        ((50, 0), 99, within(0), hit, 0),
        ((50, 0), 99, stored(), hit, 0),
        ((50, 0), 100, plain(), served, 1),
        ((50, 0), 149, plain(), served, 1),
        ((50, 0), 150, plain(), asked, 1),
        ((50, 0), 120, within(0), asked, 1),
        ((50, 0), 120, within(10), asked, 1),
        ((50, 0), 120, within(30), served, 1),
        ((50, 0), 120, young(110), asked, 1),
        ((50, 0), 120, young(130), served, 1),
        ((50, 0), 120, stored(), served, 0),
        ((50, 0), 120, stored().max_age(seconds(110)), missed, 0),
        ((50, 0), 120, stored().max_stale(seconds(10)), missed, 0),
        ((50, 0), 120, plain().no_cache(), asked, 1),
        ((50, 0), 120, plain().no_store(), served, 0),
        ((50, 0), 120, plain().ttl(Duration::ZERO), served, 0),
        ((50, 0), 160, stored(), missed, 0),
        // Stale if error.
        ((0, 50), 99, plain(), hit, 0),
        ((0, 50), 99, plain().no_cache(), asked, 1),
        ((0, 50), 99, young(98), asked, 1),
        ((0, 50), 100, plain(), consoled, 1),
        ((0, 50), 149, plain(), consoled, 1),
        ((0, 50), 150, plain(), asked, 1),
        ((0, 50), 120, within(10), asked, 1),
        ((0, 50), 120, within(20), served, 0),
        ((0, 50), 120, within(30).max_age(seconds(110)), asked, 1),
        ((0, 50), 120, young(110), asked, 1),
        ((0, 50), 120, young(120), consoled, 1),
        ((0, 50), 120, stored(), missed, 0),
        ((0, 50), 120, stored().max_stale(seconds(30)), served, 0),
        ((0, 50), 120, plain().no_cache(), asked, 1),
        ((0, 50), 120, plain().no_cache().max_stale(seconds(30)), asked, 1),
        ((0, 50), 120, plain().no_store(), consoled, 1),
        // Both.
        ((20, 60), 119, plain(), served, 1),
        ((20, 60), 120, plain(), consoled, 1),
        ((20, 60), 130, stored(), missed, 0),
        ((20, 60), 130, within(40), served, 0),
        ((20, 60), 159, plain(), consoled, 1),
        ((20, 60), 160, plain(), asked, 1),
    ];
    for ((revalidate, error), age, control, expected, calls) in rows {
        let replies = [Reply::text("new"), failing(ErrorKind::Server), failing(ErrorKind::InvalidRequest)];
        for (reply, expected) in replies.into_iter().zip(expected) {
            for streaming in [false, true] {
                let row = format!("SWR {revalidate}, SIE {error}, age {age}, {control:?}, {reply:?}, {streaming}");
                let upstream = Arc::new(Scripted::new().then(Reply::text("old")).always_reply(reply.clone()));
                let cache = cache().stale_while_revalidate(seconds(revalidate)).stale_if_error(seconds(error));
                let client = wrap(&upstream, cache);
                client.chat(question()).await.unwrap();
                tokio::time::advance(seconds(age)).await;
                let request = question().with(control.clone());
                assert_eq!(got(ask(&client, request, streaming).await), expected, "{row}");
                settle().await;
                assert_eq!(upstream.calls() - 1, calls, "{row}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn failures_that_pass_are_consoled_and_no_others() {
    use ErrorKind::*;
    let all = [
        Config,
        InvalidRequest,
        Auth,
        NotFound,
        RateLimited,
        QuotaExhausted,
        ContextLength,
        ContentFilter,
        Server,
        Network,
        Timeout,
        Deadline,
        Decode,
        Truncated,
        CacheMiss,
        Overloaded,
        Panicked,
        Shutdown,
        Unsupported,
        Other,
    ];
    let passing = [RateLimited, Server, Network, Timeout, Deadline, Decode, Truncated, Overloaded];
    for kind in all {
        let upstream = Arc::new(Scripted::new().then(Reply::text("old")).always_reply(failing(kind)));
        let client = wrap(&upstream, cache().stale_if_error(seconds(50)));
        client.chat(question()).await.unwrap();
        tokio::time::advance(seconds(100)).await;
        let expected = if passing.contains(&kind) { Got::Stale } else { Got::Failed(kind) };
        assert_eq!(got(client.chat(question()).await), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn one_refresh_per_key_and_misses_join_it() {
    let gate = Gate::closed();
    gate.let_through(1);
    let upstream = Arc::new(Scripted::new().then(Reply::text("old")).always("new").gate(&gate));
    let client = wrap(&upstream, cache().stale_while_revalidate(seconds(50)));
    client.chat(question()).await.unwrap();
    tokio::time::advance(seconds(110)).await;
    for streaming in [false, true, false, true] {
        let deadline = Deadline(tokio::time::Instant::now().into_std() + seconds(5));
        let hit = ask(&client, question().with(deadline).with(Priority::High), streaming).await.unwrap();
        assert_eq!((hit.text(), hit.trace().age), ("old", Some(seconds(110))));
        settle().await;
    }
    assert_eq!(upstream.calls(), 2);
    let asked = upstream.requests().pop().unwrap().extensions;
    assert_eq!((asked.get::<Priority>(), asked.get::<Deadline>()), (Some(&Priority::Low), None));

    tokio::time::advance(seconds(40)).await;
    let misses: Vec<_> = [false, true, false]
        .map(|streaming| {
            let client = client.clone();
            tokio::spawn(async move { ask(&client, question(), streaming).await.unwrap() })
        })
        .into();
    settle().await;
    gate.open();
    for miss in misses {
        let answer = miss.await.unwrap();
        assert_eq!((answer.text(), answer.trace().source), ("new", Source::Coalesced));
    }
    assert_eq!(client.chat(question()).await.unwrap().trace().source, Source::Cache("memory"));
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_streams_what_came_as_a_stream_and_keeps_its_tags() {
    for streaming in [true, false] {
        let upstream = Scripted::new().then(Reply::words(["old"])).always_reply(Reply::words(["a ", "b ", "c"]));
        let upstream = Arc::new(upstream);
        let layer = CacheLayer::from(cache().stale_while_revalidate(seconds(50)));
        let client = wrap(&upstream, layer.clone());
        let tagged = |tag: &str| question().with(CacheControl::new().tag(tag));
        ask(&client, tagged("first"), streaming).await.unwrap();
        tokio::time::advance(seconds(110)).await;
        assert_eq!(ask(&client, tagged("second"), !streaming).await.unwrap().text(), "old");
        settle().await;
        let mut stream = client.chat_stream(question()).await.unwrap();
        let mut events = 0;
        while let Some(event) = stream.next().await {
            event.unwrap();
            events += 1;
        }
        assert_eq!(events, if streaming { 5 } else { 2 }, "chunks and the finish");
        assert_eq!(upstream.calls(), 2);
        for (tag, removed) in [("third", 0), ("first", 1), ("second", 0)] {
            assert_eq!(layer.remove(&Selector::Tag(tag.into())).await.unwrap(), removed, "{tag}");
        }
        ask(&client, tagged("second"), streaming).await.unwrap();
        assert_eq!(layer.remove(&Selector::Tag("second".into())).await.unwrap(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_refresh_leaves_the_stale_answer_and_its_key_alone() {
    // An answer that is cut is not kept, so it refreshes nothing.
    for reply in [failing(ErrorKind::Server), failing(ErrorKind::InvalidRequest), Reply::text(""), Reply::Panic] {
        let mut script = Scripted::new().then(Reply::text("old"));
        for _ in 0..4 {
            script = script.then(reply.clone());
        }
        let upstream = Arc::new(script.always("new"));
        let client = wrap(&upstream, cache().stale_while_revalidate(seconds(1_000)));
        client.chat(question()).await.unwrap();
        tokio::time::advance(seconds(100)).await;
        let mut asked = Vec::new();
        for tenth in 0..160 {
            let before = upstream.calls();
            let answer = client.chat(question()).await.unwrap();
            assert_eq!(answer.text() == "old", upstream.calls() <= 5, "{tenth}");
            settle().await;
            if upstream.calls() > before {
                asked.push(tenth);
            }
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        // At once, then a second, two, four and eight later.
        assert_eq!(asked, [0, 10, 30, 70, 150], "{reply:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hanging_provider_is_given_up_and_asked_again() {
    let gate = Gate::closed();
    gate.let_through(1);
    let upstream = Arc::new(Scripted::new().then(Reply::text("old")).always("new").gate(&gate));
    let layer = CacheLayer::from(cache().stale_while_revalidate(seconds(1_000)));
    let client = wrap(&upstream, layer.clone());
    client.chat(question()).await.unwrap();
    tokio::time::advance(seconds(100)).await;
    for second in 0..61 {
        assert_eq!(
            (got(client.chat(question()).await), upstream.calls()),
            (Got::Stale, if second == 0 { 1 } else { 2 })
        );
        settle().await;
        tokio::time::advance(seconds(1)).await;
    }
    settle().await;
    assert_eq!((upstream.active(), layer.open_flights()), (0, 0), "given up after a minute");
    gate.open();
    tokio::time::advance(seconds(1)).await;
    assert_eq!(got(client.chat(question()).await), Got::Stale);
    settle().await;
    assert_eq!(client.chat(question()).await.unwrap().text(), "new");

    // Without a background, timeouts make a hanging provider a failing one.
    let gate = Gate::closed();
    gate.let_through(1);
    let upstream = Arc::new(Scripted::new().then(Reply::text("old")).always("new").gate(&gate));
    let builder = OptimizedClient::builder(Arc::clone(&upstream)).cache(cache().stale_if_error(seconds(1_000)));
    let client = builder.timeouts(Timeouts::none().total(seconds(5))).build().unwrap();
    client.chat(question()).await.unwrap();
    tokio::time::advance(seconds(100)).await;
    let started = tokio::time::Instant::now();
    assert_eq!(got(client.chat(question()).await), Got::Stale);
    assert_eq!(started.elapsed(), seconds(5));
    gate.open();
    assert_eq!(got(client.chat(question()).await), Got::New);
}

#[tokio::test(start_paused = true)]
async fn what_expired_or_was_removed_while_the_provider_failed_is_not_served() {
    for (waits, removed) in [(1, false), (60, false), (1, true)] {
        let upstream = Scripted::new().then(Reply::text("old")).always_reply(failing(ErrorKind::Server));
        let upstream = Arc::new(upstream.latency(seconds(waits)));
        let layer = CacheLayer::from(cache().stale_if_error(seconds(50)));
        let client = wrap(&upstream, layer.clone());
        client.chat(question()).await.unwrap();
        tokio::time::advance(seconds(100)).await;
        let call = client.chat(question());
        let removal = async {
            if removed {
                layer.remove(&Selector::All).await.unwrap();
            }
        };
        let expected = if waits == 1 && !removed { Got::Stale } else { Got::Failed(ErrorKind::Server) };
        assert_eq!(got(futures_util::join!(call, removal).0), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_after_its_first_chunk_is_not_replaced() {
    let Reply::Chunks(half) = Reply::words(["half "]) else { unreachable!() };
    let broken = || Reply::Break(half.clone(), Error::new(ErrorKind::Server, "test", "down"));
    let upstream = Arc::new(Scripted::new().then(Reply::text("old")).then(broken()).then(broken()));
    let client = wrap(&upstream, cache().stale_if_error(seconds(50)));
    client.chat(question()).await.unwrap();
    tokio::time::advance(seconds(100)).await;
    assert_eq!(got(ask(&client, question(), true).await), Got::Failed(ErrorKind::Server));
    assert_eq!(got(ask(&client, question(), false).await), Got::Stale);
}

#[tokio::test(start_paused = true)]
async fn refreshes_end_with_shutdown_and_with_the_last_handle() {
    for (shut, bare) in [(true, false), (false, false), (false, true)] {
        let gate = Gate::closed();
        gate.let_through(1);
        let upstream = Arc::new(Scripted::new().gate(&gate));
        let layer = CacheLayer::from(cache().stale_while_revalidate(seconds(50)));
        let handle: Arc<dyn LlmClient> = if bare {
            layer.wrap(Arc::clone(&upstream) as Arc<dyn LlmClient>, &Env::new()).unwrap()
        } else {
            Arc::new(wrap(&upstream, layer.clone()))
        };
        handle.chat(question()).await.unwrap();
        tokio::time::advance(seconds(110)).await;
        let stream = handle.chat_stream(question()).await.unwrap();
        settle().await;
        assert_eq!((upstream.active(), layer.open_flights()), (1, 1));
        drop(stream);
        if shut {
            let client = wrap(&upstream, layer.clone());
            // Another client with the same cache goes on.
            client.shutdown().await;
            assert_eq!(upstream.active(), 1);
        }
        drop(handle);
        settle().await;
        assert_eq!((upstream.active(), layer.open_flights()), (0, 0), "{shut} {bare}");
        assert_eq!(Arc::strong_count(&upstream), 1, "nothing holds on to it");
    }
    let gate = Gate::closed();
    gate.let_through(1);
    let upstream = Arc::new(Scripted::new().gate(&gate));
    let client = wrap(&upstream, cache().stale_while_revalidate(seconds(50)));
    client.chat(question()).await.unwrap();
    tokio::time::advance(seconds(110)).await;
    client.chat(question()).await.unwrap();
    settle().await;
    assert_eq!(upstream.active(), 1);
    client.shutdown().await;
    assert_eq!(upstream.active(), 0);
}

#[tokio::test(start_paused = true)]
async fn thirty_two_refreshes_run_at_a_time() {
    let gate = Gate::closed();
    gate.let_through(40);
    let upstream = Arc::new(Scripted::new().gate(&gate));
    let layer = CacheLayer::from(cache().stale_while_revalidate(seconds(50)));
    let client = wrap(&upstream, layer.clone());
    let all = async || {
        for n in 0..40 {
            client.chat(ChatRequest::new("m").user(format!("{n}"))).await.unwrap();
        }
        settle().await;
    };
    all().await;
    tokio::time::advance(seconds(110)).await;
    all().await;
    assert_eq!((upstream.active(), layer.skipped_refreshes()), (32, 8));
    gate.open();
    settle().await;
    all().await;
    assert_eq!((upstream.calls(), upstream.peak(), layer.open_flights()), (80, 32, 0));
}

#[tokio::test(start_paused = true)]
async fn what_another_process_has_refreshed_is_not_asked_for_again() {
    let (shared, upstream) = (Arc::new(Memory::new(100, 1 << 20).unwrap()), Arc::new(Scripted::new()));
    let process = || {
        let layer = CacheLayer::from(cache().tier(Arc::clone(&shared)).stale_while_revalidate(seconds(50)));
        wrap(&upstream, layer)
    };
    let (first, second) = (process(), process());
    for client in [&first, &second] {
        client.chat(question()).await.unwrap();
    }
    tokio::time::advance(seconds(110)).await;
    for client in [&first, &second, &second] {
        client.chat(question()).await.unwrap();
        settle().await;
    }
    assert_eq!(upstream.calls(), 2);
    assert!(!second.chat(question()).await.unwrap().trace().stale);

    // Beyond the window too, and for a call that may ask nobody.
    let (third, fourth) = (process(), process());
    for client in [&third, &fourth] {
        client.chat(question()).await.unwrap();
    }
    tokio::time::advance(seconds(100)).await;
    first.chat(question().with(CacheControl::new().no_cache())).await.unwrap();
    tokio::time::advance(seconds(49)).await;
    let unchanged = upstream.calls();
    let strict = CacheControl::new().max_stale(seconds(1));
    for (client, control) in [(&third, strict.clone().only_if_cached()), (&fourth, strict)] {
        assert!(!client.chat(question().with(control)).await.unwrap().trace().stale);
    }
    assert_eq!(upstream.calls(), unchanged);
}

/// Time that the test moves, for calls outside a runtime.
#[derive(Debug)]
struct Hand(Instant, AtomicU64);

impl Clock for Hand {
    fn now(&self) -> Instant {
        self.0 + seconds(self.1.load(Ordering::SeqCst))
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn sleep_until(&self, _: Instant) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

#[test]
fn without_a_runtime_a_call_asks_by_itself() {
    let clock = Arc::new(Hand(Instant::now(), AtomicU64::new(0)));
    let upstream = Scripted::new().then(Reply::text("old")).then(failing(ErrorKind::Server)).always("new");
    let upstream = Arc::new(upstream);
    let builder = OptimizedClient::builder(Arc::clone(&upstream)).clock(Arc::clone(&clock));
    let client = builder.cache(cache().stale_while_revalidate(seconds(50)).early_refresh(100.0)).build().unwrap();
    let ask = || match pin!(client.chat(question())).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("nothing has to be waited for"),
    };
    ask().unwrap();
    clock.1.store(99, Ordering::SeqCst);
    assert_eq!(got(ask()), Got::Fresh);
    clock.1.store(110, Ordering::SeqCst);
    assert_eq!(got(ask()), Got::Stale, "asking failed");
    assert_eq!(got(ask()), Got::New);
}

#[tokio::test(start_paused = true)]
async fn lives_are_shortened_by_chance_unless_a_call_asked_for_its_own() {
    let upstream = Arc::new(Scripted::new());
    let builder = OptimizedClient::builder(Arc::clone(&upstream)).random(SeededRandom::new(7));
    let client = builder.cache(Cache::memory(2_000).ttl(seconds(1_000)).jitter(0.2)).build().unwrap();
    let mut lives = Vec::new();
    for n in 0..1_000 {
        for _ in 0..2 {
            let answer = client.chat(ChatRequest::new("m").user(n.to_string())).await.unwrap();
            lives.extend(answer.trace().ttl_left.map(|left| left.as_secs_f64()));
        }
    }
    let mean = lives.iter().sum::<f64>() / 1_000.0;
    assert_eq!(lives.len(), 1_000);
    assert!(lives.iter().all(|life| (800.0..=1_000.0).contains(life)) && (890.0..910.0).contains(&mean), "{mean}");
    for _ in 0..2 {
        let own = question().with(CacheControl::new().ttl(seconds(77)));
        let left = client.chat(own).await.unwrap().trace().ttl_left;
        assert!(left.is_none_or(|left| left == seconds(77)));
    }
}

#[tokio::test(start_paused = true)]
async fn early_refreshes_come_as_often_as_they_should() {
    // The chance of a hit to refresh is e to the minus what is left over what it took.
    for (beta, left, chance) in [(1.0, 10, 0.368), (2.0, 10, 0.607), (1.0, 90, 0.0001), (0.0, 1, 0.0)] {
        let mut early = 0;
        for seed in 0..20 {
            let upstream = Arc::new(Scripted::new().latency(seconds(10)));
            let builder = OptimizedClient::builder(Arc::clone(&upstream)).random(SeededRandom::new(seed));
            let client = builder.cache(cache().early_refresh(beta)).build().unwrap();
            let ask = |n: usize| client.chat(ChatRequest::new("m").user(n.to_string()));
            futures_util::future::join_all((0..30).map(ask)).await;
            tokio::time::advance(seconds(100 - left)).await;
            for n in 0..30 {
                assert!(!ask(n).await.unwrap().trace().stale);
            }
            settle().await;
            early += upstream.calls() - 30;
        }
        let share = early as f64 / 600.0;
        assert!((share - chance).abs() <= 0.06, "beta {beta}, {left} s left: {share}");
    }
}

#[tokio::test(start_paused = true)]
async fn early_refreshes_keep_a_busy_key_from_expiring() {
    let upstream = Arc::new(Scripted::new().latency(seconds(5)));
    let builder = OptimizedClient::builder(Arc::clone(&upstream)).random(SeededRandom::new(7));
    let client = builder.cache(cache().early_refresh(2.0)).build().unwrap();
    client.chat(question()).await.unwrap();
    let mut hits = 0;
    for _ in 0..2_000 {
        tokio::time::advance(seconds(1)).await;
        hits += usize::from(client.chat(question()).await.unwrap().trace().source == Source::Cache("memory"));
    }
    let refreshed = upstream.calls() - 1;
    assert!((1_990..).contains(&hits) && (20..40).contains(&refreshed), "{hits} hits, {refreshed} refreshes");
}

/// Hits, misses, refreshes and cancelled callers of three keys on several threads: nobody hangs, nothing is left over.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_hangs_while_refreshes_and_callers_come_and_go() {
    let words = Reply::words((0..5).map(|n| n.to_string()));
    let upstream = Arc::new(Scripted::new().always_reply(words).chunk_gap(Duration::from_micros(200)));
    let cache = Cache::memory(10).ttl(Duration::from_millis(1)).stale_while_revalidate(Duration::from_millis(3));
    let layer = CacheLayer::from(cache.early_refresh(1.0).predict(10));
    let client = wrap(&upstream, layer.clone());
    let mut random = fastrand::Rng::with_seed(7);
    let tasks: Vec<_> = (0..3_000)
        .map(|_| {
            let (client, streaming, leaves) = (client.clone(), random.bool(), random.bool());
            let request = ChatRequest::new("m").user(format!("{}", random.u32(0..3)));
            let (delay, patience) = (random.u64(0..40_000), random.u64(0..1_500));
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_micros(delay)).await;
                let answer = ask(&client, request, streaming);
                if leaves {
                    let _ = tokio::time::timeout(Duration::from_micros(patience), answer).await;
                } else {
                    let answer = answer.await.unwrap();
                    assert_eq!(answer.text(), "01234");
                    return usize::from(answer.trace().stale);
                }
                0
            })
        })
        .collect();
    let all = futures_util::future::join_all(tasks);
    let ended = tokio::time::timeout(seconds(60), all).await.expect("somebody hangs");
    assert!(ended.into_iter().map(|stale| stale.unwrap()).sum::<usize>() > 0);
    tokio::time::timeout(seconds(60), client.shutdown()).await.expect("a refresh hangs");
    assert_eq!((layer.open_flights(), upstream.active()), (0, 0));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let refused = |cache: Cache| {
        let built = OptimizedClient::builder(Scripted::new()).cache(cache).build();
        built.map(drop).map_err(|error| (error.kind(), error.to_string()))
    };
    for (cache, setting) in [
        (cache().jitter(-0.1), "jitter = -0.1"),
        (cache().jitter(0.51), "jitter = 0.51"),
        (cache().jitter(f64::NAN), "jitter = NaN"),
        (cache().early_refresh(-1.0), "early_refresh = -1"),
        (cache().early_refresh(f64::INFINITY), "early_refresh = inf"),
    ] {
        let (kind, text) = refused(cache).unwrap_err();
        assert!(kind == ErrorKind::Config && text.contains(setting), "{text}");
    }
    assert_eq!(refused(cache().jitter(0.5).early_refresh(1.0).stale_if_error(Duration::MAX)), Ok(()));
}
