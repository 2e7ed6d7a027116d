//! What each removal takes, and what it leaves.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::TryStreamExt;
use sluicegate::cache::tier::Objects;
use sluicegate::cache::tier::object::object_store::memory::InMemory;
use sluicegate::cache::tier::object::object_store::path::Path;
use sluicegate::cache::tier::object::object_store::{ObjectStore, ObjectStoreExt};
use sluicegate::cache::{CacheTier, Labels, Probe, Selector};
use sluicegate::{Env, Result};

use super::{answer, folder_tier, store, tier};

/// Namespace, name, tags.
const SHELF: [(&str, &str, &[&str]); 6] = [
    ("responses", "gpt-5", &["prices"]),
    ("responses", "gpt-5-mini", &["prices", "eu"]),
    ("responses", "meta/llama", &[]),
    ("embeddings", "small", &["eu"]),
    ("retrieval", "doc", &[]),
    // Its labels are longer than the first read of a head.
    ("retrieval", "long", &["last"]),
];

fn probe(number: usize) -> Probe {
    Probe::value(SHELF[number].0, None, SHELF[number].1, Env::new().now())
}

async fn fill(tier: &Objects) {
    for (number, (_, name, tags)) in SHELF.into_iter().enumerate() {
        let long: Vec<String> = (0..100).map(|number| format!("tag number {number} of a long list")).collect();
        let long = if name == "long" { &long[..] } else { &[] };
        let tags = long.iter().map(String::as_str).chain(tags.iter().copied());
        let entry = answer(&probe(number), "x").with_labels(Labels::new(name).tags(tags));
        tier.put(&probe(number), Arc::new(entry)).await.unwrap();
    }
}

async fn left(tier: &Objects) -> BTreeSet<usize> {
    let mut left = BTreeSet::new();
    for number in 0..SHELF.len() {
        if tier.get(&probe(number)).await.unwrap().is_some() {
            left.insert(number);
        }
    }
    left
}

fn cases() -> Vec<(Selector, Vec<usize>)> {
    let key = |number: usize| probe(number).key();
    let stranger = Probe::value("responses", None, "never stored", Env::new().now()).key();
    vec![
        (Selector::Key(key(3)), vec![3]),
        (Selector::Key(stranger), vec![]),
        (Selector::Keys(vec![key(0), stranger, key(5)]), vec![0, 5]),
        (Selector::Keys(vec![]), vec![]),
        (Selector::Tag("prices".into()), vec![0, 1]),
        (Selector::Tag("eu".into()), vec![1, 3]),
        (Selector::Tag("last".into()), vec![5]),
        (Selector::Tag("none".into()), vec![]),
        (Selector::Pattern("responses/gpt-5*".into()), vec![0, 1]),
        (Selector::Pattern("*/llama".into()), vec![2]),
        (Selector::Pattern("retrieval/*".into()), vec![4, 5]),
        (Selector::Namespace("responses".into()), vec![0, 1, 2]),
        (Selector::Namespace("resp".into()), vec![]),
        (Selector::Namespace(String::new()), vec![]),
        (Selector::All, (0..SHELF.len()).collect()),
    ]
}

async fn check(tier: &Objects) -> Result<()> {
    for (selector, taken) in cases() {
        fill(tier).await;
        assert_eq!(tier.remove(&selector).await?, taken.len() as u64, "{selector:?}");
        let wanted: BTreeSet<_> = (0..SHELF.len()).filter(|number| !taken.contains(number)).collect();
        assert_eq!(left(tier).await, wanted, "{selector:?}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn each_takes_its_own_in_memory() {
    let tier = tier(&store());
    assert_eq!(tier.remove(&Selector::Key(probe(0).key())).await.unwrap(), 0, "nothing was ever stored");
    check(&tier).await.unwrap();
    assert_eq!((tier.stats().refused, tier.stats().errors), (0, 0));
}

#[tokio::test]
async fn each_takes_its_own_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let tier = folder_tier(folder.path());
    assert_eq!(tier.remove(&Selector::Key(probe(0).key())).await.unwrap(), 0, "nothing was ever stored");
    check(&tier).await.unwrap();
    assert_eq!((tier.stats().refused, tier.stats().errors), (0, 0));
}

async fn names(store: &InMemory) -> BTreeSet<String> {
    store.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_not_ours_stays() {
    let store = store();
    let hex = "c7".repeat(32);
    let foreign = [
        "sluicegate/readme.md".to_owned(),
        "sluicegate/v2/responses/c7/notes".to_owned(),
        format!("sluicegate/v2/responses/c8/{hex}"),
        format!("sluicegate2/v2/responses/c7/{hex}"),
        format!("v2/responses/c7/{hex}"),
    ];
    // Of ours, but no envelope of this version: only a removal of all takes them.
    let old = [format!("sluicegate/v1/responses/c7/{hex}"), format!("sluicegate/v2/responses/c7/{hex}")];
    for name in foreign.iter().chain(&old) {
        store.put(&Path::parse(name).unwrap(), "not an entry".into()).await.unwrap();
    }
    let tier = tier(&store);
    fill(&tier).await;
    assert_eq!(tier.remove(&Selector::Pattern("*".into())).await.unwrap(), SHELF.len() as u64);
    assert_eq!(names(&store).await, foreign.iter().chain(&old).cloned().collect());
    fill(&tier).await;
    assert_eq!(tier.remove(&Selector::All).await.unwrap(), SHELF.len() as u64 + 2);
    assert_eq!(names(&store).await, foreign.into_iter().collect());
}

#[tokio::test(start_paused = true)]
async fn thousands_go_page_by_page() {
    let store = store();
    let tier = tier(&store);
    for number in 0..2_345 {
        let probe = Probe::value("retrieval", None, &number.to_string(), Env::new().now());
        let tag = if number % 2 == 0 { "even" } else { "odd" };
        let entry = answer(&probe, "x").with_labels(Labels::new("v").tags([tag]));
        tier.put(&probe, Arc::new(entry)).await.unwrap();
    }
    assert_eq!(tier.remove(&Selector::Tag("odd".into())).await.unwrap(), 1_172);
    assert_eq!(tier.remove(&Selector::Namespace("retrieval".into())).await.unwrap(), 1_173);
    assert!(names(&store).await.is_empty());
}
