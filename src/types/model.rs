//! What a model costs.

use std::collections::HashMap;
use std::fmt;
use std::iter::Sum;
use std::num::NonZeroU64;
use std::ops::{Add, AddAssign};

use super::Usage;

/// An amount of US dollars, exact to a picodollar (a millionth of a millionth), up to 18 million dollars.
// One more than the picodollars, so that an `Option` of it is no larger: every answer carries two, and is moved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cost(NonZeroU64);

impl Cost {
    /// Nothing.
    pub const ZERO: Self = Self(NonZeroU64::MIN);

    /// From picodollars; what is more than [`u64::MAX`] - 1 is that.
    pub const fn from_picos(picos: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(picos))
    }

    /// In picodollars.
    pub const fn picos(self) -> u64 {
        self.0.get() - 1
    }

    /// In dollars.
    pub fn dollars(self) -> f64 {
        self.picos() as f64 / 1e12
    }
}

impl Default for Cost {
    fn default() -> Self {
        Self::ZERO
    }
}

impl fmt::Debug for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cost").field(&self.picos()).finish()
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.picos()))
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Single calls cost fractions of a cent, runs cost dollars: show enough digits of either.
        match self.dollars() {
            0.0 => f.write_str("$0"),
            dollars if dollars < 0.000_001 => write!(f, "${dollars:.12}"),
            dollars if dollars < 0.01 => write!(f, "${dollars:.6}"),
            dollars if dollars < 1.0 => write!(f, "${dollars:.4}"),
            dollars => write!(f, "${dollars:.2}"),
        }
    }
}

/// A model's price in US dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    /// Input tokens.
    pub input: f64,
    /// Input tokens that the provider served from its prompt cache.
    pub cached_input: f64,
    /// Output tokens.
    pub output: f64,
}

impl Price {
    /// So many dollars per million tokens of input, cached input and output.
    pub const fn new(input: f64, cached_input: f64, output: f64) -> Self {
        Self { input, cached_input, output }
    }

    /// The price of the same tokens in a batch that is answered within a day: half of it, as OpenAI, Anthropic and Google
    /// publish it for theirs.
    #[must_use]
    pub fn batch(self) -> Self {
        Self::new(self.input / 2.0, self.cached_input / 2.0, self.output / 2.0)
    }

    /// What this usage costs. Negative or unreadable prices count as zero; more cached tokens than input count as all.
    pub fn cost(&self, usage: &Usage) -> Cost {
        // A dollar per million tokens is a million picodollars per token. `as` saturates, and takes NaN to 0.
        let picos = |per_million: f64| (per_million * 1e6).round() as u64;
        let cached = usage.cached_tokens().min(usage.prompt_tokens);
        let fresh = usage.prompt_tokens - cached;
        Cost::from_picos(
            fresh
                .saturating_mul(picos(self.input))
                .saturating_add(cached.saturating_mul(picos(self.cached_input)))
                .saturating_add(usage.completion_tokens.saturating_mul(picos(self.output))),
        )
    }
}

/// Prices by model name. A model that is not in it has an unknown cost, never a cost of zero.
#[derive(Debug, Clone, Default)]
pub struct PriceTable(HashMap<String, Price>);

/// List prices as the providers published them in autumn 2025, standard tier, without volume or batch discounts.
const PUBLISHED: &[(&str, Price)] = &[
    ("gpt-5", Price::new(1.25, 0.125, 10.0)),
    ("gpt-5-mini", Price::new(0.25, 0.025, 2.0)),
    ("gpt-5-nano", Price::new(0.05, 0.005, 0.4)),
    ("gpt-4.1", Price::new(2.0, 0.5, 8.0)),
    ("gpt-4.1-mini", Price::new(0.4, 0.1, 1.6)),
    ("gpt-4.1-nano", Price::new(0.1, 0.025, 0.4)),
    ("gpt-4o", Price::new(2.5, 1.25, 10.0)),
    ("gpt-4o-mini", Price::new(0.15, 0.075, 0.6)),
    ("o3", Price::new(2.0, 0.5, 8.0)),
    ("o3-mini", Price::new(1.1, 0.55, 4.4)),
    ("o4-mini", Price::new(1.1, 0.275, 4.4)),
    ("claude-opus-4-1", Price::new(15.0, 1.5, 75.0)),
    ("claude-sonnet-4-5", Price::new(3.0, 0.3, 15.0)),
    ("claude-haiku-4-5", Price::new(1.0, 0.1, 5.0)),
    ("gemini-2.5-flash", Price::new(0.3, 0.03, 2.5)),
    ("gemini-2.5-flash-lite", Price::new(0.1, 0.01, 0.4)),
    ("text-embedding-3-small", Price::new(0.02, 0.02, 0.0)),
    ("text-embedding-3-large", Price::new(0.13, 0.13, 0.0)),
];

impl PriceTable {
    /// A table without prices: every cost is unknown.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Published list prices of common models (autumn 2025). Prices change and contracts differ: [`set`](Self::set)
    /// what you pay where the dollars matter.
    pub fn published() -> Self {
        Self(PUBLISHED.iter().map(|(model, price)| ((*model).to_owned(), *price)).collect())
    }

    /// Adds or replaces a model's price.
    #[must_use]
    pub fn set(mut self, model: impl Into<String>, price: Price) -> Self {
        self.0.insert(model.into(), price);
        self
    }

    /// The price of a model: by its exact name, otherwise without a trailing date (`-2025-08-07` or `-20250929`).
    pub fn get(&self, model: &str) -> Option<&Price> {
        self.0.get(model).or_else(|| self.0.get(without_date(model)?))
    }

    /// What this usage costs, if the model's price is known.
    pub fn cost(&self, model: &str, usage: &Usage) -> Option<Cost> {
        self.get(model).map(|price| price.cost(usage))
    }

    /// What this usage costs at the price of batches ([`Price::batch`]), if the model's price is known.
    pub fn batch_cost(&self, model: &str, usage: &Usage) -> Option<Cost> {
        self.get(model).map(|price| price.batch().cost(usage))
    }
}

/// `gpt-5-mini-2025-08-07` and `claude-haiku-4-5-20251001` without their dates.
fn without_date(model: &str) -> Option<&str> {
    let digits = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
    let (rest, last) = model.rsplit_once('-')?;
    if digits(last, 8) {
        return Some(rest);
    }
    let (rest, month) = rest.rsplit_once('-')?;
    let (rest, year) = rest.rsplit_once('-')?;
    (digits(last, 2) && digits(month, 2) && digits(year, 4)).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_bills_cached_input_at_its_own_price() {
        let table = PriceTable::published();
        let usage = Usage::new(1_000_000, 100_000).with_cached(400_000);
        // 0.6 M x $0.25 + 0.4 M x $0.025 + 0.1 M x $2
        assert_eq!(table.cost("gpt-5-mini", &usage), Some(Cost::from_picos(360_000_000_000)));
        assert_eq!(table.cost("gpt-5-mini-2025-08-07", &usage), table.cost("gpt-5-mini", &usage));
        assert!(table.get("claude-haiku-4-5-20251001").is_some());
        assert_eq!(table.batch_cost("gpt-5-mini", &usage), Some(Cost::from_picos(180_000_000_000)));
    }

    #[test]
    fn unknown_model_has_no_cost_rather_than_zero() {
        assert_eq!(PriceTable::published().cost("house-model", &Usage::new(10, 10)), None);
        assert_eq!(PriceTable::published().get("gpt-5-mini-2025"), None);
    }

    #[test]
    fn nonsense_saturates() {
        let price = Price::new(f64::NAN, -1.0, f64::INFINITY);
        assert_eq!(price.cost(&Usage::new(5, 0).with_cached(9)), Cost::ZERO);
        assert_eq!(price.cost(&Usage::new(0, 5)), Cost::from_picos(u64::MAX));
    }
}
