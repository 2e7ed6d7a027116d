//! The limits of a whole fleet instead of one process's own.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::Rates;
use super::bucket::capacity;
use super::group::{Model, Models};
use super::limit::Limit;
use super::meter::{Meter, Meters, burst_nanos};
use crate::error::{Error, Result};
use crate::schedule::ORIGIN;
use crate::schedule::fleet::{Closing, Fleet, FleetLimits, Gates, Terms};

/// Larger amounts are not exact in Redis, whose scripts count in doubles.
const MOST: u64 = 1 << 52;
/// A model's name that is longer is not told: nobody needs to keep it.
const LONGEST_NAME: usize = 200;
const RELATED: u64 = 0x736c_7569_6365_6761;

impl Rates {
    /// Takes the limits up to a minute from the fleet from now on, and of longer ones the part of one process. There must
    /// be no plain limit of requests: governor keeps nothing in Redis.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a limit that cannot be shared, and what [`Fleet::new`] refuses.
    pub(in crate::schedule) fn share(
        mut self,
        settings: &FleetLimits,
        limits: &[Limit],
        burst: Duration,
    ) -> Result<Self> {
        let mut names: Vec<(String, Terms)> = Vec::new();
        for limit in limits.iter().filter(|limit| !limit.is_rolling()) {
            let terms = terms(limit, burst, self.trust_headers);
            if terms.limit.max(terms.burst) > MOST {
                let value = limit.quantity(limit.amount);
                return Err(Error::config(ORIGIN, "shared limit amount", value, "use at most 2^52, or $4503"));
            }
            let mut name = name(limit);
            while names.iter().any(|(other, _)| *other == name) {
                name.push('+');
            }
            names.push((name, terms));
        }
        let digest = twox_hash::XxHash3_64::oneshot(format!("{names:?}").as_bytes());
        let fleet = Fleet::new(settings, format!("{digest:016x}"), &self.env, self.started)?;
        // The same keys in all processes.
        self.models = Models::new(twox_hash::XxHash3_64::oneshot_with_seed(RELATED, settings.told_name().as_bytes()));
        let mut names = names.into_iter();
        for limited in &mut self.limits {
            if limited.limit.is_rolling() {
                let part = limited.limit.amount / settings.processes();
                limited.limit.amount = part.max(1);
                limited.meters = Meters::new(&limited.limit, burst);
            } else if let Some((name, terms)) = names.next() {
                limited.meters = Meters::with(Meter::Leased(fleet.limit(name, terms)), &limited.limit);
            }
        }
        self.gates = Some(fleet.gates());
        self.fleet = Some(fleet);
        Ok(self)
    }

    /// Tells the fleet of this model's gate, which has just closed or stays closed for longer.
    pub(super) fn tell_closed(&self, model: &Model, at: u64) {
        if let Some(gates) = &self.gates
            && let Some(name) = self.models.name(model.id).filter(|name| name.len() <= LONGEST_NAME)
            && let Some((since, until, strikes)) = self.closed.times(model.gate)
        {
            gates.tell(Closing { model: name, until, strikes }, since == at);
        }
    }

    /// Closes the gates that others have told of.
    pub(in crate::schedule) fn hear_closed(&mut self, now: Instant) {
        let at = self.nanos(now);
        for Closing { model, until, strikes } in self.gates.iter().flat_map(Gates::news) {
            let model = self.models.get(&model, &self.limits, self.env.prices());
            self.closed.close(model.gate, until, strikes, at);
        }
    }

    /// The fleet it shares with, to be kept as long as these are.
    pub(in crate::schedule) fn take_fleet(&mut self) -> Option<Fleet> {
        self.fleet.take()
    }
}

/// What makes it the same limit in another process: all but how much.
fn name(limit: &Limit) -> String {
    let mut told = format!("{:?} {:?} {:?} {}", limit.by, limit.models, limit.period, limit.without_cached);
    let hash = twox_hash::XxHash3_64::oneshot(told.as_bytes());
    told.clear();
    let _ = write!(told, "{:?}:{}us:{hash:016x}", limit.measure, period(limit));
    told
}

/// Rounded up: the slower rate.
fn period(limit: &Limit) -> u64 {
    limit.period_nanos().div_ceil(1_000)
}

fn terms(limit: &Limit, burst: Duration, follows: bool) -> Terms {
    let (nanos, worth) = (limit.period_nanos(), burst_nanos(limit, burst));
    let units = capacity(limit.amount, nanos, worth) / i128::from(nanos);
    let burst = u64::try_from(units).unwrap_or(u64::MAX);
    Terms { limit: limit.amount, period: period(limit), burst, worth: worth / 1_000, follows }
}
