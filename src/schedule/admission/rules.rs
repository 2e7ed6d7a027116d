//! The settings of the queue.

use std::collections::HashMap;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::schedule::ORIGIN;
use crate::schedule::queue::Order;

/// Who is sent away when the queue is full; each gets [`Overloaded`](crate::ErrorKind::Overloaded).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Shed {
    /// The newcomer.
    #[default]
    Newest,
    /// The newest waiter of the lowest class below the newcomer's, or the newcomer if there is none: what matters gets
    /// in as long as anything that matters less waits.
    LowestPriority,
    /// The oldest waiter of the lowest class, if that is not above the newcomer's. And once somebody has waited for longer
    /// than this without a break, a tenant's newest call goes first: adaptive LIFO, as in "Fail at Scale" (ACM Queue 13:8,
    /// 2015). Under overload the oldest are those whose callers have given up soonest, and serving them first makes all
    /// of them late. Facebook's threshold is 100 ms; model calls take seconds, so some seconds suit them.
    OldestUnderLoad(Duration),
}

impl Shed {
    /// Once somebody has waited for so long, a tenant's newest call goes first.
    pub(in crate::schedule) fn newest_first_after(self) -> Option<Duration> {
        match self {
            Self::OldestUnderLoad(after) => Some(after),
            Self::Newest | Self::LowestPriority => None,
        }
    }
}

/// Who may wait, and in which order.
#[derive(Debug, Clone)]
pub(in crate::schedule) struct Rules {
    pub(in crate::schedule) queue: usize,
    pub(in crate::schedule) tenant_queue: Option<usize>,
    pub(in crate::schedule) shed: Shed,
    pub(in crate::schedule) order: Order,
    /// Whether a tenant was given no weight at all.
    pub(super) weightless: bool,
}

impl Default for Rules {
    fn default() -> Self {
        let order = Order { ageing: Duration::from_secs(30), weights: HashMap::new() };
        Self { queue: 10_000, tenant_queue: None, shed: Shed::Newest, order, weightless: false }
    }
}

impl Rules {
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |setting, remedy| Err(Error::config(ORIGIN, setting, 0, remedy));
        if self.queue == 0 {
            return refuse("queue", "let at least 1 call wait, or leave it out for 10000");
        }
        if self.tenant_queue == Some(0) {
            return refuse("tenant_queue", "let at least 1 call of a tenant wait, or leave it out for no limit");
        }
        if self.weightless {
            return refuse("tenant_weight", "give at least 1, or leave it out for 1");
        }
        Ok(())
    }
}
