//! Failures of chosen kinds are given again without asking, for a while, and hide no answer.

use std::sync::Arc;
use std::time::Duration;

use sluicegate::cache::tier::Memory;
use sluicegate::cache::{Cache, CacheLayer, Negative, Selector};
use sluicegate::testing::{Reply, Scripted};
use sluicegate::types::{CacheControl, ChatRequest, ChatResponse, Tenant, Usage};
use sluicegate::{Error, ErrorKind, OptimizedClient, Result};

const LASTING: [ErrorKind; 5] = [
    ErrorKind::InvalidRequest,
    ErrorKind::NotFound,
    ErrorKind::ContextLength,
    ErrorKind::ContentFilter,
    ErrorKind::Unsupported,
];

fn question() -> ChatRequest {
    ChatRequest::new("m").user("Why is the sky blue?")
}

fn cache() -> Cache {
    Cache::memory(100).ttl(Duration::from_secs(10)).jitter(0.0).negative(Negative::new(LASTING))
}

fn refused(kind: ErrorKind) -> Error {
    Error::new(kind, "test", "no").with_usage(Usage::new(1, 0)).with_attempts(3)
}

fn wrap(upstream: &Arc<Scripted>, cache: impl Into<CacheLayer>) -> OptimizedClient {
    OptimizedClient::builder(Arc::clone(upstream)).cache(cache).build().unwrap()
}

async fn ask(client: &OptimizedClient, control: CacheControl, streaming: bool) -> Result<ChatResponse> {
    let request = question().with(control);
    if streaming { client.chat_stream(request).await?.collect().await } else { client.chat(request).await }
}

#[tokio::test(start_paused = true)]
async fn chosen_failures_are_remembered_for_half_a_minute() {
    for kind in LASTING {
        let upstream = Arc::new(Scripted::new().always_reply(Reply::Fail(refused(kind))));
        let client = wrap(&upstream, cache());
        for streaming in [false, true, false] {
            let first = upstream.calls() == 0;
            let error = ask(&client, CacheControl::new(), streaming).await.unwrap_err();
            assert_eq!((error.kind(), error.is_remembered(), upstream.calls()), (kind, !first, 1));
            assert_eq!(error.to_string().contains("[remembered]"), !first);
            assert_eq!((error.attempts(), error.usage().is_some()), if first { (3, true) } else { (0, false) });
        }
        tokio::time::advance(Duration::from_secs(29)).await;
        let plain = CacheControl::new;
        for (control, calls) in [
            (plain(), 1),
            (plain().max_age(Duration::from_secs(29)), 1),
            (plain().max_age(Duration::from_secs(28)), 2),
            (plain().no_cache(), 3),
            (plain().no_store(), 3),
        ] {
            assert_eq!(ask(&client, control, false).await.unwrap_err().kind(), kind);
            assert_eq!(upstream.calls(), calls);
        }
        let miss = ask(&client, plain().only_if_cached(), false).await.unwrap_err();
        assert_eq!(miss.kind(), ErrorKind::CacheMiss);
        let other = client.chat(question().with(Tenant("other".into()))).await.unwrap_err();
        assert!(!other.is_remembered(), "tenants do not share");
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(ask(&client, plain(), true).await.unwrap_err().is_remembered());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!ask(&client, plain(), true).await.unwrap_err().is_remembered());
    }
}

#[tokio::test(start_paused = true)]
async fn others_are_not_and_none_unless_told() {
    let fails = |kind| Arc::new(Scripted::new().always_reply(Reply::Fail(refused(kind))));
    for (upstream, cache) in [
        (fails(ErrorKind::Server), cache()),
        (fails(ErrorKind::Auth), cache()),
        (fails(ErrorKind::NotFound), cache().negative(Negative::new([ErrorKind::ContextLength]))),
        (fails(ErrorKind::NotFound), Cache::memory(10)),
    ] {
        let client = wrap(&upstream, cache);
        for _ in 0..2 {
            assert!(!ask(&client, CacheControl::new(), false).await.unwrap_err().is_remembered());
        }
        assert_eq!(upstream.calls(), 2);
    }
    let upstream = fails(ErrorKind::NotFound);
    let client = wrap(&upstream, cache());
    for control in [CacheControl::new().no_store(), CacheControl::new().ttl(Duration::ZERO), CacheControl::new()] {
        assert!(!ask(&client, control, false).await.unwrap_err().is_remembered());
    }
}

#[tokio::test(start_paused = true)]
async fn a_remembered_failure_hides_no_answer() {
    let shared = Arc::new(Memory::new(100, 1 << 20).unwrap());
    let failing = Arc::new(Scripted::new().always_reply(Reply::Fail(refused(ErrorKind::NotFound))));
    let (first, second) =
        (wrap(&failing, cache().tier(Arc::clone(&shared))), wrap(&Arc::default(), cache().tier(shared)));
    ask(&first, CacheControl::new(), false).await.unwrap_err();
    ask(&second, CacheControl::new(), false).await.unwrap();
    assert_eq!(ask(&first, CacheControl::new(), false).await.unwrap().text(), "ok", "stored by another process");

    // A stale answer goes first while the call takes it, and a refresh finds out.
    let upstream = Scripted::new().then(Reply::text("old")).always_reply(Reply::Fail(refused(ErrorKind::NotFound)));
    let upstream = Arc::new(upstream);
    let client = wrap(&upstream, cache().stale_while_revalidate(Duration::from_secs(5)));
    ask(&client, CacheControl::new(), false).await.unwrap();
    tokio::time::advance(Duration::from_secs(10)).await;
    for _ in 0..2 {
        assert!(ask(&client, CacheControl::new(), false).await.unwrap().trace().stale);
        tokio::task::yield_now().await;
    }
    assert_eq!(upstream.calls(), 2);
    tokio::time::advance(Duration::from_secs(5)).await;
    assert!(ask(&client, CacheControl::new(), false).await.unwrap_err().is_remembered());
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_and_a_removal_forget_it() {
    let fail = || Reply::Fail(refused(ErrorKind::NotFound));
    let upstream = Arc::new(Scripted::new().then(fail()).then(Reply::text("ok")).then(fail()).then(fail()));
    let layer = CacheLayer::from(cache());
    let client = wrap(&upstream, layer.clone());
    let ask = async |control| ask(&client, control, false).await.map_err(|error| error.is_remembered()).map(drop);
    let plain = CacheControl::new;
    assert_eq!(ask(plain()).await, Err(false));
    assert_eq!(ask(plain().no_cache()).await, Ok(()));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(ask(plain()).await, Err(false), "the answer has expired, and the failure before it is forgotten");
    assert_eq!(ask(plain()).await, Err(true));
    layer.remove(&Selector::Pattern("responses/m".into())).await.unwrap();
    assert_eq!(ask(plain()).await, Err(false));
}

#[test]
fn kinds_that_pass_are_refused() {
    let build = |negative| OptimizedClient::builder(Scripted::new()).cache(Cache::memory(1).negative(negative)).build();
    for kind in [ErrorKind::RateLimited, ErrorKind::Timeout, ErrorKind::Auth, ErrorKind::Shutdown, ErrorKind::CacheMiss]
    {
        let text = build(Negative::new([ErrorKind::NotFound, kind])).unwrap_err().to_string();
        assert!(text.contains(&format!("negative = {kind:?}")), "{text}");
    }
    for (negative, what) in
        [(Negative::new([]), "negative = no kind"), (Negative::new(LASTING).ttl(Duration::ZERO), "negative ttl = 0s")]
    {
        let error = build(negative).unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.to_string().contains(what), "{error}");
    }
    assert!(build(Negative::new(LASTING)).is_ok());
}
