//! What each removal takes from the disk tier, and what it leaves, before and after a restart.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sluicegate::Env;
use sluicegate::cache::tier::Disk;
use sluicegate::cache::{CacheTier, Entry, Labels, Probe, Selector};
use sluicegate::types::ChatCompletion;

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

fn open(folder: &Path) -> Disk {
    Disk::open(folder).max_bytes(2 << 20).segment_bytes(16 << 10).build().unwrap()
}

fn probe(number: usize) -> Probe {
    Probe::value(SHELF[number].0, None, SHELF[number].1, Env::new().now())
}

async fn put(disk: &Disk, number: usize, tags: &[&str]) {
    let long: Vec<String> = (0..100).map(|number| format!("tag number {number} of a long list")).collect();
    let long = if SHELF[number].1 == "long" { &long[..] } else { &[] };
    let tags = long.iter().map(String::as_str).chain(tags.iter().copied());
    let completion = Arc::new(ChatCompletion::text("m", "x"));
    let life = Duration::from_secs(3600);
    let entry = Entry::new(&probe(number), completion, Arc::from([]), Env::new().now(), life, None)
        .with_labels(Labels::new(SHELF[number].1).tags(tags));
    disk.put(&probe(number), Arc::new(entry)).await.unwrap();
}

async fn fill(disk: &Disk) {
    for (number, (_, _, tags)) in SHELF.into_iter().enumerate() {
        put(disk, number, tags).await;
    }
}

async fn left(disk: &Disk) -> BTreeSet<usize> {
    let mut left = BTreeSet::new();
    for number in 0..SHELF.len() {
        if disk.get(&probe(number)).await.unwrap().is_some() {
            left.insert(number);
        }
    }
    left
}

fn cases() -> Vec<(Selector, Vec<usize>)> {
    let key = |number: usize| probe(number).key();
    let stranger = Probe::value("responses", None, "never stored", Env::new().now()).key();
    vec![
        (Selector::Keys(vec![key(0), stranger, key(5), key(0)]), vec![0, 5]),
        (Selector::Keys(vec![]), vec![]),
        (Selector::Tag("prices".into()), vec![0, 1]),
        (Selector::Tag("eu".into()), vec![1, 3]),
        (Selector::Tag("last".into()), vec![5]),
        (Selector::Tag("none".into()), vec![]),
        (Selector::Pattern("responses/gpt-5*".into()), vec![0, 1]),
        (Selector::Pattern("*/llama".into()), vec![2]),
        (Selector::Namespace("retrieval".into()), vec![4, 5]),
        (Selector::Namespace("retr".into()), vec![]),
        (Selector::Key(key(3)), vec![3]),
        (Selector::All, (0..SHELF.len()).collect()),
    ]
}

#[tokio::test]
async fn each_takes_its_own_for_good() {
    for (selector, taken) in cases() {
        let folder = tempfile::tempdir().unwrap();
        let disk = open(folder.path());
        fill(&disk).await;
        assert_eq!(disk.remove(&selector).await.unwrap(), taken.len() as u64, "{selector:?}");
        let wanted: BTreeSet<_> = (0..SHELF.len()).filter(|number| !taken.contains(number)).collect();
        assert_eq!(left(&disk).await, wanted, "{selector:?}");
        drop(disk);
        let disk = open(folder.path());
        assert_eq!(left(&disk).await, wanted, "{selector:?}, after a restart");
        assert_eq!((disk.stats().refused, disk.stats().errors), (0, 0));
    }
}

#[tokio::test]
async fn what_was_replaced_is_judged_by_what_replaced_it() {
    let folder = tempfile::tempdir().unwrap();
    let disk = open(folder.path());
    put(&disk, 0, &["old"]).await;
    put(&disk, 0, &["new"]).await;
    assert_eq!(disk.remove(&Selector::Tag("old".into())).await.unwrap(), 0);
    assert_eq!(left(&disk).await, [0].into());
    assert_eq!(disk.remove(&Selector::Tag("new".into())).await.unwrap(), 1);
    drop(disk);
    let disk = open(folder.path());
    assert_eq!(left(&disk).await, [].into(), "the older one does not come back");
}

#[tokio::test]
async fn damage_elsewhere_keeps_nothing_from_going() {
    let folder = tempfile::tempdir().unwrap();
    let disk = open(folder.path());
    fill(&disk).await;
    let segment = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
    let segment = segment.filter(|path| path.extension().is_some_and(|ending| ending == "seg")).min().unwrap();
    // The head of the first record, and of the envelope in it.
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[..100].fill(0xff);
    std::fs::write(&segment, bytes).unwrap();
    assert_eq!(disk.remove(&Selector::Tag("prices".into())).await.unwrap(), 1, "the first one is a miss already");
    assert_eq!(left(&disk).await, [2, 3, 4, 5].into());
}
