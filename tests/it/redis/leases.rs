//! Leases and announcements as the tier keeps them, on one node and on a cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sluicegate::cache::tier::Redis;
use sluicegate::cache::{CacheKey, CacheTier, Fleet, Follower, Invalidation, Lease, Leasing, Selector};

use super::server::{Server, cluster};
use super::wait::until;
use super::{joined, minute, patient, question, text};

const LONG: Duration = Duration::from_secs(60);

async fn held(tier: &Redis, key: &CacheKey, term: Duration) -> Lease {
    match tier.lease(key, term).await.unwrap() {
        Leasing::Held(lease) => lease,
        other => panic!("{other:?}"),
    }
}

async fn two_on(url: String) -> (Redis, Redis) {
    let (one, other) = (patient(url.clone()).build().unwrap(), patient(url).build().unwrap());
    joined(&one).await;
    joined(&other).await;
    (one, other)
}

/// Whatever the slots of its keys.
async fn lease_and_entry_go_together(one: &Redis, other: &Redis) {
    for number in 0..20 {
        let probe = question(&number.to_string());
        let key = probe.key();
        let lease = held(one, &key, LONG).await;
        assert_eq!(other.lease(&key, LONG).await.unwrap(), Leasing::Taken);
        let stranger = Lease { key, token: lease.token ^ 1 };
        assert!(!other.renew(&stranger, LONG).await.unwrap());
        assert!(!other.put_leased(&probe, &minute(&probe, "stranger"), &stranger).await.unwrap());
        other.release(&stranger, Duration::ZERO).await.unwrap();
        assert_eq!(text(one, &probe).await.unwrap(), None);
        assert!(one.renew(&lease, LONG).await.unwrap());
        assert!(one.put_leased(&probe, &minute(&probe, "answer"), &lease).await.unwrap());
        assert_eq!(text(other, &probe).await.unwrap().as_deref(), Some("answer"));
        // Given back by the put; and without an answer, to the next one or to everybody.
        let lease = held(other, &key, LONG).await;
        other.release(&lease, Duration::ZERO).await.unwrap();
        let lease = held(one, &key, LONG).await;
        one.release(&lease, LONG).await.unwrap();
        assert_eq!(other.lease(&key, LONG).await.unwrap(), Leasing::Open);
    }
}

#[tokio::test]
async fn a_lease_is_its_holders_until_it_is_given_back() {
    let server = Server::start(&[]).await;
    let (one, other) = two_on(server.url()).await;
    lease_and_entry_go_together(&one, &other).await;
}

#[tokio::test]
async fn a_lease_lies_beside_its_entry_in_a_cluster() {
    let nodes = cluster().await;
    let (one, other) = two_on(format!("redis-cluster://127.0.0.1:{}", nodes[0].port)).await;
    lease_and_entry_go_together(&one, &other).await;
    for node in &nodes {
        assert_ne!(node.command(&["DBSIZE"]).await, "0", "both were used");
    }
}

/// A slow reader of a stream may leave its lease alone for too long; only a successor makes its answer needless.
#[tokio::test]
async fn an_answer_that_comes_after_its_lease_is_kept_if_nobody_has_asked_since() {
    let server = Server::start(&[]).await;
    let (one, other) = two_on(server.url()).await;
    let probe = question("late");
    let (key, short) = (probe.key(), Duration::from_millis(1));
    let ended = || until("the lease ends", || async { server.command(&["EXISTS", &name(&key)]).await == "0" });
    let late = held(&one, &key, short).await;
    ended().await;
    assert!(one.put_leased(&probe, &minute(&probe, "late"), &late).await.unwrap());
    assert_eq!(text(&one, &probe).await.unwrap().as_deref(), Some("late"));
    other.remove(&Selector::All).await.unwrap();

    let late = held(&one, &key, short).await;
    ended().await;
    let successor = held(&other, &key, LONG).await;
    assert!(!one.put_leased(&probe, &minute(&probe, "late"), &late).await.unwrap(), "the successor asks");
    assert!(other.put_leased(&probe, &minute(&probe, "successor"), &successor).await.unwrap());
    assert!(!one.put_leased(&probe, &minute(&probe, "late"), &late).await.unwrap(), "the successor has answered");
    assert_eq!(text(&one, &probe).await.unwrap().as_deref(), Some("successor"));
}

fn name(key: &CacheKey) -> String {
    format!("sluicegate:!lease:{{{}}}", key.to_hex())
}

/// Takes its time, and counts when it has dropped what it was told.
struct Slow {
    time: Duration,
    begun: AtomicUsize,
    dropped: AtomicUsize,
}

impl Slow {
    fn new(time: Duration) -> Arc<Self> {
        Arc::new(Self { time, begun: AtomicUsize::new(0), dropped: AtomicUsize::new(0) })
    }

    async fn follows(self: &Arc<Self>, tier: &Redis) {
        let follower: Arc<dyn Follower> = Arc::clone(self) as _;
        tier.follow(Arc::downgrade(&follower)).unwrap();
        until("it is told", || async { self.begun.load(Ordering::SeqCst) > 0 }).await;
        self.dropped.store(0, Ordering::SeqCst);
    }
}

impl Follower for Slow {
    fn hear(&self, invalidation: &Invalidation, _: Instant) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        if matches!(invalidation, Invalidation::Removed(_)) {
            tokio::task::block_in_place(|| std::thread::sleep(self.time));
            self.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn an_announcement_waits_for_the_slowest(url: String) {
    let (one, other) = two_on(url).await;
    let (quick, slow) = (Slow::new(Duration::ZERO), Slow::new(Duration::from_millis(200)));
    quick.follows(&one).await;
    slow.follows(&other).await;
    for round in 1..=3 {
        one.announce(&Selector::Tag("t".into())).await.unwrap();
        let dropped = [&quick, &slow].map(|follower| follower.dropped.load(Ordering::SeqCst));
        assert!(dropped.iter().all(|dropped| *dropped >= round), "{dropped:?} in round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_announcement_returns_when_all_have_dropped_it() {
    let server = Server::start(&[]).await;
    an_announcement_waits_for_the_slowest(server.url()).await;
}

/// There each listener hears it from every master.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_announcement_in_a_cluster_returns_when_all_have_dropped_it() {
    let nodes = cluster().await;
    an_announcement_waits_for_the_slowest(format!("redis-cluster://127.0.0.1:{}", nodes[0].port)).await;
}
