//! What is said on a trip to Redis.

use fred::types::Value;

use super::Terms;
use super::account::TERM;
use crate::error::{Error, ErrorKind, Result};
use crate::redis::{Connection, ORIGIN};
use std::time::Duration;

const LEASE: &str = include_str!("lease.lua");
/// A process that was silent for so long is gone.
const KNOWN_FOR: u64 = 5_000_000;
/// Numbers of the reply for each limit, and before them.
const WORDS: usize = 5;
const HEAD: usize = 2;

/// What is told and asked of one limit.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) terms: Terms,
    /// Whether its state must be there.
    pub(super) known: bool,
    pub(super) used: u64,
    pub(super) holding: u64,
    pub(super) charge: i64,
    pub(super) full: u64,
    /// What must come for somebody to start, and what may.
    pub(super) need: u64,
    pub(super) want: u64,
    /// What is worth a trip.
    pub(super) batch: u64,
}

/// What comes back for one limit.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) amount: u64,
    /// Until what was needed can be had, in nanoseconds.
    pub(super) wait: u64,
    pub(super) full: u64,
    /// The limit in force.
    pub(super) limit: u64,
    pub(super) burst: u64,
}

/// What comes back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) processes: usize,
    pub(super) differing: usize,
    pub(super) grants: Vec<Grant>,
}

/// Who goes on trips, and where to.
pub(super) struct Traveller {
    pub(super) connection: Connection,
    pub(super) patience: Duration,
    /// In front of all names; with what makes a cluster keep them together.
    pub(super) prefix: String,
    pub(super) me: String,
    pub(super) digest: String,
}

impl Traveller {
    /// One trip. Dropped, it may have been made.
    pub(super) async fn go<'a>(
        &self,
        lines: impl ExactSizeIterator<Item = (&'a str, &'a Line)>,
        leaves: bool,
    ) -> Result<Reply> {
        let expected = lines.len();
        let mut keys = vec![format!("{}members", self.prefix)];
        let micros = i64::try_from(TERM / 1_000).unwrap_or(i64::MAX);
        let mut words: Vec<Value> = vec![self.me.clone().into(), self.digest.clone().into()];
        words.extend([i64::from(leaves), micros, whole(KNOWN_FOR)].map(Value::from));
        for (name, line) in lines {
            keys.push(format!("{}{name}", self.prefix));
            let Terms { limit, period, burst } = line.terms;
            let amounts = [limit, period, burst, u64::from(line.known), line.used, line.holding].map(whole);
            words.extend(amounts.map(Value::from));
            words.push(line.charge.into());
            words.extend([line.full, line.need, line.want, line.batch].map(whole).map(Value::from));
        }
        let numbers: Vec<i64> = self.connection.script(LEASE, keys, words, self.patience).await?;
        parse(&numbers, expected)
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn parse(numbers: &[i64], expected: usize) -> Result<Reply> {
    let strange = || Error::new(ErrorKind::Decode, ORIGIN, "a reply of an unexpected form");
    if numbers.len() != HEAD + expected * WORDS || numbers.iter().any(|number| *number < 0) {
        return Err(strange());
    }
    let counts: Vec<u64> = numbers.iter().map(|number| number.unsigned_abs()).collect();
    let (head, rest) = counts.split_at(HEAD);
    let grant = |words: &[u64]| match words {
        [amount, wait, full, limit, burst] => {
            Ok(Grant { amount: *amount, wait: wait.saturating_mul(1_000), full: *full, limit: *limit, burst: *burst })
        }
        _ => Err(strange()),
    };
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let grants = rest.chunks(WORDS).map(grant).collect::<Result<_>>()?;
    Ok(Reply { processes: count(head[0]), differing: count(head[1]), grants })
}
