//! Ids for calls: their own where they may have them.

use std::collections::{HashMap, HashSet};

use super::single::plainly;
use crate::history::rules::{CALL_ID, plain};
use crate::history::{Rule, Rules};

/// How much of an id stays when a number is added: the number has room up to [`CALL_ID`].
const STEM: usize = 32;

/// Hands out ids.
pub(super) struct Ids {
    rules: Rules,
    taken: HashSet<String>,
    /// How many of a stem have been handed out.
    numbers: HashMap<String, u32>,
}

impl Ids {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, taken: HashSet::new(), numbers: HashMap::new() }
    }

    /// The next message's calls: they may have the ids of others, unless ids are given once in a conversation.
    pub(super) fn next_message(&mut self) {
        if !self.rules.has(Rule::CallIdsOnce) && !self.taken.is_empty() {
            // Not cleared: that costs what the largest message took.
            (self.taken, self.numbers) = Default::default();
        }
    }

    /// This id if it may be, or one that may.
    pub(super) fn give(&mut self, id: &str) -> String {
        let given = self.choose(id);
        self.taken.insert(given.clone());
        given
    }

    fn choose(&mut self, id: &str) -> String {
        let numbered = self.rules.has(Rule::CallIds) || self.rules.has(Rule::CallIdsOnce);
        let unknown = id.is_empty() && numbered;
        let mut wanted = if unknown { "call".to_owned() } else { id.to_owned() };
        if self.rules.has(Rule::CallIdsPlain) && !plain(&wanted) {
            wanted = plainly(&wanted, usize::MAX);
        }
        let long = self.rules.has(Rule::CallIdsShort) && wanted.len() > CALL_ID;
        let taken = numbered && self.taken.contains(&wanted);
        if !(unknown || long || taken) {
            return wanted;
        }
        let mut end = wanted.len().min(STEM);
        while !wanted.is_char_boundary(end) {
            end -= 1;
        }
        wanted.truncate(end);
        let number = self.numbers.entry(wanted.clone()).or_insert(0);
        loop {
            *number += 1;
            let given = format!("{wanted}_{number}");
            if !self.taken.contains(&given) {
                return given;
            }
        }
    }
}
