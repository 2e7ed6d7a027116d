//! A job that two workers have had, one after the other or at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use sluicegate::ErrorKind;
use sluicegate::batch::{Drain, Job, JobQueue, WorkerReport};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::{HOLD, done, ended, failed, queue, worker};
use crate::redis::server::Server;
use crate::redis::wait::{HANG, until};

const STREAM: &str = "sluicegate:!jobs:{tests}:stream";

/// A worker with one place whose jobs wait until they are let through.
struct Hand {
    began: Arc<AtomicU32>,
    /// Attempts that were ended from outside.
    stopped: Arc<AtomicU32>,
    gate: Arc<Semaphore>,
    drain: Drain,
    running: JoinHandle<sluicegate::Result<WorkerReport>>,
}

struct Stopped(Arc<AtomicU32>);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Hand {
    fn of(
        queue: &JobQueue<String, String>,
        hold: std::time::Duration,
        answer: Result<&'static str, ErrorKind>,
    ) -> Self {
        let work = worker(queue).concurrency(1).hold(hold);
        let (drain, gate) = (work.drain(), Arc::new(Semaphore::new(0)));
        let (began, stopped) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
        let (counted, guarded, opened) = (Arc::clone(&began), Arc::clone(&stopped), Arc::clone(&gate));
        let running = tokio::spawn(work.run(move |_: Job<String>| {
            counted.fetch_add(1, SeqCst);
            let (stopped, gate) = (Stopped(Arc::clone(&guarded)), Arc::clone(&opened));
            async move {
                gate.acquire().await.unwrap().forget();
                std::mem::forget(stopped);
                answer.map(str::to_owned).map_err(failed)
            }
        }));
        Self { began, stopped, gate, drain, running }
    }

    async fn begun(&self, attempts: u32) {
        until("it is begun", || async { self.began.load(SeqCst) == attempts }).await;
    }

    async fn ended(self) -> WorkerReport {
        self.drain.drain();
        self.running.await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn who_has_lost_a_job_stops_working_on_it() {
    let server = Server::start(&[]).await;
    let queue = queue(server.url());
    let id = queue.enqueue("wanted".to_owned()).await.unwrap().id;
    let hand = Hand::of(&queue, HOLD, Ok("done"));
    hand.begun(1).await;
    let row = server.command(&["XRANGE", STREAM, "-", "+"]).await;
    let entry = row.lines().next().unwrap();
    // By one who dies at once.
    assert_eq!(server.command(&["XCLAIM", STREAM, "workers", "other", "0", entry, "JUSTID"]).await, entry);
    until("it is stopped", || async { hand.stopped.load(SeqCst) == 1 }).await;
    hand.begun(2).await;
    hand.gate.add_permits(1);
    assert_eq!(ended(&queue, &id).await, done("done"));
    let report = hand.ended().await;
    assert_eq!((report.done, report.lost), (1, 1));
}

#[tokio::test]
async fn the_first_result_stands_for_its_life() {
    let server = Server::start(&[]).await;
    let queue = queue(server.url());
    let id = queue.enqueue("wanted".to_owned()).await.unwrap().id;
    // Its first heartbeat comes late.
    let slow = Hand::of(&queue, 60 * HANG, Ok("slow"));
    slow.begun(1).await;
    let quick = Hand::of(&queue, HOLD, Ok("quick"));
    quick.gate.add_permits(1);
    assert_eq!(ended(&queue, &id).await, done("quick"));
    slow.gate.add_permits(1);
    let (slow, quick) = (slow.ended().await, quick.ended().await);
    assert_eq!((slow.done, slow.lost, quick.done, quick.lost), (0, 1, 1, 0));
    assert_eq!(ended(&queue, &id).await, done("quick"));
    let life = server.command(&["PTTL", &format!("sluicegate:!jobs:{{tests}}:result:{id}")]).await;
    assert!((1..=86_400_000).contains(&life.parse::<i64>().unwrap()), "{life}");
}

#[tokio::test]
async fn who_has_lost_a_job_decides_nothing_about_it() {
    for kind in [ErrorKind::Auth, ErrorKind::Network, ErrorKind::Shutdown] {
        let server = Server::start(&[]).await;
        let queue = queue(server.url());
        let id = queue.enqueue("wanted".to_owned()).await.unwrap().id;
        let slow = Hand::of(&queue, 60 * HANG, Err(kind));
        slow.begun(1).await;
        let quick = Hand::of(&queue, HOLD, Ok("quick"));
        quick.begun(1).await;
        slow.gate.add_permits(1);
        let report = slow.ended().await;
        assert_eq!((report.lost, report.dead, report.retried, report.released), (1, 0, 0, 0), "{kind:?}");
        let stats = queue.stats().await.unwrap();
        assert_eq!((stats.ready, stats.delayed, stats.pending, stats.dead), (0, 0, 1, 0), "{kind:?}");
        quick.gate.add_permits(1);
        assert_eq!(ended(&queue, &id).await, done("quick"), "{kind:?}");
        assert_eq!(quick.ended().await.done, 1);
    }
}

#[tokio::test]
async fn what_a_worker_was_given_and_never_heard_of_goes_back_at_its_end() {
    let server = Server::start(&[]).await;
    let queue = queue(server.url());
    queue.enqueue("in hand".to_owned()).await.unwrap();
    let hand = Hand::of(&queue, 60 * HANG, Ok("done"));
    hand.begun(1).await;
    let consumers = server.command(&["XINFO", "CONSUMERS", STREAM, "workers"]).await;
    let name = consumers.lines().nth(1).unwrap();
    queue.enqueue("unheard".to_owned()).await.unwrap();
    // As when the answer to its reading is lost on the way.
    server.command(&["XREADGROUP", "GROUP", "workers", name, "COUNT", "1", "STREAMS", STREAM, ">"]).await;
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.ready, stats.pending), (0, 2));
    hand.gate.add_permits(1);
    let report = hand.ended().await;
    assert_eq!((report.done, report.released), (1, 1));
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.ready, stats.pending), (1, 0));
    assert_eq!(server.command(&["XINFO", "CONSUMERS", STREAM, "workers"]).await, "");
}
