//! The stack's order is fixed by slot, never by the order of the builder's calls.

use std::sync::Arc;
use std::time::Duration;

use sluicegate::cache::{Cache, Namespace, StorePolicy};
use sluicegate::history::{Allowance, Normalize, Window};
use sluicegate::testing::Scripted;
use sluicegate::types::ChatRequest;
use sluicegate::{Builder, Chain, Env, ErrorKind, Layer, LlmClient, OptimizedClient, Result, Slot};

/// A layer that only has a name.
#[derive(Debug)]
struct Named(&'static str);

impl Layer for Named {
    fn name(&self) -> &'static str {
        self.0
    }

    fn settings(&self) -> String {
        String::new()
    }

    fn wrap(&self, inner: Arc<dyn LlmClient>, _: &Env) -> Result<Arc<dyn LlmClient>> {
        Ok(inner)
    }
}

fn steps() -> Vec<Box<dyn Fn(Builder) -> Builder>> {
    vec![
        Box::new(|b| b.cache(Cache::memory(100).ttl(Duration::from_secs(60)))),
        Box::new(|b| b.history(Window::tokens(8_000))),
        Box::new(|b| b.normalize(Normalize::safe())),
        Box::new(|b| b.inside(Slot::Cache, Named("in"))),
        Box::new(|b| b.outside(Slot::Cache, Chain::new().then(Named("out1")).then(Named("out2")))),
        Box::new(|b| b.outside(Slot::Route, Named("route"))),
    ]
}

#[test]
fn describe_prints_the_real_stack_in_order() {
    let client = steps().iter().fold(OptimizedClient::builder(Scripted::new()), |b, step| step(b)).build().unwrap();
    let expected = "\
Observe   observe
Deadline  deadline  the caller's own
Route     route
History   history   normalise, safe; window, 8000 tokens
Cache     chain     out1 > out2
Cache     cache     memory, 100 entries, 256 MiB, ttl 60s
Cache     in
Attempt   attempt
client    scripted
";
    assert_eq!(client.describe(), expected);
}

#[test]
fn swapping_the_builder_calls_changes_nothing() {
    let build = |order: &[usize]| {
        let steps = steps();
        let builder = order.iter().fold(OptimizedClient::builder(Scripted::new()), |b, step| steps[*step](b));
        builder.build().unwrap().describe()
    };
    let mut order: Vec<usize> = (0..steps().len()).collect();
    let expected = build(&order);
    // All rotations and their reverses: every pair of calls stands in both orders.
    for _ in 0..order.len() {
        order.rotate_left(1);
        assert_eq!(build(&order), expected);
        let reversed: Vec<_> = order.iter().rev().copied().collect();
        assert_eq!(build(&reversed), expected);
    }
}

#[tokio::test]
async fn the_order_is_what_happens() {
    // History outside the cache: two prompts that differ in trailing blanks are one entry.
    let upstream = Arc::new(Scripted::new());
    let client = OptimizedClient::builder(Arc::clone(&upstream))
        .cache(Cache::memory(10))
        .normalize(Normalize::safe())
        .build()
        .unwrap();
    client.chat(ChatRequest::new("m").user("same")).await.unwrap();
    client.chat(ChatRequest::new("m").user("same  \n")).await.unwrap();
    assert_eq!(upstream.calls(), 1);
}

#[test]
fn what_cannot_work_is_refused_at_build() {
    let refused = |builder: Builder| {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        error.to_string()
    };
    let builder = || OptimizedClient::builder(Scripted::new());
    for (builder, words) in [
        (builder().cache(Cache::memory(0)), "memory entries = 0"),
        (builder().cache(Cache::memory(1).max_bytes(0)), "max_bytes = 0"),
        (builder().cache(Cache::memory(1).ttl(Duration::ZERO)), "ttl = 0s"),
        (builder().cache(Cache::memory(1).tier_timeout(Duration::ZERO)), "tier_timeout = 0s"),
        (builder().cache(Cache::memory(1).lease_term(Duration::ZERO)), "lease_term = 0s"),
        (builder().cache(Cache::memory(1).namespace(Namespace::new("a/b"))), "namespace = \"a/b\""),
        (builder().cache(Cache::memory(1).namespace(Namespace::prompts().entries(0))), "memory entries of prompts = 0"),
        (builder().cache(Cache::memory(1).store(StorePolicy::new().max_answer_bytes(0))), "store max_answer_bytes = 0"),
        (
            builder().history(Window::within(Allowance::tokens(500).reply_reserve(500))),
            "tokens = 500 with a reserve of 500",
        ),
        (builder().cache(Cache::memory(1)).cache(Cache::memory(2)), "Cache = set twice"),
        (builder().inside(Slot::Hedge, Named("a")).inside(Slot::Hedge, Named("b")), "Hedge = set twice"),
    ] {
        let text = refused(builder);
        assert!(text.contains(words), "{text}");
    }
}

#[tokio::test]
async fn sizes_without_end_take_nothing_in_advance() {
    let all = Namespace::embeddings().entries(usize::MAX).max_bytes(u64::MAX);
    let cache =
        Cache::memory(usize::MAX).max_bytes(u64::MAX).namespace(all).predict(usize::MAX).track_hottest(usize::MAX);
    let client = OptimizedClient::builder(Scripted::new()).cache(cache).build().unwrap();
    for _ in 0..2 {
        client.chat(ChatRequest::new("m").user("hi")).await.unwrap();
    }
    let stats = client.cache().unwrap().stats();
    assert_eq!((stats.namespace("responses").unwrap().hits, stats.namespace("responses").unwrap().entries), (1, 1));
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_at_the_call() {
    let upstream = Arc::new(Scripted::new());
    let client = OptimizedClient::builder(Arc::clone(&upstream)).build().unwrap();
    let empty = ChatRequest::new("m");
    assert_eq!(client.chat(empty.clone()).await.unwrap_err().kind(), ErrorKind::InvalidRequest);
    assert_eq!(client.chat_stream(empty).await.unwrap_err().kind(), ErrorKind::InvalidRequest);
    let nan = ChatRequest::new("m").user("x").temperature(f64::NAN);
    assert!(client.chat(nan).await.unwrap_err().to_string().contains("temperature = NaN"));
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test]
async fn shutdown_lets_calls_end_and_takes_no_more() {
    let gate = sluicegate::testing::Gate::closed();
    let client = OptimizedClient::builder(Scripted::new().gate(&gate)).build().unwrap();
    let mut stream = client.chat_stream(ChatRequest::new("m").user("x")).await.unwrap();
    let mut shutdown = std::pin::pin!(client.shutdown());
    assert!(futures_util::poll!(&mut shutdown).is_pending());
    let refused = client.chat(ChatRequest::new("m").user("y")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Shutdown);
    gate.open();
    while let Some(event) = stream.next().await {
        event.unwrap();
    }
    shutdown.await;
}
