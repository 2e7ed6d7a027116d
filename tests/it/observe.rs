//! What is counted: calls, hits, attempts, tokens, dollars; what is unknown stays unknown; nothing private is told.

use std::sync::Arc;
use std::time::Duration;

use sluicegate::cache::Cache;
use sluicegate::testing::{Gate, Reply, Scripted};
use sluicegate::types::{ChatChunk, ChatRequest, Cost, Price, PriceTable, Tenant, Usage};
use sluicegate::{Error, ErrorKind, OptimizedClient, Retry};

fn ask(text: &str) -> ChatRequest {
    ChatRequest::new("gpt-5-mini").user(text)
}

#[tokio::test(start_paused = true)]
async fn the_report_counts_what_happened() {
    let limited = Error::new(ErrorKind::RateLimited, "test", "slow down").with_status(429);
    let upstream = Scripted::new()
        .then(Reply::Fail(limited))
        .then(Reply::text("answer"))
        .then(Reply::Fail(Error::new(ErrorKind::Auth, "test", "no")))
        .usage(Some(Usage::new(1_000, 100).with_cached(400)))
        .latency(Duration::from_millis(100));
    let client = OptimizedClient::builder(upstream).cache(Cache::memory(10)).retry(Retry::standard()).build().unwrap();

    let (first, joined) = tokio::join!(client.chat(ask("a")), client.chat(ask("a")));
    let cost = Price::new(0.25, 0.025, 2.0).cost(&Usage::new(1_000, 100).with_cached(400));
    let first = first.unwrap();
    assert_eq!((first.trace().attempts, first.trace().cost), (2, Some(cost)));
    let joined = joined.unwrap();
    assert_eq!((joined.trace().cost, joined.trace().saved), (Some(Cost::ZERO), Some(cost)));
    client.chat(ask("a")).await.unwrap();
    client.chat(ask("b")).await.unwrap_err();
    assert!(tokio::time::timeout(Duration::from_millis(10), client.chat(ask("c"))).await.is_err());

    let report = client.report();
    assert_eq!((report.calls, report.answered, report.abandoned, report.failed()), (5, 3, 1, 1));
    assert_eq!((report.hits, report.coalesced), (1, 1));
    assert_eq!(report.errors.get("auth"), Some(&1));
    assert_eq!((report.attempts, report.rate_limited, report.attempts_abandoned), (4, 1, 1));
    assert_eq!((report.input_tokens, report.cached_input_tokens, report.output_tokens), (1_000, 400, 100));
    assert_eq!((report.cost, report.saved, report.saved_tokens), (cost, Cost::from_picos(2 * cost.picos()), 2_200));
    assert_eq!(report.unpriced_attempts, 1, "what the abandoned attempt cost nobody knows");
    assert_eq!((report.latency.count, report.upstream_latency.count), (5, 4));
    let text = report.to_string();
    assert!(text.contains("1 hits, 1 coalesced") && text.contains("1 attempts of unknown cost"), "{text}");
}

#[tokio::test]
async fn a_cost_without_a_price_is_unknown_and_never_zero() {
    let client = OptimizedClient::builder(Scripted::new()).cache(Cache::memory(10)).build().unwrap();
    let answer = client.chat(ChatRequest::new("house-model").user("x")).await.unwrap();
    assert_eq!(answer.trace().cost, None);
    assert!(answer.trace().to_string().ends_with("cost unknown"));
    let hit = client.chat(ChatRequest::new("house-model").user("x")).await.unwrap();
    assert_eq!((hit.trace().cost, hit.trace().saved), (Some(Cost::ZERO), None));
    assert!(hit.trace().to_string().ends_with("savings unknown"));
    assert_eq!((client.report().cost, client.report().unpriced_attempts), (Cost::ZERO, 1));

    let without_usage = OptimizedClient::builder(Scripted::new().usage(None)).build().unwrap();
    assert_eq!(without_usage.chat(ask("x")).await.unwrap().trace().cost, None);

    let prices = PriceTable::empty().set("house-model", Price::new(1.0, 1.0, 1.0));
    let priced = OptimizedClient::builder(Scripted::new()).prices(prices).build().unwrap();
    let answer = priced.chat(ChatRequest::new("house-model").user("x")).await.unwrap();
    assert_eq!(answer.trace().cost, Some(Cost::from_picos(15_000_000)));
}

#[tokio::test(start_paused = true)]
async fn streams_are_counted_when_they_end() {
    let gate = Gate::closed();
    let upstream = Scripted::new()
        .then(Reply::words(["a", "b"]))
        .then(Reply::Break(vec![], Error::new(ErrorKind::Server, "test", "down")))
        .chunk_gap(Duration::from_millis(50))
        .gate(&gate);
    let client = OptimizedClient::builder(upstream).build().unwrap();
    let mut stream = client.chat_stream(ask("a")).await.unwrap();
    gate.open();
    stream.next().await.unwrap().unwrap();
    assert_eq!(client.report().calls, 0);
    while let Some(event) = stream.next().await {
        event.unwrap();
    }
    assert!(client.chat_stream(ask("b")).await.unwrap().next().await.unwrap().is_err());
    drop(client.chat_stream(ask("c")).await.unwrap());
    let report = client.report();
    assert_eq!((report.answered, report.failed(), report.abandoned), (1, 1, 1));
    let first_chunk = report.first_chunk.p50.as_secs_f64();
    assert!((0.047..0.053).contains(&first_chunk), "{first_chunk}");
    assert_eq!(report.output_tokens, 5);
}

#[cfg(feature = "metrics")]
#[test]
fn metrics_have_the_conventions_names_and_no_private_labels() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    use sluicegate::observe::Metrics;

    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = OptimizedClient::builder(Scripted::new())
                .cache(Cache::memory(10))
                .observer(Arc::new(Metrics::new()))
                .build()
                .unwrap();
            for _ in 0..3 {
                client.chat(ask("secret prompt").with(Tenant("secret tenant".into()))).await.unwrap();
            }
        });
    });
    let metrics = snapshotter.snapshot().into_vec();
    let find = |name: &str, label: Option<(&str, &str)>| {
        let wanted = |key: &metrics::Key| {
            key.name() == name && label.is_none_or(|(k, v)| key.labels().any(|l| l.key() == k && l.value() == v))
        };
        metrics.iter().find(|(key, ..)| wanted(key.key())).map(|(.., value)| value)
    };
    let counter = |name, label| match find(name, label) {
        Some(DebugValue::Counter(count)) => *count,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(counter("sluicegate.calls", Some(("outcome", "hit"))), 2);
    assert_eq!(counter("sluicegate.calls", Some(("outcome", "upstream"))), 1);
    assert_eq!(counter("sluicegate.attempts", Some(("outcome", "answered"))), 1);
    assert_eq!(counter("sluicegate.tokens.saved", None), 30);
    // 10 x $0.25 + 5 x $2 per million, in billionths.
    assert_eq!(counter("sluicegate.cost.nanodollars", None), 12_500);
    assert!(matches!(
        find("gen_ai.client.token.usage", Some(("gen_ai.token.type", "input"))),
        Some(DebugValue::Histogram(values)) if values.len() == 1
    ));
    assert!(find("gen_ai.client.operation.duration", Some(("gen_ai.request.model", "gpt-5-mini"))).is_some());
    assert!(!format!("{metrics:?}").contains("secret"));
}

#[tokio::test]
async fn an_answer_that_breaks_off_costs_something_unknown() {
    let down = || Error::new(ErrorKind::Network, "test", "down");
    let half = vec![ChatChunk::text_delta("gpt-5-mini", "half")];
    for (reply, unpriced) in [(Reply::Break(half, down()), 1), (Reply::Break(vec![], down()), 0)] {
        let client = OptimizedClient::builder(Scripted::new().then(reply)).build().unwrap();
        let stream = client.chat_stream(ChatRequest::new("gpt-5-mini").user("hi")).await.unwrap();
        assert!(stream.collect().await.is_err());
        let report = client.report();
        assert_eq!((report.attempts, report.cost, report.unpriced_attempts), (1, Cost::ZERO, unpriced));
    }
}
