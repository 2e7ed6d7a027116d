//! What takes long is not done within a poll: with the only blocking thread held up, it waits, and others go on; what is
//! short does not need that thread.

use std::future::Future;
use std::io::Cursor;
use std::pin::{Pin, pin};

use futures_util::{FutureExt, StreamExt, poll};
use sluicegate::OptimizedClient;
use sluicegate::batch::{Bulk, jsonl};
use sluicegate::cache::Cache;
use sluicegate::testing::Scripted;
use sluicegate::types::ChatRequest;
use tokio::sync::oneshot;

/// Holds up the only thread for blocking work until this is dropped.
async fn hold_up() -> oneshot::Sender<()> {
    let (begin, begun) = oneshot::channel();
    let (release, released) = oneshot::channel::<()>();
    drop(tokio::task::spawn_blocking(move || {
        begin.send(()).unwrap();
        let _ = released.blocking_recv();
    }));
    begun.await.unwrap();
    release
}

/// Whether it waits, while others have a thousand turns on this thread.
async fn waits<F: Future>(mut future: Pin<&mut F>) -> bool {
    for _ in 0..1_000 {
        if poll!(&mut future).is_ready() {
            return false;
        }
        tokio::task::yield_now().await;
    }
    true
}

fn run(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(1).build().unwrap().block_on(test);
}

fn line(bytes: usize) -> Vec<u8> {
    let text = "a word and \\\"another\\\" ".repeat(bytes / 23);
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]}}{}"#, '\n').into_bytes()
}

#[test]
fn a_long_line_of_a_bulk_file() {
    run(async {
        let held = hold_up().await;
        let mut short = pin!(jsonl::requests(Cursor::new(line(1_000))));
        assert!(short.next().now_or_never().unwrap().unwrap().request().is_ok());
        let mut long = pin!(jsonl::requests(Cursor::new([line(16 << 20), line(10)].concat())));
        let mut first = long.next();
        assert!(waits(pin!(&mut first)).await);
        drop(held);
        assert!(first.await.unwrap().request().as_ref().unwrap().messages[0].text().len() > 14 << 20);
        assert!(long.next().await.unwrap().request().is_ok());
        assert!(long.next().await.is_none());
    });
}

#[test]
fn a_long_request_of_a_bulk_run_and_its_long_answer() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let text = "a word or two ".repeat(1 << 20);
        let request = || ("long", ChatRequest::new("m").user(text.clone()));
        let upstream = std::sync::Arc::new(Scripted::new());
        let bulk = Bulk::new(upstream.clone()).checkpoint(&path);
        let mut asked = bulk.run([request()]).await.unwrap();
        let held = hold_up().await;
        let mut next = Box::pin(asked.next());
        assert!(waits(next.as_mut()).await);
        assert_eq!(upstream.calls(), 0, "it is not asked before it is known whether the file is its own");
        drop(held);
        let first = next.await.unwrap().unwrap();
        assert!(first.result.is_ok() && !first.recorded);
        assert!(asked.next().await.is_none());
        drop(asked);
        let again = bulk.run([request()]).await.unwrap().next().await.unwrap().unwrap();
        assert!(again.recorded, "the same request is known again");
    });
}

#[test]
fn a_very_long_prompt_of_a_cached_call() {
    run(async {
        let upstream = std::sync::Arc::new(Scripted::new());
        let llm = OptimizedClient::builder(upstream.clone()).cache(Cache::memory(10)).build().unwrap();
        let request = |bytes| ChatRequest::new("m").user("a".repeat(bytes));
        for calls in [1, 2] {
            let held = hold_up().await;
            llm.chat(request(1_000)).now_or_never().unwrap().unwrap();
            let mut long = pin!(llm.chat(request(16 << 20)));
            assert!(waits(long.as_mut()).await);
            assert_eq!(upstream.calls(), calls, "nothing is asked before it is known whether it is stored");
            drop(held);
            long.await.unwrap();
            assert_eq!(upstream.calls(), 2);
        }
        let held = hold_up().await;
        let mut streamed = pin!(llm.chat_stream(request(16 << 20)));
        assert!(waits(streamed.as_mut()).await);
        drop(held);
        streamed.await.unwrap().collect().await.unwrap();
        assert_eq!(upstream.calls(), 2);
    });
}

#[cfg(any(feature = "disk", feature = "object-store"))]
mod tiers {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use sluicegate::ClientInfo;
    use sluicegate::cache::{CacheTier, Entry, Probe};
    use sluicegate::types::ChatCompletion;

    use super::*;

    fn entry(probe: &Probe, text: &str) -> Arc<Entry> {
        let completion = Arc::new(ChatCompletion::text("m", text.repeat((15 << 20) / text.len())));
        Arc::new(Entry::new(probe, completion, Arc::from([]), Instant::now(), Duration::from_secs(3600), None))
    }

    async fn put_and_get(tier: &dyn CacheTier) {
        let probe = Probe::chat(&ClientInfo::new("p"), &ChatRequest::new("m").user("long"), Instant::now());
        let stored = entry(&probe, "an answer of some words ");
        let held = hold_up().await;
        let mut put = tier.put(&probe, Arc::clone(&stored));
        assert!(waits(pin!(&mut put)).await);
        let completion = stored.completion().unwrap();
        assert_eq!(Arc::strong_count(completion), 2, "it is still to be written");
        drop(held);
        put.await.unwrap();
        assert_eq!(Arc::strong_count(completion), 1);
        let held = hold_up().await;
        let mut get = tier.get(&probe);
        assert!(waits(pin!(&mut get)).await);
        drop(held);
        assert_eq!(get.await.unwrap().unwrap().completion(), Some(completion));
    }

    #[cfg(feature = "disk")]
    #[test]
    fn a_long_answer_on_disk() {
        run(async {
            let folder = tempfile::tempdir().unwrap();
            let disk = sluicegate::cache::tier::Disk::open(folder.path()).build().unwrap();
            put_and_get(&disk).await;
        });
    }

    #[cfg(feature = "object-store")]
    #[test]
    fn a_long_answer_in_an_object_store() {
        use sluicegate::cache::tier::{Objects, object::object_store::memory::InMemory};
        run(async { put_and_get(&Objects::builder(InMemory::new()).build().unwrap()).await });
    }
}
