//! One upstream call per key: calls and streams share entries and flights.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sluicegate::cache::{Cache, CacheLayer};
use sluicegate::providers::client_fn;
use sluicegate::testing::{Gate, Reply, Scripted};
use sluicegate::types::{
    ChatChunk, ChatCompletion, ChatRequest, ChatResponse, ChatStream, Choice, Deadline, FinishReason, RateLimits,
    Source, StreamEvent, Tenant,
};
use sluicegate::{Env, Error, ErrorKind, Layer, LlmClient, OptimizedClient};

fn cached(upstream: &Arc<Scripted>) -> (OptimizedClient, CacheLayer) {
    let layer = CacheLayer::from(Cache::memory(100));
    (OptimizedClient::builder(Arc::clone(upstream)).cache(layer.clone()).build().unwrap(), layer)
}

fn question() -> ChatRequest {
    ChatRequest::new("gpt-5-mini").user("Why is the sky blue?")
}

async fn words(mut stream: ChatStream) -> (Vec<String>, Source) {
    let mut words = Vec::new();
    while let Some(event) = stream.next().await {
        match event.unwrap() {
            StreamEvent::Chunk(chunk) => words.push(chunk.text().to_owned()),
            StreamEvent::Finish(finish) => return (words, finish.trace.source),
        }
    }
    panic!("no finish")
}

/// Lets every task that can run do so.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_call_and_a_stream_share_one_entry() {
    for stream_first in [true, false] {
        let upstream = Arc::new(Scripted::new().always_reply(Reply::words(["a ", "b ", "c"])));
        let (client, _) = cached(&upstream);
        if stream_first {
            let (live, source) = words(client.chat_stream(question()).await.unwrap()).await;
            assert_eq!((live, source), (vec!["a ".into(), "b ".into(), "c".into(), String::new()], Source::Upstream));
        } else {
            assert_eq!(client.chat(question()).await.unwrap().text(), "a b c");
        }
        let answer = client.chat(question()).await.unwrap();
        assert_eq!((answer.text(), answer.trace().source), ("a b c", Source::Cache("memory")));
        assert_eq!(answer.usage.as_ref().unwrap().prompt_tokens, 10, "what the answer once took");
        assert_eq!(answer.trace().saved_tokens, 15);
        let (replayed, source) = words(client.chat_stream(question()).await.unwrap()).await;
        assert_eq!(replayed.len(), if stream_first { 4 } else { 1 }, "chunk by chunk as it came");
        assert_eq!((replayed.concat(), source), ("a b c".into(), Source::Cache("memory")));
        assert_eq!(upstream.calls(), 1);
    }
}

async fn hundred_streams() {
    let gate = Gate::closed();
    let upstream = Arc::new(Scripted::new().always_reply(Reply::words((0..20).map(|n| format!("{n} ")))).gate(&gate));
    let (client, layer) = cached(&upstream);
    let spawn = || {
        let client = client.clone();
        tokio::spawn(async move { words(client.chat_stream(question()).await.unwrap()).await })
    };
    let mut callers: Vec<_> = (0..50).map(|_| spawn()).collect();
    settle().await;
    gate.let_through(10);
    settle().await;
    callers.extend((0..49).map(|_| spawn()));
    settle().await;
    gate.let_through(10);
    settle().await;
    // The last joiner comes when all but the last chunk and the finish are out.
    callers.push(spawn());
    settle().await;
    gate.open();
    let expected: Vec<_> = (0..20).map(|n| format!("{n} ")).chain([String::new()]).collect();
    let mut upstream_answers = 0;
    for caller in callers {
        let (received, source) = caller.await.unwrap();
        assert_eq!(received, expected);
        upstream_answers += usize::from(source == Source::Upstream);
    }
    assert_eq!((upstream.calls(), upstream_answers), (1, 1));
    assert_eq!((layer.open_flights(), upstream.active()), (0, 0));
}

#[tokio::test]
async fn a_hundred_equal_streams_make_one_upstream_call() {
    hundred_streams().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_equal_streams_on_many_threads() {
    hundred_streams().await;
}

#[tokio::test]
async fn calls_join_streams_and_streams_join_calls() {
    for stream_leads in [true, false] {
        let gate = Gate::closed();
        let upstream = Arc::new(Scripted::new().always_reply(Reply::words(["a ", "b"])).gate(&gate));
        let (client, _) = cached(&upstream);
        let ask = |stream: bool| {
            let client = client.clone();
            tokio::spawn(async move {
                if stream {
                    words(client.chat_stream(question()).await.unwrap()).await.0.concat()
                } else {
                    client.chat(question()).await.unwrap().text().to_owned()
                }
            })
        };
        let first = ask(stream_leads);
        settle().await;
        let others = [ask(true), ask(false)];
        settle().await;
        gate.open();
        assert_eq!(first.await.unwrap(), "a b");
        for other in others {
            assert_eq!(other.await.unwrap(), "a b");
        }
        assert_eq!(upstream.calls(), 1);
    }
}

#[tokio::test]
async fn a_cancelled_leader_leaves_the_flight_to_the_others() {
    for streaming in [true, false] {
        let gate = Gate::closed();
        let upstream = Arc::new(Scripted::new().always_reply(Reply::words(["a ", "b ", "c"])).gate(&gate));
        let (client, layer) = cached(&upstream);
        let ask = || {
            let client = client.clone();
            tokio::spawn(async move {
                let stream = if streaming {
                    client.chat_stream(question()).await.unwrap()
                } else {
                    ChatStream::from_response(&client.chat(question()).await.unwrap())
                };
                stream.collect().await.unwrap().text().to_owned()
            })
        };
        let leader = ask();
        settle().await;
        let follower = ask();
        gate.let_through(usize::from(streaming));
        settle().await;
        leader.abort();
        assert!(leader.await.unwrap_err().is_cancelled());
        gate.open();
        assert_eq!(follower.await.unwrap(), "a b c");
        assert_eq!((upstream.calls(), layer.open_flights()), (1, 0));
        let report = client.report();
        assert_eq!(
            (report.attempts, report.coalesced, report.saved_tokens),
            (1, 0, 0),
            "it was paid for once, for one"
        );
    }
}

#[tokio::test]
async fn with_the_last_listener_the_upstream_call_goes() {
    let gate = Gate::closed();
    let upstream = Arc::new(Scripted::new().gate(&gate));
    let (client, layer) = cached(&upstream);
    let tasks: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.chat(question()).await })
        })
        .collect();
    settle().await;
    assert_eq!((layer.open_flights(), upstream.active()), (1, 1));
    for task in &tasks {
        task.abort();
    }
    settle().await;
    assert_eq!((layer.open_flights(), upstream.active()), (0, 0));
    gate.open();
    assert_eq!(client.chat(question()).await.unwrap().text(), "ok");
}

#[tokio::test]
async fn a_panic_is_an_error_for_everybody_and_the_next_call_works() {
    for streaming in [true, false] {
        let upstream = Arc::new(Scripted::new().then(Reply::Panic).latency(Duration::from_millis(1)));
        let (client, layer) = cached(&upstream);
        let ask = || {
            let client = client.clone();
            tokio::spawn(async move {
                if streaming {
                    client.chat_stream(question()).await.map(drop)
                } else {
                    client.chat(question()).await.map(drop)
                }
            })
        };
        for caller in [ask(), ask()] {
            assert_eq!(caller.await.unwrap().unwrap_err().kind(), ErrorKind::Panicked);
        }
        assert_eq!(layer.open_flights(), 0);
        ask().await.unwrap().unwrap();
        assert_eq!(upstream.calls(), 2);
    }
}

#[tokio::test]
async fn an_error_is_shared_with_joiners_and_not_kept() {
    let gate = Gate::closed();
    let down = Error::new(ErrorKind::Server, "test", "down");
    let upstream =
        Arc::new(Scripted::new().then(Reply::Fail(down.clone())).then(Reply::Break(vec![], down)).gate(&gate));
    let (client, _) = cached(&upstream);
    let ask = || {
        let client = client.clone();
        tokio::spawn(async move { client.chat(question()).await })
    };
    let callers = [ask(), ask(), ask()];
    settle().await;
    gate.open();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap_err().kind(), ErrorKind::Server);
    }
    assert_eq!(upstream.calls(), 1);
    assert_eq!(client.chat_stream(question()).await.unwrap_err().kind(), ErrorKind::Server);
    assert_eq!(client.chat(question()).await.unwrap().text(), "ok");
    assert_eq!(upstream.calls(), 3);
}

#[tokio::test]
async fn cut_filtered_refused_and_empty_answers_are_not_kept() {
    let choice = |reason: FinishReason| Choice { finish_reason: Some(reason), ..Choice::text("half") };
    let refusal = {
        let mut choice = Choice::text("");
        choice.message.refusal = Some("no".into());
        choice
    };
    for choices in [
        vec![choice(FinishReason::Length)],
        vec![choice(FinishReason::ContentFilter)],
        vec![choice(FinishReason::Other("weird".into()))],
        vec![Choice { finish_reason: None, ..Choice::text("half") }],
        vec![Choice::text("whole"), choice(FinishReason::Length)],
        vec![refusal],
        vec![Choice::text("")],
        vec![],
    ] {
        let completion = ChatCompletion { choices, ..ChatCompletion::default() };
        for stream in [true, false] {
            let upstream = Arc::new(Scripted::new().always_reply(Reply::Completion(Box::new(completion.clone()))));
            let (client, _) = cached(&upstream);
            for _ in 0..2 {
                if stream {
                    client.chat_stream(question()).await.unwrap().collect().await.unwrap();
                } else {
                    client.chat(question()).await.unwrap();
                }
            }
            assert_eq!(upstream.calls(), 2, "{completion:?}");
        }
    }
    let upstream = Arc::new(Scripted::new().then(Reply::Cut(vec![])));
    let (client, _) = cached(&upstream);
    assert_eq!(client.chat_stream(question()).await.unwrap_err().kind(), ErrorKind::Truncated);
    assert_eq!(client.chat(question()).await.unwrap().text(), "ok");
}

#[tokio::test(start_paused = true)]
async fn an_answer_lives_as_long_as_its_ttl() {
    let upstream = Arc::new(Scripted::new());
    let cache = Cache::memory(10).ttl(Duration::from_secs(60)).jitter(0.0);
    let client = OptimizedClient::builder(Arc::clone(&upstream)).cache(cache).build().unwrap();
    client.chat(question()).await.unwrap();
    tokio::time::advance(Duration::from_secs(59)).await;
    let hit = client.chat(question()).await.unwrap();
    assert_eq!(hit.trace().age, Some(Duration::from_secs(59)));
    tokio::time::advance(Duration::from_secs(1)).await;
    client.chat(question()).await.unwrap();
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn tenants_never_share() {
    let upstream = Arc::new(Scripted::new());
    let (client, _) = cached(&upstream);
    for tenant in ["a", "b", "a"] {
        client.chat(question().with(Tenant(tenant.into()))).await.unwrap();
    }
    client.chat(question()).await.unwrap();
    assert_eq!(upstream.calls(), 3);
}

#[tokio::test]
async fn memory_stays_within_entries_and_bytes() {
    for (cache, most) in [(Cache::memory(50), 50), (Cache::memory(10_000).max_bytes(100_000), 70)] {
        let upstream = Arc::new(Scripted::new());
        let client = OptimizedClient::builder(Arc::clone(&upstream)).cache(cache).build().unwrap();
        let ask = |n: usize| ChatRequest::new("m").user(format!("question {n:04} {}", "x".repeat(500)));
        for n in 0..500 {
            client.chat(ask(n)).await.unwrap();
        }
        // Asked again, newest first, so that re-asking does not push out what is still to be asked.
        let mut kept = 0;
        for n in (0..500).rev() {
            kept += usize::from(client.chat(ask(n)).await.unwrap().trace().source != Source::Upstream);
        }
        assert!((1..=most).contains(&kept), "{kept} of at most {most}");
    }
}

#[tokio::test]
async fn facts_told_beside_an_answer_reach_the_caller_that_went_upstream() {
    let client = client_fn(|_| async { Ok(ChatResponse::from_text("fine").with(RateLimits::default())) });
    let client = OptimizedClient::builder(client).cache(Cache::memory(10)).build().unwrap();
    let told = async || client.chat(question()).await.unwrap().extension::<RateLimits>().is_some();
    assert_eq!((told().await, told().await), (true, false), "stale on a hit");
}

#[tokio::test]
async fn a_cache_of_one_keeps_one() {
    let upstream = Arc::new(Scripted::new());
    let client = OptimizedClient::builder(Arc::clone(&upstream)).cache(Cache::memory(1)).build().unwrap();
    let ask = |text: &str| client.chat(ChatRequest::new("m").user(text));
    for text in ["a", "a", "b", "b"] {
        ask(text).await.unwrap();
    }
    assert_eq!(upstream.calls(), 2);
    ask("a").await.unwrap();
    assert_eq!(upstream.calls(), 3, "it holds at most one");
}

/// A client that asks the cache it is wrapped in for the request it is answering.
#[tokio::test]
async fn a_request_inside_its_own_flight_is_refused_rather_than_waiting_for_itself() {
    let slot: Arc<std::sync::OnceLock<Arc<dyn LlmClient>>> = Arc::default();
    let inner = Arc::clone(&slot);
    let client = client_fn(move |request| {
        let inner = Arc::clone(&inner);
        async move { inner.get().unwrap().chat(request).await }
    });
    let wrapped = CacheLayer::from(Cache::memory(10)).wrap(Arc::new(client), &Env::new()).unwrap();
    slot.set(Arc::clone(&wrapped)).unwrap();
    let error = wrapped.chat(question()).await.unwrap_err();
    assert!(error.to_string().contains("asked its own cache"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_joiner_outlives_the_leaders_deadline() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let client = client_fn(move |request: ChatRequest| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            match request.extensions.get::<Deadline>() {
                Some(_) => Err(Error::new(ErrorKind::Deadline, "test", "too late")),
                None => Ok(ChatResponse::new(ChatCompletion::text("m", "fine"))),
            }
        }
    });
    let client = OptimizedClient::builder(client).cache(Cache::memory(10)).build().unwrap();
    let hurried = question().with(Deadline(tokio::time::Instant::now().into_std() + Duration::from_secs(1)));
    let (leader, joiner) = tokio::join!(client.chat(hurried), client.chat(question()));
    assert_eq!(leader.unwrap_err().kind(), ErrorKind::Deadline);
    assert_eq!(joiner.unwrap().text(), "fine");
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

/// Many tasks join, leave and finish on several threads at once: nobody hangs, nothing is left over.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_hangs_under_random_cancellation() {
    let upstream = Arc::new(
        Scripted::new().always_reply(Reply::words((0..5).map(|n| n.to_string()))).chunk_gap(Duration::from_micros(200)),
    );
    // So short that entries expire at once and flights are made again and again.
    let layer = CacheLayer::from(Cache::memory(10).ttl(Duration::from_nanos(1)));
    let client = OptimizedClient::builder(Arc::clone(&upstream)).cache(layer.clone()).build().unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let tasks: Vec<_> = (0..3_000)
        .map(|_| {
            let (client, streaming, patience) = (client.clone(), random.bool(), random.u64(0..1_500));
            let request = ChatRequest::new("m").user(format!("{}", random.u32(0..3)));
            let delay = Duration::from_micros(random.u64(0..20_000));
            let leaves = random.bool();
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let ask = async {
                    if streaming {
                        client.chat_stream(request).await.unwrap().collect().await.unwrap().text().to_owned()
                    } else {
                        client.chat(request).await.unwrap().text().to_owned()
                    }
                };
                if leaves {
                    let _ = tokio::time::timeout(Duration::from_micros(patience), ask).await;
                } else {
                    assert_eq!(ask.await, "01234");
                }
            })
        })
        .collect();
    let all = futures_util::future::join_all(tasks);
    for task in tokio::time::timeout(Duration::from_secs(60), all).await.expect("somebody hangs") {
        task.unwrap();
    }
    assert_eq!((layer.open_flights(), upstream.active()), (0, 0));
}

/// The wake-up that is easiest to lose: the source signals while one caller polls it, another finds it taken and goes to
/// sleep, and the first is never polled again.
#[test]
fn a_signal_during_a_poll_is_not_lost_on_those_who_found_the_source_taken() {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;
    use std::task::{Context, Poll, Wake, Waker};

    struct Flag(AtomicBool);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    let (polling, is_polling) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let channels = Arc::new(parking_lot::Mutex::new(Some((polling, may_go_on))));
    let client = client_fn(move |_| {
        let channels = Arc::clone(&channels);
        std::future::poll_fn(move |cx| {
            let Some((polling, may_go_on)) = channels.lock().take() else {
                return Poll::Ready(Ok(ChatResponse::new(ChatCompletion::text("m", "fine"))));
            };
            cx.waker().wake_by_ref();
            polling.send(()).unwrap();
            may_go_on.recv().unwrap();
            Poll::Pending
        })
    });
    let client = CacheLayer::from(Cache::memory(10)).wrap(Arc::new(client), &Env::new()).unwrap();
    let mut first = client.chat(question());
    let mut second = client.chat(question());
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
    let answer = second.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(matches!(answer, Poll::Ready(Ok(_))));
}

/// Beyond tokio's budget of 128 a channel says "not now" and signals at once, and the budget only comes back when the task
/// has let go: a listener that polled on would poll for ever.
#[test]
fn a_source_that_asks_for_a_rest_gets_it() {
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // In `block_on` of this flavour the signal comes during the poll, not after it.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let text = runtime.block_on(async {
            let client = client_fn(|_| async { Ok(ChatResponse::from_text("")) }).with_stream(|_| async {
                let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
                for _ in 0..1_000 {
                    let chunk = ChatChunk::text_delta("m", "x");
                    sender.send(Ok(StreamEvent::Chunk(Arc::new(chunk)))).unwrap();
                }
                sender.send(Ok(StreamEvent::Finish(Box::default()))).unwrap();
                Ok(ChatStream::new(futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx))))
            });
            let client = OptimizedClient::builder(client).cache(Cache::memory(10)).build().unwrap();
            client.chat_stream(question()).await.unwrap().collect().await.unwrap().text().to_owned()
        });
        done.send(text.len()).unwrap();
    });
    assert_eq!(is_done.recv_timeout(Duration::from_secs(30)), Ok(1_000));
}
