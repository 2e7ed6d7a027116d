//! Whether a gate is closed, asked at every call.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A token that is asked without its lock, which would be a tenth of what a call costs: it is listened to instead.
pub(super) struct Closing {
    token: CancellationToken,
    told: Arc<Told>,
    /// Never polled again: as long as it is there, the token tells.
    _listening: Mutex<Pin<Box<WaitForCancellationFutureOwned>>>,
}

#[derive(Default)]
struct Told(AtomicBool);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl Closing {
    /// Closed when this token is cancelled.
    pub(super) fn by(token: CancellationToken) -> Self {
        let told = Arc::<Told>::default();
        let mut listening = Box::pin(token.clone().cancelled_owned());
        let waker = Waker::from(Arc::clone(&told));
        if listening.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            waker.wake();
        }
        Self { token, told, _listening: Mutex::new(listening) }
    }

    pub(super) fn is_closed(&self) -> bool {
        // Woken may be who has nothing to hear.
        self.told.0.load(Ordering::Acquire) && self.token.is_cancelled()
    }

    /// Completes when it is closed.
    pub(super) fn closed(&self) -> impl Future<Output = ()> + Send + '_ {
        self.token.cancelled()
    }

    pub(super) fn close(&self) {
        self.token.cancel();
        // Somebody else may be cancelling it, and has not told yet.
        self.told.0.store(true, Ordering::Release);
    }
}

impl fmt::Debug for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Closing").field(&self.is_closed()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes_with_its_token_whoever_cancels_it_and_from_the_start() {
        let parent = CancellationToken::new();
        let [ours, theirs] = [(); 2].map(|()| Closing::by(parent.child_token()));
        assert!(!ours.is_closed() && !theirs.is_closed());
        ours.close();
        assert!(ours.is_closed() && !theirs.is_closed(), "{ours:?}");
        parent.cancel();
        assert!(theirs.is_closed());
        assert!(Closing::by(parent.child_token()).is_closed(), "as soon as it is made");
    }

    /// Closes it while it is being closed, before anybody else was told.
    struct First(Mutex<Option<Arc<Closing>>>, AtomicBool);

    impl Wake for First {
        fn wake(self: Arc<Self>) {
            let closing = self.0.lock().take().unwrap();
            closing.close();
            self.1.store(closing.is_closed(), Ordering::Release);
        }
    }

    #[test]
    fn whoever_has_closed_it_finds_it_closed_though_another_was_about_to() {
        let token = CancellationToken::new();
        let first = Arc::new(First(Mutex::default(), AtomicBool::new(false)));
        let mut before = Box::pin(token.clone().cancelled_owned());
        let waker = Waker::from(Arc::clone(&first));
        assert!(before.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        *first.0.lock() = Some(Arc::new(Closing::by(token.clone())));
        token.cancel();
        assert!(first.1.load(Ordering::Acquire));
    }
}
