//! Items of many callers in one call: when it is sent, whose results are whose, and what a failure or a drop takes along.

mod layer;
mod leaving;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use sluicegate::batch::{BatchLayer, MicroBatcher, MicroBuilder};
use sluicegate::testing::{Scripted, drop_at_every_await};
use sluicegate::{Error, ErrorKind, OptimizedClient, Result};
use tokio::time::{Instant, sleep};

const MS: Duration = Duration::from_millis(1);

/// When a call was made, and with which items.
type Asked = (u64, Vec<u64>);

/// What was asked, how many calls are open, and how many were at most.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Asked>>>, Arc<AtomicUsize>, Arc<AtomicUsize>);

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Log {
    fn sizes(&self) -> Vec<usize> {
        self.0.lock().iter().map(|(_, items)| items.len()).collect()
    }

    fn times(&self) -> Vec<u64> {
        self.0.lock().iter().map(|(at, _)| *at).collect()
    }

    fn open(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }

    fn peak(&self) -> usize {
        self.2.load(Ordering::SeqCst)
    }
}

fn bad() -> Error {
    Error::new(ErrorKind::InvalidRequest, "test", "bad")
}

/// Refused, and its whole batch with it.
const BAD: u64 = 9_013;
/// Refused alone.
const REFUSED: u64 = 9_014;
/// Breaks the call.
const BREAKS: u64 = 9_500;
/// Makes the call give one result too few.
const FEWER: u64 = 9_600;
/// Makes the call panic.
const PANICS: u64 = 9_700;

/// Answers with ten times the item after `latency(items)`.
fn batcher(log: &Log, latency: impl Fn(&[u64]) -> Duration + Send + Sync + 'static) -> MicroBuilder<u64, String> {
    let (log, started) = (log.clone(), Instant::now());
    MicroBatcher::builder(move |items: Vec<u64>| {
        let at = started.elapsed().as_millis() as u64;
        log.0.lock().push((at, items.clone()));
        let open = log.1.fetch_add(1, Ordering::SeqCst) + 1;
        log.2.fetch_max(open, Ordering::SeqCst);
        let (open, wait) = (Open(Arc::clone(&log.1)), latency(&items));
        async move {
            let _open = open;
            sleep(wait).await;
            if items.contains(&BAD) {
                return Err(bad());
            }
            if items.contains(&BREAKS) {
                return Err(Error::new(ErrorKind::Server, "test", "down"));
            }
            assert!(!items.contains(&PANICS), "told to");
            let few = usize::from(items.contains(&FEWER));
            let one = |item: &u64| if *item == REFUSED { Err(bad()) } else { Ok((item * 10).to_string()) };
            Ok(items.iter().skip(few).map(one).collect())
        }
    })
}

fn always(latency: Duration) -> impl Fn(&[u64]) -> Duration + Send + Sync + 'static {
    move |_| latency
}

fn kind(result: &Result<String>) -> Option<ErrorKind> {
    result.as_ref().err().map(Error::kind)
}

#[tokio::test(start_paused = true)]
async fn an_item_alone_never_waits_and_those_that_come_together_go_together() {
    let log = Log::default();
    let one = batcher(&log, always(MS)).max_size(1_000).build().unwrap();
    let started = Instant::now();
    for n in 0..20 {
        assert_eq!(one.call(n).await.unwrap(), (n * 10).to_string());
    }
    assert_eq!((started.elapsed(), log.sizes()), (20 * MS, vec![1; 20]));
    // From one task, and from tasks of their own.
    let answers = join_all((0..100).map(|n| one.call(n))).await;
    assert!(answers.iter().enumerate().all(|(n, answer)| *answer.as_ref().unwrap() == (n * 10).to_string()));
    let spawned = (0..100).map(|n| {
        tokio::spawn({
            let one = one.clone();
            async move { one.call(n).await }
        })
    });
    let spawned: Vec<_> = spawned.collect();
    for (n, answer) in join_all(spawned).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap().unwrap(), (n * 10).to_string());
    }
    assert_eq!((log.sizes()[20..].to_vec(), started.elapsed()), (vec![100, 100], 22 * MS));
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_sent_when_it_is_full_and_never_more_at_once_than_was_said() {
    let log = Log::default();
    let some = batcher(&log, always(100 * MS)).max_size(32).concurrency(2).build().unwrap();
    join_all((0..100).map(|n| some.call(n))).await;
    assert_eq!((log.sizes(), log.times(), log.peak()), (vec![32, 32, 32, 4], vec![0, 0, 100, 100], 2));
    let log = Log::default();
    let weighed = batcher(&log, always(MS)).max_weight(100, |item| *item).concurrency(1).build().unwrap();
    join_all([60, 50, 40, 10, 250, 1, 1].map(|n| weighed.call(n))).await;
    let items: Vec<_> = log.0.lock().iter().map(|(_, items)| items.clone()).collect();
    assert_eq!(items, [vec![60], vec![50, 40, 10], vec![250], vec![1, 1]]);
}

#[tokio::test(start_paused = true)]
async fn company_is_waited_for_only_beside_a_call_and_no_longer_than_it_may_pay() {
    let log = Log::default();
    // The first call is short, item 1 takes long.
    let slow = batcher(&log, |items| if items.contains(&1) { 500 * MS } else { 2 * MS });
    let slow = slow.max_wait(20 * MS).build().unwrap();
    let at = |wait: Duration, item: u64| {
        let slow = &slow;
        async move {
            sleep(wait).await;
            slow.call(item).await.unwrap();
        }
    };
    // Nothing is known of how long calls take: 2 and 3 wait for 20 ms from the arrival of the first of them.
    tokio::join!(at(Duration::ZERO, 1), at(5 * MS, 2), at(15 * MS, 3));
    assert_eq!((log.sizes(), log.times()), (vec![1, 2], vec![0, 25]));
    // Short ones bring the mean down: 5 waits for less than max_wait.
    for n in 0..40 {
        slow.call(10_000 + n).await.unwrap();
    }
    let (before, base) = (log.sizes().len(), *log.times().last().unwrap() + 2);
    tokio::join!(at(Duration::ZERO, 1), at(5 * MS, 5));
    let times = &log.times()[before..];
    assert!(times[0] == base && (base + 5..=base + 8).contains(&times[1]), "{base}: {times:?}");
    // What waits when the last call ends goes at once.
    let log = Log::default();
    let steady = batcher(&log, always(7 * MS)).max_wait(Duration::from_secs(1)).concurrency(1).build().unwrap();
    let late = async {
        sleep(MS).await;
        join_all((10..20).map(|n| steady.call(n))).await;
    };
    tokio::join!(steady.call(1), late).0.unwrap();
    assert_eq!((log.sizes(), log.times()), (vec![1, 10], vec![0, 7]));
}

#[tokio::test(start_paused = true)]
async fn equal_items_are_asked_once_where_that_was_said() {
    for once in [true, false] {
        let log = Log::default();
        let builder = batcher(&log, always(10 * MS));
        let builder = if once { builder.once_by(|item| item.to_le_bytes()) } else { builder };
        let one = builder.build().unwrap();
        let late = async {
            sleep(5 * MS).await;
            join_all([7, BAD].map(|n| one.call(n))).await
        };
        let (answers, late) = tokio::join!(join_all([7, 7, 8, 7, BAD, BAD].map(|n| one.call(n))), late);
        let answers: Vec<_> = answers.iter().chain(&late).map(|answer| answer.as_deref().unwrap_or("bad")).collect();
        assert_eq!(answers, ["70", "70", "80", "70", "bad", "bad", "70", "bad"]);
        assert_eq!(log.0.lock()[0].1.len(), if once { 3 } else { 6 });
        let asked: usize = log.0.lock().iter().map(|(_, items)| items.iter().filter(|item| **item == 8).count()).sum();
        assert!(asked >= 1);
        if once {
            // The late ones found theirs under way: 7, 8 and the bad one, then halves.
            assert_eq!(log.sizes(), [3, 1, 2, 1, 1]);
            assert_eq!(one.call(7).await.unwrap(), "70");
            assert_eq!(log.sizes().len(), 6, "what has ended is asked anew");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_bad_item_fails_alone_within_the_bound_on_calls() {
    for count in [1_u64, 2, 3, 7, 64, 100] {
        for place in [0, count / 2, count - 1] {
            let log = Log::default();
            let some = batcher(&log, always(MS)).max_size(1_000).build().unwrap();
            let items = (0..count).map(|n| if n == place { BAD } else { 1_000 + n });
            for (n, answer) in (0_u64..).zip(join_all(items.map(|n| some.call(n))).await) {
                match n == place {
                    true => assert_eq!(kind(&answer), Some(ErrorKind::InvalidRequest)),
                    false => assert_eq!(answer.unwrap(), ((1_000 + n) * 10).to_string()),
                }
            }
            let most = 1 + 2 * count.next_power_of_two().ilog2() as usize;
            assert!(log.sizes().len() <= most && log.peak() == 1, "{count}, {place}: {:?}", log.sizes());
        }
    }
    let log = Log::default();
    let some = batcher(&log, always(MS)).max_size(1_000).build().unwrap();
    let answers = join_all((0..50).map(|_| some.call(BAD))).await;
    assert!(answers.iter().all(|answer| kind(answer) == Some(ErrorKind::InvalidRequest)));
    assert_eq!(log.sizes().len(), 99, "2n - 1");
    let alone = join_all([1, REFUSED, 2].map(|n| some.call(n))).await;
    assert_eq!(alone.iter().map(kind).collect::<Vec<_>>(), [None, Some(ErrorKind::InvalidRequest), None]);
}

#[tokio::test(start_paused = true)]
async fn another_failure_is_that_of_all_and_no_one_gets_a_neighbours_result() {
    for (item, expected) in [(BREAKS, ErrorKind::Server), (FEWER, ErrorKind::Decode), (PANICS, ErrorKind::Panicked)] {
        let log = Log::default();
        let some = batcher(&log, always(MS)).build().unwrap();
        let answers = join_all([1, 2, item, 3].map(|n| some.call(n))).await;
        assert_eq!(answers.iter().map(kind).collect::<Vec<_>>(), [Some(expected); 4]);
        assert_eq!((log.sizes(), log.open()), (vec![4], 0));
        assert_eq!(some.call(5).await.unwrap(), "50", "the next call works");
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_takes_its_item_along_and_the_last_one_the_call() {
    let log = Log::default();
    let some = batcher(&log, always(100 * MS)).concurrency(1).max_wait(Duration::from_secs(10)).build().unwrap();
    let call = |n: u64| {
        tokio::spawn({
            let some = some.clone();
            async move { some.call(n).await }
        })
    };
    let (one, two) = (call(1), call(2));
    sleep(10 * MS).await;
    let (three, four) = (call(3), call(4));
    sleep(10 * MS).await;
    assert_eq!((log.sizes(), log.open()), (vec![2], 1));
    three.abort();
    one.abort();
    sleep(10 * MS).await;
    assert_eq!(log.open(), 1, "two still waits");
    assert_eq!(two.await.unwrap().unwrap(), "20");
    assert_eq!(four.await.unwrap().unwrap(), "40");
    let items: Vec<_> = log.0.lock().iter().map(|(_, items)| items.clone()).collect();
    assert_eq!(items, [vec![1, 2], vec![4]], "three was not sent");

    let (five, six) = (call(5), call(6));
    sleep(10 * MS).await;
    let seven = call(7);
    sleep(10 * MS).await;
    five.abort();
    six.abort();
    sleep(MS).await;
    assert_eq!((log.open(), log.sizes().len()), (1, 4), "the call is dropped, and seven goes at once");
    assert_eq!(seven.await.unwrap().unwrap(), "70");
    let polls = drop_at_every_await(
        || some.call(8),
        async || {
            assert_eq!(log.open(), 0);
            assert_eq!(some.call(9).await.unwrap(), "90");
        },
    )
    .await;
    assert!(polls >= 2);
}

/// What comes while one caller is at the call is not lost when that caller goes.
#[tokio::test(start_paused = true)]
async fn a_caller_that_found_the_call_taken_is_woken_for_what_came_meanwhile() {
    type Caller = std::pin::Pin<Box<dyn Future<Output = Result<u64>> + Send>>;
    #[derive(Default)]
    struct Woken(AtomicUsize);
    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (woken, other) = (Arc::<Woken>::default(), Arc::<Mutex<Option<Caller>>>::default());
    let (told, polled) = (Arc::clone(&woken), Arc::clone(&other));
    let pair = MicroBatcher::builder(move |items: Vec<u64>| {
        let (told, polled, mut polls) = (Arc::clone(&told), Arc::clone(&polled), 0);
        std::future::poll_fn(move |cx| {
            polls += 1;
            if polls == 1 {
                cx.waker().wake_by_ref();
                let waker = std::task::Waker::from(Arc::clone(&told));
                let mut cx = std::task::Context::from_waker(&waker);
                let other = polled.lock().as_mut().map(|other| other.as_mut().poll(&mut cx));
                assert!(other.is_some_and(|poll| poll.is_pending()), "the call is taken");
                return std::task::Poll::Pending;
            }
            std::task::Poll::Ready(items.iter().map(|item| Ok(item * 10)).collect::<Vec<Result<u64>>>())
        })
    });
    let pair = Arc::new(pair.build().unwrap());
    let call = |n: u64| -> Caller {
        Box::pin({
            let pair = Arc::clone(&pair);
            async move { pair.call(n).await }
        })
    };
    let (mut one, mut two) = (call(1), call(2));
    assert!(futures_util::poll!(&mut one).is_pending() && futures_util::poll!(&mut two).is_pending());
    *other.lock() = Some(two);
    assert!(futures_util::poll!(&mut one).is_pending());
    drop(one);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1, "two is to look again");
    let two = other.lock().take().unwrap();
    assert_eq!(two.await.unwrap(), 20);
}

/// Threads, calls that rest in between, callers that give up at any time: nobody hangs, everybody gets their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_hangs_and_nothing_is_mixed_up() {
    let some = MicroBatcher::builder(|items: Vec<u64>| async move {
        for _ in 0..items[0] % 7 {
            // It wakes from another thread, often before this poll of it has ended.
            tokio::spawn(async {}).await.unwrap();
        }
        items.iter().map(|item| Ok(item * 10)).collect::<Vec<Result<u64>>>()
    });
    let some = some.max_size(17).concurrency(3).max_wait(MS).once_by(|item| item.to_le_bytes()).build().unwrap();
    let callers: Vec<_> = (0..8_u64)
        .map(|task| {
            let some = some.clone();
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(task);
                for _ in 0..2_000 {
                    let n = random.u64(..500);
                    let mut call = Box::pin(some.call(n));
                    if random.u8(..4) == 0 {
                        for _ in 0..random.u8(..4) {
                            if futures_util::poll!(&mut call).is_ready() {
                                break;
                            }
                            tokio::task::yield_now().await;
                        }
                    } else {
                        assert_eq!(call.await.unwrap(), n * 10);
                    }
                }
            })
        })
        .collect();
    let all = tokio::time::timeout(Duration::from_secs(120), join_all(callers)).await.expect("somebody hangs");
    all.into_iter().for_each(|caller| caller.unwrap());
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let log = Log::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _entered = runtime.enter();
    for builder in [
        batcher(&log, always(MS)).max_size(0),
        batcher(&log, always(MS)).concurrency(0),
        batcher(&log, always(MS)).max_weight(0, |_| 1),
        batcher(&log, always(MS)).max_wait(Duration::from_secs(61)),
    ] {
        assert_eq!(builder.build().unwrap_err().kind(), ErrorKind::Config);
    }
    for layer in [
        BatchLayer::new().max_inputs(0),
        BatchLayer::new().max_tokens(0),
        BatchLayer::new().concurrency(0),
        BatchLayer::new().max_wait(Duration::from_secs(61)),
    ] {
        let built = OptimizedClient::builder(Scripted::new()).batch(layer).build();
        assert_eq!(built.unwrap_err().kind(), ErrorKind::Config);
    }
}
