//! Chats of jobs through a client whose own queue is full.

use std::sync::Arc;
use std::time::Duration;

use sluicegate::batch::{ChatJob, JobQueue};
use sluicegate::schedule::{Admission, AdmissionGate};
use sluicegate::testing::Scripted;
use sluicegate::types::{ChatCompletion, ChatRequest};
use sluicegate::{Env, OptimizedClient};

use super::{queue, soon};
use crate::redis::server::Server;
use crate::redis::wait::until;

async fn filled(server: &Server, jobs: usize) -> JobQueue<ChatJob, ChatCompletion> {
    let queue = queue(server.url());
    let jobs = (0..jobs).map(|n| ChatJob::new(ChatRequest::new("m").user(n.to_string())).unwrap());
    assert!(queue.enqueue_all(jobs).await.iter().all(Result::is_ok));
    queue
}

fn narrow(latency: u64) -> (OptimizedClient, AdmissionGate, Arc<Scripted>) {
    let upstream = Arc::new(Scripted::new().latency(Duration::from_millis(latency)));
    let gate = Admission::new().concurrency(1).queue(2).start(&Env::new()).unwrap();
    (OptimizedClient::builder(Arc::clone(&upstream)).schedule(gate.clone()).build().unwrap(), gate, upstream)
}

#[tokio::test]
async fn a_worker_that_is_wider_than_the_clients_queue_buries_nothing() {
    let server = Server::start(&[]).await;
    let (queue, (llm, _, upstream)) = (filled(&server, 30).await, narrow(20));
    let worker = queue.worker().concurrency(16).retry(soon());
    let drain = worker.drain();
    let running = tokio::spawn(worker.run_chat(llm));
    until("all is over", || async {
        let stats = queue.stats().await.unwrap();
        stats.ready + stats.delayed + stats.pending == 0
    })
    .await;
    drain.drain();
    let report = running.await.unwrap().unwrap();
    assert_eq!((report.done, report.retried, report.dead, upstream.calls()), (30, 0, 0, 30));
}

#[tokio::test]
async fn a_job_without_room_goes_back_when_its_worker_drains() {
    let server = Server::start(&[]).await;
    let (queue, (llm, gate, upstream)) = (filled(&server, 5).await, narrow(0));
    gate.pause();
    let worker = queue.worker().concurrency(5).retry(soon());
    let drain = worker.drain();
    let running = tokio::spawn(worker.run_chat(llm));
    until("some are refused", || async { gate.status().totals.refused > 3 }).await;
    drain.drain();
    until("they are given back", || async { queue.stats().await.unwrap().ready == 3 }).await;
    gate.resume();
    let report = running.await.unwrap().unwrap();
    assert_eq!((report.done, report.released, report.retried, report.dead, upstream.calls()), (2, 3, 0, 0, 2));
}
