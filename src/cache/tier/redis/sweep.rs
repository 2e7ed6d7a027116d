//! Removing everything: `SCAN`, batch by batch, on every master.

use std::time::Duration;

use fred::interfaces::{ClientLike, KeysInterface};
use fred::types::Key;
use fred::types::config::Server;

use super::lane::{Asked, Lane};
use super::names::Names;
use crate::error::Result;

/// Names looked at in a step: some 0.1 ms of the server's time, which serves others in between.
const BATCH: u32 = 500;

/// How many entries were removed. Each step has its own budget.
pub(super) async fn all(lane: &Lane, names: &Names, budget: Duration) -> Result<u64> {
    let masters = lane.ask(budget, |client| async move { Ok((client.is_clustered(), client.active_connections())) });
    let (clustered, servers) = masters.await?;
    let mut removed = 0;
    if !clustered {
        return node(lane, names, budget, None).await;
    }
    for server in servers {
        removed += node(lane, names, budget, Some(server)).await?;
    }
    Ok(removed)
}

async fn node(lane: &Lane, names: &Names, budget: Duration, server: Option<Server>) -> Result<u64> {
    let (mut cursor, mut removed) = ("0".to_owned(), 0);
    loop {
        let (from, pattern) = (cursor, names.pattern());
        let page = |client: Asked| {
            let client = on(client, server.clone());
            async move { client.scan_page::<(String, Vec<Key>), _, _>(from, pattern, Some(BATCH), None).await }
        };
        let (next, found) = lane.ask(budget, page).await?;
        let ours: Vec<Key> = found.into_iter().filter(|name| names.key(name.as_bytes()).is_some()).collect();
        if server.is_some() {
            // Names of one node lie in many slots, and a command may touch only one.
            for name in ours {
                removed += lane.ask::<u64, _>(budget, |client| async move { client.unlink(name).await }).await?;
            }
        } else if !ours.is_empty() {
            removed += lane.ask::<u64, _>(budget, |client| async move { client.unlink(ours).await }).await?;
        }
        if next == "0" {
            return Ok(removed);
        }
        cursor = next;
    }
}

fn on(mut client: Asked, server: Option<Server>) -> Asked {
    if let Some(server) = server {
        let mut options = client.options().clone();
        options.cluster_node = Some(server);
        client = (*client).with_options(&options);
    }
    client
}
