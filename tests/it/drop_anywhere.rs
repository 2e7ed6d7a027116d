//! Dropping a call or a stream of the whole stack at any await point leaves everything as it was: no permit, no
//! reservation, no queue place, no flight, no upstream call stays behind, and the next call works.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sluicegate::cache::{Cache, CacheLayer};
use sluicegate::history::{Normalize, Window};
use sluicegate::schedule::{AdmissionGate, Job};
use sluicegate::testing::{Reply, Scripted, drop_at_every_await};
use sluicegate::types::{ChatRequest, EmbedRequest};
use sluicegate::{Admission, Env, Error, ErrorKind, OptimizedClient, Retry, RetryBudget, Scheduler, Timeouts};

/// A whole stack with all its inner parts in reach.
struct House {
    upstream: Arc<Scripted>,
    gate: AdmissionGate,
    cache: CacheLayer,
    budget: RetryBudget,
    client: OptimizedClient,
    asked: AtomicUsize,
}

impl House {
    fn new(upstream: Scripted, admission: Admission) -> Self {
        let upstream = Arc::new(upstream);
        let gate = admission.start(&Env::new()).unwrap();
        let cache = CacheLayer::from(Cache::memory(10_000));
        let budget = RetryBudget::tokens(1_000_000);
        let client = OptimizedClient::builder(Arc::clone(&upstream))
            .cache(cache.clone())
            .history(Window::tokens(500))
            .normalize(Normalize::safe())
            .schedule(gate.clone())
            .retry(Retry::standard().budget(budget.clone()))
            .timeouts(Timeouts::standard())
            .deadline(Duration::from_secs(300))
            .build()
            .unwrap();
        Self { upstream, gate, cache, budget, client, asked: AtomicUsize::new(0) }
    }

    /// A question never asked before.
    fn question(&self) -> ChatRequest {
        ChatRequest::new("m").user(format!("question {}  ", self.asked.fetch_add(1, Ordering::SeqCst)))
    }

    async fn stream(&self, request: ChatRequest) {
        let mut stream = self.client.chat_stream(request).await.unwrap();
        while let Some(event) = stream.next().await {
            event.unwrap();
        }
    }

    fn assert_empty(&self, what: &str) {
        let load = self.gate.load();
        assert_eq!((load.in_flight, load.queued, load.reserved_tokens), (0, 0, 0), "{what}: {load:?}");
        assert_eq!(self.cache.open_flights(), 0, "{what}: flights");
        assert_eq!(self.upstream.active(), 0, "{what}: upstream calls");
    }

    /// Runs an operation, dropped at every await; it must await at least `polls` times to be worth it.
    async fn drop_everywhere<F: Future>(&self, what: &str, polls: usize, operation: impl Fn() -> F) {
        let polled = drop_at_every_await(&operation, async || {
            self.assert_empty(what);
            self.client.chat(self.question()).await.unwrap();
            self.assert_empty(what);
        })
        .await;
        assert!(polled >= polls, "{what} took only {polled} polls");
    }
}

fn slow() -> Scripted {
    Scripted::new()
        .always_reply(Reply::words(["a ", "b ", "c"]))
        .latency(Duration::from_millis(100))
        .chunk_gap(Duration::from_millis(10))
}

#[tokio::test(start_paused = true)]
async fn calls_and_streams() {
    let house = House::new(slow(), Admission::new().concurrency(4).tpm(10_000_000));
    house.drop_everywhere("call", 2, || house.client.chat(house.question())).await;
    house.drop_everywhere("stream", 5, || house.stream(house.question())).await;
    let text = |what: &str| format!("{what} {}", house.asked.fetch_add(1, Ordering::SeqCst));
    let embed = || house.client.embed(EmbedRequest::new("m", [text("a"), text("b")]));
    house.drop_everywhere("embeddings", 2, embed).await;
    let partly = || house.client.embed(EmbedRequest::new("m", ["known".to_owned(), text("a")]));
    house.client.embed(EmbedRequest::new("m", ["known"])).await.unwrap();
    house.drop_everywhere("embeddings known in part", 2, partly).await;
    let overlapping = || {
        let (one, two, three, house) = (text("one"), text("two"), text("three"), &house);
        async move {
            let embed =
                |one: &String, two: &String| house.client.embed(EmbedRequest::new("m", [one.clone(), two.clone()]));
            let (first, second) = tokio::join!(embed(&one, &two), embed(&two, &three));
            assert_eq!(first.unwrap().data.len() + second.unwrap().data.len(), 4);
        }
    };
    house.drop_everywhere("overlapping embeddings", 2, overlapping).await;
    let values = house.cache.namespace("retrieval").unwrap();
    let fetch = || {
        let (values, key) = (values.clone(), text("key"));
        async move {
            let fetch = || async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok::<_, Error>(7_u32)
            };
            let (one, two) =
                tokio::join!(values.get_or_fetch(&key, fetch()), values.get_or_fetch::<u32, _, _>(&key, fetch()));
            assert!(Arc::ptr_eq(&one.unwrap(), &two.unwrap()));
        }
    };
    house.drop_everywhere("a value", 2, fetch).await;

    let known = house.question();
    house.client.chat(known.clone()).await.unwrap();
    house.drop_everywhere("hit", 1, || house.client.chat(known.clone())).await;
    house.drop_everywhere("streamed hit", 1, || house.stream(known.clone())).await;
}

#[tokio::test(start_paused = true)]
async fn behind_another_flight() {
    let house = House::new(slow(), Admission::new().concurrency(4));
    for stream in [false, true] {
        let both = || {
            let (question, house) = (house.question(), &house);
            async move {
                let other = async {
                    if stream {
                        house.client.chat(question.clone()).await.map(drop)
                    } else {
                        house.stream(question.clone()).await;
                        Ok(())
                    }
                };
                let joiner = async {
                    if stream {
                        house.stream(question.clone()).await;
                    } else {
                        house.client.chat(question.clone()).await.unwrap();
                    }
                };
                tokio::join!(other, joiner).0.unwrap();
            }
        };
        house.drop_everywhere("two of one flight", 2, both).await;

        // Only the one who started the flight goes; who joined still gets its answer.
        for polls in 0..6 {
            let question = house.question();
            let mut starter: std::pin::Pin<Box<dyn Future<Output = ()>>> = if stream {
                Box::pin(house.stream(question.clone()))
            } else {
                Box::pin(async { drop(house.client.chat(question.clone()).await) })
            };
            for _ in 0..polls {
                let _ = tokio::time::timeout(Duration::from_millis(7), starter.as_mut()).await;
                if house.upstream.active() == 0 {
                    break;
                }
            }
            let joiner = house.client.chat(question.clone());
            let mut joiner = std::pin::pin!(joiner);
            assert!(futures_util::poll!(joiner.as_mut()).is_pending());
            drop(starter);
            assert_eq!(joiner.await.unwrap().text(), "a b c");
            house.assert_empty("starter gone");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_the_queue() {
    let house = House::new(slow(), Admission::new().concurrency(1).tpm(10_000_000));
    for stream in [false, true] {
        // One call holds the only permit for a while, so that the operation has to queue.
        let queued = || {
            let (first, second, house) = (house.question(), house.question(), &house);
            async move {
                let operation = async {
                    if stream {
                        house.stream(second).await;
                    } else {
                        house.client.chat(second).await.unwrap();
                    }
                };
                tokio::join!(house.stream(first), operation);
            }
        };
        house.drop_everywhere("queued", 4, queued).await;
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_rate() {
    // One request a second, and tokens for little more than one call at a time.
    let house = House::new(slow(), Admission::new().rpm(60).tpm(60_000));
    house.drop_everywhere("rate limited call", 2, || house.client.chat(house.question())).await;
    house.drop_everywhere("rate limited stream", 2, || house.stream(house.question())).await;
}

#[tokio::test(start_paused = true)]
async fn between_attempts() {
    for stream in [false, true] {
        // Every other attempt fails, so each operation backs off once.
        let mut upstream = slow();
        for _ in 0..500 {
            upstream = upstream.then(Reply::Fail(Error::new(ErrorKind::Server, "test", "down")));
            upstream = upstream.then(Reply::words(["fine"]));
        }
        let house = House::new(upstream, Admission::new().concurrency(2).tpm(10_000_000));
        let full = house.budget.available();
        let operation = || async {
            let request = house.question();
            if stream {
                house.stream(request).await;
            } else {
                house.client.chat(request).await.unwrap();
            }
        };
        house.drop_everywhere("backing off", 4, operation).await;
        assert!(house.budget.available() <= full);
    }
}

#[tokio::test(start_paused = true)]
async fn a_gate_shared_with_others_is_left_as_it_was() {
    let house = House::new(slow(), Admission::new().concurrency(1));
    let held = house.gate.admit(&Job::new("m")).await.unwrap();
    for polls in 0..5 {
        let mut waiting = Box::pin(house.client.chat(house.question()));
        for _ in 0..polls {
            assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        }
        assert_eq!(house.gate.load().queued, usize::from(polls > 0));
        drop(waiting);
        assert_eq!((house.gate.load().queued, house.gate.load().in_flight), (0, 1));
    }
    drop(held);
    house.client.chat(house.question()).await.unwrap();
    house.assert_empty("after the other's permit");
}
