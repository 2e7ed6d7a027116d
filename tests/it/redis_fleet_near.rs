//! What the processes of a fleet keep nearer than Redis, and have under way, when others remove or replace it.
//!
//! The processes are caches of their own in this one: each has its own connections and its own feed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sluicegate::cache::tier::{Memory, Redis};
use sluicegate::cache::{Cache, CacheKey, CacheTier, Entry, Probe, Selector};
use sluicegate::testing::{Gate, Reply, Scripted};
use sluicegate::types::{CacheControl, ChatCompletion, ChatRequest};
use sluicegate::{Env, Error, ErrorKind, LlmClient, OptimizedClient, Result};
use tokio::sync::Semaphore;

use crate::redis::server::Server;
use crate::redis::wait::{HANG, until};
use crate::redis::{joined, patient};

const TERM: Duration = Duration::from_millis(600);

fn ask(text: &str) -> ChatRequest {
    ChatRequest::new("m").user(text).with(CacheControl::new().tag("all"))
}

fn key(client: &OptimizedClient, text: &str) -> CacheKey {
    Probe::chat(client.info(), &ask(text), Env::new().now()).key()
}

/// A tier that is connected and told what changes.
async fn tier(server: &Server) -> Redis {
    let tier = patient(server.url()).build().unwrap();
    let mut feed = tier.invalidations().unwrap();
    joined(&tier).await;
    tokio::time::timeout(HANG, feed.recv()).await.unwrap();
    tier
}

fn process(upstream: &Arc<Scripted>, cache: Cache) -> OptimizedClient {
    let cache = cache.lease_term(TERM).tier_timeout(HANG / 2);
    OptimizedClient::builder(Arc::clone(upstream)).cache(cache).build().unwrap()
}

async fn text(client: &OptimizedClient, question: &str) -> String {
    let answer = tokio::time::timeout(HANG, client.chat(ask(question))).await.expect("it does not hang");
    answer.unwrap().text().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_remove_goes_from_a_tier_of_ones_own() {
    let server = Server::start(&[]).await;
    let upstream = Arc::new(Scripted::new().always("answer"));
    let own = || Arc::new(Memory::new(100, 1 << 20).unwrap());
    let one = process(&upstream, Cache::memory(100).tier(own()).fleet(tier(&server).await));
    let other = process(&upstream, Cache::on(own()).fleet(tier(&server).await));
    // More than are announced at a time, the one that counts last.
    let mut keys: Vec<_> = (0..2_500).map(|n| key(&one, &n.to_string())).collect();
    keys.push(key(&one, "question"));
    let selectors = [Selector::Key(key(&one, "question")), Selector::Keys(keys), Selector::Tag("all".into())];
    for (round, selector) in selectors.into_iter().chain([Selector::All]).enumerate() {
        for process in [&other, &one, &other, &one] {
            text(process, "question").await;
            assert_eq!(upstream.calls(), round + 1, "{round}");
        }
        one.cache().unwrap().remove_selected(&selector).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_puts_takes_the_place_of_what_was_put_by_hand_or_asked_for_anew() {
    let server = Server::start(&[]).await;
    let upstream = Arc::new(Scripted::new().always("asked for"));
    let one = process(&upstream, Cache::memory(100).fleet(tier(&server).await));
    let other = process(&upstream, Cache::memory(100).fleet(tier(&server).await));
    let put = async |client: &OptimizedClient, answer: &str| {
        client.cache().unwrap().put(ask("question"), ChatCompletion::text("m", answer)).await.unwrap()
    };
    put(&one, "one's").await;
    put(&other, "the other's").await;
    until("the newer is served", || async { text(&one, "question").await == "the other's" }).await;
    let anew = ask("question").with(CacheControl::new().no_cache());
    assert_eq!(one.chat(anew).await.unwrap().text(), "asked for");
    put(&other, "the other's again").await;
    until("the newer is served", || async { text(&one, "question").await == "the other's again" }).await;
}

/// A tier behind Redis whose removals wait.
#[derive(Debug)]
struct Slow {
    entered: Semaphore,
    gate: Semaphore,
}

#[async_trait]
impl CacheTier for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    async fn get(&self, _: &Probe) -> Result<Option<Arc<Entry>>> {
        Ok(None)
    }

    async fn put(&self, _: &Probe, _: Arc<Entry>) -> Result<()> {
        Ok(())
    }

    async fn remove(&self, _: &Selector) -> Result<u64> {
        self.entered.add_permits(1);
        let _ = self.gate.acquire().await;
        Ok(0)
    }
}

/// Asked for after the fleet was told the first time, and before the removal has returned: by then nobody joins it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_have_under_way_is_joined_by_nobody_once_a_removal_has_returned() {
    let server = Server::start(&[]).await;
    let gate = Gate::closed();
    let upstream = Arc::new(Scripted::new().always("answer").gate(&gate));
    let slow = Arc::new(Slow { entered: Semaphore::new(0), gate: Semaphore::new(0) });
    let remover = process(&upstream, Cache::memory(100).fleet(tier(&server).await).tier(Arc::clone(&slow)));
    let other = process(&upstream, Cache::memory(100).fleet(tier(&server).await));
    let asked = |times: usize| {
        let upstream = Arc::clone(&upstream);
        until("it is asked", move || std::future::ready(upstream.calls() == times))
    };
    let ask_other = || {
        let other = other.clone();
        tokio::spawn(async move { text(&other, "question").await })
    };
    let removing = tokio::spawn(async move {
        let cache = remover.cache().unwrap();
        cache.remove_selected(&Selector::Tag("all".into())).await.unwrap();
        remover
    });
    drop(slow.entered.acquire().await.unwrap());
    let before = ask_other();
    asked(1).await;
    slow.gate.close();
    let _remover = removing.await.unwrap();
    // It takes the lease over: what the first brings is not kept.
    let start = Instant::now();
    let after = ask_other();
    asked(2).await;
    assert!(start.elapsed() < TERM + Duration::from_secs(3), "{:?} for a term of {TERM:?}", start.elapsed());
    gate.open();
    assert_eq!((before.await.unwrap(), after.await.unwrap()), ("answer".to_owned(), "answer".to_owned()));
    assert_eq!(text(&other, "question").await, "answer");
    assert_eq!(upstream.calls(), 2, "the second was kept");
}

/// Nobody waits for the end of a lease under which nothing was kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_given_back_when_the_answer_was_removed_before_it_came() {
    let server = Server::start(&[]).await;
    let gate = Gate::closed();
    let upstream = Arc::new(Scripted::new().always("answer").gate(&gate));
    let long = |cache: Cache| {
        let cache = cache.lease_term(10 * HANG).tier_timeout(HANG / 2);
        OptimizedClient::builder(Arc::clone(&upstream)).cache(cache).build().unwrap()
    };
    let one = long(Cache::memory(100).fleet(tier(&server).await));
    let other = long(Cache::memory(100).fleet(tier(&server).await));
    let asking = tokio::spawn(async move { text(&one, "question").await });
    until("it is asked", || async { upstream.calls() == 1 }).await;
    other.cache().unwrap().remove_selected(&Selector::All).await.unwrap();
    gate.open();
    asking.await.unwrap();
    assert_eq!(text(&other, "question").await, "answer");
    assert_eq!(upstream.calls(), 2);
}

/// A holder's own failure says nothing to the others; another's is everybody's for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_that_was_the_holders_alone_leaves_the_next_one_a_lease() {
    let server = Server::start(&[]).await;
    for (kind, left) in [(ErrorKind::Deadline, "0"), (ErrorKind::Server, "1")] {
        let failure = Error::new(kind, "upstream", "no answer");
        let upstream = Arc::new(Scripted::new().always_reply(Reply::Fail(failure)));
        let one = process(&upstream, Cache::memory(100).fleet(tier(&server).await));
        let name = format!("sluicegate:!lease:{{{}}}", key(&one, &kind.to_string()).to_hex());
        one.chat(ask(&kind.to_string())).await.unwrap_err();
        assert_eq!(server.command(&["EXISTS", &name]).await, left, "{kind:?}");
    }
}

/// Nobody waits for an answer that will not be kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_keeps_nothing_takes_no_lease() {
    let server = Server::start(&[]).await;
    for (control, leases) in [(CacheControl::new().ttl(Duration::ZERO), "0"), (CacheControl::new(), "1")] {
        let gate = Gate::closed();
        let upstream = Arc::new(Scripted::new().always("answer").gate(&gate));
        let one = process(&upstream, Cache::memory(100).fleet(tier(&server).await));
        let name = format!("sluicegate:!lease:{{{}}}", key(&one, "question").to_hex());
        let request = ChatRequest::new("m").user("question").with(control);
        let asking = tokio::spawn(async move { one.chat(request).await });
        until("it is asked", || async { upstream.calls() == 1 }).await;
        assert_eq!(server.command(&["EXISTS", &name]).await, leases);
        gate.open();
        asking.await.unwrap().unwrap();
    }
}
