//! Any stretch of time holds at most the limit and one burst, against an exact account of all that was let in: random
//! costs, ends, cancellations and clock jumps, several limits and keys at once.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;
use sluicegate::env::{Clock, TokioClock};
use sluicegate::schedule::{Admission, AdmissionGate, Job, Limit, Outcome, Permit, Scheduler};
use sluicegate::types::{Price, PriceTable, Usage};
use sluicegate::{Env, Result};

/// Stands where it is put, and may be put back; and remembers the latest time that anybody was told.
#[derive(Debug, Clone, Default)]
struct Hand {
    stands: Arc<AtomicU64>,
    told: Arc<AtomicU64>,
}

/// When time began.
static START: LazyLock<Instant> = LazyLock::new(|| TokioClock::new().now());

impl Clock for Hand {
    fn now(&self) -> Instant {
        let millis = self.stands.load(Ordering::Relaxed);
        self.told.fetch_max(millis, Ordering::Relaxed);
        *START + Duration::from_millis(millis)
    }
    fn wall(&self) -> SystemTime {
        TokioClock::new().wall()
    }
    fn sleep_until(&self, until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (stands, until) = (Arc::clone(&self.stands), until.saturating_duration_since(*START));
        // Nobody is woken: the test polls all who wait whenever it has moved the hand.
        let is_there = move || Duration::from_millis(stands.load(Ordering::Relaxed)) >= until;
        Box::pin(poll_fn(move |_| if is_there() { Poll::Ready(()) } else { Poll::Pending }))
    }
}

const MODELS: [&str; 3] = ["small", "large", "large-2"];
const TENANTS: [&str; 2] = ["a", "b"];
/// Dollars per million tokens: a picodollar amount per token that is easy to add up.
const PRICE: Price = Price::new(1.0, 1.0, 2.0);

/// What one step of the test does, beside moving the clock.
#[derive(Debug, Clone)]
enum Step {
    Ask {
        model: usize,
        tenant: usize,
        input: u64,
        output: u64,
    },
    /// One that is under way ends, and used so many hundredths of its estimated output.
    End {
        which: usize,
        output: u64,
    },
    /// One that is under way is dropped.
    Cancel {
        which: usize,
    },
    /// One that waits is dropped.
    Leave {
        which: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_usize, 0..2_usize, 1..400_u64, 0..400_u64)
            .prop_map(|(model, tenant, input, output)| Step::Ask { model, tenant, input, output }),
        3 => (any::<usize>(), 0..200_u64).prop_map(|(which, output)| Step::End { which, output }),
        1 => any::<usize>().prop_map(|which| Step::Cancel { which }),
        1 => any::<usize>().prop_map(|which| Step::Leave { which }),
    ]
}

/// So many milliseconds, mostly forwards.
fn jump() -> impl Strategy<Value = i64> {
    prop_oneof![8 => 0..700_i64, 4 => Just(0), 1 => 0..90_000_i64, 1 => -60_000..0_i64]
}

/// What was let in or found to be more, in order: the latest time that was seen, whose it is, what of each measure.
#[derive(Debug, Clone)]
struct Entry {
    at: u64,
    model: usize,
    tenant: usize,
    input: u64,
    output: u64,
    /// Not a call, but what one took above its estimate.
    excess: bool,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Requests,
    Input,
    Tokens,
    Picos,
}

impl Entry {
    fn amount(&self, what: What) -> u64 {
        match what {
            What::Requests => u64::from(!self.excess),
            What::Input => self.input,
            What::Tokens => self.input + self.output,
            What::Picos => self.input * 1_000_000 + self.output * 2_000_000,
        }
    }
}

/// A limit as the oracle knows it.
struct Law {
    what: What,
    limit: u64,
    /// Milliseconds.
    period: u64,
    /// `None`: a rolling window.
    burst: Option<u64>,
    counts: fn(&Entry, &Entry) -> bool,
}

impl Law {
    /// At the start of each call, the bucket had held what it takes (or was full): so all that was taken since any earlier
    /// moment is at most a full bucket and what came in since, less that. A window: all of it within the limit.
    fn check(&self, entries: &[Entry]) {
        for (place, call) in entries.iter().enumerate().filter(|(_, entry)| !entry.excess) {
            if !(self.counts)(call, call) {
                continue;
            }
            let mut sum = 0;
            let before = entries[..place].iter().rev().filter(|entry| (self.counts)(call, entry));
            for entry in before {
                sum += u128::from(entry.amount(self.what));
                let passed = call.at - entry.at;
                match self.burst {
                    Some(burst) => {
                        let room =
                            u128::from(burst) * u128::from(self.period) + u128::from(self.limit) * u128::from(passed);
                        let taken = sum + u128::from(call.amount(self.what).min(burst));
                        assert!(taken * u128::from(self.period) <= room, "{taken} in {passed} ms: {call:?}");
                    }
                    None if passed < self.period => {
                        let taken = sum + u128::from(call.amount(self.what));
                        assert!(taken <= u128::from(self.limit), "{taken} in {passed} ms: {call:?}");
                    }
                    None => break,
                }
            }
        }
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<Permit>> + Send>>;

struct World {
    gate: AdmissionGate,
    hand: Hand,
    waiting: Vec<(Entry, Waiting)>,
    /// The permit, and the place of its entry.
    under_way: Vec<(Permit, usize)>,
    entries: Vec<Entry>,
}

impl World {
    fn new(admission: Admission) -> Self {
        let hand = Hand::default();
        let prices = MODELS.iter().fold(PriceTable::empty(), |table, model| table.set(*model, PRICE));
        let env = Env::new().with_clock(hand.clone()).with_prices(prices);
        let gate = admission.start(&env).unwrap();
        Self { gate, hand, waiting: Vec::new(), under_way: Vec::new(), entries: Vec::new() }
    }

    fn jump(&mut self, by: i64) {
        let now = self.hand.stands.load(Ordering::Relaxed).saturating_add_signed(by);
        self.hand.stands.store(now, Ordering::Relaxed);
    }

    /// The latest time that the gate has seen: to it, a clock that goes back stands still.
    fn seen(&self) -> u64 {
        self.hand.told.load(Ordering::Relaxed)
    }

    fn play(&mut self, step: &Step) {
        match *step {
            Step::Ask { model, tenant, input, output } => {
                let gate = self.gate.clone();
                let admit: Waiting = Box::pin(async move {
                    let job = Job::new(MODELS[model]).tokens(input, output).tenant(Some(TENANTS[tenant]));
                    gate.admit(&job).await
                });
                let entry = Entry { at: 0, model, tenant, input, output, excess: false };
                self.waiting.push((entry, admit));
            }
            Step::End { which, output } if !self.under_way.is_empty() => {
                let (permit, place) = self.under_way.swap_remove(which % self.under_way.len());
                let Entry { input, output: estimated, .. } = self.entries[place];
                let used = estimated * output / 100;
                permit.settle(Outcome::answered(Some(&Usage::new(input, used)), Duration::ZERO));
                if used > estimated {
                    let excess =
                        Entry { input: 0, output: used - estimated, excess: true, ..self.entries[place].clone() };
                    self.entries.push(Entry { at: self.seen(), ..excess });
                } else {
                    self.entries[place].output = used;
                }
            }
            Step::Cancel { which } if !self.under_way.is_empty() => {
                let (permit, place) = self.under_way.swap_remove(which % self.under_way.len());
                (self.entries[place].input, self.entries[place].output) = (0, 0);
                drop(permit);
            }
            Step::Leave { which } if !self.waiting.is_empty() => {
                drop(self.waiting.swap_remove(which % self.waiting.len()));
            }
            _ => {}
        }
    }

    /// Lets whoever is let in go on.
    fn settle_down(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let before = self.waiting.len();
            let mut place = 0;
            while place < self.waiting.len() {
                match self.waiting[place].1.as_mut().poll(&mut cx) {
                    Poll::Pending => place += 1,
                    Poll::Ready(permit) => {
                        let (entry, _) = self.waiting.remove(place);
                        self.entries.push(Entry { at: self.seen(), ..entry });
                        self.under_way.push((permit.unwrap(), self.entries.len() - 1));
                    }
                }
            }
            // One may have been let in by another's look, after its own turn to be polled.
            if self.waiting.len() == before && self.gate.load().in_flight == self.under_way.len() {
                return;
            }
        }
    }
}

const ALL: fn(&Entry, &Entry) -> bool = |_, _| true;
const SAME_TENANT: fn(&Entry, &Entry) -> bool = |one, other| one.tenant == other.tenant;
const SAME_MODEL: fn(&Entry, &Entry) -> bool = |one, other| one.model == other.model;
const LARGE: fn(&Entry, &Entry) -> bool = |one, other| one.model > 0 && other.model > 0;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn any_window_holds_at_most_the_limit_and_a_burst(
        steps in prop::collection::vec((jump(), step()), 1..200),
        rpm in 1..600_u32,
        tpm in 1_000..60_000_u32,
        burst in 500..20_000_u64,
        some in 1_000..20_000_u64,
    ) {
        let second = Duration::from_secs(1);
        let admission = Admission::new()
            .rpm(rpm)
            .tpm(tpm)
            .burst(Duration::from_millis(burst))
            .limit(Limit::requests(30).per(10 * second).burst(2 * second).by_tenant())
            .limit(Limit::input_tokens(some).per_minute().burst(second).by_model())
            .limit(Limit::tokens(some * 2).per_minute().models(["large*"]).burst(3 * second))
            .limit(Limit::tokens(5_000).per(120 * second).by_tenant())
            .limit(Limit::dollars(0.05).per_hour());
        let mut world = World::new(admission);
        for (by, step) in &steps {
            world.jump(*by);
            world.settle_down();
            world.play(step);
            world.settle_down();
        }
        let share = |limit: u64, worth: u64, period: u64| Some((limit * worth / period).max(1));
        let law = |what, limit, period, burst, counts| Law { what, limit, period, burst, counts };
        for law in [
            law(What::Requests, u64::from(rpm), 60_000, share(u64::from(rpm), burst, 60_000), ALL),
            law(What::Tokens, u64::from(tpm), 60_000, share(u64::from(tpm), burst, 60_000), ALL),
            law(What::Requests, 30, 10_000, share(30, 2_000, 10_000), SAME_TENANT),
            law(What::Input, some, 60_000, share(some, 1_000, 60_000), SAME_MODEL),
            law(What::Tokens, some * 2, 60_000, share(some * 2, 3_000, 60_000), LARGE),
            law(What::Tokens, 5_000, 120_000, None, SAME_TENANT),
            law(What::Picos, 50_000_000_000, 3_600_000, None, ALL),
        ] {
            law.check(&world.entries);
        }
let asked = steps.iter().any(|(_, step)| matches!(step, Step::Ask { .. }));
        prop_assert!(!asked || !world.entries.is_empty(), "nobody is kept out for ever");
    }
}
