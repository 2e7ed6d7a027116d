//! Removing whatever a selector takes: `SCAN`, batch by batch, on every master.

use std::time::Duration;

use fred::bytes::Bytes;
use fred::interfaces::{ClientLike, KeysInterface};
use fred::types::Key;
use fred::types::config::Server;

use futures_util::future::try_join_all;

use super::names::Names;
use crate::cache::Selector;
use crate::cache::envelope::{HEAD, Head, head};
use crate::error::{Error, Result};
use crate::redis::{Asked, Lane};

/// Names looked at in a step: some 0.1 ms of the server's time, which serves others in between.
const BATCH: u32 = 500;

/// How many entries were removed. Each step has its own budget.
pub(super) async fn sweep(lane: &Lane, names: &Names, selector: &Selector, budget: Duration) -> Result<u64> {
    let masters = lane.ask(budget, |client| async move { Ok((client.is_clustered(), client.active_connections())) });
    let (clustered, servers) = masters.await?;
    let mut removed = 0;
    if !clustered {
        return node(lane, names, selector, budget, None).await;
    }
    for server in servers {
        removed += node(lane, names, selector, budget, Some(server)).await?;
    }
    Ok(removed)
}

async fn node(
    lane: &Lane,
    names: &Names,
    selector: &Selector,
    budget: Duration,
    server: Option<Server>,
) -> Result<u64> {
    let (mut cursor, mut removed) = ("0".to_owned(), 0);
    loop {
        let (from, pattern) = (cursor, names.pattern());
        let page = |client: Asked| {
            let client = on(client, server.clone());
            async move { client.scan_page::<(String, Vec<Key>), _, _>(from, pattern, Some(BATCH), None).await }
        };
        let (next, found) = lane.ask(budget, page).await?;
        let mut ours: Vec<Key> = found.into_iter().filter(|name| names.key(name.as_bytes()).is_some()).collect();
        if *selector != Selector::All {
            ours = taken(lane, selector, budget, ours).await?;
        }
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

/// Those that the selector takes, as their heads tell; all heads are asked for at once.
async fn taken(lane: &Lane, selector: &Selector, budget: Duration, names: Vec<Key>) -> Result<Vec<Key>> {
    let read = async |name: &Key, length: usize| {
        let name = name.clone();
        // The end is part of the range.
        let ask = |client: Asked| async move { client.getrange::<Bytes, _>(name, 0, length - 1).await };
        lane.ask(budget, ask).await
    };
    let look = async |name: &Key| {
        let mut known = head(&read(name, HEAD).await?, selector);
        if let Head::Needs(length) = known {
            known = head(&read(name, length).await?, selector);
        }
        Ok::<_, Error>(known == Head::Taken(true))
    };
    let all = try_join_all(names.iter().map(look)).await?;
    Ok(names.into_iter().zip(all).filter_map(|(name, taken)| taken.then_some(name)).collect())
}

fn on(mut client: Asked, server: Option<Server>) -> Asked {
    if let Some(server) = server {
        let mut options = client.options().clone();
        options.cluster_node = Some(server);
        client = (*client).with_options(&options);
    }
    client
}
