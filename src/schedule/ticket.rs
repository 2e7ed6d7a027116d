//! A place in the queue, as the future that waits sees it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::decision::Verdict;
use super::gate::Shared;
use super::queue::Seat;

/// Boxed, for nearly all who wait have none.
struct Timer<'a> {
    at: Instant,
    sleep: Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
}

/// A place in the queue, given up when dropped.
pub(super) struct Ticket<'a> {
    shared: &'a Shared,
    seat: Seat,
    /// Set while it is the one who looks after the time.
    timer: Option<Box<Timer<'a>>>,
    gone: bool,
}

enum Turn {
    Over(Verdict),
    At(Instant),
    Later,
}

impl<'a> Ticket<'a> {
    pub(super) fn new(shared: &'a Shared, seat: Seat) -> Self {
        Self { shared, seat, timer: None, gone: false }
    }

    fn poll_decided(&mut self, cx: &mut Context<'_>) -> Poll<Verdict> {
        loop {
            match self.look(cx.waker()) {
                Turn::Over(verdict) => {
                    self.gone = true;
                    return Poll::Ready(verdict);
                }
                Turn::Later => {
                    self.timer = None;
                    return Poll::Pending;
                }
                Turn::At(at) => {
                    let shared = self.shared;
                    let timer = match &mut self.timer {
                        Some(timer) if timer.at == at => timer,
                        other => other.insert(Box::new(Timer { at, sleep: Box::pin(shared.env.sleep_until(at)) })),
                    };
                    if timer.sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    // Time may have stood still: a timer that has fired is never polled again.
                    self.timer = None;
                }
            }
        }
    }

    /// Whether it is decided; the one who is told lets in whom it can.
    fn look(&self, waker: &Waker) -> Turn {
        let now = self.shared.env.now();
        let (turn, _stale) = self.shared.change(|core| {
            let stale = core.queue.waiter_mut(self.seat).and_then(|waiter| {
                let same = waiter.waker.will_wake(waker);
                (!same).then(|| std::mem::replace(&mut waiter.waker, waker.clone()))
            });
            let turn = match core.look(self.seat, now) {
                _ if core.queue.is_decided(self.seat) => {
                    let (_, verdict) = core.queue.leave(self.seat);
                    verdict.map_or(Turn::Later, Turn::Over)
                }
                Some(at) => Turn::At(at),
                None => Turn::Later,
            };
            (turn, stale)
        });
        turn
    }
}

/// Completes when it is decided.
impl Future for Ticket<'_> {
    type Output = Verdict;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Verdict> {
        self.poll_decided(cx)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.gone {
            let now = self.shared.env.now();
            // Two steps: what is left of it is dropped when the lock is free.
            drop(self.shared.change(|core| core.leave(self.seat, now)));
        }
    }
}
