//! The provider's word on a limit, until Redis knows it.

use super::Terms;

/// What an answer's headers say of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::schedule) struct Word {
    /// The limit it states, if that is to be believed.
    pub(in crate::schedule) limit: Option<u64>,
    /// What is left there now.
    pub(in crate::schedule) left: Option<i64>,
    /// What all had taken by now, as far as this process knows.
    pub(in crate::schedule) taken: i64,
    /// When it was heard, when it came here, and when all is back there; in this process's nanoseconds.
    pub(in crate::schedule) heard: u64,
    pub(in crate::schedule) at: u64,
    pub(in crate::schedule) full_at: u64,
}

/// What is said of it on a trip. Ages are in microseconds: Redis knows by them when it was, by its own clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// 0: nothing.
    pub(super) limit: u64,
    pub(super) age: u64,
    pub(super) left: Option<i64>,
    pub(super) taken: i64,
    /// For how long it may be less than we know of.
    pub(super) doubt: u64,
}

/// The latest one, and what is being told.
#[derive(Debug, Default)]
pub(super) struct Words {
    news: Option<Word>,
    told: Option<Word>,
    /// When the latest was heard.
    heard: u64,
    /// It was never this limit that the provider spoke of.
    withdrawn: bool,
}

impl Words {
    /// Whether nothing newer is known.
    pub(super) fn heeds(&self, heard: u64) -> bool {
        heard >= self.heard && !self.withdrawn
    }

    pub(super) fn hear(&mut self, word: Word) {
        (self.heard, self.news) = (word.heard, Some(word));
    }

    /// From now on it is told that the provider states the configured limit.
    pub(super) fn withdraw(&mut self) {
        (self.withdrawn, self.news) = (true, None);
    }

    pub(super) fn is_told(&self) -> bool {
        self.news.is_none() && self.told.is_none()
    }

    /// What to say now.
    pub(super) fn tell(&mut self, configured: u64, in_force: &Terms, at: u64) -> Said {
        if self.withdrawn {
            return Said { limit: configured, ..Said::default() };
        }
        self.told = self.news.take();
        self.told.as_ref().map_or_else(Said::default, |word| word.said(in_force, at))
    }

    pub(super) fn told(&mut self) {
        self.told = None;
    }

    /// The trip failed: told again, unless there is something newer.
    pub(super) fn fail(&mut self) {
        self.news = self.news.or(self.told.take());
    }
}

impl Word {
    /// As it is to be said at this time: what is left has grown meanwhile.
    fn said(&self, in_force: &Terms, at: u64) -> Said {
        let micros = |from: u64, to: u64| to.saturating_sub(from) / 1_000;
        let limit = self.limit.unwrap_or(in_force.limit);
        let grown = u128::from(limit) * u128::from(micros(self.at, at)) / u128::from(in_force.period.max(1));
        let grown = i64::try_from(grown).unwrap_or(i64::MAX);
        Said {
            limit: self.limit.unwrap_or(0),
            age: micros(self.heard, at),
            left: self.left.map(|left| left.saturating_add(grown)),
            taken: self.taken,
            doubt: micros(at, self.full_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const WORD: Word =
        Word { limit: Some(60), left: Some(7), taken: 3, heard: SECOND, at: 2 * SECOND, full_at: 9 * SECOND };

    fn terms(limit: u64) -> Terms {
        Terms { limit, period: 60_000_000, burst: 1, worth: 1, follows: true }
    }

    #[test]
    fn what_is_left_grows_until_it_is_said() {
        let said = Said { limit: 60, age: 4_000_000, left: Some(10), taken: 3, doubt: 4_000_000 };
        assert_eq!(WORD.said(&terms(90), 5 * SECOND), said);
        let late = Word { limit: None, ..WORD }.said(&terms(120), 12 * SECOND);
        assert_eq!(late, Said { limit: 0, age: 11_000_000, left: Some(27), taken: 3, doubt: 0 });
    }

    #[test]
    fn the_latest_word_is_told_once_and_again_when_a_trip_fails() {
        let (mut words, silence) = (Words::default(), Said::default());
        words.hear(WORD);
        assert!(!words.heeds(SECOND - 1) && words.heeds(SECOND) && !words.is_told());
        assert_eq!(words.tell(5, &terms(60), SECOND).limit, 60);
        words.fail();
        assert_eq!(words.tell(5, &terms(60), SECOND).limit, 60);
        words.hear(Word { limit: Some(30), heard: 2 * SECOND, ..WORD });
        words.fail();
        assert_eq!(words.tell(5, &terms(60), SECOND).limit, 30, "the newer one");
        words.told();
        assert!(words.is_told());
        assert_eq!(words.tell(5, &terms(60), SECOND), silence);
        words.withdraw();
        let configured = Said { limit: 5, ..silence };
        assert_eq!([words.tell(5, &terms(60), 0), words.tell(5, &terms(60), 0)], [configured; 2], "every time");
        assert!(!words.heeds(9 * SECOND));
    }
}
