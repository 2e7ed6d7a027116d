//! A TCP proxy that breaks the network.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Network {
    /// Everything passes.
    Whole,
    /// Replies come a byte at a time.
    Sliced,
    /// Replies come so much later.
    Late(Duration),
    /// Nothing passes on connections made so far; nothing is closed. New ones work.
    OldOnesSilent,
    /// Nothing passes at all; nothing is closed.
    Silent,
    /// After so many bytes of replies the connection is closed.
    CutAfter(usize),
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    network: watch::Sender<(Network, usize)>,
    accepted: Arc<AtomicUsize>,
    server: Arc<AtomicU16>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (network, state) = watch::channel((Network::Whole, 0));
        let accepted = Arc::new(AtomicUsize::new(0));
        let server = Arc::new(AtomicU16::new(server));
        let (counter, leads_to) = (Arc::clone(&accepted), Arc::clone(&server));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                let state = state.clone();
                let server = leads_to.load(Ordering::SeqCst);
                connections.spawn(async move {
                    if let Ok(upstream) = TcpStream::connect(("127.0.0.1", server)).await {
                        carry(client, upstream, state, number).await;
                    }
                });
            }
        });
        Self { port, network, accepted, server, _tasks: tasks }
    }

    pub(crate) fn set(&self, network: Network) {
        self.network.send_replace((network, self.accepted()));
    }

    /// New connections lead there; those that stand stay.
    pub(crate) fn lead_to(&self, server: u16) {
        self.server.store(server, Ordering::SeqCst);
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

async fn carry(client: TcpStream, server: TcpStream, state: watch::Receiver<(Network, usize)>, number: usize) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut up = state.clone();
    let requests = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            passes(&mut up, number).await;
            if to_server.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
    };
    let mut down = state;
    let replies = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            passes(&mut down, number).await;
            let network = down.borrow().0;
            let reply = &buffer[..length];
            let sent = match network {
                Network::Late(time) => {
                    tokio::time::sleep(time).await;
                    to_client.write_all(reply).await
                }
                Network::CutAfter(bytes) if bytes < length => {
                    let _ = to_client.write_all(&reply[..bytes]).await;
                    return;
                }
                Network::Sliced => {
                    let mut sent = Ok(());
                    for byte in reply {
                        sent = to_client.write_all(&[*byte]).await;
                        tokio::task::yield_now().await;
                    }
                    sent
                }
                _ => to_client.write_all(reply).await,
            };
            if sent.is_err() {
                break;
            }
        }
    };
    tokio::select! { () = requests => {}, () = replies => {} }
}

/// Waits while this connection is silent.
async fn passes(state: &mut watch::Receiver<(Network, usize)>, number: usize) {
    let _ = state
        .wait_for(|(network, since)| match network {
            Network::Silent => false,
            Network::OldOnesSilent => number >= *since,
            _ => true,
        })
        .await;
}
