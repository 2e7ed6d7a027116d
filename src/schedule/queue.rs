//! Who waits, and who is next.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::task::Waker;

use super::rate::Ask;
use crate::types::Priority;

/// A place in the queue: the smallest goes first. The class decides, then the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    class: Reverse<Priority>,
    arrival: u64,
}

/// One who waits.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) ask: Ask,
    /// Whom to wake when it is granted, or has become the head and must set a timer.
    pub(super) waker: Waker,
}

/// Those who wait, by class and arrival. Entering, leaving and asking for the head take O(log n).
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiters: BTreeMap<Place, Waiter>,
    arrivals: u64,
}

impl Queue {
    /// The place that the next arrival of this class would get.
    pub(super) fn next_place(&self, priority: Priority) -> Place {
        Place { class: Reverse(priority), arrival: self.arrivals }
    }

    /// Enters at the end of its class.
    pub(super) fn enter(&mut self, priority: Priority, waiter: Waiter) -> Place {
        let place = self.next_place(priority);
        self.arrivals += 1;
        self.waiters.insert(place, waiter);
        place
    }

    /// Who is next.
    pub(super) fn head(&self) -> Option<(Place, &Waiter)> {
        self.waiters.first_key_value().map(|(place, waiter)| (*place, waiter))
    }

    /// Whether this place comes before everybody who waits.
    pub(super) fn is_ahead_of_all(&self, place: Place) -> bool {
        self.head().is_none_or(|(head, _)| place < head)
    }

    /// Takes the head out.
    pub(super) fn pop(&mut self) -> Option<Waiter> {
        self.waiters.pop_first().map(|(_, waiter)| waiter)
    }

    /// Takes a waiter out, wherever it stands.
    pub(super) fn leave(&mut self, place: Place) -> Option<Waiter> {
        self.waiters.remove(&place)
    }

    /// The waiter at this place.
    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut Waiter> {
        self.waiters.get_mut(&place)
    }

    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(tokens: u64) -> Waiter {
        Waiter { ask: Ask::of(tokens), waker: Waker::noop().clone() }
    }

    #[test]
    fn classes_first_then_arrival() {
        let mut queue = Queue::default();
        let order = [Priority::Low, Priority::Normal, Priority::High, Priority::Normal, Priority::High, Priority::Low];
        for (tokens, priority) in (0..).zip(order) {
            queue.enter(priority, waiter(tokens));
        }
        let popped: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|waiter| waiter.ask.tokens()).collect();
        assert_eq!(popped, [2, 4, 1, 3, 0, 5]);
    }

    #[test]
    fn who_leaves_is_not_served() {
        let mut queue = Queue::default();
        let first = queue.enter(Priority::Normal, waiter(1));
        let second = queue.enter(Priority::Normal, waiter(2));
        assert!(queue.leave(first).is_some() && queue.leave(first).is_none());
        assert_eq!(queue.head().map(|(place, _)| place), Some(second));
        assert!(queue.is_ahead_of_all(queue.next_place(Priority::High)));
        assert!(!queue.is_ahead_of_all(queue.next_place(Priority::Normal)));
        assert_eq!(queue.len(), 1);
    }
}
