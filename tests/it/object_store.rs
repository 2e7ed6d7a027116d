//! The object store tier: what it returns is exactly what was stored, whatever the store does and whoever writes to it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "helpers of tests fail as tests do")]

mod selectors;
mod sick;
mod web;

use std::sync::Arc;
use std::time::Duration;

use sluicegate::cache::tier::Objects;
use sluicegate::cache::tier::object::object_store::local::LocalFileSystem;
use sluicegate::cache::tier::object::object_store::memory::InMemory;
use sluicegate::cache::tier::object::object_store::path::Path;
use sluicegate::cache::tier::object::object_store::{Attribute, ObjectStore, ObjectStoreExt};
use sluicegate::cache::{Cache, CacheTier, Entry, Labels, MacKey, Probe, Selector};
use sluicegate::testing::Scripted;
use sluicegate::testing::laws::tier_laws;
use sluicegate::types::{ChatCompletion, ChatRequest, Source};
use sluicegate::{ClientInfo, Env, ErrorKind, OptimizedClient};

const MINUTE: Duration = Duration::from_secs(60);

fn question(text: &str) -> Probe {
    Probe::chat(&ClientInfo::new("tests"), &ChatRequest::new("gpt-5-mini").user(text), Env::new().now())
}

fn answer(probe: &Probe, text: &str) -> Entry {
    let completion = Arc::new(ChatCompletion::text("gpt-5-mini", text));
    Entry::new(probe, completion, Arc::from([]), Env::new().now(), MINUTE, None).with_labels(Labels::new("gpt-5-mini"))
}

async fn put(tier: &Objects, probe: &Probe, text: &str) {
    tier.put(probe, Arc::new(answer(probe, text))).await.unwrap();
}

async fn text(tier: &Objects, probe: &Probe) -> Option<String> {
    let found = tier.get(probe).await.unwrap()?;
    Some(found.completion().unwrap().choices[0].message.text())
}

fn store() -> Arc<InMemory> {
    Arc::new(InMemory::new())
}

fn tier(store: &Arc<InMemory>) -> Objects {
    Objects::builder(Arc::clone(store)).build().unwrap()
}

fn folder_tier(folder: &std::path::Path) -> Objects {
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(folder).unwrap());
    Objects::builder(store).get_timeout(MINUTE).put_timeout(MINUTE).build().unwrap()
}

/// Where the tier keeps it.
fn name(probe: &Probe) -> Path {
    let hex = probe.key().to_hex();
    Path::parse(format!("sluicegate/v2/responses/{}/{hex}", &hex[..2])).unwrap()
}

async fn lies(store: &InMemory, name: &Path) -> bool {
    store.head(name).await.is_ok()
}

async fn bytes(store: &InMemory, name: &Path) -> Vec<u8> {
    store.get(name).await.unwrap().bytes().await.unwrap().to_vec()
}

#[tokio::test(start_paused = true)]
async fn keeps_the_laws_in_memory() {
    tier_laws(&tier(&store()), Env::new().now()).await;
}

#[tokio::test]
async fn keeps_the_laws_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    tier_laws(&folder_tier(folder.path()), Env::new().now()).await;
}

#[tokio::test]
async fn a_folder_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let probes: Vec<_> = (0..20).map(|number| question(&number.to_string())).collect();
    let first = folder_tier(folder.path());
    for (number, probe) in probes.iter().enumerate() {
        put(&first, probe, &format!("answer {number}")).await;
    }
    drop(first);
    assert!(folder.path().join(name(&probes[0]).as_ref()).is_file());
    let second = folder_tier(folder.path());
    for (number, probe) in probes.iter().enumerate() {
        assert_eq!(text(&second, probe).await, Some(format!("answer {number}")));
    }
    assert_eq!(text(&second, &question("never asked")).await, None);
    // A cut file is what a full disk or a killed copy leaves.
    let path = folder.path().join(name(&probes[0]).as_ref());
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(text(&second, &probes[0]).await, None);
    assert!(!path.exists());
    assert_eq!((second.stats().refused, second.stats().errors), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_the_entry_is_a_miss_and_goes() {
    let store = store();
    let tier = tier(&store);
    let (mine, other) = (question("mine"), question("other"));
    put(&tier, &mine, "my answer").await;
    put(&tier, &other, "another answer").await;
    let (whole, swapped) = (bytes(&store, &name(&mine)).await, bytes(&store, &name(&other)).await);
    let mut damaged = vec![swapped, Vec::new(), b"{}".to_vec(), b"hello".to_vec(), vec![0; 5 << 20]];
    damaged.extend((0..whole.len()).step_by(7).map(|length| whole[..length].to_vec()));
    damaged.extend((0..whole.len()).map(|place| {
        let mut flipped = whole.clone();
        flipped[place] ^= 1 << (place % 8);
        flipped
    }));
    damaged.push([&whole[..], b"more"].concat());
    let count = damaged.len() as u64;
    for bytes in damaged {
        let length = bytes.len();
        store.put(&name(&mine), bytes.into()).await.unwrap();
        assert_eq!(text(&tier, &mine).await, None, "{length} bytes");
        assert!(!lies(&store, &name(&mine)).await, "{length} bytes");
    }
    assert_eq!((tier.stats().refused, tier.stats().expired, tier.stats().errors), (count, 0, 0));
    put(&tier, &mine, "again").await;
    assert_eq!(text(&tier, &mine).await.as_deref(), Some("again"));
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_is_a_miss_and_goes() {
    let store = store();
    let tier = tier(&store);
    put(&tier, &question("a"), "a").await;
    tokio::time::advance(MINUTE - Duration::from_millis(10)).await;
    assert_eq!(text(&tier, &question("a")).await.as_deref(), Some("a"));
    tokio::time::advance(Duration::from_millis(10)).await;
    assert!(lies(&store, &name(&question("a"))).await);
    assert_eq!(text(&tier, &question("a")).await, None);
    assert!(!lies(&store, &name(&question("a"))).await);
    assert_eq!((tier.stats().expired, tier.stats().refused), (1, 0));
    // Nothing is kept that has no life left.
    let late = question("late");
    let entry = Arc::new(answer(&late, "late"));
    tokio::time::advance(MINUTE).await;
    tier.put(&late, entry).await.unwrap();
    assert!(!lies(&store, &name(&late)).await);
}

#[tokio::test(start_paused = true)]
async fn only_entries_of_the_fleet_are_served() {
    let store = store();
    let tier = |secret: u8| {
        let key = MacKey::new(1, [secret; 32]);
        Objects::builder(Arc::clone(&store)).mac(key).build().unwrap()
    };
    let (one, other, forger) = (tier(7), tier(7), tier(8));
    let probe = question("forged?");
    put(&forger, &probe, "forged").await;
    assert_eq!((text(&one, &probe).await, one.stats().refused), (None, 1));
    put(&one, &probe, "true").await;
    assert_eq!(text(&other, &probe).await.as_deref(), Some("true"));
}

#[tokio::test(start_paused = true)]
async fn objects_say_who_may_keep_them_and_for_how_long() {
    let store = store();
    let public = Objects::builder(Arc::clone(&store)).public().build().unwrap();
    let probe = question("a");
    for (tier, wanted) in [(&tier(&store), "private, max-age=60"), (&public, "public, max-age=60")] {
        // Stale answers are kept for longer, but whoever stands between must ask again.
        tier.put(&probe, Arc::new(answer(&probe, "a").with_grace(MINUTE))).await.unwrap();
        let found = store.get(&name(&probe)).await.unwrap();
        assert_eq!(found.attributes.get(&Attribute::CacheControl).unwrap().as_ref(), wanted);
        assert_eq!(found.attributes.get(&Attribute::ContentType).unwrap().as_ref(), "application/octet-stream");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_100_mib_is_declined() {
    let store = store();
    let tier = tier(&store);
    let probe = question("write me a book");
    put(&tier, &probe, &"x".repeat(100 << 20)).await;
    assert!(!lies(&store, &name(&probe)).await);
    assert_eq!((tier.stats().refused, tier.stats().errors), (1, 0));
    // What others left there is not read.
    store.put(&name(&probe), vec![0; 100 << 20].into()).await.unwrap();
    assert_eq!(text(&tier, &probe).await, None);
    assert!(!lies(&store, &name(&probe)).await);
}

#[tokio::test(start_paused = true)]
async fn memory_in_front_of_a_shared_store() {
    let store = store();
    let upstream = Arc::new(Scripted::new());
    let client = || {
        let cache = Cache::memory(100).tier(tier(&store)).tier_timeout(Duration::from_secs(1));
        OptimizedClient::builder(Arc::clone(&upstream)).cache(cache).build().unwrap()
    };
    let ask = || ChatRequest::new("m").user("why is the sky blue?");
    let (first, second) = (client(), client());
    assert_eq!(first.chat(ask()).await.unwrap().trace().source, Source::Upstream);
    assert_eq!(second.chat(ask()).await.unwrap().trace().source, Source::Cache("objects"));
    assert_eq!(second.chat(ask()).await.unwrap().trace().source, Source::Cache("memory"));
    assert_eq!(upstream.calls(), 1);
}

#[test]
fn a_setting_out_of_its_range_is_refused() {
    let builder = || Objects::builder(store());
    for (wrong, setting) in [
        (builder().prefix(""), "prefix"),
        (builder().prefix("/"), "prefix"),
        (builder().prefix("a//b"), "prefix"),
        (builder().prefix("a/../b"), "prefix"),
        (builder().prefix("a".repeat(129)), "prefix"),
        (builder().get_timeout(Duration::ZERO), "get_timeout"),
        (builder().put_timeout(Duration::from_secs(301)), "put_timeout"),
        (builder().max_in_flight(0), "max_in_flight"),
    ] {
        let error = wrong.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(setting), "{error}");
    }
    assert!(builder().prefix("a/b").build().is_ok());
}

#[tokio::test(start_paused = true)]
async fn two_prefixes_do_not_meet() {
    let store = store();
    let tier = |prefix: &str| Objects::builder(Arc::clone(&store)).prefix(prefix).build().unwrap();
    let (ours, theirs) = (tier("llm"), tier("llm2"));
    let probe = question("a");
    put(&ours, &probe, "ours").await;
    put(&theirs, &probe, "theirs").await;
    assert_eq!(ours.remove(&Selector::All).await.unwrap(), 1);
    assert_eq!((text(&ours, &probe).await, text(&theirs, &probe).await.as_deref()), (None, Some("theirs")));
}
