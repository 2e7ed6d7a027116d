//! The cache's numbers add up: every call that ended is counted once, and what was saved is what the traces say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sluicegate::cache::{Cache, CacheLayer, CacheStats, Namespace};
use sluicegate::env::{Random, SeededRandom};
use sluicegate::providers::client_fn;
use sluicegate::testing::Scripted;
use sluicegate::types::{
    CacheControl, ChatCompletion, ChatRequest, ChatResponse, Cost, EmbedRequest, EmbedResponse, Embedding, Extra,
    Price, PriceTable, Source, Trace, Usage, Vector,
};
use sluicegate::{Error, ErrorKind, LlmClient, OptimizedClient, Result};

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn down() -> Error {
    Error::new(ErrorKind::Server, "test", "down")
}

fn vectors(request: &EmbedRequest) -> EmbedResponse {
    let one = |index| Embedding { index, embedding: Vector::Floats(vec![1.0]), extra: Extra::new() };
    let data: Vec<_> = (0..request.input.len()).map(one).collect();
    EmbedResponse { usage: Some(Usage::new(10 * data.len() as u64, 0)), data, ..EmbedResponse::default() }
}

/// Takes 10 ms; what begins with `bad` fails, and is counted.
fn upstream(failed: &Arc<AtomicU64>) -> impl LlmClient + use<> {
    let failed = Arc::clone(failed);
    let chat = move |request: ChatRequest| {
        let failed = Arc::clone(&failed);
        async move {
            tokio::time::sleep(ms(10)).await;
            if request.messages[0].text().starts_with("bad") {
                failed.fetch_add(1, Ordering::SeqCst);
                return Err(down());
            }
            let usage = Some(Usage::new(100, 7));
            Ok(ChatResponse::new(ChatCompletion { usage, ..ChatCompletion::text("m", "fine") }))
        }
    };
    client_fn(chat).with_embed(|request| async move {
        tokio::time::sleep(ms(10)).await;
        Ok(vectors(&request))
    })
}

fn built(client: impl LlmClient, cache: Cache) -> (OptimizedClient, CacheLayer) {
    let layer = CacheLayer::from(cache);
    let prices = PriceTable::empty().set("m", Price::new(1.0, 1.0, 1.0));
    let random = SeededRandom::new(3);
    let builder = OptimizedClient::builder(client).cache(layer.clone()).prices(prices).random(random);
    (builder.build().unwrap(), layer)
}

/// What callers saw.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    hits: u64,
    misses: u64,
    coalesced: u64,
    stale: u64,
    saved: Cost,
    tokens: u64,
}

impl Seen {
    fn trace(&mut self, trace: &Trace) {
        match trace.source {
            Source::Cache(_) => self.hits += 1,
            Source::Coalesced => self.coalesced += 1,
            _ => self.misses += 1,
        }
        self.stale += u64::from(trace.stale);
        self.saved(trace);
    }

    fn saved(&mut self, trace: &Trace) {
        self.saved += trace.saved.unwrap_or_default();
        self.tokens += trace.saved_tokens;
    }
}

fn counted(stats: &CacheStats, namespace: &str) -> Seen {
    let one = stats.namespace(namespace).unwrap();
    let (hits, misses, coalesced, stale) = (one.hits, one.misses, one.coalesced, one.stale);
    Seen { hits, misses, coalesced, stale, saved: one.saved, tokens: one.saved_tokens }
}

/// What one caller came to; none when it left.
enum Came {
    Answer(Option<Result<ChatResponse>>),
    Vectors(Option<(u64, Trace)>),
    Value(bool),
}

#[tokio::test(start_paused = true)]
async fn all_calls_of_a_mixed_load_are_counted_once() {
    let failed = Arc::new(AtomicU64::new(0));
    let short = |namespace: Namespace| namespace.ttl(ms(60));
    let cache = Cache::memory(100).ttl(ms(60)).stale_while_revalidate(ms(20));
    let cache = cache.namespace(short(Namespace::embeddings())).namespace(short(Namespace::retrieval()));
    let (client, layer) = built(upstream(&failed), cache);
    let (handle, values) = (client.cache().unwrap(), layer.namespace("retrieval").unwrap());
    let random = SeededRandom::new(11);
    let mut calls = Vec::new();
    for _ in 0..3_000 {
        let (client, handle, values) = (client.clone(), handle.clone(), values.clone());
        let (draw, key) = (random.next(), random.next() % 12);
        // Those who leave do so before an answer can have come, and leave others to a flight that will not fail.
        let patience = if draw % 8 == 0 && key < 9 { ms(5) } else { ms(1_000) };
        let text = if key < 9 { format!("good {key}") } else { format!("bad {key}") };
        let request = ChatRequest::new("m").user(text);
        let texts: Vec<_> = (0..=draw % 4).map(|more| format!("{}", (key + more * (draw / 7)) % 12)).collect();
        calls.push(tokio::spawn(async move {
            match draw / 8 % 6 {
                0 => Came::Answer(tokio::time::timeout(patience, client.chat(request)).await.ok()),
                1 => {
                    let stream = async { client.chat_stream(request).await?.collect().await };
                    Came::Answer(tokio::time::timeout(patience, stream).await.ok())
                }
                2 => Came::Answer(Some(
                    handle
                        .get(request)
                        .await
                        .and_then(|found| found.ok_or_else(|| Error::new(ErrorKind::CacheMiss, "test", "nothing"))),
                )),
                3 => {
                    let control = CacheControl::new().only_if_cached();
                    Came::Answer(Some(client.chat(request.with(control)).await))
                }
                4 => {
                    let (asked, request) = (texts.len() as u64, EmbedRequest::new("m", texts));
                    let answer = tokio::time::timeout(patience, client.embed(request)).await;
                    Came::Vectors(answer.ok().map(|answer| (asked, answer.unwrap().trace)))
                }
                _ => {
                    let fetch = async {
                        tokio::time::sleep(ms(10)).await;
                        Ok::<_, Error>(1_u8)
                    };
                    let key = key.to_string();
                    Came::Value(tokio::time::timeout(patience, values.get_or_fetch(&key, fetch)).await.is_ok())
                }
            }
        }));
        if draw % 3 == 0 {
            tokio::time::sleep(ms(2)).await;
        }
    }
    let (mut answers, mut vectors, mut texts, mut fetched, mut left) = (Seen::default(), Seen::default(), 0, 0, 0);
    for call in calls {
        match call.await.unwrap() {
            Came::Answer(Some(Ok(answer))) => answers.trace(answer.trace()),
            Came::Answer(Some(Err(error))) => answers.misses += u64::from(error.kind() == ErrorKind::CacheMiss),
            Came::Vectors(Some((asked, trace))) => {
                texts += asked;
                vectors.saved(&trace);
            }
            Came::Value(true) => fetched += 1,
            Came::Answer(None) | Came::Vectors(None) | Came::Value(false) => left += 1,
        }
    }
    // One of those who waited for a failed flight had started it.
    answers.misses += failed.load(Ordering::SeqCst);
    let stats = handle.stats();
    assert_eq!(counted(&stats, "responses"), answers);
    assert!(answers.hits > 100 && answers.misses > 100 && answers.coalesced > 20, "{answers:?}");
    assert!(answers.stale > 20 && left > 5, "{answers:?}, {left} left");
    let embeddings = counted(&stats, "embeddings");
    assert_eq!((embeddings.saved, embeddings.tokens), (vectors.saved, vectors.tokens));
    assert_eq!(embeddings.hits + embeddings.misses + embeddings.coalesced, texts);
    assert!(embeddings.coalesced > 20, "{embeddings:?}");
    let values = counted(&stats, "retrieval");
    assert_eq!(values.hits + values.misses + values.coalesced, fetched);
    assert!(values.misses > 10 && values.coalesced > 5, "{values:?}");
}

#[tokio::test(start_paused = true)]
async fn each_text_is_counted_as_often_as_it_stands_in_its_batch() {
    let (client, _) = built(upstream(&Arc::default()), Cache::memory(100));
    let cache = client.cache().unwrap();
    let ask = async |texts: &[&str], control: CacheControl| {
        let texts = texts.iter().map(|text| (*text).to_owned());
        client.embed(EmbedRequest::new("m", texts).with(control)).await
    };
    let mut seen = Seen { misses: 2, coalesced: 2, ..Seen::default() };
    seen.saved(&ask(&["a", "b", "a", "a"], CacheControl::new()).await.unwrap().trace);
    assert_eq!((seen.tokens, counted(&cache.stats(), "embeddings")), (20, Seen { ..seen }));
    let mut seen = Seen { hits: 3, ..counted(&cache.stats(), "embeddings") };
    seen.saved(&ask(&["a", "b", "a"], CacheControl::new()).await.unwrap().trace);
    assert_eq!(counted(&cache.stats(), "embeddings"), seen);
    ask(&["a", "c", "d"], CacheControl::new().only_if_cached()).await.unwrap_err();
    assert_eq!(counted(&cache.stats(), "embeddings"), Seen { misses: seen.misses + 2, ..seen });
}

#[tokio::test(start_paused = true)]
async fn failed_batches_and_fetches_are_misses_of_who_started_them() {
    let client = client_fn(|_| async { Ok(ChatResponse::from_text("")) }).with_embed(|request| async move {
        tokio::time::sleep(ms(10)).await;
        let mut answer = vectors(&request);
        // Which vector is whose cannot be told.
        answer.data[0].index = 7;
        if request.input.len() > 1 { Err(down()) } else { Ok(answer) }
    });
    let (client, layer) = built(client, Cache::memory(100));
    let cache = client.cache().unwrap();
    let ask = |texts: &[&str]| client.embed(EmbedRequest::new("m", texts.iter().map(|text| (*text).to_owned())));
    let (one, two) = tokio::join!(ask(&["a", "b"]), ask(&["a", "b"]));
    assert!(one.is_err() && two.is_err());
    assert_eq!(counted(&cache.stats(), "embeddings").misses, 2);
    ask(&["as it came"]).await.unwrap();
    assert_eq!(counted(&cache.stats(), "embeddings").misses, 3);

    let values = layer.namespace("retrieval").unwrap();
    let fetch = || async {
        tokio::time::sleep(ms(10)).await;
        Err::<u8, _>(down())
    };
    let (one, two) = tokio::join!(values.get_or_fetch("k", fetch()), values.get_or_fetch("k", fetch()));
    assert!(one.is_err() && two.is_err());
    assert_eq!(counted(&cache.stats(), "retrieval").misses, 1);
}

#[tokio::test]
async fn a_hit_of_a_cache_below_is_a_miss_here() {
    let (inner, _) = built(Scripted::new(), Cache::memory(100));
    let (outer, _) = built(inner.clone(), Cache::memory(100));
    let request = ChatRequest::new("m").user("hi");
    inner.chat(request.clone()).await.unwrap();
    let answer = outer.chat(request.clone()).await.unwrap();
    assert_eq!(answer.trace().source, Source::Cache("memory"), "the trace tells what became of the call");
    let mine = counted(&outer.cache().unwrap().stats(), "responses");
    assert_eq!(mine, Seen { misses: 1, ..Seen::default() });
    outer.chat(request).await.unwrap();
    assert_eq!(counted(&outer.cache().unwrap().stats(), "responses").hits, 1);
}
