//! What is said on a trip to Redis.

use fred::types::Value;

use super::Terms;
use super::account::TERM;
use super::closings::{Closed, Closing};
use super::word::Said;
use crate::error::{Error, ErrorKind, Result};
use crate::redis::{Connection, ORIGIN};
use std::time::Duration;

const LEASE: &str = include_str!("lease.lua");
/// A process that was silent for so long is gone.
const KNOWN_FOR: u64 = 5_000_000;
/// Words of the reply for each limit, before them, and for each closed gate after them.
const WORDS: usize = 6;
const HEAD: usize = 2;
const GATE: usize = 4;

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
    /// What the provider said of it.
    pub(super) said: Said,
    /// Since when it is told, in this process's nanoseconds: told again, it counts once.
    pub(super) since: u64,
    /// The most that is charged, whatever is told.
    pub(super) most: u64,
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
    /// What all have taken, up to a constant.
    pub(super) taken: i64,
}

/// What comes back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) processes: usize,
    pub(super) differing: usize,
    pub(super) grants: Vec<Grant>,
    /// The gates that others have closed.
    pub(super) closed: Vec<Closed>,
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
        closings: &[Closing],
        leaves: bool,
        at: u64,
    ) -> Result<Reply> {
        let expected = lines.len();
        let mut keys = vec![format!("{}members", self.prefix), format!("{}closed", self.prefix)];
        let micros = i64::try_from(TERM / 1_000).unwrap_or(i64::MAX);
        let mut words: Vec<Value> = vec![self.me.clone().into(), self.digest.clone().into()];
        words.extend([i64::from(leaves), micros, whole(KNOWN_FOR)].map(Value::from));
        words.push(i64::try_from(closings.len()).unwrap_or(i64::MAX).into());
        for Closing { model, until, strikes } in closings {
            let wait = whole(until.saturating_sub(at).div_ceil(1_000));
            words.extend([(**model).into(), wait.into(), i64::from(*strikes).into()]);
        }
        for (name, line) in lines {
            keys.push(format!("{}{name}", self.prefix));
            let (Terms { limit, period, worth, follows, .. }, said) = (line.terms, line.said);
            let amounts = [limit, period, worth, u64::from(line.known), line.used, line.holding].map(whole);
            words.extend(amounts.map(Value::from));
            words.push(line.charge.into());
            let wanted = [line.full, line.need, line.want, line.batch, u64::from(follows), said.limit, said.age];
            words.extend(wanted.map(whole).map(Value::from));
            let left = [i64::from(said.left.is_some()), said.left.unwrap_or(0), said.taken, whole(said.doubt)];
            words.extend(left.map(Value::from));
            words.extend([line.since, line.most].map(whole).map(Value::from));
        }
        let words: Vec<Value> = self.connection.script(LEASE, keys, words, self.patience).await?;
        parse(&words, expected).ok_or_else(|| Error::new(ErrorKind::Decode, ORIGIN, "a reply of an unexpected form"))
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn parse(words: &[Value], expected: usize) -> Option<Reply> {
    let (head, rest) = words.split_at_checked(HEAD)?;
    let (grants, gates) = rest.split_at_checked(expected * WORDS)?;
    let number = |word: &Value| u64::try_from(word.as_i64()?).ok();
    let grant = |words: &[Value]| {
        let [amount, wait, full, limit, burst, taken] = words else { return None };
        let wait = number(wait)?.saturating_mul(1_000);
        let [amount, full, limit, burst] = [amount, full, limit, burst].map(number);
        Some(Grant { amount: amount?, wait, full: full?, limit: limit?, burst: burst?, taken: taken.as_i64()? })
    };
    let gate = |words: &[Value]| {
        let [model, left, strikes, stamp] = words else { return None };
        let left = number(left)?.saturating_mul(1_000);
        let strikes = u32::try_from(number(strikes)?).unwrap_or(u32::MAX);
        Some(Closed { model: model.as_string()?, left, strikes, stamp: number(stamp)? })
    };
    let count = |word: &Value| usize::try_from(number(word)?).ok();
    Some(Reply {
        processes: count(&head[0])?,
        differing: count(&head[1])?,
        grants: grants.chunks(WORDS).map(grant).collect::<Option<_>>()?,
        closed: gates.chunks(GATE).map(gate).collect::<Option<_>>()?,
    })
}
