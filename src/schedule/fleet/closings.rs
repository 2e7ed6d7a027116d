//! What the processes tell each other of the gates that a 429 closed.
//!
//! A gate goes by the name of a model that it stops: whoever hears it finds the gate of his own that this model is
//! behind. Told is how long it stays closed from now on, so nobody needs the same clock. All that is told is also heard
//! again on every trip until its time, and it is news once only.

use std::collections::HashMap;
use std::sync::Arc;

use super::account::REPORT;

/// A gate that is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::schedule) struct Closing {
    pub(in crate::schedule) model: Arc<str>,
    /// In this process's own nanoseconds.
    pub(in crate::schedule) until: u64,
    /// How often in a row without a time from the provider.
    pub(in crate::schedule) strikes: u32,
}

/// One that another process has told of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) model: String,
    /// In nanoseconds, from now on.
    pub(super) left: u64,
    pub(super) strikes: u32,
    /// Another one is another closing.
    pub(super) stamp: u64,
}

#[derive(Debug, Default)]
pub(super) struct Closings {
    /// What is to be told, a model once.
    out: Vec<Closing>,
    /// On the trip that is under way.
    told: Vec<Closing>,
    /// Whether it is to be told at once.
    urgent: bool,
    /// The stamps of those that are known.
    known: HashMap<String, u64>,
    news: Vec<Closing>,
}

impl Closings {
    /// To be told; at once, if the gate was open.
    pub(super) fn tell(&mut self, closing: Closing, at_once: bool) {
        self.out.retain(|other| other.model != closing.model);
        self.out.push(closing);
        self.urgent |= at_once;
    }

    /// When the next trip is due for it, after one at this time.
    pub(super) fn due(&self, last: u64) -> Option<u64> {
        (!self.out.is_empty()).then(|| if self.urgent { last } else { last.saturating_add(REPORT) })
    }

    /// What goes on a trip.
    pub(super) fn go(&mut self, at: u64) -> Vec<Closing> {
        self.urgent = false;
        self.told = std::mem::take(&mut self.out);
        self.told.retain(|closing| closing.until > at);
        self.told.clone()
    }

    /// The trip failed, done or not: told again, unless there is something newer.
    pub(super) fn fail(&mut self) {
        for closing in std::mem::take(&mut self.told) {
            if !self.out.iter().any(|other| other.model == closing.model) {
                self.out.push(closing);
            }
        }
    }

    /// The trip is over: all that are closed elsewhere now. Whether there is news.
    pub(super) fn hear(&mut self, closed: Vec<Closed>, at: u64) -> bool {
        self.told.clear();
        let mut known = HashMap::with_capacity(closed.len());
        for Closed { model, left, strikes, stamp } in closed {
            if self.known.get(&model) != Some(&stamp) {
                self.news.push(Closing { model: model.as_str().into(), until: at.saturating_add(left), strikes });
            }
            known.insert(model, stamp);
        }
        self.known = known;
        !self.news.is_empty()
    }

    /// What nobody was told yet.
    pub(super) fn news(&mut self) -> Vec<Closing> {
        std::mem::take(&mut self.news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(left: u64, stamp: u64) -> Vec<Closed> {
        vec![Closed { model: "m".into(), left, strikes: 0, stamp }]
    }

    fn closing(until: u64) -> Closing {
        Closing { model: "m".into(), until, strikes: 0 }
    }

    #[test]
    fn is_news_once_and_again_when_it_changes() {
        let mut closings = Closings::default();
        assert!(closings.hear(closed(50, 1), 100));
        assert_eq!(closings.news(), [closing(150)]);
        assert!(!closings.hear(closed(40, 1), 115), "heard again, a little later each time");
        assert!(closings.hear(closed(90, 2), 120));
        assert_eq!(closings.news(), [closing(210)]);
        assert!(!closings.hear(Vec::new(), 300));
        assert!(closings.hear(closed(50, 2), 300), "what had ended begins anew");
    }

    #[test]
    fn a_failed_trip_is_told_again_at_leisure_and_nothing_old_or_over() {
        let mut closings = Closings::default();
        assert_eq!(closings.due(7), None);
        closings.tell(closing(50), true);
        assert_eq!(closings.due(7), Some(7));
        closings.go(10);
        closings.fail();
        assert_eq!(closings.due(7), Some(7 + REPORT));
        closings.go(20);
        closings.tell(closing(90), false);
        closings.fail();
        assert_eq!(closings.go(30), [closing(90)]);
        closings.hear(Vec::new(), 40);
        closings.fail();
        closings.tell(closing(90), true);
        assert_eq!(closings.go(90), []);
    }
}
