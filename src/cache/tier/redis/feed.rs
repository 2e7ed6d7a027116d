//! What others change in Redis, pushed: client tracking in broadcast mode on the prefix.
//!
//! It goes over RESP2, with the invalidations redirected to the connection itself: fred 10.1 drops the RESP3 push that
//! says that everything was flushed, because it carries no list of keys; the RESP2 message it passes on.

use std::sync::atomic::{
    AtomicBool,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Weak};
use std::time::Duration;

use fred::clients::{Client, WithOptions};
use fred::interfaces::{
    ClientInterface, ClientLike, ClusterInterface, EventInterface, PubsubInterface, TrackingInterface,
};
use fred::types::client::Invalidation as Pushed;
use fred::types::config::Server;
use fred::types::{Message, Value};
use parking_lot::Mutex;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::announce::Announcement;
use super::names::Names;
use super::{Redis, Shared};
use crate::cache::{Follower, Invalidation};
use crate::env::{Clock, Random, ThreadRandom, after};
use crate::redis::Session;

/// Where Redis sends invalidations to a connection that speaks RESP2.
const CHANNEL: &str = "__redis__:invalidate";
/// Distance of the heartbeats. A connection that does not answer one before the next is due is given up: so a process
/// that is cut off knows within two of them.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Invalidations kept for a listener that is slow; one more and it hears [`Invalidation::Flush`] instead.
const BACKLOG: usize = 1024;

/// What others change in Redis, from [`Redis::invalidations`](super::Redis::invalidations).
///
/// It begins with [`Invalidation::Flush`] once the server has agreed to push; before that, and from a server that never
/// does (older than 6.0, or the user may not `CLIENT TRACKING` or `SUBSCRIBE`), nothing comes. From then on, whatever changes under the
/// prefix comes as [`Invalidation::Key`], in the server's order. When the connection was lost, which shows within a second
/// even if nothing closes it, comes `Flush` once it is back; while it is away, nothing comes.
///
/// What a process of this crate removes comes as [`Invalidation::Removed`] as well, even if Redis did not have it.
///
/// This process's own puts and removals come too. Redis could leave them out (`NOLOOP`) only for the connection that
/// makes them, and this is another one; telling them apart here is not safe, because Redis merges pushes: one push may
/// stand for our put and another's removal. Between asking Redis and keeping the answer nearer, an invalidation may pass: whoever fills a memory
/// tier must listen first and drop what was invalidated meanwhile.
#[derive(Debug)]
pub struct Invalidations {
    receiver: broadcast::Receiver<Invalidation>,
    closing: CancellationToken,
}

impl Invalidations {
    /// The next one; none once the tier is shut down or its last clone dropped. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Invalidation> {
        tokio::select! {
            biased;
            next = self.receiver.recv() => match next {
                Ok(invalidation) => Some(invalidation),
                Err(RecvError::Lagged(_)) => {
                    // What is still waiting is older than the flush.
                    self.receiver = self.receiver.resubscribe();
                    Some(Invalidation::Flush)
                }
                Err(RecvError::Closed) => None,
            },
            () = self.closing.cancelled() => None,
        }
    }
}

pub(super) struct Feed {
    names: Names,
    /// What nobody else who listens is called.
    id: String,
    clock: Arc<dyn Clock>,
    out: broadcast::Sender<Invalidation>,
    followers: Mutex<Vec<Weak<dyn Follower>>>,
    tier: Weak<Shared>,
    /// Whether the server pushes: only then is there something to lose.
    tracking: AtomicBool,
}

impl Feed {
    pub(super) fn new(names: Names, clock: Arc<dyn Clock>, tier: Weak<Shared>) -> Self {
        let (out, followers) = (broadcast::Sender::new(BACKLOG), Mutex::default());
        let id = format!("{:016x}{:016x}", ThreadRandom.next(), ThreadRandom.next());
        Self { names, id, clock, out, followers, tier, tracking: AtomicBool::new(false) }
    }

    /// The follower hears of everything from now on, before this feed goes on.
    pub(super) fn follow(&self, follower: Weak<dyn Follower>) {
        let here = follower.upgrade();
        self.followers.lock().push(follower);
        // Whoever comes later is told of its beginning now; a second time does no harm.
        if let (true, Some(follower)) = (self.tracking.load(SeqCst), here) {
            follower.hear(&Invalidation::Flush, self.clock.now());
        }
    }

    pub(super) fn subscribe(&self, closing: CancellationToken) -> Invalidations {
        Invalidations { receiver: self.out.subscribe(), closing }
    }

    fn tell(&self, invalidation: Invalidation) {
        let mut alive = Vec::new();
        self.followers.lock().retain(|follower| {
            let here = follower.upgrade();
            let stays = here.is_some();
            alive.extend(here);
            stays
        });
        let now = self.clock.now();
        alive.iter().for_each(|follower| follower.hear(&invalidation, now));
        // Nobody may listen just now.
        let _ = self.out.send(invalidation);
    }

    /// Asks every node to push what changes under the prefix; the nodes that do.
    async fn track(&self, client: &Client) -> Result<Vec<Server>, fred::error::Error> {
        let ids = client.connection_ids();
        let servers = masters(client);
        for server in &servers {
            let id = ids.get(server).copied();
            let node = at(client, server);
            let id = match id {
                Some(id) => id,
                None => node.client_id().await?,
            };
            // Of entries alone: a word about each lease and ticket would be several times as many.
            let prefix = self.names.entries();
            node.client_tracking::<(), _, _>("ON", Some(id), prefix, true, false, false, false).await?;
            node.subscribe(CHANNEL).await?;
            node.subscribe(self.names.channel()).await?;
            // fred does not wait for the server to confirm a subscription; the reply to this comes after it.
            node.ping::<Value>(None).await?;
        }
        Ok(servers)
    }

    /// Whether all nodes answer, and are the ones that push.
    async fn beat(&self, client: &Client, tracked: &[Server]) -> bool {
        for server in tracked {
            if at(client, server).ping::<Value>(None).await.is_err() {
                return false;
            }
        }
        // A cluster may have given slots to a master that does not push yet.
        !client.is_clustered() || (client.sync_cluster().await.is_ok() && masters(client) == tracked)
    }

    /// Drops what another process has removed, and says so.
    fn removed(&self, message: &Message) {
        let Some((ticket, selector)) = message.value.as_bytes().and_then(Announcement::parse) else {
            // Of a version that removes what this one does not know.
            return self.tell(Invalidation::Flush);
        };
        self.tell(Invalidation::Removed(selector));
        let Some(tier) = self.tier.upgrade() else { return };
        let (tasks, id) = (tier.connection.tasks().clone(), self.id.clone());
        // Who removed it waits, but not for ever.
        tasks.spawn(async move { Redis(tier).confirm(&ticket, id).await });
    }

    fn pass_on(&self, pushed: Pushed) {
        if pushed.keys.is_empty() {
            return self.tell(Invalidation::Flush);
        }
        for key in pushed.keys.iter().filter_map(|name| self.names.key(name.as_bytes())) {
            self.tell(Invalidation::Key(key));
        }
    }
}

fn masters(client: &Client) -> Vec<Server> {
    let mut servers = client.active_connections();
    servers.sort_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
    servers
}

fn at(client: &Client, server: &Server) -> WithOptions<Client> {
    client.with_cluster_node(server)
}

impl Session for Arc<Feed> {
    async fn run(&self, client: Client) {
        let (mut pushes, mut messages) = (client.invalidation_rx(), client.message_rx());
        let channel = self.names.channel();
        let Ok(servers) = self.track(&client).await else { return };
        self.tracking.store(true, SeqCst);
        self.tell(Invalidation::Flush);
        let heart = async {
            loop {
                self.clock.sleep_until(after(self.clock.now(), HEARTBEAT)).await;
                let late = self.clock.sleep_until(after(self.clock.now(), HEARTBEAT));
                let alive = tokio::select! {
                    alive = self.beat(&client, &servers) => alive,
                    () = late => false,
                };
                if !alive {
                    return;
                }
            }
        };
        let listen = async {
            loop {
                let heard = tokio::select! {
                    pushed = pushes.recv() => pushed.map(|pushed| self.pass_on(pushed)),
                    message = messages.recv() => message.map(|message| {
                        // Redis sends its invalidations over such a channel too.
                        if message.channel == channel {
                            self.removed(&message);
                        }
                    }),
                };
                match heard {
                    Ok(()) => {}
                    Err(RecvError::Lagged(_)) => self.tell(Invalidation::Flush),
                    Err(RecvError::Closed) => return,
                }
            }
        };
        tokio::select! {
            () = heart => {}
            () = listen => {}
        }
    }

    /// Nobody is told: while Redis is away, memory is all there is, and what it holds ends with its time to live. When the
    /// connection is back it is flushed.
    fn lost(&self) {
        self.tracking.store(false, Relaxed);
    }
}
