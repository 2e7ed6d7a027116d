//! A place in the queue, as the future that waits sees it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::decision::Grant;
use super::gate::Shared;
use super::queue::Place;

type Sleep<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A place in the queue, given up when dropped.
pub(super) struct Ticket<'a> {
    shared: &'a Shared,
    place: Place,
    /// Set while it is the head and a rate holds it back.
    timer: Option<(Instant, Sleep<'a>)>,
    gone: bool,
}

enum Turn {
    Now(Grant),
    At(Instant),
    Later,
}

impl<'a> Ticket<'a> {
    pub(super) fn new(shared: &'a Shared, place: Place) -> Self {
        Self { shared, place, timer: None, gone: false }
    }

    /// Completes when it is let in. Dropped before, it gives its place or its turn up.
    pub(super) async fn granted(mut self) -> Grant {
        poll_fn(move |cx| self.poll_granted(cx)).await
    }

    fn poll_granted(&mut self, cx: &mut Context<'_>) -> Poll<Grant> {
        loop {
            match self.look(cx.waker()) {
                Turn::Now(grant) => {
                    self.gone = true;
                    return Poll::Ready(grant);
                }
                Turn::Later => {
                    self.timer = None;
                    return Poll::Pending;
                }
                Turn::At(at) => {
                    let shared = self.shared;
                    let timer = match &mut self.timer {
                        Some((set, timer)) if *set == at => timer,
                        other => &mut other.insert((at, Box::pin(shared.env.sleep_until(at)))).1,
                    };
                    if timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    // Time may have stood still: a timer that has fired is never polled again.
                    self.timer = None;
                }
            }
        }
    }

    /// Whether it is granted; the head lets in whom it can, itself first.
    fn look(&self, waker: &Waker) -> Turn {
        let now = self.shared.now();
        let mut stale = None;
        let mut core = self.shared.core.lock();
        let mut wake = Vec::new();
        if let Some(waiter) = core.queue.get_mut(self.place) {
            if !waiter.waker.will_wake(waker) {
                stale = Some(std::mem::replace(&mut waiter.waker, waker.clone()));
            }
            if core.queue.head().is_some_and(|(head, _)| head == self.place) {
                wake = core.let_in(Some(self.place), now);
            }
        }
        let turn = match (core.granted.remove(&self.place), core.told) {
            (Some(grant), _) => Turn::Now(grant),
            (None, Some((who, at))) if who == self.place => {
                if core.queue.head().is_some_and(|(head, _)| head == who) {
                    Turn::At(at)
                } else {
                    // It drops its timer, so it must be told again when it is the head again.
                    core.told = None;
                    Turn::Later
                }
            }
            (None, _) => Turn::Later,
        };
        drop(core);
        drop(stale);
        wake.into_iter().for_each(Waker::wake);
        turn
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        let mut left = None;
        self.shared.change(|core, now| {
            left = core.queue.leave(self.place);
            if let Some(grant) = core.granted.remove(&self.place) {
                // Its turn goes on as if it had been the next one's: the request with it, or one of the rate is lost.
                core.take_back(grant, now);
            }
            core.let_in(None, now)
        });
    }
}
