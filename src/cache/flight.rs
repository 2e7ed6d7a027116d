//! One upstream call for all who ask the same at the same time, calls and streams alike.
//!
//! A flight is a source of events (an upstream call or stream, then the storing of its answer) and a log of what it
//! has yielded. Everybody who listens reads the log at their own pace; a late joiner starts at its beginning. Nobody
//! owns the source: whichever listener is polled drives it, and its progress wakes all. So a cancelled leader needs no
//! hand-over (the others are driving already), no task is spawned, and when the last listener goes, the source goes
//! with it, which cancels the upstream call.
//!
//! Lost wake-ups are the danger. The rules that exclude them:
//! 1. A listener looks at the log and leaves its waker under one lock, before it tries to drive.
//! 2. Whoever polls the source hands it the hub's waker, never its own, and that one wakes everybody.
//! 3. Whoever adds to the log wakes everybody after adding.
//! 4. The source is polled only when it was signalled since its last poll, and the signal is taken before polling: a
//!    hundred listeners woken by one chunk do not poll it a hundred times, and no signal is lost in between.
//! 5. Whoever lets go of the source without having added to the log looks for a signal once more, and wakes everybody
//!    if there is one: a listener that found the source taken went to sleep on that. It does not poll again itself: a
//!    source that signals while it is polled asks for a rest (tokio's budget does), and would be polled for ever.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Context, Poll, Wake, Waker};

use futures_core::Stream;
use parking_lot::{Mutex, MutexGuard};

use super::{Entry, Labels, Probe, Selector};
use crate::error::{Error, ErrorKind, Result};
use crate::fingerprint::ByFingerprint;
use crate::types::{ChatChunk, ChatResponse};

/// What a source yields: chunks, then the whole answer.
pub(super) enum FlightEvent {
    Chunk(Arc<ChatChunk>),
    Landed(Landed),
}

/// A whole answer, as it is kept, and as the call that brought it gave it: with its trace and the facts told beside it.
#[derive(Clone)]
pub(super) struct Landed {
    pub(super) entry: Arc<Entry>,
    pub(super) answer: ChatResponse,
    /// Whether it may be found in the cache from now on.
    pub(super) kept: bool,
    /// Whether it was found in the cache after all, and nothing was asked upstream.
    pub(super) stored: bool,
}

pub(super) type FlightSource = Pin<Box<dyn Stream<Item = Result<FlightEvent>> + Send>>;

/// The flights under way, by request.
#[derive(Default)]
pub(super) struct Flights {
    // Sharded, so that misses of different requests do not wait for each other.
    shards: [Mutex<HashMap<u128, Arc<Flight>, ByFingerprint>>; 16],
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("open", &self.len()).finish_non_exhaustive()
    }
}

impl Flights {
    fn shard(&self, fingerprint: u128) -> &Mutex<HashMap<u128, Arc<Flight>, ByFingerprint>> {
        // The low half feeds the map's own hash, so the shard is taken from the high one.
        &self.shards[(fingerprint >> 124) as usize]
    }

    /// Joins the flight of this request, or starts one with `source` that can be selected by `labels`. One that may take
    /// hours (`defers`) is joined only by those who may wait for hours; who may not takes its place for those who come.
    ///
    /// # Errors
    /// When the request is asked from inside its own flight: it would wait for itself.
    pub(super) fn join(
        self: &Arc<Self>,
        probe: Probe,
        defers: bool,
        labels: impl FnOnce() -> Labels,
        source: impl FnOnce(Arc<Probe>) -> FlightSource,
    ) -> Result<Listener> {
        let fingerprint = probe.fingerprint();
        let mut flights = self.shard(fingerprint).lock();
        let known = flights.get(&fingerprint);
        let equal = known.filter(|flight| *flight.probe.bytes() == *probe.bytes());
        let flight = match equal {
            Some(flight) if flight.takes(defers) => {
                if is_polling(flight) {
                    let advice = "the wrapped client asked its own cache for the request it is answering";
                    return Err(Error::new(ErrorKind::InvalidRequest, "cache", advice));
                }
                flight.hub.0.lock().listeners += 1;
                let flight = Arc::clone(flight);
                return Ok(Listener::new(self, flight, false));
            }
            _ => {
                let shared = known.is_none() || equal.is_some();
                let flight = Flight::new(probe, defers, labels(), source);
                // Two requests with one fingerprint fly apart: the second is nobody's to join.
                if shared {
                    flights.insert(fingerprint, Arc::clone(&flight));
                }
                flight
            }
        };
        Ok(Listener::new(self, flight, true))
    }

    /// Starts a flight of this request, unless there is one that it would join or one of its fingerprint alone.
    pub(super) fn start(
        self: &Arc<Self>,
        probe: Probe,
        defers: bool,
        labels: Labels,
        source: impl FnOnce(Arc<Probe>) -> FlightSource,
    ) -> Option<Listener> {
        let fingerprint = probe.fingerprint();
        let mut flights = self.shard(fingerprint).lock();
        if flights.get(&fingerprint).is_some_and(|known| known.takes(defers) || *known.probe.bytes() != *probe.bytes())
        {
            return None;
        }
        let flight = Flight::new(probe, defers, labels, source);
        flights.insert(fingerprint, Arc::clone(&flight));
        Some(Listener::new(self, flight, true))
    }

    /// Whether a flight of this fingerprint is under way that such a call would join.
    pub(super) fn has(&self, fingerprint: u128, defers: bool) -> bool {
        self.shard(fingerprint).lock().get(&fingerprint).is_some_and(|known| known.takes(defers))
    }

    /// How many flights are under way.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Nobody joins the flights that the selector takes any more. Who listens already goes on.
    pub(super) fn detach(&self, selector: &Selector) {
        for shard in &self.shards {
            // Looked at outside the lock: a key takes a hash of the whole request.
            let flights: Vec<_> = shard.lock().values().map(Arc::clone).collect();
            flights.iter().filter(|flight| flight.is_taken(selector)).for_each(|flight| self.forget(flight));
        }
    }

    fn forget(&self, flight: &Arc<Flight>) {
        let fingerprint = flight.probe.fingerprint();
        let mut flights = self.shard(fingerprint).lock();
        if flights.get(&fingerprint).is_some_and(|known| Arc::ptr_eq(known, flight)) {
            flights.remove(&fingerprint);
        }
    }
}

struct Flight {
    probe: Arc<Probe>,
    /// Whether it may take hours.
    defers: bool,
    /// What its starter's answer can be selected by.
    labels: Labels,
    hub: Arc<Hub>,
    /// Locked only while it is polled; `None` once it has ended.
    source: Mutex<Option<FlightSource>>,
}

impl Flight {
    /// With one listener, who is yet to be made.
    fn new(probe: Probe, defers: bool, labels: Labels, source: impl FnOnce(Arc<Probe>) -> FlightSource) -> Arc<Self> {
        let probe = Arc::new(probe);
        let hub = Arc::new(Hub(Mutex::new(Log { listeners: 1, ..Log::default() }), AtomicBool::new(true)));
        let source = Mutex::new(Some(source(Arc::clone(&probe))));
        Arc::new(Self { probe, defers, labels, hub, source })
    }

    /// Whether a call that may wait for hours, or may not, would join it.
    fn takes(&self, defers: bool) -> bool {
        defers || !self.defers
    }

    fn is_taken(&self, selector: &Selector) -> bool {
        selector.takes(self.probe.namespace(), &self.labels, || self.probe.key())
    }

    /// Rule 5: whoever failed to get hold of the source meanwhile relies on us.
    fn let_go(&self, place: MutexGuard<'_, Option<FlightSource>>) {
        drop(place);
        fence(Ordering::SeqCst);
        if self.hub.1.load(Ordering::Acquire) {
            self.hub.wake_all();
        }
    }
}

/// The log, and the flag that says whether the source has something new.
struct Hub(Mutex<Log>, AtomicBool);

#[derive(Default)]
struct Log {
    chunks: Vec<Arc<ChatChunk>>,
    outcome: Option<Result<Landed>>,
    listeners: usize,
    /// The leader left before the answer came: the first who hears it is the one it was paid for.
    orphaned: bool,
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Hub {
    fn wake_all(&self) {
        let wakers: Vec<Waker> = self.0.lock().wakers.iter_mut().filter_map(Option::take).collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Wake for Hub {
    fn wake(self: Arc<Self>) {
        self.1.store(true, Ordering::Release);
        self.wake_all();
    }
}

thread_local! {
    /// The flights whose sources this thread is inside of, to find a request that would wait for itself.
    static POLLING: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

fn address(flight: &Arc<Flight>) -> usize {
    Arc::as_ptr(flight) as usize
}

fn is_polling(flight: &Arc<Flight>) -> bool {
    POLLING.with_borrow(|polling| polling.contains(&address(flight)))
}

/// Somebody who waits for a flight's answer.
pub(super) struct Listener {
    flights: Arc<Flights>,
    flight: Arc<Flight>,
    leader: bool,
    told: bool,
    read: usize,
    slot: Option<usize>,
}

impl Listener {
    fn new(flights: &Arc<Flights>, flight: Arc<Flight>, leader: bool) -> Self {
        Self { flights: Arc::clone(flights), flight, leader, told: false, read: 0, slot: None }
    }

    /// Whether the flight is its own: it started it, or it is the first to hear its answer after who did has left.
    pub(super) fn is_leader(&self) -> bool {
        self.leader
    }

    /// The next event; chunks first, then the outcome, which can be asked for again.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<FlightEvent>> {
        loop {
            if let Some(event) = self.read_or_wait(cx) {
                return Poll::Ready(event);
            }
            if !self.drive() {
                return Poll::Pending;
            }
        }
    }

    /// The whole answer.
    pub(super) fn poll_landed(&mut self, cx: &mut Context<'_>) -> Poll<Result<Landed>> {
        loop {
            match self.poll_event(cx) {
                Poll::Ready(Ok(FlightEvent::Chunk(_))) => {}
                Poll::Ready(Ok(FlightEvent::Landed(landed))) => return Poll::Ready(Ok(landed)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn read_or_wait(&mut self, cx: &mut Context<'_>) -> Option<Result<FlightEvent>> {
        let mut log = self.flight.hub.0.lock();
        if let Some(chunk) = log.chunks.get(self.read) {
            self.read += 1;
            return Some(Ok(FlightEvent::Chunk(Arc::clone(chunk))));
        }
        if let Some(outcome) = log.outcome.clone() {
            // A failure stays the leader's: a joiner may ask again where a leader may not.
            self.leader |= outcome.is_ok() && std::mem::take(&mut log.orphaned);
            self.told = true;
            return Some(outcome.map(FlightEvent::Landed));
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

    /// Polls the source if it has something new and nobody else is at it; whether the log has grown.
    fn drive(&self) -> bool {
        let flight = &self.flight;
        // Pairs with the fence in `let_go`: we see the source free, or who has it sees the signal that woke us.
        fence(Ordering::SeqCst);
        let Some(mut place) = flight.source.try_lock() else { return false };
        let Some(source) = place.as_mut() else { return true };
        if !flight.hub.1.swap(false, Ordering::Acquire) {
            flight.let_go(place);
            return false;
        }
        let waker = Waker::from(Arc::clone(&flight.hub));
        POLLING.with_borrow_mut(|polling| polling.push(address(flight)));
        let polled = catch_unwind(AssertUnwindSafe(|| source.as_mut().poll_next(&mut Context::from_waker(&waker))));
        POLLING.with_borrow_mut(Vec::pop);
        let outcome = match polled {
            Ok(Poll::Pending) => {
                flight.let_go(place);
                return false;
            }
            Ok(Poll::Ready(Some(Ok(FlightEvent::Chunk(chunk))))) => {
                flight.hub.1.store(true, Ordering::Release);
                // Still holding the source, so that chunks are logged in their order.
                flight.hub.0.lock().chunks.push(chunk);
                drop(place);
                flight.hub.wake_all();
                return true;
            }
            Ok(Poll::Ready(Some(Ok(FlightEvent::Landed(landed))))) => Ok(landed),
            Ok(Poll::Ready(Some(Err(error)))) => Err(error),
            Ok(Poll::Ready(None)) => {
                Err(Error::new(ErrorKind::Truncated, "cache", "the answer ended before its finish"))
            }
            Err(_) => Err(Error::new(ErrorKind::Panicked, "cache", "the wrapped client panicked while answering")),
        };
        // Forgotten before it is told: whoever asks again after the outcome finds the cache, or starts anew.
        self.flights.forget(flight);
        flight.hub.0.lock().outcome = Some(outcome);
        let ended = place.take();
        drop(place);
        flight.hub.wake_all();
        drop_quietly(ended);
        true
    }
}

/// A source that panicked may panic again when it is dropped.
fn drop_quietly(source: Option<FlightSource>) {
    let _ = catch_unwind(AssertUnwindSafe(move || drop(source)));
}

impl Drop for Listener {
    fn drop(&mut self) {
        let fingerprint = self.flight.probe.fingerprint();
        // Under the map's lock, so that nobody joins a flight that is being given up.
        let mut flights = self.flights.shard(fingerprint).lock();
        let (last, waker) = {
            let mut log = self.flight.hub.0.lock();
            let waker = self.slot.and_then(|slot| {
                log.free.push(slot);
                log.wakers[slot].take()
            });
            log.orphaned |= self.leader && !self.told;
            log.listeners -= 1;
            (log.listeners == 0, waker)
        };
        if last && flights.get(&fingerprint).is_some_and(|known| Arc::ptr_eq(known, &self.flight)) {
            flights.remove(&fingerprint);
        }
        drop(flights);
        // It may be all that holds another who listens: it is let go unlocked.
        drop(waker);
        if last {
            // Cancels the upstream call. Nobody else can hold the lock: there are no other listeners.
            let source = self.flight.source.lock().take();
            drop_quietly(source);
        }
    }
}
