//! Whose turn it is.

use std::time::Instant;

use super::{Core, Grant, Verdict};
use crate::schedule::event::AdmissionEvent;
use crate::schedule::queue::Seat;
use crate::schedule::rate::{Ask, Claimed, Held};

impl Core {
    /// Lets in as many as can start, then sees to it that one of the others has a timer if they need one. `me` looks
    /// after itself.
    pub(in crate::schedule) fn let_in(&mut self, me: Option<Seat>, now: Instant) {
        if self.queue.len() == 0 {
            self.told = None;
            return;
        }
        self.queue.unpark_until(now);
        let mut wait = None;
        loop {
            if self.paused || self.is_full() {
                self.told = None;
                return;
            }
            let asks = |seat| self.queue.waiter(seat).map(|head| (seat, Ask::clone(&head.ask), head.lane.class()));
            let Some((mut seat, mut ask, mut class)) = self.queue.next(now).and_then(asks) else { break };
            match self.rates.claimed(seat, &ask, class, now) {
                None => {}
                Some(Claimed::Until(until)) => {
                    self.queue.park(seat, until);
                    continue;
                }
                // Whatever others have claimed of what that one needs: two who each waited for the other's would never start.
                Some(Claimed::Due(who)) => match asks(who) {
                    Some(first) => (seat, ask, class) = first,
                    None => {
                        self.rates.disown(who);
                        continue;
                    }
                },
            }
            match self.take(&ask, now) {
                Ok(grant) => {
                    self.unclaim(seat, &ask);
                    self.hand_over(seat, grant, now);
                }
                Err(Held { until, all: true }) => {
                    wait = Some((until, seat));
                    break;
                }
                Err(Held { until, all: false }) => {
                    // The turn of one who has aged counts as one of the class that it passes.
                    let class = self.queue.top().unwrap_or(class);
                    // What it claimed before may not be what holds it back now.
                    self.rates.unclaim(seat, &ask);
                    self.rates.claim(seat, &ask, class, until);
                    self.queue.park(seat, until);
                }
            }
        }
        // A parked one may be before the next one, so that it must be asked again at its time.
        let earliest = [wait, self.queue.first_parked()].into_iter().flatten().min();
        let Some((at, seat)) = earliest else {
            self.told = None;
            return;
        };
        // Whoever has a timer keeps it: one who sets another would be woken for it.
        let (seat, knows) = self.told.map_or((seat, false), |(who, when)| (who, when <= at));
        if !knows && me != Some(seat) {
            let waker = self.queue.waiter(seat).map(|waiter| waiter.waker.clone());
            self.effects.wake.extend(waker);
        }
        self.told = Some((seat, at));
    }

    fn hand_over(&mut self, seat: Seat, grant: Grant, now: Instant) {
        self.pace.turn(self.limiter.limit(), now);
        if let Some(waiter) = self.queue.serve(seat, Verdict::Granted(grant)) {
            let (priority, queued) = waiter.seen(now);
            self.tell(|| AdmissionEvent::Admitted { priority, queued });
            // Me too: its waker must be dropped outside the lock, and waking it once more does no harm.
            self.effects.wake.push(waiter.waker);
        }
        self.forget(seat);
    }
}
