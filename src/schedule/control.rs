//! Holding a gate up, emptying it, and looking at it.

use tokio::sync::broadcast;

use super::AdmissionGate;
use super::decision::Verdict;
use super::event::{self, AdmissionEvent, AdmissionEvents};
use super::status::Status;

impl AdmissionGate {
    /// Lets nobody in until [`resume`](Self::resume). Newcomers queue, and their deadlines run; calls in flight go on.
    pub fn pause(&self) {
        let now = self.0.env.now();
        self.0.change(|core| {
            if !std::mem::replace(&mut core.paused, true) {
                core.tell(|| AdmissionEvent::Paused);
            }
            core.let_in(None, now);
        });
    }

    /// Lets calls in again: undoes [`pause`](Self::pause) and [`drain`](Self::drain).
    pub fn resume(&self) {
        let now = self.0.env.now();
        self.0.change(|core| {
            let (paused, draining) = (core.paused, core.draining);
            (core.paused, core.draining) = (false, false);
            if paused || draining {
                core.tell(|| AdmissionEvent::Resumed);
            }
            // What was measured across a pause is no pace.
            core.pace.begin(now);
            core.let_in(None, now);
        });
        // Those who wait for the end of a draining that is no more.
        self.0.idle.notify_waiters();
    }

    /// Serves those who wait, refuses newcomers with [`Shutdown`](crate::ErrorKind::Shutdown), and completes when
    /// nothing waits or is in flight any more, or when it is [resumed](Self::resume). A paused gate goes on for it.
    ///
    /// It drains from the call on, whether the future is awaited or dropped.
    pub fn drain(&self) -> impl Future<Output = ()> + Send + use<> {
        let now = self.0.env.now();
        self.0.change(|core| {
            if !std::mem::replace(&mut core.draining, true) {
                core.tell(|| AdmissionEvent::Draining);
            }
            if std::mem::replace(&mut core.paused, false) {
                core.pace.begin(now);
            }
            core.let_in(None, now);
        });
        let gate = self.clone();
        async move {
            loop {
                let over = gate.0.idle.notified();
                tokio::pin!(over);
                // Listening first, so that no end is missed between looking and waiting.
                over.as_mut().enable();
                if gate.0.change(|core| !core.draining || core.is_idle()) {
                    return;
                }
                over.await;
            }
        }
    }

    /// Sends everybody who waits away with [`Overloaded`](crate::ErrorKind::Overloaded), not to be retried; how many
    /// that were. Calls in flight go on, and newcomers are welcome.
    pub fn clear(&self) -> usize {
        let now = self.0.env.now();
        self.0.change(|core| {
            let waiters = core.queue.len();
            while let Some(seat) = core.queue.anybody() {
                core.send_away(seat, Verdict::Cleared, now);
            }
            core.tell(|| AdmissionEvent::Cleared { waiters });
            core.let_in(None, now);
            waiters
        })
    }

    /// How it looks now.
    pub fn status(&self) -> Status {
        let now = self.0.env.now();
        self.0.change(|core| core.status(now))
    }

    /// What happens from now on. It costs nothing until it is first asked for, and a listener that is slow holds nothing
    /// up.
    pub fn events(&self) -> AdmissionEvents {
        let sender = self.0.events.get_or_init(|| broadcast::Sender::new(event::KEPT));
        let receiver = sender.subscribe();
        self.0.change(|core| core.heard = true);
        AdmissionEvents::new(receiver)
    }
}
