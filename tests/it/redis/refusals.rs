//! What the server refuses, no caller hears of.

use std::sync::Arc;
use std::time::Duration;

use sluicegate::OptimizedClient;
use sluicegate::cache::tier::Redis;
use sluicegate::cache::{Cache, CacheLayer};
use sluicegate::testing::Scripted;
use sluicegate::types::{ChatRequest, Source};

use super::server::Server;
use super::wait::{HANG, until};

struct Stack {
    server: Server,
    client: OptimizedClient,
    layer: CacheLayer,
}

/// A stack that Redis serves.
async fn served_by(server: Server) -> Stack {
    let redis = Redis::builder(server.url()).get_timeout(HANG / 2).put_timeout(HANG / 2).build().unwrap();
    let layer = CacheLayer::from(Cache::on(redis).tier_timeout(HANG / 2));
    let client = OptimizedClient::builder(Arc::new(Scripted::new())).cache(layer.clone()).build().unwrap();
    let stack = Stack { server, client, layer };
    stack.serves("before").await;
    stack
}

impl Stack {
    async fn ask(&self, question: &str) -> Source {
        let answer = self.client.chat(ChatRequest::new("m").user(question)).await;
        answer.expect("no caller hears of it").trace().source
    }

    async fn serves(&self, question: &str) {
        until("Redis serves", || async { self.ask(question).await == Source::Cache("redis") }).await;
    }

    /// New questions are answered, and it is counted that the tier could not help.
    async fn does_without(&self, trouble: &str) {
        let before = self.layer.tier_errors();
        let mut number = 0;
        until(trouble, || {
            number += 1;
            let question = format!("{trouble} {number}");
            async move {
                assert_eq!(self.ask(&question).await, Source::Upstream);
                self.layer.tier_errors() >= before + 3
            }
        })
        .await;
    }
}

#[tokio::test]
async fn out_of_memory_read_only_and_without_permission() {
    let stack = served_by(Server::start(&[]).await).await;
    for (trouble, cure) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("ACL SETUSER default -set", "ACL SETUSER default +set"),
        ("ACL SETUSER default -getrange", "ACL SETUSER default +getrange"),
    ] {
        let words = |line: &'static str| line.split(' ').collect::<Vec<_>>();
        assert_eq!(stack.server.command(&words(trouble)).await, "OK");
        stack.does_without(trouble).await;
        assert_eq!(stack.server.command(&words(cure)).await, "OK");
        stack.serves(cure).await;
    }
}

#[tokio::test]
async fn a_password_that_is_asked_for_all_at_once() {
    let stack = served_by(Server::start(&[]).await).await;
    stack.server.command(&["ACL", "SETUSER", "admin", "on", ">a", "~*", "&*", "+@all"]).await;
    assert_eq!(stack.server.command(&["CONFIG", "SET", "requirepass", "x"]).await, "OK");
    stack.server.as_user("admin", "a", &["CLIENT", "KILL", "TYPE", "normal"]).await;
    stack.does_without("NOAUTH").await;
    assert_eq!(stack.server.as_user("admin", "a", &["CONFIG", "SET", "requirepass", ""]).await, "OK");
    stack.serves("NOAUTH no more").await;
}

/// `MISCONF`: Redis takes no writes because it cannot save.
#[tokio::test]
async fn a_server_that_cannot_save() {
    let stack = served_by(Server::start(&["--save", "3600 1000000"]).await).await;
    // Nothing can be renamed onto a folder.
    let blocked = stack.server.folder.join("dump.rdb");
    std::fs::create_dir_all(blocked.join("in the way")).unwrap();
    let status = async |wanted: &str| {
        stack.server.command(&["BGSAVE"]).await;
        stack.server.command(&["INFO", "persistence"]).await.contains(&format!("rdb_last_bgsave_status:{wanted}"))
    };
    until("saving fails", || status("err")).await;
    let probe = stack.server.command(&["SET", "x", "1"]).await;
    assert!(probe.starts_with("MISCONF"), "{probe}");
    stack.does_without("MISCONF").await;
    std::fs::remove_dir_all(&blocked).unwrap();
    until("saving works", || status("ok")).await;
    stack.serves("MISCONF no more").await;
}

/// `LOADING`: to those that were connected, and to those that connect.
#[tokio::test]
async fn a_server_that_loads() {
    let slow = ["--enable-debug-command", "yes", "--key-load-delay", "1000", "--loading-process-events-interval-bytes"];
    let server = Server::start(&[&slow[..], &["1024"]].concat()).await;
    let mut stack = served_by(server).await;
    assert_eq!(stack.server.command(&["DEBUG", "POPULATE", "1500"]).await, "OK");
    let reload = stack.server.command(&["DEBUG", "RELOAD"]);
    let asks = async {
        until("it loads", || async { stack.server.command(&["PING"]).await.starts_with("LOADING") }).await;
        stack.does_without("LOADING").await;
    };
    assert_eq!(tokio::join!(reload, asks).0, "OK");
    stack.serves("before").await;

    assert_eq!(stack.server.command(&["SAVE"]).await, "OK");
    stack.server.kill();
    stack.server.run().await;
    assert!(stack.server.command(&["PING"]).await.starts_with("LOADING"));
    stack.does_without("LOADING after a start").await;
    stack.serves("before").await;
}

#[tokio::test]
async fn a_server_that_sleeps() {
    let server = Server::start(&["--enable-debug-command", "yes"]).await;
    let redis = Redis::builder(server.url()).build().unwrap();
    let layer = CacheLayer::from(Cache::on(redis));
    let client = OptimizedClient::builder(Arc::new(Scripted::new())).cache(layer.clone()).build().unwrap();
    let stack = Stack { server, client, layer };
    stack.serves("before").await;
    let sleeps = stack.server.command(&["DEBUG", "SLEEP", "1"]);
    let asks = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        stack.does_without("asleep").await;
    };
    tokio::join!(sleeps, asks);
    stack.serves("before").await;
}
