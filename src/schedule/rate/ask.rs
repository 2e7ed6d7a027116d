//! What a job takes, and the limits that it takes it from.

use wildmatch::WildMatch;

use super::claim::Claims;
use super::correct::Owner;
use super::group::{self, Model};
use super::limit::{Limit, LimitKey, Measure};
use super::meter::Meters;
use crate::error::{Error, Result};
use crate::schedule::permit::Spent;
use crate::schedule::{Job, ORIGIN};
use crate::types::{Price, Usage};

/// Sums of reservations must not overflow, whatever a job claims.
const MOST_TOKENS: u64 = 1 << 40;

/// A limit at work.
#[derive(Debug)]
pub(super) struct Limited {
    pub(super) limit: Limit,
    pub(super) models: Option<Vec<WildMatch>>,
    pub(super) meters: Meters,
    pub(super) owner: Owner,
    /// Of each key who waits for it, if its next one needs more than there is.
    pub(super) claims: Claims,
}

/// What a job takes from the rates.
#[derive(Debug, Clone, Copy)]
pub(in crate::schedule) struct Ask {
    pub(super) input: u64,
    pub(super) output: u64,
    /// In picodollars, if dollars are limited.
    dollars: u64,
    tenant: u64,
    pub(super) model: Model,
}

impl Ask {
    /// What this job takes of these limits.
    pub(super) fn resolve(
        job: &Job<'_>,
        (model, price): (Model, Option<Price>),
        tenant: u64,
        limits: &mut [Limited],
    ) -> Result<Self> {
        let input = job.input_tokens.min(MOST_TOKENS);
        let output = job.output_tokens.min(MOST_TOKENS - input);
        let mut ask = Ask { input, output, dollars: 0, tenant, model };
        for (_, limited) in of(limits, &model) {
            let most = limited.meters.limit(limited.key(&ask));
            if limited.limit.measure == Measure::Dollars {
                ask.dollars = priced(&ask, price, job)?;
            }
            let wanted = ask.amount(limited.limit.measure);
            if wanted <= most {
                continue;
            }
            // Whoever asks for no more than the limit must not be kept out for ever by what others were answered.
            let sure = match limited.limit.measure {
                _ if !job.output_is_guess => wanted,
                Measure::Output => 0,
                Measure::Dollars => priced(&Ask { output: 0, ..ask }, price, job)?,
                Measure::Requests | Measure::Input => wanted,
                Measure::Tokens => ask.input,
            };
            if sure > most {
                return Err(too_large(&limited.limit, wanted, most));
            }
            match limited.limit.measure {
                Measure::Dollars => ask.dollars = most,
                _ => ask.output -= wanted - most,
            }
        }
        Ok(ask)
    }

    pub(super) fn amount(&self, measure: Measure) -> u64 {
        match measure {
            Measure::Requests => 1,
            Measure::Input => self.input,
            Measure::Output => self.output,
            Measure::Tokens => self.total(),
            Measure::Dollars => self.dollars,
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.input + self.output
    }
}

impl Limited {
    /// Under which key of this limit that counts.
    pub(super) fn key(&self, ask: &Ask) -> u64 {
        group::key(self.limit.by, ask.model.key, ask.tenant)
    }

    /// Whether the headers of an answer speak of this limit and no other.
    pub(super) fn is_of_its_model(&self) -> bool {
        match self.limit.by {
            None => self.limit.models.is_some(),
            Some(by) => by == LimitKey::Model,
        }
    }

    /// What a call used of it.
    pub(super) fn used(&self, ask: &Ask, price: Option<Price>, spent: &Spent, usage: Option<&Usage>) -> u64 {
        let cached = if self.limit.without_cached { spent.cached } else { 0 };
        match self.limit.measure {
            Measure::Requests => 1,
            Measure::Input => spent.input.saturating_sub(cached),
            Measure::Output => spent.output,
            Measure::Tokens => spent.input.saturating_add(spent.output).saturating_sub(cached),
            Measure::Dollars => billed(ask, price, spent, usage),
        }
    }
}

/// The limits that count this model, and their places.
pub(super) fn of<'a>(
    limits: &'a mut [Limited],
    model: &Model,
) -> impl Iterator<Item = (usize, &'a mut Limited)> + use<'a> {
    let bits = model.limits;
    limits.iter_mut().enumerate().filter(move |(place, _)| bits & (1 << place) != 0)
}

impl Limited {
    /// Whether headers can speak of it at all: those of a tenant's share are nowhere stated.
    pub(super) fn is_spoken_of(&self) -> bool {
        matches!(self.limit.by, None | Some(LimitKey::Model))
    }
}

/// What it cost in picodollars.
// Inlined, it would be worked out for every call: the optimiser sees no harm in that.
#[inline(never)]
fn billed(ask: &Ask, price: Option<Price>, spent: &Spent, usage: Option<&Usage>) -> u64 {
    match (usage, price) {
        (Some(usage), Some(price)) => price.cost(usage).picos(),
        (None, Some(price)) if !spent.is(ask.input, ask.output) => {
            price.cost(&Usage::new(spent.input, spent.output)).picos()
        }
        _ => ask.dollars,
    }
}

/// What it costs in picodollars, by the estimate.
#[inline(never)]
fn priced(ask: &Ask, price: Option<Price>, job: &Job<'_>) -> Result<u64> {
    let Some(price) = price else {
        let remedy = "has no price, and dollars are limited: set its price where the client is built, or give the limit \
                      the models it is for";
        return Err(Error::invalid(ORIGIN, "model", job.model, remedy));
    };
    Ok(price.cost(&Usage::new(ask.input, ask.output)).picos())
}

fn too_large(limit: &Limit, wanted: u64, most: u64) -> Error {
    let (most, setting) = (limit.told(most), limit.setting);
    let wanted = match limit.measure {
        Measure::Dollars => limit.quantity(wanted),
        _ => wanted.to_string(),
    };
    let remedy = format!(
        "above the limit of {most}, so it can never start; shorten the prompt, set a lower output limit, or raise {setting}"
    );
    Error::invalid(ORIGIN, &limit.measure.to_string(), wanted, &remedy)
}

#[cfg(test)]
impl Ask {
    /// So many input tokens, of no model, under the plain limits.
    pub(in crate::schedule) fn of(tokens: u64) -> Self {
        let model = Model { id: 0, gate: 0, limits: 1, price: None, key: 0 };
        Self { input: tokens, output: 0, dollars: 0, tenant: 0, model }
    }

    pub(in crate::schedule) fn tokens(self) -> u64 {
        self.total()
    }
}
