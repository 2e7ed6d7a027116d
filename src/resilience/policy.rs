//! The decision whether a failed call is tried again.

use std::time::{Duration, Instant};

use super::Span;
use super::backoff::Backoff;
use super::budget::{RetryBudget, Tab};
use crate::env::Env;
use crate::error::{Error, Result, Retryability};

const NAME: &str = "retry";

/// When and how often to try again; becomes a [`RetryLayer`](super::RetryLayer).
///
/// Cloning it shares its [`RetryBudget`]. Settings are checked when the stack is built.
#[derive(Debug, Clone)]
pub struct Retry {
    attempts: u32,
    backoff: Backoff,
    max_retry_after: Duration,
    budget: RetryBudget,
}

impl Retry {
    /// 3 attempts; waits of up to 500 ms that double up to 8 s, after a rate limit of up to 1 s; hints of up to 60 s
    /// are followed; a budget of its own of 500 tokens.
    ///
    /// Attempts, budget and full jitter are the AWS SDKs' standard retry mode; the waits are those of the OpenAI and
    /// Anthropic SDKs (0.5 s to 8 s), because a model that is overloaded needs seconds where a database needs
    /// milliseconds.
    pub fn standard() -> Self {
        Self {
            attempts: 3,
            backoff: Backoff {
                base: Duration::from_millis(500),
                throttle_base: Duration::from_secs(1),
                cap: Duration::from_secs(8),
            },
            max_retry_after: Duration::from_secs(60),
            budget: RetryBudget::standard(),
        }
    }

    /// How many attempts in all, the first included: 1 to 10, 3 unless set. With 1 nothing is retried, but attempts are
    /// still counted and the error is still [`Spent`](Retryability::Spent).
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// The longest wait before the first retry; it doubles with each retry. 500 ms unless set, at most the cap. Zero
    /// only together with a zero cap, which means: retry at once.
    #[must_use]
    pub fn base(mut self, base: Duration) -> Self {
        self.backoff.base = base;
        self
    }

    /// The same as [`base`](Self::base), for the wait after a rate limit or a full queue: 1 s unless set, because an
    /// allowance comes back more slowly than a connection.
    #[must_use]
    pub fn throttle_base(mut self, base: Duration) -> Self {
        self.backoff.throttle_base = base;
        self
    }

    /// The longest wait before any retry, 8 s unless set. A provider's hint may be longer.
    #[must_use]
    pub fn cap(mut self, cap: Duration) -> Self {
        self.backoff.cap = cap;
        self
    }

    /// The longest hint (`Retry-After`) that is waited out, 60 s unless set, as in the OpenAI SDKs. A longer one fails
    /// the call at once, and the error still carries it ([`Error::retry_after`]).
    #[must_use]
    pub fn max_retry_after(mut self, longest: Duration) -> Self {
        self.max_retry_after = longest;
        self
    }

    /// What retries are paid with. Share one between all that repeat calls to the same provider.
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = budget;
        self
    }

    pub(super) fn settings(&self) -> String {
        let Retry { attempts, backoff, budget, .. } = self;
        let plural = if *attempts == 1 { "" } else { "s" };
        let (base, cap) = (Span(backoff.base), Span(backoff.cap));
        format!("{attempts} attempt{plural}, {base} to {cap}, budget {}", budget.capacity())
    }

    /// An account for one call.
    pub(super) fn open_tab(&self) -> Tab<'_> {
        Tab::open(&self.budget)
    }

    pub(super) fn check(&self) -> Result<()> {
        let refuse = |setting, value: &dyn std::fmt::Display, remedy| Err(Error::config(NAME, setting, value, remedy));
        let Backoff { base, throttle_base, cap } = self.backoff;
        match self.attempts {
            0 => return refuse("attempts", &0, "use 1 for no retries; the first attempt counts"),
            1..=10 => {}
            many => return refuse("attempts", &many, "use at most 10; more only prolongs an outage"),
        }
        for (setting, base) in [("base", base), ("throttle_base", throttle_base)] {
            if base > cap {
                return refuse("cap", &Span(cap), &format!("use at least {setting} = {}", Span(base)));
            }
            if base.is_zero() && !cap.is_zero() {
                return refuse(setting, &Span(base), "use at least 1 ms, or a zero cap to retry at once");
            }
        }
        if !self.budget.is_usable() {
            return refuse("budget", &self.budget.capacity(), "use at least 14 tokens, or attempts(1) for no retries");
        }
        Ok(())
    }

    /// What to do after the `attempt`-th failure. The tokens for a retry are on the tab when the answer is a wait.
    pub(super) fn decide(
        &self,
        attempt: u32,
        error: &Error,
        deadline: Option<Instant>,
        env: &Env,
        tab: &mut Tab<'_>,
    ) -> Decision {
        let Retryability::After(hint) = error.retryability() else {
            return Decision::GiveUp(error.retryability());
        };
        if hint.is_some_and(|hint| hint > self.max_retry_after) {
            return Decision::GiveUp(Retryability::After(hint));
        }
        if attempt >= self.attempts {
            return Decision::GiveUp(Retryability::Spent);
        }
        let wait = self.backoff.wait(error.kind(), hint, attempt, env.unit());
        if deadline.is_some_and(|deadline| env.after(wait) >= deadline) {
            // A hint that nobody waited out is still news to the caller.
            return Decision::GiveUp(if hint.is_some() { Retryability::After(hint) } else { Retryability::Spent });
        }
        if tab.hold(error.kind()) { Decision::RetryAfter(wait) } else { Decision::GiveUp(Retryability::Spent) }
    }
}

pub(super) enum Decision {
    /// Fail, with this said about trying again.
    GiveUp(Retryability),
    /// The retry is paid for.
    RetryAfter(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_cannot_work() {
        let (zero, ms) = (Duration::ZERO, Duration::from_millis(1));
        let standard = Retry::standard;
        let refused = [
            (standard().attempts(0), "attempts = 0"),
            (standard().attempts(11), "attempts = 11"),
            (standard().base(zero), "base = 0 s"),
            (standard().throttle_base(zero), "throttle_base = 0 s"),
            (standard().cap(499 * ms), "cap = 499 ms: use at least base = 500 ms"),
            (standard().cap(999 * ms), "cap = 999 ms: use at least throttle_base = 1 s"),
            (standard().budget(RetryBudget::tokens(13)), "budget = 13"),
        ];
        for (policy, expected) in refused {
            let message = policy.check().unwrap_err().to_string();
            assert!(message.starts_with("retry: refused setting: ") && message.contains(expected), "{message}");
        }
        let at_once = standard().base(zero).throttle_base(zero).cap(zero);
        for policy in [standard(), standard().attempts(1), standard().attempts(10), at_once] {
            assert!(policy.check().is_ok(), "{policy:?}");
        }
    }

    #[test]
    fn settings_are_one_line() {
        assert_eq!(Retry::standard().settings(), "3 attempts, 500 ms to 8 s, budget 500");
        assert_eq!(Retry::standard().attempts(1).settings(), "1 attempt, 500 ms to 8 s, budget 500");
    }
}
