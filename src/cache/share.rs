//! One piece of work for all who want its result at the same time, when a piece may be for several requests at once.
//!
//! It is the single flight of answers without their chunks, and each request has its seat in the result: a batch of
//! texts asks for those that nobody is fetching, and waits for those that somebody is. Nobody owns the work. Whoever
//! waits for it drives it, so a caller that leaves needs no hand-over, and with the last one the work is dropped. The
//! rules that exclude lost wake-ups are those of `flight.rs`. (The `Shared` future of `futures-util` would be shorter,
//! and loses one: work that signals while it is polled wakes those who find it taken, and if who polled then leaves,
//! nobody polls again.)

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

use super::near::Moment;
use super::{Labels, Probe};
use crate::error::{Error, ErrorKind, Result};
use crate::fingerprint::ByFingerprint;

/// What brings the result.
pub(super) type Work<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// The work under way, by the requests it is for.
pub(super) struct Shares<T>(Mutex<HashMap<u128, Seat<T>, ByFingerprint>>);

/// Where a request finds what is being fetched for it: which work, and which place in its result.
struct Seat<T> {
    probe: Arc<Probe>,
    place: usize,
    since: Since,
    job: Weak<Job<T>>,
}

/// When work was begun, and under which labels its results will be kept: what decides whether a removal concerns them.
#[derive(Clone)]
pub(super) struct Since {
    pub(super) moment: Moment,
    pub(super) labels: Arc<Labels>,
}

/// Those to wait for, and for each request which of them and which place in its result.
pub(super) struct Joined<T> {
    pub(super) waiters: Vec<Waiter<T>>,
    pub(super) seats: Vec<(usize, usize)>,
}

impl<T: Clone + Send + Sync + 'static> Shares<T> {
    /// Joins the work that is under way for these requests, as far as `joinable` lets it, and starts work for the
    /// others: `start` is told which these are. No request may be given twice.
    ///
    /// # Errors
    /// When a request is made from inside the work for it: it would wait for itself.
    pub(super) fn join(
        self: &Arc<Self>,
        probes: &[Arc<Probe>],
        since: &Since,
        joinable: impl Fn(&Since, &Probe) -> bool,
        start: impl FnOnce(Vec<usize>) -> Work<T>,
    ) -> Result<Joined<T>> {
        let mut joined = Joined { waiters: Vec::new(), seats: vec![(0, 0); probes.len()] };
        let (mut mine, mut waiter_of) = (Vec::new(), HashMap::new());
        // Locked after `joined` is made: what is let go on the way out is let go unlocked.
        let mut seats = self.0.lock();
        for (index, probe) in probes.iter().enumerate() {
            let seat = seats.get(&probe.fingerprint());
            let seat = seat.filter(|seat| seat.probe.bytes() == probe.bytes() && joinable(&seat.since, probe));
            let address = seat.map_or(0, |seat| seat.job.as_ptr() as usize);
            let known = waiter_of.get(&address).copied();
            let job = seat.filter(|_| known.is_none()).and_then(|seat| seat.job.upgrade());
            if let Some(job) = job {
                let own = POLLING.with_borrow(|polling| polling.contains(&address));
                waiter_of.insert(address, joined.waiters.len());
                joined.waiters.push(Waiter::new(job, false));
                if own {
                    let advice = "what is being fetched asked the cache for itself";
                    return Err(Error::new(ErrorKind::InvalidRequest, "cache", advice));
                }
            }
            match (waiter_of.get(&address), seat) {
                (Some(waiter), Some(seat)) => joined.seats[index] = (*waiter, seat.place),
                _ => mine.push(index),
            }
        }
        if !mine.is_empty() {
            let waiter = joined.waiters.len();
            let hub = Arc::new(Hub { log: Mutex::default(), signalled: AtomicBool::new(true) });
            let requests = mine.iter().map(|index| probes[*index].fingerprint()).collect();
            let work = Mutex::new(Some(start(mine.clone())));
            let job = Arc::new(Job { shares: Arc::clone(self), requests, hub, work });
            for (place, index) in mine.into_iter().enumerate() {
                joined.seats[index] = (waiter, place);
                let probe = Arc::clone(&probes[index]);
                let seat = Seat { probe, place, since: since.clone(), job: Arc::downgrade(&job) };
                // One that must not be joined any more gives way, and so does another request of this fingerprint.
                seats.insert(seat.probe.fingerprint(), seat);
            }
            joined.waiters.push(Waiter::new(job, true));
        }
        drop(seats);
        Ok(joined)
    }

    /// Whether something is under way for this request.
    pub(super) fn is_under_way(&self, probe: &Probe) -> bool {
        self.0.lock().get(&probe.fingerprint()).is_some_and(|seat| seat.probe.bytes() == probe.bytes())
    }
}

impl<T> Shares<T> {
    /// How many pieces of work are under way.
    pub(super) fn len(&self) -> usize {
        self.0.lock().values().map(|seat| seat.job.as_ptr() as usize).collect::<HashSet<_>>().len()
    }

    fn forget(&self, job: &Job<T>) {
        let mut seats = self.0.lock();
        for request in &job.requests {
            if seats.get(request).is_some_and(|seat| std::ptr::eq(seat.job.as_ptr(), job)) {
                seats.remove(request);
            }
        }
    }
}

impl<T> Default for Shares<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

struct Job<T> {
    shares: Arc<Shares<T>>,
    requests: Vec<u128>,
    hub: Arc<Hub<T>>,
    /// Locked only while it is polled; `None` once it has ended.
    work: Mutex<Option<Work<T>>>,
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        // The last who waited has gone: this cancels what is still under way.
        self.shares.forget(self);
        drop_quietly(self.work.get_mut().take());
    }
}

/// Work that panicked may panic again when it is dropped.
fn drop_quietly<T>(work: Option<Work<T>>) {
    let _ = catch_unwind(AssertUnwindSafe(move || drop(work)));
}

/// The outcome, and the flag that says whether the work has something new.
struct Hub<T> {
    log: Mutex<Log<T>>,
    signalled: AtomicBool,
}

struct Log<T> {
    outcome: Option<Result<T>>,
    /// Who started it left before the outcome came: the first who hears it is the one it was paid for.
    orphaned: bool,
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self { outcome: None, orphaned: false, wakers: Vec::new(), free: Vec::new() }
    }
}

impl<T> Hub<T> {
    fn wake_all(&self) {
        let wakers: Vec<Waker> = self.log.lock().wakers.iter_mut().filter_map(Option::take).collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl<T: Send + Sync + 'static> Wake for Hub<T> {
    fn wake(self: Arc<Self>) {
        self.signalled.store(true, Ordering::Release);
        self.wake_all();
    }
}

thread_local! {
    /// The work this thread is inside of, to find a request that would wait for itself.
    static POLLING: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Somebody who waits for a result.
pub(super) struct Waiter<T> {
    job: Arc<Job<T>>,
    started: bool,
    told: bool,
    slot: Option<usize>,
}

/// A result as one of those who waited hears it.
pub(super) struct Heard<T> {
    pub(super) outcome: Result<T>,
    /// Whether this one started the work.
    pub(super) started: bool,
    /// Whether it was paid for this one: it started the work, or is the first to hear of it after who did has left.
    pub(super) pays: bool,
}

impl<T> Waiter<T> {
    fn new(job: Arc<Job<T>>, started: bool) -> Self {
        Self { job, started, told: false, slot: None }
    }
}

impl<T: Clone + Send + Sync + 'static> Waiter<T> {
    fn hear_or_wait(&mut self, cx: &mut Context<'_>) -> Option<Heard<T>> {
        let mut log = self.job.hub.log.lock();
        if let Some(outcome) = log.outcome.clone() {
            self.told = true;
            let adopted = outcome.is_ok() && std::mem::take(&mut log.orphaned);
            return Some(Heard { outcome, started: self.started, pays: self.started || adopted });
        }
        let slot = match self.slot {
            Some(slot) => slot,
            None => log.free.pop().unwrap_or_else(|| {
                log.wakers.push(None);
                log.wakers.len() - 1
            }),
        };
        self.slot = Some(slot);
        match &mut log.wakers[slot] {
            Some(waker) => waker.clone_from(cx.waker()),
            place => *place = Some(cx.waker().clone()),
        }
        None
    }

    /// Polls the work if it has something new and nobody else is at it; whether there is an outcome now.
    fn drive(&self) -> bool {
        let (job, hub) = (&self.job, &self.job.hub);
        // Pairs with the fence below: we see the work free, or who has it sees the signal that woke us.
        fence(Ordering::SeqCst);
        let Some(mut place) = job.work.try_lock() else { return false };
        let Some(work) = place.as_mut() else { return true };
        let mut polled = Ok(Poll::Pending);
        if hub.signalled.swap(false, Ordering::Acquire) {
            let waker = Waker::from(Arc::clone(hub));
            POLLING.with_borrow_mut(|polling| polling.push(Arc::as_ptr(job) as usize));
            polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut Context::from_waker(&waker))));
            POLLING.with_borrow_mut(Vec::pop);
        }
        let outcome = match polled {
            Ok(Poll::Pending) => {
                drop(place);
                fence(Ordering::SeqCst);
                // Whoever failed to get hold of the work meanwhile went to sleep on it.
                if hub.signalled.load(Ordering::Acquire) {
                    hub.wake_all();
                }
                return false;
            }
            Ok(Poll::Ready(outcome)) => outcome,
            Err(_) => Err(Error::new(ErrorKind::Panicked, "cache", "what was to be fetched panicked")),
        };
        // Forgotten before it is told: whoever asks again after the outcome finds the cache, or starts anew.
        job.shares.forget(job);
        hub.log.lock().outcome = Some(outcome);
        let ended = place.take();
        drop(place);
        hub.wake_all();
        drop_quietly(ended);
        true
    }
}

impl<T: Clone + Send + Sync + 'static> Future for Waiter<T> {
    type Output = Heard<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Heard<T>> {
        loop {
            if let Some(heard) = self.hear_or_wait(cx) {
                return Poll::Ready(heard);
            }
            if !self.drive() {
                return Poll::Pending;
            }
        }
    }
}

impl<T> Drop for Waiter<T> {
    fn drop(&mut self) {
        let mut log = self.job.hub.log.lock();
        let waker = self.slot.and_then(|slot| {
            log.free.push(slot);
            log.wakers[slot].take()
        });
        log.orphaned |= self.started && !self.told;
        // A waker may be all that holds another who waits: it is let go unlocked.
        drop(log);
        drop(waker);
    }
}
