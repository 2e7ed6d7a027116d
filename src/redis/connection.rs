//! The connections of one user of a server: lanes that carry commands, kept up in the background.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Once};
use std::time::Duration;

use fred::interfaces::LuaInterface;
use fred::types::{FromValue, Value};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fault::{self, ORIGIN};
use super::lane::{Asked, Carry, Lane};
use super::link::{Dialer, Session};
use super::server::RedisServer;
use crate::env::Clock;
use crate::error::{Error, ErrorKind, Result};

/// How patient one user of a server is.
pub(crate) struct Pace {
    pub(crate) clock: Arc<dyn Clock>,
    /// How long a silent server has to give a sign of life before calls stop waiting for it.
    pub(crate) grace: Duration,
    /// The limit of the slowest command.
    pub(crate) slowest: Duration,
}

/// Connections to one server. Inside a Tokio runtime they are made now, outside of one at the first use, and made again
/// whenever they are lost; they are closed by [`shutdown`](Self::shutdown) or with this.
pub(crate) struct Connection {
    dialer: Dialer,
    lanes: Vec<Arc<Lane>>,
    next: AtomicUsize,
    places: Semaphore,
    tasks: TaskTracker,
    started: Once,
    /// The hashes of the scripts that were used, as the server names them; `None` where it does not tell.
    scripts: Mutex<Vec<(&'static str, Option<String>)>>,
}

impl Connection {
    /// # Errors
    /// [`ErrorKind::Config`], when a setting of the server is refused.
    pub(crate) fn new(server: &RedisServer, pace: Pace) -> Result<Self> {
        let Pace { clock, grace, slowest } = pace;
        let news = Arc::default();
        let lane = |_| Arc::new(Lane::new(Arc::clone(&clock), grace, Arc::clone(&news)));
        let this = Self {
            lanes: (0..server.pool).map(lane).collect(),
            next: AtomicUsize::new(0),
            places: Semaphore::new(server.max_in_flight),
            tasks: TaskTracker::new(),
            started: Once::new(),
            scripts: Mutex::default(),
            dialer: Dialer {
                builder: server.fred(slowest)?,
                patience: server.connect_timeout,
                clock,
                closing: CancellationToken::new(),
            },
        };
        if Handle::try_current().is_ok() {
            this.start();
        }
        Ok(this)
    }

    fn start(&self) {
        self.started.call_once(|| {
            for lane in &self.lanes {
                self.tasks.spawn(self.dialer.clone().keep(Carry(Arc::clone(lane))));
            }
        });
    }

    /// How many connections that carry commands there are, and how many of them stand and answer.
    pub(crate) fn lanes(&self) -> (usize, usize) {
        (self.lanes.len(), self.lanes.iter().filter(|lane| lane.is_up()).count())
    }

    /// Cancelled when it closes.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.dialer.closing
    }

    /// Work that belongs to it: a shutdown waits for it.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// One more connection, kept up for this session until `closing` is cancelled; to be spawned or
    /// awaited. It does not hold this.
    pub(crate) fn session<S: Session>(
        &self,
        session: S,
        closing: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<S> {
        Dialer { closing, ..self.dialer.clone() }.keep(session)
    }

    /// # Errors
    /// [`ErrorKind::Shutdown`] once it closes.
    pub(crate) fn is_open(&self) -> Result<()> {
        match self.dialer.closing.is_cancelled() {
            true => Err(Error::new(ErrorKind::Shutdown, ORIGIN, "the connections are shut down")),
            false => Ok(()),
        }
    }

    /// A place among the commands under way, and the connection to use.
    ///
    /// # Errors
    /// [`ErrorKind::Shutdown`] once it closes, [`ErrorKind::Overloaded`] when all places are taken.
    pub(crate) fn enter(&self) -> Result<(SemaphorePermit<'_>, &Arc<Lane>)> {
        self.is_open()?;
        self.start();
        let full = |_| Error::new(ErrorKind::Overloaded, ORIGIN, "max_in_flight commands are under way");
        let place = self.places.try_acquire().map_err(full)?;
        let first = self.next.fetch_add(1, Relaxed);
        let lanes = (0..self.lanes.len()).map(|step| &self.lanes[(first.wrapping_add(step)) % self.lanes.len()]);
        let lane = lanes.clone().find(|lane| lane.is_up()).unwrap_or(&self.lanes[first % self.lanes.len()]);
        Ok((place, lane))
    }

    /// One command, answered within `budget` and a tenth of it, and never sent twice. Dropped, it gives its place back;
    /// what was sent already may have been done.
    pub(crate) async fn call<T, F>(&self, budget: Duration, command: impl FnOnce(Asked) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, fred::error::Error>>,
    {
        let (_place, lane) = self.enter()?;
        lane.ask(budget, command).await
    }

    /// A script in Lua, with the same promises. It goes by its hash, and whole only to a server that does not know it: one
    /// that was started anew, another node. fred does not bound the time of scripts; the lane does.
    pub(crate) async fn script<T: FromValue>(
        &self,
        text: &'static str,
        names: Vec<String>,
        values: Vec<Value>,
        budget: Duration,
    ) -> Result<T> {
        let command = |client: Asked| async move {
            let Some(hash) = self.hash(&client, text).await else { return client.eval(text, names, values).await };
            match client.evalsha(hash, names.clone(), values.clone()).await {
                // It has not run.
                Err(error) if error.details().starts_with("NOSCRIPT") => client.eval(text, names, values).await,
                answer => answer,
            }
        };
        self.call(budget, command).await
    }

    /// How the server names this script, asked once; `None`: it does not tell, or not now.
    async fn hash(&self, client: &Asked, text: &'static str) -> Option<String> {
        let is_it = |(known, _): &&(&'static str, _)| std::ptr::eq(*known, text);
        if let Some((_, hash)) = self.scripts.lock().iter().find(is_it) {
            return hash.clone();
        }
        let hash = match client.script_load::<String, _>(text).await {
            Ok(hash) => Some(hash),
            // Refused, as for a user who may not; a lost connection says nothing.
            Err(error) if fault::from(&error).code().is_some() => None,
            Err(_) => return None,
        };
        let mut scripts = self.scripts.lock();
        // Many may have asked at once.
        if !scripts.iter().any(|one| is_it(&one)) {
            scripts.push((text, hash.clone()));
        }
        hash
    }

    /// Closes all connections and waits until its tasks have ended. Every call fails from now on.
    pub(crate) async fn shutdown(&self) {
        self.dialer.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.dialer.closing.cancel();
    }
}
