//! The settings of the scheduler that comes with the crate.

mod limits;
mod rules;

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use limits::Limits;
pub(super) use rules::Rules;
pub use rules::Shed;

use super::AdmissionGate;
use super::concurrency::{Concurrency, Limiter};
use crate::env::Env;
use crate::error::Result;

/// How many calls and tokens may go upstream. Nothing is limited until it is set.
///
/// Higher [`Priority`](crate::types::Priority) goes first, and lower ones [age](Self::ageing), so that they move under
/// lasting overload too. Within a class, [tenants](crate::types::Tenant) get equal shares of the tokens, or shares by
/// [weight](Self::tenant_weight): one who floods the queue delays another's call by no more than one round. Within a
/// tenant, calls go in order of arrival. A call that only a limit of its own tenant or model holds back lets others by.
///
/// Settings are checked when the client is built. Every client built from it has limits of its own; for limits that
/// several share, or to control and watch it, [`start`](Self::start) it once and give each a clone of the
/// [`AdmissionGate`].
///
/// A call that cannot make its [`Deadline`](crate::types::Deadline) is refused at once where that is certain: when a rate
/// allows it too late, or when those before it in the queue take longer at twice the pace of late. What its own answer takes
/// is not known: one that starts in time may still end too late.
///
/// A request of the limit per minute is spent when a call is admitted, and not given back: the provider counts it too.
#[derive(Debug, Clone)]
pub struct Admission {
    concurrency: Option<Concurrency>,
    rules: Rules,
    limits: Limits,
}

impl Admission {
    /// Limits nothing; a queue of 10,000, ageing after 30 seconds, a burst of one second of requests and five of tokens, 512 tokens per answer.
    pub fn new() -> Self {
        Self { concurrency: None, rules: Rules::default(), limits: Limits::default() }
    }

    /// Calls in flight at most, streams until their end: a number of at least 1, or a [`Concurrency`] that adapts.
    /// Unlimited unless set.
    #[must_use]
    pub fn concurrency(mut self, calls: impl Into<Concurrency>) -> Self {
        self.concurrency = Some(calls.into());
        self
    }

    /// Calls that wait at most; at least 1. Default 10,000: some megabytes of requests, and minutes of waiting under
    /// most limits, beyond which a quick refusal is kinder.
    #[must_use]
    pub fn queue(mut self, waiters: usize) -> Self {
        self.rules.queue = waiters;
        self
    }

    /// Calls of one tenant and class that wait at most; at least 1. Unlimited unless set: then one tenant can fill the
    /// whole [`queue`](Self::queue), and others are refused. Calls without a tenant count as one's.
    #[must_use]
    pub fn tenant_queue(mut self, waiters: usize) -> Self {
        self.rules.tenant_queue = Some(waiters);
        self
    }

    /// Who is sent away when the queue is full. Default: the newcomer.
    #[must_use]
    pub fn shed(mut self, shed: Shed) -> Self {
        self.rules.shed = shed;
        self
    }

    /// How long a call waits before its class gets a share against higher ones: one of ten turns goes to the class whose
    /// oldest has waited longest, if that is longer than this. Default 30 seconds, which a person in front of a screen
    /// does not wait but a job in the background does. [`Duration::MAX`]: never, and a lower class may wait for ever.
    ///
    /// The waits of a higher class grow with the tenth it gives up, and only while a lower one has aged.
    #[must_use]
    pub fn ageing(mut self, wait: Duration) -> Self {
        self.rules.order.ageing = wait;
        self
    }

    /// The share of this tenant within a class, against the 1 of those not named; at least 1. With 3, its calls get three
    /// times the tokens of another's while both wait.
    #[must_use]
    pub fn tenant_weight(mut self, tenant: impl Into<String>, weight: u32) -> Self {
        let tenant = tenant.into().into_boxed_str();
        match NonZeroU32::new(weight) {
            Some(weight) => drop(self.rules.order.weights.insert(tenant, weight)),
            None => self.rules.weightless = true,
        }
        self
    }

    /// Starts it by itself, for limits that several clients share, to control it, or to look at its load.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a limit, queue, weight, burst or guess of zero, bounds of the
    /// concurrency that are empty or begin with zero, and for a burst above a minute.
    pub fn start(&self, env: &Env) -> Result<AdmissionGate> {
        let limiter = self.concurrency.as_ref().map_or(Ok(Limiter::Unlimited), Concurrency::start)?;
        self.rules.check()?;
        let started = env.now();
        let rates = self.limits.start(env, started)?;
        Ok(AdmissionGate::new(env, limiter, self.rules.clone(), rates, self.estimator(), started))
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let concurrency = self.concurrency.as_ref().map(|calls| format!("concurrency {calls}"));
        let limits = concurrency.into_iter().chain(self.limits.told());
        let limits: Vec<_> = limits.collect();
        if limits.is_empty() {
            return f.write_str("unlimited");
        }
        write!(f, "{}, queue {}", limits.join(", "), self.rules.queue)
    }
}
