//! A batch call under way. Whoever waits for it drives it; when the last of them goes, it goes.
//!
//! Nobody owns the call: any of its callers that is polled polls it. The rules that keep a wake-up from getting lost:
//! 1. A caller leaves its waker under the batcher's lock before it tries to drive.
//! 2. The call is polled with the flight's waker, never a caller's, and that one wakes all of its callers.
//! 3. It is polled only when it was signalled since its last poll; the signal is taken before polling.
//! 4. Whoever lets go of it looks for a signal once more, and wakes all if there is one: a caller that found it taken
//!    went to sleep on that.
//! 5. Its results are handed over before it is given up: whoever finds it gone finds a result.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::{Mutex, MutexGuard};

use super::state::Shared;
use crate::batch::ORIGIN;
use crate::error::{Error, ErrorKind, Result};

pub(super) type Call<Out> = Pin<Box<dyn Future<Output = Vec<Result<Out>>> + Send>>;

pub(super) struct Flight<In, Out> {
    pub(super) id: u64,
    shared: Weak<Shared<In, Out>>,
    signal: AtomicBool,
    /// Locked only while it is polled; `None` once it has ended.
    call: Mutex<Option<Call<Out>>>,
}

impl<In: Clone + Send + 'static, Out: Send + 'static> Flight<In, Out> {
    pub(super) fn new(id: u64, shared: &Arc<Shared<In, Out>>, call: Call<Out>) -> Arc<Self> {
        let shared = Arc::downgrade(shared);
        Arc::new(Self { id, shared, signal: AtomicBool::new(true), call: Mutex::new(Some(call)) })
    }

    fn wake_all(&self) {
        if let Some(shared) = self.shared.upgrade() {
            let wakers = shared.state.lock().wakers_of(self.id);
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Polls the call if it has something new and nobody else is at it; whether it has ended.
    pub(super) fn drive(self: &Arc<Self>, shared: &Arc<Shared<In, Out>>) -> bool {
        // Pairs with the fence in `let_go`: we see the call free, or who has it sees the signal that woke us.
        fence(Ordering::SeqCst);
        let Some(mut place) = self.call.try_lock() else { return false };
        let Some(call) = place.as_mut() else { return true };
        if !self.signal.swap(false, Ordering::Acquire) {
            self.let_go(place);
            return false;
        }
        let waker = Waker::from(Arc::clone(self));
        let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut Context::from_waker(&waker))));
        let outcomes = match polled {
            Ok(Poll::Pending) => {
                self.let_go(place);
                return false;
            }
            Ok(Poll::Ready(outcomes)) => Ok(outcomes),
            Err(_) => Err(Error::new(ErrorKind::Panicked, ORIGIN, "what answers the batch panicked")),
        };
        let wakers = shared.landed(self.id, outcomes);
        let ended = place.take();
        drop(place);
        wakers.into_iter().for_each(Waker::wake);
        drop_quietly(ended);
        true
    }

    /// Rule 4.
    fn let_go(&self, place: MutexGuard<'_, Option<Call<Out>>>) {
        drop(place);
        fence(Ordering::SeqCst);
        if self.signal.load(Ordering::Acquire) {
            self.wake_all();
        }
    }

    /// Cancels it. Its last caller has gone, so nobody polls it.
    pub(super) fn cancel(&self) {
        let call = self.call.lock().take();
        drop_quietly(call);
    }
}

/// A call that panicked may panic again when it is dropped.
fn drop_quietly<T>(call: Option<T>) {
    let _ = catch_unwind(AssertUnwindSafe(move || drop(call)));
}

impl<In: Clone + Send + 'static, Out: Send + 'static> Wake for Flight<In, Out> {
    fn wake(self: Arc<Self>) {
        self.signal.store(true, Ordering::Release);
        self.wake_all();
    }
}
