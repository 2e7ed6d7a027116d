//! Redis goes and comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use sluicegate::ErrorKind;
use sluicegate::batch::{Job, JobState};
use tokio::sync::Semaphore;

use super::{HOLD, done, ended, failed, queue, settings, worker};
use crate::redis::server::Server;
use crate::redis::wait::until;

#[tokio::test]
async fn without_redis_nothing_is_enqueued_silently() {
    let server = Server::stopped(&[]);
    let queue: sluicegate::batch::JobQueue<String, String> =
        settings(server.url()).timeout(Duration::from_millis(200)).build().unwrap();
    let error = queue.enqueue("lost".to_owned()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Network | ErrorKind::Timeout), "{error}");
    let results = queue.enqueue_all((0..300).map(|n| n.to_string())).await;
    assert!(results.len() == 300 && results.iter().all(Result::is_err));
    let sent = results.iter().filter(|result| !result.as_ref().unwrap_err().message().starts_with("not sent")).count();
    assert_eq!(sent, 256, "what comes after a failure would overtake it");
}

#[tokio::test]
async fn a_restart_of_redis_loses_no_job_and_no_result() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let queue = queue(server.url());
    let in_hand = queue.enqueue("in hand".to_owned()).await.unwrap().id;
    let (began, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, opened) = (Arc::clone(&began), Arc::clone(&gate));
    let _running = tokio::spawn(worker(&queue).concurrency(1).hold(HOLD).run(move |job: Job<String>| {
        counted.fetch_add(1, SeqCst);
        let gate = Arc::clone(&opened);
        async move {
            let _open = gate.acquire().await.unwrap();
            Ok(job.payload)
        }
    }));
    until("it is begun", || async { began.load(SeqCst) == 1 }).await;
    let waiting = queue.enqueue("waiting".to_owned()).await.unwrap().id;
    server.kill();
    until("it is noticed", || async { !queue.is_connected() }).await;
    assert!(queue.enqueue("refused".to_owned()).await.is_err());
    // Its result is in hand now, and nobody to tell for longer than a hold.
    gate.add_permits(10);
    tokio::time::sleep(HOLD * 4).await;
    server.run().await;
    until("it is back", || async { queue.is_connected() }).await;
    let later = queue.enqueue("later".to_owned()).await.unwrap().id;
    for (id, text) in [(in_hand, "in hand"), (waiting, "waiting"), (later, "later")] {
        assert_eq!(ended(&queue, &id).await, done(text));
    }
    assert_eq!(began.load(SeqCst), 3, "each once");
}

#[tokio::test]
async fn a_redis_that_lost_everything_is_used_again() {
    let server = Server::start(&[]).await;
    let queue = queue(server.url());
    let (began, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, opened) = (Arc::clone(&began), Arc::clone(&gate));
    // One place: if the job that is gone kept it, nothing would go on.
    let _running = tokio::spawn(worker(&queue).concurrency(1).hold(HOLD).run(move |job: Job<String>| {
        counted.fetch_add(1, SeqCst);
        let gate = Arc::clone(&opened);
        async move {
            if job.payload == "fails" {
                let _open = gate.acquire().await.unwrap();
                return Err(failed(ErrorKind::Server));
            }
            Ok(job.payload)
        }
    }));
    let first = queue.enqueue("first".to_owned()).await.unwrap().id;
    assert_eq!(ended(&queue, &first).await, done("first"));
    queue.enqueue("fails".to_owned()).await.unwrap();
    until("the second is begun", || async { began.load(SeqCst) == 2 }).await;
    assert_eq!(server.command(&["FLUSHALL"]).await, "OK");
    assert_eq!(queue.result(&first).await.unwrap(), JobState::Unknown);
    gate.add_permits(1);
    let third = queue.enqueue("third".to_owned()).await.unwrap().id;
    assert_eq!(ended(&queue, &third).await, done("third"));
}
