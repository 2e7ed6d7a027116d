//! Limits that all processes of a fleet share, kept in Redis.
//!
//! Every limit is a bucket in Redis that refills by the server's time. A process takes leases from it: so much that it
//! may use without asking again. One trip (a script, so in one step) tells what it used and still holds of all its
//! limits and brings what it gets; a process that is busy makes some tens of them a second, however many calls it makes,
//! and an idle one holds nothing.
//!
//! What is leased and not used still counts as the bucket's: what is in the bucket and what all hold is never more than
//! the burst. So any stretch of the period sees at most the limit and one burst used, by all together.
//!
//! When Redis does not answer in time, each process has its share, the limit by the number of processes, from an empty
//! bucket on. When Redis is back, each keeps to its share for a second more, so that all are back before the first uses
//! what it takes to be everybody's, and tells what it used meanwhile.
//!
//! A gate that a 429 closes in one process is closed in all: the first trip that follows at once tells it, and the others
//! hear it on their next, a quarter of a second later at most if they hold a lease, a second if not. The provider's word on
//! a limit goes the same way, with the next trip: its limit replaces the one that is set, and what it has left bounds the
//! bucket, for all.
//!
//! The parts: `settings` where they are kept, `account` one limit as this process has it, `terms` how much it is, `share` what it has of it alone, `courier` the task that makes
//! the trips, `trip` what is said on one (`lease.lua` is the script), `closings` the gates that are closed, `word` the provider's word, `status` how it is going.

mod account;
mod closings;
mod courier;
mod settings;
mod share;
mod status;
mod terms;
mod trip;
mod word;

use std::fmt;
use std::sync::{Arc, Once, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use account::Account;
pub(super) use closings::Closing;
use closings::Closings;
use courier::Courier;
pub use settings::FleetLimits;
pub use status::{FleetMode, FleetStatus};
pub(super) use terms::Terms;

use crate::env::{Env, Random, ThreadRandom};
use crate::error::Result;
use crate::redis::{Connection, Pace};

/// Whom to tell that something may start now; says whether anybody is left to be told.
pub(super) type News = Box<dyn Fn() -> bool + Send + Sync>;

/// The shared limits of one gate. Dropped, it leaves the fleet.
pub(super) struct Fleet {
    parts: Arc<Parts>,
    courier: Mutex<Option<Courier>>,
    started: Once,
    closing: CancellationToken,
}

/// What the accounts and the courier share.
struct Parts {
    env: Env,
    started: Instant,
    /// Somebody wants something.
    bell: Notify,
    accounts: Mutex<Vec<Weak<Mutex<Account>>>>,
    status: Mutex<FleetStatus>,
    closings: Mutex<Closings>,
}

/// What the processes tell each other of closed gates.
pub(super) struct Gates(Arc<Parts>);

/// One limit, shared.
pub(super) struct Leased {
    account: Arc<Mutex<Account>>,
    parts: Arc<Parts>,
}

impl Fleet {
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for settings that are refused.
    pub(super) fn new(settings: &FleetLimits, digest: String, env: &Env, started: Instant) -> Result<Self> {
        settings.check()?;
        let pace = Pace { clock: Arc::clone(env.clock()), grace: settings.patience, slowest: settings.patience };
        let connection = Connection::new(&settings.server, pace)?;
        let parts = Arc::new(Parts {
            env: env.clone(),
            started,
            bell: Notify::new(),
            accounts: Mutex::default(),
            status: Mutex::new(FleetStatus::new(settings.expected)),
            closings: Mutex::default(),
        });
        let closing = env.closing().child_token();
        // Not from the Env: two processes with the same seed must differ.
        let me = format!("{:016x}", ThreadRandom.next());
        let courier = Courier::new(Arc::clone(&parts), connection, settings, me, digest, closing.clone());
        Ok(Self { parts, courier: Mutex::new(Some(courier)), started: Once::new(), closing })
    }

    /// A limit under this name, which all processes use for it.
    pub(super) fn limit(&self, name: String, terms: Terms) -> Leased {
        Leased::new(&self.parts, name, terms)
    }

    /// Where closed gates are told and heard of.
    pub(super) fn gates(&self) -> Gates {
        Gates(Arc::clone(&self.parts))
    }

    /// Starts the trips, once; the first call does, because it is sure to come inside a runtime.
    pub(super) fn start(&self, news: impl FnOnce() -> News) {
        self.started.call_once(|| {
            if let Some(courier) = self.courier.lock().take() {
                self.parts.env.tasks().spawn(courier.run(news()));
            }
        });
    }

    pub(super) fn status(&self) -> FleetStatus {
        self.parts.status.lock().clone()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

impl Parts {
    fn new_account(&self, name: String, terms: Terms) -> Account {
        let (mode, processes) = {
            let status = self.status.lock();
            (status.mode, status.share_of())
        };
        Account::new(name, terms, mode, processes, self.nanos())
    }

    fn nanos(&self) -> u64 {
        let passed = self.env.now().saturating_duration_since(self.started).as_nanos();
        u64::try_from(passed).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
    }
}

impl Gates {
    /// Tells the others; at once, if the gate was open.
    pub(super) fn tell(&self, closing: Closing, at_once: bool) {
        self.0.closings.lock().tell(closing, at_once);
        if at_once {
            self.0.bell.notify_one();
        }
    }

    /// What the others have told since this was last asked.
    pub(super) fn news(&self) -> Vec<Closing> {
        self.0.closings.lock().news()
    }
}

impl fmt::Debug for Gates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gates").finish_non_exhaustive()
    }
}

impl Leased {
    fn new(parts: &Arc<Parts>, name: String, terms: Terms) -> Self {
        let account = Arc::new(Mutex::new(parts.new_account(name, terms)));
        parts.accounts.lock().push(Arc::downgrade(&account));
        Self { account, parts: Arc::clone(parts) }
    }

    /// The same limit for one key.
    pub(super) fn of_key(&self, key: u64) -> Self {
        let (name, terms) = {
            let account = self.account.lock();
            (format!("{}:{key:016x}", account.name), account.terms)
        };
        Self::new(&self.parts, name, terms)
    }

    /// Whether so much can be taken now, or when to ask again; `given_back`: whether it could if all that is out were
    /// given back at once.
    pub(super) fn reach(&self, amount: u64, given_back: bool, at: u64) -> Result<(), u64> {
        let mut account = self.account.lock();
        let answer = account.reach(amount, given_back, at);
        self.ring(&mut account);
        answer
    }

    /// Takes what [`reach`](Self::reach) has just allowed. What it returns is asked for when it is put right, and when
    /// the provider speaks of it.
    pub(super) fn take(&self, amount: u64) -> (u64, i64) {
        let mut account = self.account.lock();
        let place = account.take(amount);
        self.ring(&mut account);
        (place, account.taken())
    }

    /// Tells all what the provider says of it: of the limit that holds, what it states; of a limit and what was taken
    /// since the call was admitted, what is left; and when it was heard, and when it is full.
    pub(super) fn correct(
        &self,
        stated: impl FnOnce(u64) -> Option<u64>,
        left: impl FnOnce(u64, i64) -> Option<i64>,
        times: (u64, u64),
        mark: i64,
        at: u64,
    ) {
        self.account.lock().correct(stated, left, times, mark, at);
    }

    /// Goes back to the configured limit.
    pub(super) fn restore(&self) {
        self.account.lock().restore();
    }

    /// Puts right what was taken.
    pub(super) fn settle(&self, place: u64, taken: u64, used: u64, at: u64) {
        self.account.lock().settle(place, taken, used, at);
    }

    /// The limit in force: the lowest of the fleet.
    pub(super) fn limit(&self) -> u64 {
        self.account.lock().limit()
    }

    /// Whether forgetting it changes nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.account.lock().is_idle()
    }

    fn ring(&self, account: &mut Account) {
        if account.rings() {
            self.parts.bell.notify_one();
        }
    }
}

impl fmt::Debug for Leased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leased").finish_non_exhaustive()
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("status", &self.status()).finish_non_exhaustive()
    }
}
