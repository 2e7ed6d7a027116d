//! Who waits for what: items, the callers who wait for them, and the calls that carry them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::flight::Flight;
use super::rules::Rules;
use super::split::{Work, answer};
use crate::env::Env;
use crate::error::Result;

pub(in crate::batch) struct Shared<In, Out> {
    pub(super) work: Work<In, Out>,
    pub(super) rules: Rules<In, Out>,
    pub(super) env: Env,
    pub(super) state: Mutex<State<In, Out>>,
}

/// An item, once for all who want it.
pub(super) struct Job<In> {
    /// Gone once it is sent.
    item: Option<In>,
    size: usize,
    weight: u64,
    key: Option<Vec<u8>>,
    arrived: Instant,
    seats: Vec<u64>,
    flight: Option<u64>,
}

/// A caller.
pub(super) struct Seat<Out> {
    pub(super) job: u64,
    pub(super) waker: Option<Waker>,
    pub(super) outcome: Option<Result<Out>>,
}

struct Carried<In, Out> {
    flight: Arc<Flight<In, Out>>,
    jobs: Vec<u64>,
    /// Of the jobs, those that somebody still waits for.
    wanted: usize,
    started: Instant,
}

pub(super) struct State<In, Out> {
    next: u64,
    jobs: HashMap<u64, Job<In>>,
    /// Those not sent yet; numbers grow, so the oldest is the first.
    queue: BTreeSet<u64>,
    size: usize,
    weight: u64,
    keys: HashMap<Vec<u8>, u64>,
    pub(super) seats: HashMap<u64, Seat<Out>>,
    flights: HashMap<u64, Carried<In, Out>>,
    /// How long a call takes: a mean in which the last one counts a quarter.
    mean: Option<Duration>,
}

impl<In, Out> Default for State<In, Out> {
    fn default() -> Self {
        Self {
            next: 0,
            jobs: HashMap::new(),
            queue: BTreeSet::new(),
            size: 0,
            weight: 0,
            keys: HashMap::new(),
            seats: HashMap::new(),
            flights: HashMap::new(),
            mean: None,
        }
    }
}

/// What is let go of outside the lock: it may be all that holds another caller.
pub(super) type Left<In, Out> = (Option<Job<In>>, Option<Arc<Flight<In, Out>>>, Option<Seat<Out>>);

impl<In, Out> State<In, Out> {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Seats a caller with its item, or with an equal one that is waiting or under way.
    pub(super) fn seat(&mut self, item: In, rules: &Rules<In, Out>, now: Instant) -> u64 {
        let seat = self.number();
        let key = rules.key.as_ref().map(|key| key(&item));
        let known = key.as_ref().and_then(|key| self.keys.get(key)).copied();
        let job = match known.and_then(|known| Some((known, self.jobs.get_mut(&known)?))) {
            Some((known, job)) => {
                job.seats.push(seat);
                known
            }
            None => {
                let number = self.number();
                let (size, weight) = ((rules.size)(&item).max(1), (rules.weight)(&item));
                self.size = self.size.saturating_add(size);
                self.weight = self.weight.saturating_add(weight);
                if let Some(key) = &key {
                    self.keys.insert(key.clone(), number);
                }
                let (item, seats) = (Some(item), vec![seat]);
                self.jobs.insert(number, Job { item, size, weight, key, arrived: now, seats, flight: None });
                self.queue.insert(number);
                number
            }
        };
        self.seats.insert(seat, Seat { job, waker: None, outcome: None });
        seat
    }

    /// The call that carries this item, if it is sent.
    pub(super) fn carrier(&self, job: u64) -> Option<Arc<Flight<In, Out>>> {
        let flight = self.jobs.get(&job)?.flight?;
        self.flights.get(&flight).map(|carried| Arc::clone(&carried.flight))
    }

    /// Whether no call is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// Whether this one has waited longest.
    pub(super) fn is_first(&self, job: u64) -> bool {
        self.queue.first() == Some(&job)
    }

    /// Until when this item waits for company.
    pub(super) fn due(&self, job: u64, rules: &Rules<In, Out>) -> Option<Instant> {
        let wait = self.mean.map_or(rules.max_wait, |mean| mean.min(rules.max_wait));
        self.jobs.get(&job).and_then(|job| job.arrived.checked_add(wait))
    }

    pub(super) fn wakers_of(&mut self, flight: u64) -> Vec<Waker> {
        let jobs = self.flights.get(&flight).map(|carried| carried.jobs.clone()).unwrap_or_default();
        jobs.iter().flat_map(|job| self.wakers(*job)).collect()
    }

    fn wakers(&mut self, job: u64) -> Vec<Waker> {
        let seats = self.jobs.get(&job).map(|job| job.seats.as_slice()).unwrap_or_default();
        seats.iter().filter_map(|seat| self.seats.get_mut(seat)?.waker.take()).collect()
    }

    fn unqueue(&mut self, number: u64) {
        if self.queue.remove(&number)
            && let Some(job) = self.jobs.get(&number)
        {
            self.size = self.size.saturating_sub(job.size);
            self.weight = self.weight.saturating_sub(job.weight);
        }
    }

    fn forget(&mut self, number: u64) -> Option<Job<In>> {
        self.unqueue(number);
        let job = self.jobs.remove(&number)?;
        if let Some(key) = &job.key {
            self.keys.remove(key);
        }
        Some(job)
    }

    /// A caller goes: with it its item if nobody else wants it, and the call if it was the last of it.
    pub(super) fn leave(&mut self, seat: u64) -> Left<In, Out> {
        let Some(left) = self.seats.remove(&seat) else { return (None, None, None) };
        let number = left.job;
        let Some(job) = self.jobs.get_mut(&number) else { return (None, None, Some(left)) };
        job.seats.retain(|other| *other != seat);
        if !job.seats.is_empty() {
            return (None, None, Some(left));
        }
        let flight = job.flight;
        let job = self.forget(number);
        let carried = flight.and_then(|flight| self.flights.get_mut(&flight));
        let flight = carried.and_then(|carried| {
            carried.wanted = carried.wanted.saturating_sub(1);
            (carried.wanted == 0).then(|| Arc::clone(&carried.flight))
        });
        if let Some(flight) = &flight {
            self.flights.remove(&flight.id);
        }
        (job, flight, Some(left))
    }

    /// The next batch: the oldest items that fit, one at least.
    fn batch(&mut self, rules: &Rules<In, Out>) -> (Vec<u64>, Vec<In>) {
        let (mut size, mut weight) = (0_usize, 0_u64);
        let (mut numbers, mut items) = (Vec::new(), Vec::new());
        while let Some(number) = self.queue.first().copied() {
            let Some(job) = self.jobs.get_mut(&number) else { break };
            size = size.saturating_add(job.size);
            weight = weight.saturating_add(job.weight);
            if !numbers.is_empty() && (size > rules.max_size || weight > rules.max_weight) {
                break;
            }
            items.extend(job.item.take());
            self.unqueue(number);
            numbers.push(number);
        }
        (numbers, items)
    }
}

impl<In: Clone + Send + 'static, Out: Send + 'static> Shared<In, Out> {
    /// Sends what may be sent; `settled` unless the caller has only just come, and others may be coming with it. Returns
    /// whom to wake, outside the lock.
    pub(super) fn launch(self: &Arc<Self>, state: &mut State<In, Out>, settled: bool, now: Instant) -> Vec<Waker> {
        let (rules, mut wakers) = (&self.rules, Vec::new());
        while state.flights.len() < rules.concurrency
            && let Some(first) = state.queue.first().copied()
        {
            let full = state.size >= rules.max_size || state.weight >= rules.max_weight;
            let due = state.due(first, rules).is_some_and(|due| due <= now);
            let goes = if state.is_idle() { settled } else { due };
            if !(full || goes) {
                break;
            }
            let (jobs, items) = state.batch(rules);
            let id = state.number();
            for job in &jobs {
                wakers.extend(state.wakers(*job));
                if let Some(job) = state.jobs.get_mut(job) {
                    job.flight = Some(id);
                }
            }
            let shared = Arc::clone(self);
            let flight = Flight::new(id, self, Box::pin(async move { answer(&shared.work, items).await }));
            let wanted = jobs.len();
            state.flights.insert(id, Carried { flight, jobs, wanted, started: now });
        }
        wakers
    }

    /// Hands the results over, and sends what waited for it. Returns whom to wake.
    pub(super) fn landed(self: &Arc<Self>, flight: u64, outcomes: Result<Vec<Result<Out>>>) -> Vec<Waker> {
        let mut state = self.state.lock();
        let Some(Carried { jobs, started, .. }) = state.flights.remove(&flight) else { return Vec::new() };
        let now = self.env.now();
        let took = now.saturating_duration_since(started);
        state.mean = Some(state.mean.map_or(took, |mean| mean.saturating_mul(3).saturating_add(took) / 4));
        let mut wakers = Vec::new();
        let mut give = |state: &mut State<In, Out>, job: u64, outcome: Result<Out>| {
            wakers.extend(state.wakers(job));
            let Some(Job { seats, .. }) = state.forget(job) else { return };
            let mut outcome = Some(outcome);
            for (nth, seat) in seats.iter().enumerate() {
                let last = nth + 1 == seats.len();
                let copy = if last { outcome.take() } else { outcome.as_ref().and_then(|one| self.rules.copied(one)) };
                if let Some(seat) = state.seats.get_mut(seat) {
                    seat.outcome = copy;
                }
            }
        };
        match outcomes {
            Ok(outcomes) => jobs.into_iter().zip(outcomes).for_each(|(job, outcome)| give(&mut state, job, outcome)),
            Err(error) => jobs.into_iter().for_each(|job| give(&mut state, job, Err(error.clone()))),
        }
        let more = self.launch(&mut state, true, now);
        drop(state);
        wakers.extend(more);
        wakers
    }
}
