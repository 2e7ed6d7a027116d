//! One request for all who need the same summary at the same time.
//!
//! A flight is a future that all who wait for it share: whoever is polled drives it, so when one goes away the others go
//! on, and when the last goes, the flight ends and its request is cancelled. A task holds a share like everybody else.
//!
//! `futures-util`'s `Shared` alone would lose a wake-up: a flight that signals while it is polled wakes those who find it
//! taken, and if who polled then goes away, nobody polls again. So whoever goes wakes the others.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;

use super::keys::Key;

/// What comes of a flight: the summary, or nothing, and then why is told elsewhere.
pub(super) type Landed = Option<Arc<str>>;

/// Wakes all who wait for a flight; nobody before it was first polled.
type Bell = Arc<Mutex<Option<Waker>>>;

/// A share in a flight.
#[derive(Clone)]
pub(super) struct Flight {
    /// There until it is dropped.
    shared: Option<Shared<BoxFuture<'static, Landed>>>,
    bell: Bell,
}

impl Future for Flight {
    type Output = Landed;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Landed> {
        self.shared.as_mut().map_or(Poll::Ready(None), |shared| shared.poll_unpin(cx))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // First, so that the others are woken only.
        drop(self.shared.take());
        let bell = self.bell.lock().clone();
        if let Some(waker) = bell {
            waker.wake();
        }
    }
}

/// A flight that ends with the last who waits for it.
struct Open {
    /// Which of its key it is.
    number: u64,
    shared: WeakShared<BoxFuture<'static, Landed>>,
    bell: Bell,
}

impl Open {
    fn share(&self) -> Option<Flight> {
        Some(Flight { shared: Some(self.shared.upgrade()?), bell: Arc::clone(&self.bell) })
    }
}

/// Who needs a summary.
pub(super) enum Join {
    /// It was written in the meantime.
    Written(Arc<str>),
    /// It is being written.
    Started(Flight),
    /// It is being written already, because of somebody else.
    Joined(Flight),
}

/// The summaries under way.
#[derive(Default)]
pub(super) struct Flights {
    open: Mutex<HashMap<Key, Open>>,
    numbers: AtomicU64,
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("open", &self.open.lock().len()).finish_non_exhaustive()
    }
}

impl Flights {
    /// Joins the flight of this key, or starts it, unless it has landed since the caller looked.
    pub(super) fn join(
        self: &Arc<Self>,
        key: Key,
        written: impl FnOnce() -> Landed,
        start: impl FnOnce() -> BoxFuture<'static, Landed>,
    ) -> Join {
        let mut open = self.open.lock();
        if let Some(flight) = open.get(&key).and_then(Open::share) {
            return Join::Joined(flight);
        }
        // A flight that lands is written down before it is forgotten.
        if let Some(summary) = written() {
            return Join::Written(summary);
        }
        let number = self.numbers.fetch_add(1, Relaxed);
        let forget = Forget { flights: Arc::downgrade(self), key, number };
        let bell = Bell::default();
        let inside = Inside { flights: address(self), flight: start(), bell: Arc::clone(&bell), _forget: forget };
        let shared = inside.boxed().shared();
        if let Some(weak) = shared.downgrade() {
            open.insert(key, Open { number, shared: weak, bell: Arc::clone(&bell) });
        }
        Join::Started(Flight { shared: Some(shared), bell })
    }

    /// Whether this thread is inside a flight of these: whoever waits for another would wait for itself.
    pub(super) fn are_polled_here(self: &Arc<Self>) -> bool {
        POLLED.with_borrow(|polled| polled.contains(&address(self)))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.open.lock().len()
    }
}

thread_local! {
    /// Whose flights this thread is inside of.
    static POLLED: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

fn address(flights: &Arc<Flights>) -> usize {
    Arc::as_ptr(flights) as usize
}

/// A flight that is known to its thread while it is polled.
struct Inside {
    flights: usize,
    flight: BoxFuture<'static, Landed>,
    bell: Bell,
    _forget: Forget,
}

impl Future for Inside {
    type Output = Landed;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Landed> {
        self.bell.lock().get_or_insert_with(|| cx.waker().clone());
        POLLED.with_borrow_mut(|polled| polled.push(self.flights));
        let _leave = Leave;
        self.flight.as_mut().poll(cx)
    }
}

struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        POLLED.with_borrow_mut(Vec::pop);
    }
}

/// Forgets a flight that has landed or was given up.
struct Forget {
    flights: Weak<Flights>,
    key: Key,
    number: u64,
}

impl Drop for Forget {
    fn drop(&mut self) {
        let Some(flights) = self.flights.upgrade() else { return };
        let mut open = flights.open.lock();
        // Given up and started anew, the key may be another's already.
        if open.get(&self.key).is_some_and(|flight| flight.number == self.number) {
            open.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::poll;
    use tokio::sync::oneshot;

    fn start(flights: &Arc<Flights>, ends: oneshot::Receiver<&'static str>) -> Join {
        flights.join([1; 32], || None, || async move { ends.await.ok().map(Arc::from) }.boxed())
    }

    fn flight(join: Join) -> Flight {
        match join {
            Join::Started(flight) | Join::Joined(flight) => flight,
            Join::Written(_) => panic!("nothing was written"),
        }
    }

    #[tokio::test]
    async fn who_stays_goes_on_when_the_first_goes() {
        let flights = Arc::new(Flights::default());
        let (end, ends) = oneshot::channel();
        let mut first = flight(start(&flights, ends));
        let mut second = flight(start(&flights, oneshot::channel().1));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        drop(first);
        end.send("done").unwrap();
        assert_eq!(second.await.as_deref(), Some("done"));
        assert_eq!(flights.len(), 0);
    }

    /// How often it was woken.
    #[derive(Default)]
    struct Woken(AtomicU64);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[tokio::test]
    async fn who_goes_wakes_those_who_found_the_flight_taken() {
        let (flights, woken, other) = (Arc::new(Flights::default()), Arc::new(Woken::default()), Arc::default());
        let (waker, waits): (Waker, Arc<Mutex<Option<Flight>>>) = (woken.clone().into(), Arc::clone(&other));
        let mut polls = 0;
        let work = std::future::poll_fn(move |cx| {
            polls += 1;
            if polls > 1 {
                return Poll::Ready(Some("done".into()));
            }
            // It signals, and before this poll has ended, another thread comes to poll: here it is the same one.
            cx.waker().wake_by_ref();
            assert!(waits.lock().as_mut().unwrap().poll_unpin(&mut Context::from_waker(&waker)).is_pending());
            Poll::Pending
        });
        let mut first = flight(flights.join([1; 32], || None, || work.boxed()));
        *other.lock() = Some(first.clone());
        assert!(poll!(&mut first).is_pending());
        drop(first);
        assert_eq!(woken.0.load(Relaxed), 1);
        let other = other.lock().take().unwrap();
        assert_eq!(other.await.as_deref(), Some("done"));
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn ends_with_the_last_who_waits() {
        let flights = Arc::new(Flights::default());
        let (end, ends) = oneshot::channel();
        let mut first = flight(start(&flights, ends));
        assert!(poll!(&mut first).is_pending());
        let second = flight(start(&flights, oneshot::channel().1));
        drop((first, second));
        assert!(end.is_closed(), "cancelled");
        assert_eq!(flights.len(), 0);
        drop(start(&flights, oneshot::channel().1));
        assert_eq!(flights.len(), 0, "never polled");
    }
}
