//! A limit as it is set: how much of what, within which time, for whom.

use std::fmt;
use std::time::Duration;

use wildmatch::WildMatch;

use super::MINUTE;
use crate::error::{Error, Result};
use crate::schedule::ORIGIN;
use crate::types::Cost;

/// The largest amount, so that sums stay exact: a million dollars in picodollars.
const MOST: u64 = 1_000_000_000_000_000_000;
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(31 * 86_400);

/// How much may go upstream within a time, one of several that hold at once ([`Admission::limit`]).
///
/// A call takes what it is estimated to need of all its limits in one step, or of none, and each is put right when the
/// provider has counted.
///
/// **Up to a minute** a limit is a bucket that refills evenly: any stretch of that length holds at most the limit and
/// one [`burst`](Self::burst) (or one call larger than the burst, which starts when the bucket is full and leaves a debt).
///
/// **Longer than a minute** it is a rolling window: any stretch of that length holds at most the limit, and all of it may
/// be used at once. A bucket would either deny a day's $10 to the morning (a burst of a second's worth) or let $20
/// through within one day (a burst of the whole). The window has 64 slots, so what was spent counts for up to a
/// sixty-fourth longer, never shorter. There is no calendar: a day is any 24 hours.
///
/// **By key** there is one such bucket or window for each key, made when it is used and forgotten when it is full again:
/// at most 10,000 of a limit at once, about 200 bytes each (a window up to 1.3 KB). The keys beyond share one: with a limit
/// per day, those who come after ten thousand others that day have one between them.
///
/// **What is larger** than the limit is refused, where that is certain: a guessed reply
/// ([`OutputCount::Predicted`](crate::schedule::OutputCount::Predicted)) is taken to fit, whatever output the request allows.
///
/// ```
/// use sluicegate::schedule::{Admission, Limit};
///
/// let admission = Admission::new()
///     .limit(Limit::requests(500).per_minute().models(["gpt-4o*"]))
///     .limit(Limit::input_tokens(30_000).per_minute().by_model().without_cached_input())
///     .limit(Limit::dollars(10.0).per_day().by_tenant());
/// # let _ = admission;
/// ```
///
/// [`Admission::limit`]: crate::schedule::Admission::limit
#[derive(Debug, Clone)]
#[must_use]
pub struct Limit {
    pub(super) measure: Measure,
    pub(super) amount: u64,
    pub(super) period: Duration,
    pub(super) by: Option<LimitKey>,
    pub(super) models: Option<Vec<String>>,
    pub(super) burst: Option<Duration>,
    pub(super) without_cached: bool,
    /// What to raise when a call is above it.
    pub(super) setting: &'static str,
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::schedule) enum Measure {
    Requests,
    Input,
    Output,
    Tokens,
    /// In picodollars.
    Dollars,
}

/// What each has a limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitKey {
    /// Each [`Tenant`](crate::types::Tenant); calls without one share.
    Tenant,
    /// Each model, by the name asked for.
    Model,
    /// Each tenant on each model.
    TenantAndModel,
}

impl Limit {
    fn new(measure: Measure, amount: u64) -> Self {
        let setting = "the limit";
        let period = Duration::from_nanos(MINUTE);
        Self { measure, amount, period, by: None, models: None, burst: None, without_cached: false, setting }
    }

    /// So many requests, retries and hedges included; at least 1. A request is spent when it is admitted and not given
    /// back: the provider counts it too.
    pub fn requests(most: u64) -> Self {
        Self::new(Measure::Requests, most)
    }

    /// So many input tokens, at least 1. See [`without_cached_input`](Self::without_cached_input).
    pub fn input_tokens(most: u64) -> Self {
        Self::new(Measure::Input, most)
    }

    /// So many output tokens, at least 1.
    pub fn output_tokens(most: u64) -> Self {
        Self::new(Measure::Output, most)
    }

    /// So many tokens, input and output together; at least 1.
    pub fn tokens(most: u64) -> Self {
        Self::new(Measure::Tokens, most)
    }

    /// So many US dollars: above 0, at most a million, exact to a picodollar. By the prices of the
    /// [`Env`](crate::Env); a call of a model without a price is refused, because nobody can say what it spends.
    pub fn dollars(most: f64) -> Self {
        // `as` saturates, and takes NaN and less than zero to 0, which is refused when it starts.
        Self::new(Measure::Dollars, (most * 1e12).round() as u64)
    }

    /// Within any stretch of this length, 1 ms to 31 days; a minute unless set.
    pub fn per(mut self, period: Duration) -> Self {
        self.period = period;
        self
    }

    /// Within any second.
    pub fn per_second(self) -> Self {
        self.per(Duration::from_secs(1))
    }

    /// Within any minute, as without saying so.
    pub fn per_minute(self) -> Self {
        self.per(Duration::from_secs(60))
    }

    /// Within any hour: a rolling window.
    pub fn per_hour(self) -> Self {
        self.per(Duration::from_secs(3_600))
    }

    /// Within any 24 hours: a rolling window.
    pub fn per_day(self) -> Self {
        self.per(Duration::from_secs(86_400))
    }

    /// For each of these a limit of its own; unless set, all calls share one.
    pub fn by(mut self, key: LimitKey) -> Self {
        self.by = Some(key);
        self
    }

    /// For each tenant one of its own; calls without a tenant share one.
    pub fn by_tenant(self) -> Self {
        self.by(LimitKey::Tenant)
    }

    /// For each model one of its own, by the name asked for.
    pub fn by_model(self) -> Self {
        self.by(LimitKey::Model)
    }

    /// Only for calls of these models, which share it: a quota group. `*` stands for any letters, `?` for one. All
    /// models unless set. The first group that a model is in is also the one whose gate a 429 closes.
    pub fn models<I: IntoIterator<Item: Into<String>>>(mut self, patterns: I) -> Self {
        self.models = Some(patterns.into_iter().map(Into::into).collect());
        self
    }

    /// How much of it may be used at once after a pause: above zero, at most the period. Unless set, the same share of
    /// the period as [`Admission::burst`](crate::schedule::Admission::burst) is of a minute: a sixtieth of requests, a
    /// twelfth of tokens and dollars. Only for periods up to a minute: longer ones are rolling windows, which have none.
    pub fn burst(mut self, worth: Duration) -> Self {
        self.burst = Some(worth);
        self
    }

    /// Does not count input that the provider served from its prompt cache: Anthropic's limits do not for most models,
    /// OpenAI's do. Counted unless set, because too low a count is answered with 429. It is known at the end only, so a
    /// call reserves all of its input and gets the cached part back.
    pub fn without_cached_input(mut self) -> Self {
        self.without_cached = true;
        self
    }

    /// The plain limits of [`Admission`](crate::schedule::Admission) by their own names.
    pub(in crate::schedule) fn named(mut self, setting: &'static str) -> Self {
        self.setting = setting;
        self
    }

    /// Lets this part of it be used at once, unless its burst is set: a call reserves more than it uses, and what it gives
    /// back needs room. Not requests, of which nothing comes back.
    pub(in crate::schedule) fn make_room(&mut self, part: u32) {
        if self.burst.is_none() && self.measure != Measure::Requests && !self.is_rolling() {
            self.burst = Some(self.period / part);
        }
    }

    /// Whether a rolling window keeps it.
    pub(super) fn is_rolling(&self) -> bool {
        self.period > Duration::from_nanos(MINUTE)
    }

    /// In nanoseconds; at most 31 days of them.
    pub(super) fn period_nanos(&self) -> u64 {
        u64::try_from(self.period.as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn patterns(&self) -> Option<Vec<WildMatch>> {
        self.models.as_ref().map(|models| models.iter().map(|pattern| WildMatch::new(pattern)).collect())
    }

    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for what cannot work.
    pub(in crate::schedule) fn check(&self) -> Result<()> {
        let refuse = |setting: &str, value: &dyn fmt::Display, remedy: &str| {
            Err(Error::config(ORIGIN, &format!("limit {setting}"), value, remedy))
        };
        if self.amount == 0 {
            return refuse("amount", &0, "allow more than zero, or leave the limit out");
        }
        if self.amount > MOST {
            return refuse("amount", &self.quantity(self.amount), "use at most 10^18, or a million dollars");
        }
        if !(SHORTEST..=LONGEST).contains(&self.period) {
            return refuse("period", &format_args!("{:?}", self.period), "use 1 ms to 31 days");
        }
        if let Some(burst) = self.burst {
            if self.is_rolling() {
                return refuse(
                    "burst",
                    &format_args!("{burst:?}"),
                    "leave it out: a limit per more than a minute has none",
                );
            }
            if burst.is_zero() || burst > self.period {
                return refuse("burst", &format_args!("{burst:?}"), "use more than zero and at most the period");
            }
        }
        if self.models.as_ref().is_some_and(|models| models.iter().all(String::is_empty)) {
            return refuse("models", &"[]", "name at least one model, or leave it out for all");
        }
        if self.without_cached && !matches!(self.measure, Measure::Input | Measure::Tokens) {
            return refuse("without_cached_input", &self.measure, "only limits of input_tokens and tokens count input");
        }
        Ok(())
    }

    /// An amount of it, in words.
    pub(super) fn quantity(&self, amount: u64) -> String {
        match self.measure {
            Measure::Dollars => Cost::from_picos(amount).to_string(),
            measure => format!("{amount} {measure}"),
        }
    }

    /// The time it holds for, in words.
    fn span(&self) -> String {
        match self.period.as_nanos() {
            1_000_000_000 => "per second".to_owned(),
            60_000_000_000 => "per minute".to_owned(),
            3_600_000_000_000 => "per hour".to_owned(),
            86_400_000_000_000 => "per day".to_owned(),
            _ => format!("per {:?}", self.period),
        }
    }

    /// So much of it, in words: `6000 tokens per minute`.
    pub(super) fn told(&self, amount: u64) -> String {
        format!("{} {}", self.quantity(amount), self.span())
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::Input => "input tokens",
            Self::Output => "output tokens",
            Self::Tokens => "tokens",
            Self::Dollars => "dollars",
        })
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told(self.amount))?;
        match self.by {
            None => {}
            Some(LimitKey::Tenant) => f.write_str(" by tenant")?,
            Some(LimitKey::Model) => f.write_str(" by model")?,
            Some(LimitKey::TenantAndModel) => f.write_str(" by tenant and model")?,
        }
        match &self.models {
            None => Ok(()),
            Some(models) => write!(f, " of {}", models.join(" ")),
        }
    }
}
