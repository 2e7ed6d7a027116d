//! What may go upstream within a time: several limits at once, taken in one step, put right at the end.
//!
//! A job is resolved once, when it enters, into what it asks for ([`Ask`]); then the rates give all of it or nothing
//! ([`Rates::begin`], [`Rates::charge`]), and are told how the call ended ([`Rates::settle`]) or that it never began
//! ([`Rates::undo`]).
//!
//! All see the same instant, given to them as nanoseconds since the start: a decision is made for one moment, and a clock
//! that goes backwards is a clock that stands still.
//!
//! The parts: `ask` what a job takes, `limit` a limit as it is set, `meter` what keeps it (`bucket` up to a minute, `rolling` beyond), `request`
//! the plain requests per minute on governor, `claim` whose turn it is, `group` the models and which limits they are under, `correct` the
//! provider's word, `closed` the gate that a 429 closes, `shared` the limits of a fleet.

mod ask;
mod bucket;
mod claim;
mod closed;
mod correct;
mod group;
mod limit;
mod meter;
mod request;
mod rolling;
#[cfg(feature = "redis")]
mod shared;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

pub(super) use ask::Ask;
pub(super) use claim::Claimed;
pub use limit::{Limit, LimitKey};

use super::permit::Spent;
use super::{Job, Outcome};
use crate::env::{Env, after};
use crate::error::Result;
use crate::types::RateLimits;
use ask::{Limited, of};
use closed::ClosedGates;
use correct::{Owner, Report, Trust};
use group::Models;
use limit::Measure;
use meter::{Mark, Meters};
use request::RequestRate;

const MINUTE: u64 = 60_000_000_000;

/// Limits at once, those of requests per minute not counted.
pub(super) const MOST_LIMITS: usize = 6;

/// The rates of one gate, all, some or none of them set.
#[derive(Debug)]
pub(super) struct Rates {
    env: Env,
    started: Instant,
    /// The latest moment that was seen.
    seen: u64,
    requests: Option<RequestRate>,
    limits: Vec<Limited>,
    models: Models,
    /// Whether any limit is by tenant.
    by_tenant: bool,
    closed: ClosedGates,
    trust_headers: bool,
    /// Whether the provider has ever said what is left.
    is_told: bool,
    /// Tokens of the calls in flight.
    reserved: u64,
    /// Until the gate keeps it.
    #[cfg(feature = "redis")]
    fleet: Option<super::fleet::Fleet>,
    #[cfg(feature = "redis")]
    gates: Option<super::fleet::Gates>,
}

/// What a start took, needed to put it right later.
#[derive(Debug)]
pub(super) struct Debit {
    ask: Ask,
    /// When it started.
    at: u64,
    /// How many requests were taken by then.
    requests: i64,
    marks: Marks,
}

/// Most jobs are under two limits or fewer.
#[derive(Debug, Default)]
struct Marks {
    first: [Mark; 2],
    more: Option<Box<[Mark; MOST_LIMITS - 2]>>,
}

impl Marks {
    fn get(&self, place: usize) -> Mark {
        match place.checked_sub(2) {
            None => self.first[place],
            Some(place) => self.more.as_ref().map_or_else(Mark::default, |more| more[place]),
        }
    }

    fn set(&mut self, place: usize, mark: Mark) {
        match place.checked_sub(2) {
            None => self.first[place] = mark,
            Some(place) => self.more.get_or_insert_default()[place] = mark,
        }
    }
}

/// Why a job cannot start now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// When to ask again.
    pub(super) until: Instant,
    /// Whether everybody is held back, and not only those who share a key with it.
    pub(super) all: bool,
}

impl Rates {
    /// Full buckets. `burst` is how much of a minute's worth may be used at once. At most [`MOST_LIMITS`] limits count.
    pub(super) fn new(
        rpm: Option<NonZeroU32>,
        limits: Vec<Limit>,
        burst: Duration,
        trust_headers: bool,
        env: &Env,
        started: Instant,
    ) -> Self {
        let limited = |limit: Limit| {
            let (models, meters) = (limit.patterns(), Meters::new(&limit, burst));
            Limited { limit, models, meters, owner: Owner::default(), claims: claim::Claims::new() }
        };
        let limits: Vec<_> = limits.into_iter().take(MOST_LIMITS).map(limited).collect();
        let tenants = [Some(LimitKey::Tenant), Some(LimitKey::TenantAndModel)];
        Self {
            env: env.clone(),
            started,
            seen: 0,
            requests: rpm.map(|rpm| RequestRate::new(rpm, burst)),
            models: Models::new(env.bits()),
            by_tenant: limits.iter().any(|limited| tenants.contains(&limited.limit.by)),
            limits,
            closed: ClosedGates::default(),
            trust_headers,
            is_told: false,
            reserved: 0,
            #[cfg(feature = "redis")]
            fleet: None,
            #[cfg(feature = "redis")]
            gates: None,
        }
    }

    /// Whether any rate is set, so that the time matters.
    pub(super) fn is_limited(&self) -> bool {
        self.requests.is_some() || !self.limits.is_empty()
    }

    /// Whether a refusal holds anybody back, so that the time matters for now.
    pub(super) fn is_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    /// Whether a fleet shares them.
    pub(super) fn is_shared(&self) -> bool {
        #[cfg(feature = "redis")]
        return self.gates.is_some();
        #[cfg(not(feature = "redis"))]
        false
    }

    /// Whether it matters when a call ended, if that says neither that it was refused nor what is left.
    ///
    /// What it gives back is worth the same at any time since the last start: a bucket that is given it and then fills up
    /// holds no more than one that has filled up and then is given it. What it used above its estimate is not, for a bucket
    /// that has lost it too early fills up again; nor is a bucket that follows the provider's word.
    pub(super) fn is_timed_end(&self, debit: &Debit, outcome: Option<&Outcome<'_>>) -> bool {
        let ask = &debit.ask;
        let above = |outcome: &Outcome<'_>| {
            let spent = outcome.spent(ask.input, ask.output);
            spent.input > ask.input || spent.output > ask.output
        };
        // A price may make more of fewer tokens.
        self.is_limited() && (self.is_told || ask.model.price.is_some() || outcome.is_some_and(above))
    }

    /// Tokens of the calls in flight.
    pub(super) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// What this job takes.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) for one above a limit, which could never start, and for a
    /// model without a price where dollars are limited.
    pub(super) fn ask(&mut self, job: &Job<'_>) -> Result<Ask> {
        let model = self.models.get(job.model, &self.limits, self.env.prices());
        let tenant = if self.by_tenant { self.models.tenant(job.tenant) } else { 0 };
        let price = self.models.price(&model);
        Ask::resolve(job, (model, price), tenant, &mut self.limits)
    }

    /// Whether all that is asked can be taken, or when to ask again. If it can, the request has been taken, and the rest
    /// is with [`charge`](Self::charge), which must follow at once.
    pub(super) fn begin(&mut self, ask: &Ask, now: Instant) -> std::result::Result<Debit, Held> {
        let at = self.nanos(now);
        self.look(ask, at)?;
        let mut debit = Debit { ask: *ask, at, requests: 0, marks: Marks::default() };
        // Last, because governor cannot give a request back.
        if let Some(rate) = &mut self.requests {
            let held = |ready| Held { until: after(self.started, Duration::from_nanos(ready)), all: true };
            debit.requests = rate.take(at).map_err(held)?;
        }
        Ok(debit)
    }

    /// Takes the rest of what has begun. It is written where it stays: to move what was just written costs a tenth of an
    /// admission.
    pub(super) fn charge(&mut self, debit: &mut Debit) {
        let Debit { ask, at, marks, .. } = debit;
        for (place, limited) in of(&mut self.limits, &ask.model) {
            let key = limited.key(ask);
            marks.set(place, limited.meters.of(key, *at).take(ask.amount(limited.limit.measure)));
        }
        self.closed.passed(ask.model.gate, *at);
        self.reserved += ask.total();
    }

    /// Whether all but the plain requests are ready.
    fn look(&mut self, ask: &Ask, at: u64) -> std::result::Result<(), Held> {
        let (mut everybody, mut some) = (0, 0);
        if let Err(ready) = self.closed.pass(ask.model.gate, at) {
            *if self.models.is_one() { &mut everybody } else { &mut some } = ready;
        }
        for (_, limited) in of(&mut self.limits, &ask.model) {
            let shares = limited.lets_others_by();
            let key = limited.key(ask);
            if let Err(ready) = limited.meters.of(key, at).reach(ask.amount(limited.limit.measure), false, at) {
                let held = if shares { &mut some } else { &mut everybody };
                *held = ready.max(*held);
            }
        }
        match (everybody, some) {
            (0, 0) => Ok(()),
            (0, ready) => Err(Held { until: self.instant(ready), all: false }),
            // What holds only some back is asked about when everybody may go.
            (ready, _) => Err(Held { until: self.instant(ready), all: true }),
        }
    }

    /// The earliest moment at which this could start if nobody else did and all that is reserved now were given back;
    /// `None` when that is now.
    pub(super) fn earliest(&mut self, ask: &Ask, now: Instant) -> Option<Instant> {
        let at = self.nanos(now);
        let mut ready = self.requests.as_ref().map_or(0, |rate| rate.not_before);
        ready = ready.max(self.closed.pass(ask.model.gate, at).err().unwrap_or(0));
        for (_, limited) in of(&mut self.limits, &ask.model) {
            let key = limited.key(ask);
            let reach = limited.meters.of(key, at).reach(ask.amount(limited.limit.measure), true, at);
            ready = ready.max(reach.err().unwrap_or(0));
        }
        (ready > at).then(|| self.instant(ready))
    }

    /// Puts a debit right when the call has ended; `None`: it was abandoned.
    pub(super) fn settle(&mut self, debit: Debit, outcome: Option<&Outcome<'_>>, now: Instant) {
        let at = self.nanos(now);
        let ask = &debit.ask;
        let spent = outcome.map_or(Spent::default(), |outcome| outcome.spent(ask.input, ask.output));
        let usage = outcome.and_then(|outcome| outcome.usage);
        let price = self.models.price(&ask.model);
        self.put_right(&debit, at, |limited| limited.used(ask, price, &spent, usage));
        let error = outcome.map(|outcome| outcome.error);
        if self.is_closed() || matches!(error, Some(Some(_))) {
            self.ended(&debit.ask.model, debit.at, error, at);
        }
        if let Some(outcome) = outcome
            && let Some(limits) = outcome.limits
            && self.trust_headers
            && self.is_limited()
        {
            let age = u64::try_from(outcome.limits_age.as_nanos()).unwrap_or(u64::MAX);
            self.correct(&debit, limits, at.saturating_sub(age), at);
        }
    }

    fn put_right(&mut self, debit: &Debit, at: u64, used: impl Fn(&Limited) -> u64) {
        let ask = &debit.ask;
        self.reserved -= ask.total();
        for (place, limited) in of(&mut self.limits, &ask.model) {
            let (key, used) = (limited.key(ask), used(limited));
            if !limited.claims.is_empty()
                && let Some(claim) = limited.claims.get_mut(&key)
            {
                claim.is_due = true;
            }
            limited.meters.of(key, at).settle(debit.marks.get(place), ask.amount(limited.limit.measure), used, at);
        }
    }

    /// Gives back all that was taken for a call that never began, the request too.
    pub(super) fn undo(&mut self, debit: Debit, now: Instant) {
        let at = self.nanos(now);
        self.put_right(&debit, at, |_| 0);
        self.ended(&debit.ask.model, debit.at, None, at);
        if let Some(rate) = &mut self.requests {
            rate.undo(at);
        }
    }

    /// Follows what the provider said when it was heard. It speaks of one limit of requests and one of tokens per minute:
    /// the model's own or its group's, otherwise the plain one.
    fn correct(&mut self, debit: &Debit, limits: &RateLimits, heard: u64, at: u64) {
        self.is_told = true;
        let (ask, model) = (&debit.ask, &debit.ask.model);
        for measure in [Measure::Requests, Measure::Tokens] {
            let Some(report) = Report::of(limits, measure, debit.at, heard) else { continue };
            let fits = |limited: &Limited| {
                limited.limit.measure == measure && limited.limit.period_nanos() == MINUTE && limited.is_spoken_of()
            };
            // Its own before the plain one.
            let places = of(&mut self.limits, model).filter(|(_, limited)| fits(limited));
            let found = places.map(|(place, limited)| (!limited.is_of_its_model(), place)).min();
            if measure == Measure::Requests
                && found.is_none_or(|(plain, _)| plain)
                && let Some(rate) = &mut self.requests
            {
                rate.correct(&report, model.id, debit.requests, at);
                continue;
            }
            let Some((plain, place)) = found else { continue };
            let limited = &mut self.limits[place];
            let key = limited.key(ask);
            let trust = if plain { limited.owner.trust(model.id, &report) } else { Trust::Follow };
            let meter = limited.meters.of(key, at);
            match trust {
                Trust::Follow => meter.correct(&report, debit.marks.get(place), at),
                Trust::Restore => meter.restore(),
                Trust::Ignore => {}
            }
        }
    }

    /// It is so late now, and never earlier again: a clock that goes back stands still.
    pub(super) fn see(&mut self, now: Instant) {
        self.nanos(now);
    }

    fn nanos(&mut self, now: Instant) -> u64 {
        // Whoever did not ask for the time says so: half of them do.
        if now <= self.started {
            return self.seen;
        }
        let passed = now.saturating_duration_since(self.started).as_nanos();
        self.seen = self.seen.max(u64::try_from(passed).unwrap_or(u64::MAX / 4).min(u64::MAX / 4));
        self.seen
    }

    fn instant(&self, nanos: u64) -> Instant {
        after(self.started, Duration::from_nanos(nanos))
    }
}
