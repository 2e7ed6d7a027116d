//! Who goes next: classes, arrival, hand-over, against an oracle.

use super::*;
use proptest::prelude::*;
use sluicegate::env::{Random, SeededRandom};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

#[tokio::test(start_paused = true)]
async fn concurrency_is_never_exceeded() {
    let client = Arc::new(Scripted::new().latency(Duration::from_millis(20)));
    let gate = gate(Admission::new().concurrency(8));
    let idle = gate.load();
    let llm = wrap(&client, &gate);
    let random = Arc::new(SeededRandom::new(7));
    let tasks: Vec<_> = (0..1_000)
        .map(|_| {
            let (llm, random) = (Arc::clone(&llm), Arc::clone(&random));
            tokio::spawn(async move {
                let patience = Duration::from_millis(random.next() % 3_000);
                tokio::select! {
                    biased;
                    () = sleep(patience) => {}
                    answer = llm.chat(request()) => assert!(answer.is_ok()),
                }
            })
        })
        .collect();
    for task in tasks {
        soon(task).await;
    }
    assert_eq!(client.peak(), 8);
    assert!(client.calls() > 300);
    assert_eq!(gate.load(), idle);
}

#[tokio::test(start_paused = true)]
async fn higher_goes_first_and_equals_in_order_of_arrival() {
    for admission in [Admission::new().concurrency(1), Admission::new().rpm(60), Admission::new().tpm(60).burst(SECOND)]
    {
        let gate = gate(admission);
        let order = Arc::default();
        let first = gate.admit(&Job::new("m").tokens(1, 0)).await.unwrap();
        let mut tasks = Vec::new();
        let classes =
            [Priority::Low, Priority::Normal, Priority::High, Priority::Normal, Priority::High, Priority::Low];
        for (name, priority) in (0..).zip(classes) {
            tasks.push(ask(&gate, &order, name, priority));
            settle_down().await;
        }
        assert_eq!(gate.load().queued, 6);
        first.settle(Outcome::answered(None, SECOND));
        for expected in 1..=6 {
            while order.lock().len() < expected {
                sleep(Duration::from_millis(100)).await;
            }
            let newest = order.lock()[expected - 1] as usize;
            let task = std::mem::replace(
                &mut tasks[newest],
                tokio::spawn(async { Err(Error::new(ErrorKind::Other, "", "")) }),
            );
            soon(task).await.unwrap().settle(Outcome::answered(None, SECOND));
        }
        assert_eq!(*order.lock(), [2, 4, 1, 3, 0, 5]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_head_hands_over_its_timer() {
    let gate = gate(Admission::new().rpm(60));
    gate.admit(&Job::new("m")).await.unwrap().settle(Outcome::answered(None, SECOND));
    let order = Arc::default();
    let head = ask(&gate, &order, 0, Priority::Normal);
    settle_down().await;
    let next = ask(&gate, &order, 1, Priority::Normal);
    settle_down().await;
    let before = now();
    head.abort();
    soon(next).await.unwrap().settle(Outcome::answered(None, SECOND));
    assert_eq!((order.lock().as_slice(), now() - before), (&[1][..], SECOND));

    // A higher one takes the timer over, and gives it back when it leaves.
    let low = ask(&gate, &order, 2, Priority::Low);
    settle_down().await;
    let high = ask(&gate, &order, 3, Priority::High);
    settle_down().await;
    sleep(SECOND / 2).await;
    high.abort();
    soon(low).await.unwrap().settle(Outcome::answered(None, SECOND));
    assert_eq!((order.lock().as_slice(), now() - before), (&[1, 2][..], 2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_not_taken_goes_to_the_next_with_its_request() {
    let gate = gate(Admission::new().concurrency(1).rpm(60).burst(2 * SECOND));
    let first = gate.admit(&Job::new("m")).await.unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let job = Job::new("m");
    let mut second = Box::pin(gate.admit(&job));
    let mut third = Box::pin(gate.admit(&job));
    assert!(second.as_mut().poll(&mut cx).is_pending() && third.as_mut().poll(&mut cx).is_pending());
    drop(first);
    assert_eq!((gate.load().in_flight, gate.load().queued), (1, 1));
    drop(second);
    assert_eq!((gate.load().in_flight, gate.load().queued), (1, 0));
    assert!(third.as_mut().poll(&mut cx).is_ready(), "both requests of the burst are used, none is lost");
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Ask(Priority, usize, u64),
    Cancel(usize),
    Release(usize),
    Poll(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let priority = prop_oneof![Just(Priority::Low), Just(Priority::Normal), Just(Priority::High)];
    prop_oneof![
        (priority, 0_usize..4, 1_u64..50).prop_map(|(priority, tenant, tokens)| Step::Ask(priority, tenant, tokens)),
        (0_usize..40).prop_map(Step::Cancel),
        (0_usize..40).prop_map(Step::Release),
        (0_usize..40).prop_map(Step::Poll),
    ]
}

const TENANTS: [Option<&str>; 4] = [None, Some("a"), Some("b"), Some("heavy")];
const WEIGHTS: [u128; 4] = [1, 1, 1, 3];

/// Every look at it is a second later.
#[derive(Debug)]
struct Ticking(Instant, AtomicUsize);

impl sluicegate::env::Clock for Ticking {
    fn now(&self) -> Instant {
        self.0 + SECOND * u32::try_from(self.1.fetch_add(1, Ordering::SeqCst)).unwrap()
    }

    fn wall(&self) -> std::time::SystemTime {
        std::time::SystemTime::UNIX_EPOCH
    }

    fn sleep_until(&self, _: Instant) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

/// The order, by searching lists: those who wait in order of arrival, and of each class the clock and the tags.
#[derive(Debug, Default)]
struct Oracle {
    waiting: Vec<(usize, Priority, usize, u64)>,
    clock: [u128; 3],
    /// Tag, turn at which it was set.
    tags: [[Option<(u128, u64)>; 4]; 3],
    turns: u64,
    since_aged: usize,
}

impl Oracle {
    fn waits(&self, class: usize, tenant: usize) -> bool {
        self.waiting.iter().any(|(_, priority, who, _)| *priority as usize == class && *who == tenant)
    }

    fn ask(&mut self, name: usize, priority: Priority, tenant: usize, tokens: u64) {
        let class = priority as usize;
        if !self.waits(class, tenant) {
            let tag = self.tags[class][tenant].map_or(0, |(tag, _)| tag).max(self.clock[class]);
            self.turns += 1;
            self.tags[class][tenant] = Some((tag, self.turns));
        }
        self.waiting.push((name, priority, tenant, tokens));
    }

    fn leave(&mut self, name: usize) {
        self.waiting.retain(|(who, ..)| *who != name);
        for class in 0..3 {
            if (0..4).all(|tenant| !self.waits(class, tenant)) {
                (self.clock[class], self.tags[class]) = (0, [None; 4]);
            }
        }
        if self.waiting.is_empty() {
            self.since_aged = 0;
        }
    }

    fn next(&mut self, ageing: bool) -> usize {
        let top = self.waiting.iter().map(|(_, priority, ..)| *priority as usize).max().unwrap();
        let below = self.waiting.iter().find(|(_, priority, ..)| (*priority as usize) < top);
        let aged = below.filter(|_| ageing && self.since_aged >= 9).map(|(_, priority, ..)| *priority as usize);
        self.since_aged = if aged.is_some() { 0 } else { self.since_aged + 1 };
        let class = aged.unwrap_or(top);
        let flows: Vec<usize> = (0..4).filter(|tenant| self.waits(class, *tenant)).collect();
        let weights: u128 = flows.iter().map(|tenant| WEIGHTS[*tenant]).sum();
        let tenant = flows.iter().copied().min_by_key(|tenant| self.tags[class][*tenant]).unwrap();
        let (name, _, _, tokens) =
            *self.waiting.iter().find(|(_, p, who, _)| *p as usize == class && *who == tenant).unwrap();
        let cost = u128::from(tokens) << 20;
        let tag = self.tags[class][tenant].unwrap().0 + cost / WEIGHTS[tenant];
        self.turns += 1;
        self.tags[class][tenant] = Some((tag, self.turns));
        let least = flows.iter().map(|tenant| self.tags[class][*tenant].unwrap().0).min().unwrap();
        self.clock[class] = (self.clock[class] + cost / weights).max(least);
        self.leave(name);
        name
    }
}

proptest! {
    /// Against lists that are searched for the next one each time: classes, tenants and ageing.
    #[test]
    fn random_orders_match_a_simple_oracle(
        concurrency in 1_usize..4,
        ageing in any::<bool>(),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let patience = if ageing { Duration::ZERO } else { Duration::MAX };
        let admission = Admission::new().concurrency(concurrency).ageing(patience).tenant_weight("heavy", 3);
        let gate = admission.start(&Env::new().with_clock(Ticking(now(), AtomicUsize::new(0)))).unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let mut asked = Vec::new();
        let mut held: Vec<(usize, Permit)> = Vec::new();
        let (mut oracle, mut admitted) = (Oracle::default(), Vec::<usize>::new());
        for (name, step) in steps.into_iter().enumerate() {
            match step {
                Step::Ask(priority, tenant, tokens) => {
                    let gate = gate.clone();
                    let job = Job::new("m").priority(priority).tenant(TENANTS[tenant]).tokens(tokens, 0);
                    let mut ask = Box::pin(async move { gate.admit(&job).await });
                    if admitted.len() < concurrency {
                        admitted.push(name);
                    } else {
                        oracle.ask(name, priority, tenant, tokens);
                    }
                    match ask.as_mut().poll(&mut cx) {
                        Poll::Ready(permit) => held.push((name, permit.unwrap())),
                        Poll::Pending => asked.push((name, ask)),
                    }
                }
                Step::Cancel(i) if i < asked.len() => {
                    let (name, ask) = asked.remove(i);
                    drop(ask);
                    oracle.leave(name);
                    admitted.retain(|who| *who != name);
                }
                Step::Release(i) if i < held.len() => {
                    let (name, permit) = held.remove(i);
                    drop(permit);
                    admitted.retain(|who| *who != name);
                }
                Step::Poll(i) if i < asked.len() => {
                    let ready = asked[i].1.as_mut().poll(&mut cx);
                    prop_assert_eq!(ready.is_ready(), admitted.contains(&asked[i].0));
                    if let Poll::Ready(permit) = ready {
                        held.push((asked.remove(i).0, permit.unwrap()));
                    }
                }
                _ => {}
            }
            while admitted.len() < concurrency && !oracle.waiting.is_empty() {
                admitted.push(oracle.next(ageing));
            }
            prop_assert_eq!((gate.load().in_flight, gate.load().queued), (admitted.len(), oracle.waiting.len()));
            prop_assert!(held.iter().all(|(name, _)| admitted.contains(name)));
        }
        drop((held, asked));
        prop_assert_eq!((gate.load().in_flight, gate.load().queued), (0, 0));
    }
}
