//! The models, and which limits each is under.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::ask::Limited;
use super::limit::{LimitKey, Measure};
use crate::types::{Price, PriceTable};

/// Models known by name at most. Those beyond are looked up each time, and share one gate that a 429 closes.
const KNOWN: usize = 256;
const STRANGERS: u32 = u32::MAX;
/// Gates of quota groups are numbered from here.
const GROUPS: u32 = 1 << 16;

/// What the rates know of a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Model {
    pub(super) id: u32,
    /// Whose gate a 429 closes.
    pub(super) gate: u32,
    /// Which limits count it, a bit each. As wide as its neighbours: what has no gaps is copied faster.
    pub(super) limits: u32,
    /// Its number among the [`prices`](Models::price), if dollars are limited: whoever waits carries this around.
    pub(super) price: Option<NonZeroU32>,
    /// For limits by model.
    pub(super) key: u64,
}

/// The models that were asked for.
#[derive(Debug, Default)]
pub(super) struct Models {
    known: HashMap<Arc<str>, Model>,
    /// The one asked for last: nearly always the next one.
    last: Option<(Arc<str>, Model)>,
    /// The different ones, at most as many as the table of prices has.
    prices: Vec<Price>,
    seed: u64,
}

impl Models {
    /// `seed` is for the keys, so that nobody can choose names that share one.
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// This model, as the limits and the prices have it.
    pub(super) fn get(&mut self, name: &str, limits: &[Limited], prices: &PriceTable) -> Model {
        match &self.last {
            Some((last, model)) if **last == *name => *model,
            _ => self.find(name, limits, prices),
        }
    }

    fn find(&mut self, name: &str, limits: &[Limited], prices: &PriceTable) -> Model {
        if let Some((known, model)) = self.known.get_key_value(name) {
            let model = *model;
            self.last = Some((Arc::clone(known), model));
            return model;
        }
        let room = self.known.len() < KNOWN;
        let id = u32::try_from(self.known.len()).ok().filter(|_| room).unwrap_or(STRANGERS);
        let model = self.model(name, id, limits, prices);
        let name: Arc<str> = name.into();
        if room {
            self.known.insert(Arc::clone(&name), model);
        }
        self.last = Some((name, model));
        model
    }

    fn model(&mut self, name: &str, id: u32, limits: &[Limited], prices: &PriceTable) -> Model {
        let applies = |limited: &Limited| match &limited.models {
            Some(patterns) => patterns.iter().any(|pattern| pattern.matches(name)),
            None => true,
        };
        let mut bits = 0;
        let mut gate = id;
        for (place, limited) in limits.iter().enumerate().rev() {
            if applies(limited) {
                bits |= 1_u32 << place;
                if limited.models.is_some() {
                    gate = GROUPS + place as u32;
                }
            }
        }
        let key = hash(name, self.seed);
        let dollars = limits.iter().any(|limited| limited.limit.measure == Measure::Dollars);
        let price = if dollars { prices.get(name).and_then(|price| self.number(price)) } else { None };
        Model { id, gate, limits: bits, price, key }
    }

    fn number(&mut self, price: &Price) -> Option<NonZeroU32> {
        // By their bits: NaN does not equal itself, and would be added each time.
        let bits = |price: &Price| [price.input, price.cached_input, price.output].map(f64::to_bits);
        let known = self.prices.iter().position(|known| bits(known) == bits(price)).unwrap_or(self.prices.len());
        if known == self.prices.len() {
            self.prices.push(*price);
        }
        u32::try_from(known).ok()?.checked_add(1).and_then(NonZeroU32::new)
    }

    /// What this model costs, if dollars are limited.
    pub(super) fn price(&self, model: &Model) -> Option<Price> {
        self.prices.get(model.price?.get() as usize - 1).copied()
    }

    /// What this model is called; `None` for those beyond the known ones.
    #[cfg(feature = "redis")]
    pub(super) fn name(&self, id: u32) -> Option<Arc<str>> {
        self.known.iter().find(|(_, model)| model.id == id).map(|(name, _)| Arc::clone(name))
    }

    /// Whether no more than one was ever asked for.
    pub(super) fn is_one(&self) -> bool {
        self.known.len() <= 1
    }

    /// The key of a tenant; 0 for calls without one.
    pub(super) fn tenant(&self, tenant: Option<&str>) -> u64 {
        tenant.map_or(0, |tenant| hash(tenant, !self.seed))
    }
}

/// Under which key of a limit a call of this model and tenant counts.
pub(super) fn key(by: Option<LimitKey>, model: u64, tenant: u64) -> u64 {
    match by {
        None => 0,
        Some(LimitKey::Model) => model,
        Some(LimitKey::Tenant) => tenant,
        Some(LimitKey::TenantAndModel) => model.rotate_left(32) ^ tenant,
    }
}

fn hash(name: &str, seed: u64) -> u64 {
    twox_hash::XxHash3_64::oneshot_with_seed(seed, name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;
    use crate::schedule::rate::{Limit, Rates};
    use std::time::Duration;

    #[test]
    fn prices_are_kept_once_however_many_models_have_them() {
        let prices = PriceTable::empty()
            .set("unreadable", Price::new(f64::NAN, 1.0, 2.0))
            .set("cheap", Price::new(1.0, 1.0, 1.0))
            .set("same", Price::new(1.0, 1.0, 1.0))
            .set("dear", Price::new(9.0, 9.0, 9.0));
        let env = Env::new();
        let mut rates = Rates::new(None, vec![Limit::dollars(1.0)], Duration::from_secs(1), true, &env, env.now());
        let (models, limits) = (&mut rates.models, &rates.limits);
        let [cheap, same, dear, free] =
            ["cheap", "same", "dear", "unknown"].map(|name| models.get(name, limits, &prices));
        assert_eq!((cheap.price, free.price), (same.price, None));
        let told = [&cheap, &dear, &free].map(|model| models.price(model).map(|price| price.input));
        assert_eq!(told, [Some(1.0), Some(9.0), None]);
        // More than are known by name, so that each is looked up again.
        for number in 10_000_000..10_000_600 {
            models.get(&format!("unreadable-{number}"), limits, &prices);
        }
        assert_eq!(models.prices.len(), 3);
    }
}
