//! Values of the user's own: fetched once, kept on the tiers of the cache, removed with them.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluicegate::cache::tier::Memory;
use sluicegate::cache::{Cache, CacheLayer, Namespace, Selector, Values};
use sluicegate::testing::Scripted;
use sluicegate::types::ChatRequest;
use sluicegate::{Env, Error, ErrorKind, Layer, OptimizedClient};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Document {
    title: String,
    passages: Vec<String>,
}

fn document(title: &str) -> Document {
    Document { title: title.into(), passages: vec!["one".into(), "two".into()] }
}

#[derive(Debug)]
struct Lost;

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("lost")
    }
}

impl std::error::Error for Lost {}

/// Where documents come from: a second away, and it counts how often it is asked.
#[derive(Clone, Default)]
struct Library(Arc<AtomicUsize>);

impl Library {
    fn fetch(&self, title: &str) -> impl Future<Output = Result<Document, Lost>> + Send + use<> {
        let (asked, document) = (Arc::clone(&self.0), document(title));
        async move {
            asked.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(SECOND).await;
            Ok(document)
        }
    }

    fn asked(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

fn at_work(cache: Cache) -> CacheLayer {
    let layer = CacheLayer::from(cache);
    layer.wrap(Arc::new(Scripted::new()), &Env::new()).unwrap();
    layer
}

fn retrieval() -> (Values, CacheLayer) {
    let layer = at_work(Cache::memory(10));
    (layer.namespace("retrieval").unwrap(), layer)
}

#[tokio::test(start_paused = true)]
async fn a_value_is_fetched_once_and_handed_out_as_it_is() {
    let ((values, layer), library) = (retrieval(), Library::default());
    let ask = || values.get_or_fetch("doc:1", library.fetch("sky"));
    let together = futures_util::future::join_all((0..50).map(|_| ask())).await;
    let first = together[0].as_ref().unwrap();
    assert_eq!(**first, document("sky"));
    assert!(together.iter().all(|other| Arc::ptr_eq(first, other.as_ref().unwrap())));
    assert!(Arc::ptr_eq(first, &ask().await.unwrap()), "a hit is not parsed again");
    assert!(Arc::ptr_eq(first, &values.get("doc:1").await.unwrap().unwrap()));
    assert_eq!((library.asked(), layer.open_flights()), (1, 0));
    assert_eq!(values.get::<Document>("doc:2").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_value_lives_as_long_as_its_namespace_or_its_handle_says() {
    let layer = at_work(Cache::memory(10).jitter(0.0).namespace(Namespace::new("tools").ttl(5 * SECOND)));
    let values = layer.namespace("tools").unwrap();
    for (values, seconds) in [(values.clone(), 5), (values.clone().ttl(2 * SECOND), 2)] {
        values.put("key", 7_u32).await.unwrap();
        tokio::time::advance(seconds * SECOND - Duration::from_millis(1)).await;
        assert_eq!(values.get::<u32>("key").await.unwrap().as_deref(), Some(&7));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(values.get::<u32>("key").await.unwrap(), None);
    }
    let never = values.ttl(Duration::ZERO);
    never.put("key", 7_u32).await.unwrap();
    never.get_or_fetch("key", async { Ok::<_, Lost>(7_u32) }).await.unwrap();
    assert_eq!(never.get::<u32>("key").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn tenants_and_namespaces_never_share() {
    let (values, layer) = retrieval();
    let places = [
        values.clone(),
        values.clone().tenant("one"),
        values.clone().tenant("two"),
        layer.namespace("prompts").unwrap(),
        layer.namespace("responses").unwrap(),
    ];
    let library = Library::default();
    let fetches = places.iter().enumerate().map(|(number, place)| {
        let fetch = library.fetch(&number.to_string());
        async move { place.get_or_fetch("key", fetch).await.unwrap() }
    });
    let fetched = futures_util::future::join_all(fetches).await;
    assert_eq!(library.asked(), places.len(), "not even while they are fetched");
    for (place, fetched) in places.iter().zip(fetched) {
        assert_eq!(place.get::<Document>("key").await.unwrap().unwrap(), fetched);
    }
    assert_eq!(layer.remove(&Selector::Namespace("retrieval".into())).await.unwrap(), 3);
    assert!(places[3].get::<Document>("key").await.unwrap().is_some());
    assert!(!format!("{:?}", places[1]).contains("one"), "tenants are not shown");
}

#[tokio::test]
async fn values_are_removed_by_key_tag_and_pattern() {
    let (values, layer) = retrieval();
    let pattern = |pattern: &str| Selector::Pattern(pattern.into());
    let cases: [(Selector, &[&str]); 4] = [
        (pattern("retrieval/doc:*"), &["page:1"]),
        (pattern("*/*:1"), &["doc:2"]),
        (Selector::Tag("odd".into()), &["doc:2"]),
        (Selector::All, &[]),
    ];
    for (selector, left) in cases {
        for key in ["doc:1", "doc:2", "page:1"] {
            let values = if key.ends_with('1') { values.clone().tag("odd") } else { values.clone() };
            values.put(key, key.to_owned()).await.unwrap();
        }
        layer.remove(&selector).await.unwrap();
        for key in ["doc:1", "doc:2", "page:1"] {
            let found = values.get::<String>(key).await.unwrap();
            assert_eq!(found.is_some(), left.contains(&key), "{selector:?}: {key}");
        }
    }
    values.put("doc:1", 1_u32).await.unwrap();
    values.clone().tenant("one").put("doc:1", 2_u32).await.unwrap();
    assert_eq!((values.remove("doc:1").await.unwrap(), values.remove("doc:1").await.unwrap()), (1, 0));
    assert!(values.tenant("one").get::<u32>("doc:1").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_failed_fetch_is_told_to_all_who_waited_and_not_kept() {
    let (values, layer) = retrieval();
    let failing = || {
        values.get_or_fetch::<u32, _, _>("key", async {
            tokio::time::sleep(SECOND).await;
            Err(Lost)
        })
    };
    let (one, two) = tokio::join!(failing(), failing());
    for error in [one.unwrap_err(), two.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Other);
        assert!(std::error::Error::source(&error).unwrap().is::<Lost>());
    }
    let own = Error::new(ErrorKind::RateLimited, "upstream", "later").with_status(429);
    let error = values.get_or_fetch::<u32, _, _>("key", async { Err(own) }).await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::RateLimited, Some(429)), "ours stays what it is");
    let text = values.get_or_fetch::<u32, _, _>("key", async { Err("in words") }).await.unwrap_err();
    assert_eq!(std::error::Error::source(&text).unwrap().to_string(), "in words");
    assert!(!text.to_string().contains("in words"), "it may be secret");

    let panicking = || {
        values.get_or_fetch::<u32, _, Lost>("key", async {
            tokio::time::sleep(SECOND).await;
            panic!("scripted panic")
        })
    };
    let (one, two) = tokio::join!(panicking(), panicking());
    assert_eq!((one.unwrap_err().kind(), two.unwrap_err().kind()), (ErrorKind::Panicked, ErrorKind::Panicked));
    assert_eq!(*values.get_or_fetch("key", async { Ok::<_, Lost>(7_u32) }).await.unwrap(), 7);
    assert_eq!(layer.open_flights(), 0);

    // Whoever asks after a failure fetches anew, even while somebody has yet to hear of it.
    let fails = || Box::pin(values.get_or_fetch::<u32, _, _>("late", std::future::ready(Err(Lost))));
    let once = || async {
        tokio::task::yield_now().await;
        Err::<u32, _>(Lost)
    };
    let (mut starter, mut sleeper) = (Box::pin(values.get_or_fetch("late", once())), fails());
    assert!(futures_util::poll!(starter.as_mut()).is_pending() && futures_util::poll!(sleeper.as_mut()).is_pending());
    starter.await.unwrap_err();
    assert_eq!(*values.get_or_fetch("late", async { Ok::<_, Lost>(7_u32) }).await.unwrap(), 7);
    sleeper.await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_fetch_whose_starter_leaves_is_carried_on_by_who_waits() {
    let ((values, layer), library) = (retrieval(), Library::default());
    let ask = || Box::pin(values.get_or_fetch("key", library.fetch("sky")));
    let (mut starter, mut joiner) = (ask(), ask());
    assert!(futures_util::poll!(starter.as_mut()).is_pending() && futures_util::poll!(joiner.as_mut()).is_pending());
    assert_eq!(layer.open_flights(), 1);
    drop(starter);
    joiner.await.unwrap();
    let mut last = Box::pin(values.get_or_fetch("other", library.fetch("sea")));
    assert!(futures_util::poll!(last.as_mut()).is_pending());
    drop(last);
    assert_eq!((library.asked(), layer.open_flights()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_joiner_outlives_the_starters_deadline() {
    let (values, _) = retrieval();
    let hurried = values.get_or_fetch::<u32, _, _>("key", async {
        tokio::time::sleep(SECOND).await;
        Err(Error::new(ErrorKind::Deadline, "test", "too late"))
    });
    let patient = values.get_or_fetch("key", async { Ok::<_, Lost>(7_u32) });
    let (hurried, patient) = tokio::join!(hurried, patient);
    assert_eq!((hurried.unwrap_err().kind(), *patient.unwrap()), (ErrorKind::Deadline, 7));
}

#[tokio::test]
async fn a_fetch_that_asks_for_its_own_key_is_refused_rather_than_waiting_for_itself() {
    let (values, _) = retrieval();
    let inside = values.clone();
    let fetch = async move {
        let other = inside.get_or_fetch("other", async { Ok::<_, Error>(1_u32) }).await?;
        let own = inside.get_or_fetch("key", async { Ok::<_, Error>(2_u32) }).await?;
        Ok::<_, Error>(*other + *own)
    };
    let asked = tokio::time::timeout(SECOND, values.get_or_fetch("key", fetch)).await.expect("waits for itself");
    assert_eq!(asked.unwrap_err().kind(), ErrorKind::InvalidRequest);
}

#[tokio::test(start_paused = true)]
async fn what_was_removed_or_put_while_it_was_fetched_is_not_overwritten() {
    type Meddle = for<'a> fn(&'a Values, &'a CacheLayer) -> futures_util::future::BoxFuture<'a, ()>;
    let put: Meddle = |values, _| Box::pin(async { drop(values.put("doc:1", document("new")).await.unwrap()) });
    let remove: Meddle = |values, _| Box::pin(async { assert_eq!(values.remove("doc:1").await.unwrap(), 0) });
    let pattern: Meddle = |_, layer| {
        Box::pin(async { assert_eq!(layer.remove(&Selector::Pattern("retrieval/doc:*".into())).await.unwrap(), 0) })
    };
    let tag: Meddle =
        |_, layer| Box::pin(async { assert_eq!(layer.remove(&Selector::Tag("t".into())).await.unwrap(), 0) });
    let other: Meddle = |values, _| Box::pin(async { assert_eq!(values.remove("doc:2").await.unwrap(), 0) });
    let cases = [("put", put, "new"), ("remove", remove, "late"), ("pattern", pattern, "late"), ("tag", tag, "late")];
    for (what, meddle, expected) in cases.into_iter().chain([("another key", other, "old")]) {
        let ((values, layer), library) = (retrieval(), Library::default());
        let values = values.tag("t");
        let old = values.get_or_fetch("doc:1", library.fetch("old"));
        let late = async {
            tokio::time::sleep(SECOND / 2).await;
            meddle(&values, &layer).await;
            values.get_or_fetch("doc:1", library.fetch("late")).await
        };
        let (old, late) = tokio::join!(old, late);
        assert_eq!((&*old.unwrap().title, &*late.unwrap().title), ("old", expected), "{what}");
        let kept = values.get::<Document>("doc:1").await.unwrap();
        assert_eq!(kept.unwrap().title, expected, "{what}");
        assert_eq!(layer.open_flights(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_of_another_type_is_a_miss() {
    let ((values, _), library) = (retrieval(), Library::default());
    values.put("key", vec![1_u32, 2]).await.unwrap();
    assert_eq!(values.get::<Document>("key").await.unwrap(), None);
    assert_eq!(values.get::<Vec<u64>>("key").await.unwrap().as_deref(), Some(&vec![1_u64, 2]), "one shape, one value");
    assert_eq!(values.get_or_fetch("key", library.fetch("sky")).await.unwrap().title, "sky");
    assert_eq!(values.get::<Vec<u32>>("key").await.unwrap(), None, "and is replaced");
    // Two types fetched under one key at the same time: each gets its own.
    let number = values.get_or_fetch("both", async {
        tokio::time::sleep(SECOND).await;
        Ok::<_, Lost>(7_u32)
    });
    let (number, found) = tokio::join!(number, values.get_or_fetch("both", library.fetch("sea")));
    assert_eq!((*number.unwrap(), &*found.unwrap().title), (7, "sea"));
}

#[tokio::test]
async fn what_cannot_be_written_as_json_is_handed_out_and_not_kept() {
    use std::collections::HashMap;
    let (values, _) = retrieval();
    let odd = HashMap::from([((1_u8, 2_u8), 3_u8)]);
    let fetched = odd.clone();
    assert_eq!(*values.get_or_fetch("key", async { Ok::<_, Lost>(fetched) }).await.unwrap(), odd);
    assert_eq!(values.get::<HashMap<(u8, u8), u8>>("key").await.unwrap(), None);
    assert_eq!(values.put("key", odd).await.unwrap_err().kind(), ErrorKind::InvalidRequest);
}

/// Two processes, so to speak: each its own memory, one tier for both.
#[tokio::test(start_paused = true)]
async fn an_outer_tier_shares_values() {
    let (tier, library) = (Arc::new(Memory::new(10, 1 << 20).unwrap()), Library::default());
    let first = at_work(Cache::memory(10).tier(Arc::clone(&tier))).namespace("retrieval").unwrap();
    let layer = at_work(Cache::memory(10).tier(Arc::clone(&tier)));
    let second = layer.namespace("retrieval").unwrap();
    let fetched = first.get_or_fetch("key", library.fetch("sky")).await.unwrap();
    assert_eq!(second.get_or_fetch("key", library.fetch("sky")).await.unwrap(), fetched);
    assert_eq!(library.asked(), 1);
    assert_eq!(second.remove("key").await.unwrap(), 2);
    assert!(tier.is_empty());
}

#[cfg(feature = "disk")]
#[tokio::test]
async fn values_survive_a_restart_on_disk() {
    use sluicegate::cache::tier::Disk;
    let folder = tempfile::tempdir().unwrap();
    for restarted in [false, true] {
        let layer = at_work(Cache::memory(10).tier(Disk::open(folder.path()).build().unwrap()));
        let values = layer.namespace("retrieval").unwrap();
        if !restarted {
            values.put("key", document("sky")).await.unwrap();
        }
        assert_eq!(values.get::<Document>("key").await.unwrap().as_deref(), Some(&document("sky")));
        let again = values.get::<Document>("key").await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&again, &values.get("key").await.unwrap().unwrap()), "parsed once");
    }
}

#[tokio::test]
async fn a_handle_says_what_it_lacks() {
    let layer = CacheLayer::from(Cache::memory(10));
    let values = layer.namespace("retrieval").unwrap();
    let error = values.get::<u32>("key").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("wrap the layer"), "{error}");
    let error = layer.namespace("retrieved").unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidRequest && error.to_string().contains("retrieval"), "{error}");
    assert_eq!(CacheLayer::from(Cache::memory(0)).namespace("retrieval").unwrap_err().kind(), ErrorKind::Config);

    let client = OptimizedClient::builder(Scripted::new()).cache(layer.clone()).build().unwrap();
    values.put("key", 7_u32).await.unwrap();
    client.chat(ChatRequest::new("m").user("key")).await.unwrap();
    assert_eq!(values.get::<u32>("key").await.unwrap().as_deref(), Some(&7), "made before, at work now");
}

#[tokio::test]
async fn the_handle_of_a_client_gives_them_too() {
    let layer = CacheLayer::from(Cache::memory(10));
    let client = OptimizedClient::builder(Scripted::new()).cache(layer.clone()).build().unwrap();
    let cache = client.cache().unwrap();
    let (given, same) = (cache.namespace("retrieval").unwrap(), layer.namespace("retrieval").unwrap());
    given.put("key", 7_u32).await.unwrap();
    assert_eq!(same.get::<u32>("key").await.unwrap().as_deref(), Some(&7));
    assert_eq!(cache.remove_selected(&Selector::Pattern("retrieval/k*".into())).await.unwrap(), 1);
    assert!(same.get::<u32>("key").await.unwrap().is_none());
    assert_eq!(cache.namespace("retrieved").unwrap_err().kind(), ErrorKind::InvalidRequest);

    client.shutdown().await;
    given.put("key", 8_u32).await.unwrap();
    assert_eq!(given.get::<u32>("key").await.unwrap().as_deref(), Some(&8), "they ask nothing of the client");
}
