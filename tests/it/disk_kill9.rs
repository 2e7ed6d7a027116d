//! Kill -9 in the midst of writing, and damage to the files between the runs: what is read is exact, or a miss.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use crate::disk::{bytes_in, child_command, child_task, damage, folder, get, probe, put, segments, tell};
use sluicegate::cache::tier::Disk;
use sluicegate::cache::{CacheTier, Selector};

const KEYS: u64 = 97;
const CAP: u64 = 256 << 10;
const SEGMENT: u64 = 16 << 10;
/// What was put last is never evicted: so many puts fill far less than the cap.
const RECENT: usize = 40;

fn open(folder: &Path) -> Disk {
    Disk::open(folder).max_bytes(CAP).segment_bytes(SEGMENT).build().unwrap()
}

/// Puts and removes for ever; nothing when it runs as one of the tests.
#[tokio::test]
async fn child() {
    let Some((start, folder)) = child_task() else { return };
    let disk = open(&folder);
    for version in start.parse::<u64>().unwrap().. {
        let key = version % KEYS;
        put(&disk, key, version).await;
        tell(&format!("\nput {key} {version}"));
        if version % 31 == 0 {
            disk.remove(&Selector::Key(probe(key).key())).await.unwrap();
            tell(&format!("\ngone {key} {version}"));
        }
    }
}

/// Runs the child until it has told so many lines, then kills it. What it told: keys, versions, whether they were removed.
fn killed_after(lines: usize, start: u64, folder: &Path) -> Vec<(u64, u64, bool)> {
    let mut child =
        child_command("disk_kill9::child", &start.to_string(), folder).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Ok(line) = line else { break };
        // What was on its way when it was killed is read to the end; a line may be cut.
        let words: Vec<_> = line.split(' ').collect();
        if let ["put" | "gone", key, version] = words[..]
            && let (Ok(key), Ok(version)) = (key.parse::<u64>(), version.parse::<u64>())
            && version % KEYS == key
            && version >= start
        {
            told.push((key, version, words[0] == "gone"));
        }
        if told.len() == lines {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    told
}

#[tokio::test]
async fn disk_kill9() {
    let (folder, mut random) = (folder(), fastrand::Rng::with_seed(9));
    // Versions by key: what is found must not be older, and must be newer if this one is gone.
    let mut floor: HashMap<u64, (u64, bool)> = HashMap::new();
    let (mut hits, mut damages) = (0, 0);
    for round in 0..50_u64 {
        let told = killed_after(random.usize(1..200), round * 1_000_000, folder.path());
        assert!(!told.is_empty(), "the child wrote nothing");
        assert!(bytes_in(folder.path()) <= CAP, "round {round}: over the cap when killed");
        for (key, version, gone) in &told {
            floor.insert(*key, (*version, *gone));
        }
        let damaged = if round % 2 == 1 { random.u8(1..4) } else { 0 };
        for _ in 0..damaged {
            if !segments(folder.path()).is_empty() {
                damage(folder.path(), &mut random);
                damages += 1;
            }
        }
        let disk = open(folder.path());
        assert!(bytes_in(folder.path()) <= CAP, "round {round}: over the cap when opened");
        let last = told.last().map_or(0, |(_, version, _)| *version);
        let recent: Vec<_> = told.iter().rev().take(RECENT).map(|(key, _, _)| *key).collect();
        for key in 0..KEYS {
            let found = get(&disk, key).await;
            let Some((known, gone)) = floor.get(&key).copied() else { continue };
            if let Some(found) = found {
                hits += 1;
                assert!(found > known || (found == known && !gone), "round {round}: {key} rose from {known}: {found}");
            } else if damaged == 0 && !gone && recent.contains(&key) {
                // The removal of the last one, or of the one that was under way, may have been done and not told.
                let removed = known % 31 == 0 || (last + 1..last + 3).any(|next| next % KEYS == key);
                assert!(removed, "round {round}: {key} at {known} was told and lost");
            }
            floor.insert(key, found.map_or((known, true), |found| (found, false)));
        }
        if round % 5 == 0 {
            // What is lost stays lost, what is there stays there.
            drop(disk);
            let disk = open(folder.path());
            for key in 0..KEYS {
                let expected = floor.get(&key).and_then(|(version, gone)| (!gone).then_some(*version));
                assert_eq!(get(&disk, key).await, expected, "round {round}");
            }
        }
    }
    assert!(hits > 2_000 && damages > 30, "{hits} hits, {damages} damages");
}
