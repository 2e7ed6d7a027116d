//! What cannot be done, and who dies of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use sluicegate::ErrorKind;
use sluicegate::batch::{Job, JobQueue, JobState, NewJob};
use tokio::sync::Notify;

use super::{HOLD, done, ended, failed, queue, settings, worker};
use crate::redis::server::Server;
use crate::redis::wait::{HANG, until};

fn reason(state: JobState<String>) -> String {
    let JobState::Dead(failure) = state else { panic!("{state:?}") };
    format!("{}, {}", failure.reason, failure.message)
}

#[tokio::test]
async fn what_fails_for_good_is_a_dead_letter_and_can_be_requeued() {
    let server = Server::start(&[]).await;
    let queue = queue(server.url());
    let refused = queue.enqueue("refused".to_owned()).await.unwrap().id;
    let unlucky = queue.enqueue(NewJob::new("unlucky".to_owned()).max_attempts(3)).await.unwrap().id;
    let mended = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&mended);
    let _running = tokio::spawn(worker(&queue).run(move |job: Job<String>| {
        let mended = state.load(SeqCst);
        async move {
            match (&*job.payload, mended) {
                (_, true) => Ok(job.attempt.to_string()),
                ("refused", _) => Err(failed(ErrorKind::Auth)),
                _ => Err(failed(ErrorKind::Network)),
            }
        }
    }));
    assert_eq!(reason(ended(&queue, &refused).await), "failed, auth: as the test wants it");
    assert_eq!(reason(ended(&queue, &unlucky).await), "failed, network: as the test wants it");
    let letters = queue.dead_letters(10).await.unwrap();
    let told: Vec<_> = letters.iter().map(|letter| (letter.payload.as_deref().unwrap(), letter.attempts)).collect();
    assert_eq!(told, [("refused", 1), ("unlucky", 3)]);
    assert_eq!(queue.stats().await.unwrap().dead, 2);

    mended.store(true, SeqCst);
    assert!(queue.requeue(&letters[1]).await.unwrap());
    assert_eq!(ended(&queue, &unlucky).await, done("1"));
    assert!(!queue.requeue(&letters[1]).await.unwrap(), "once");
    assert!(queue.discard(&letters[0]).await.unwrap() && !queue.discard(&letters[0]).await.unwrap());
    assert!(queue.dead_letters(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_nobody_can_read_is_a_dead_letter() {
    let server = Server::start(&[]).await;
    let texts: JobQueue<String, String> = queue(server.url());
    let numbers: JobQueue<u64, String> = queue(server.url());
    let odd = texts.enqueue("seven".to_owned()).await.unwrap().id;
    let even = numbers.enqueue(8).await.unwrap().id;
    let _running = tokio::spawn(numbers.worker().run(|job: Job<u64>| async move { Ok(job.payload.to_string()) }));
    assert_eq!(ended(&texts, &even).await, done("8"));
    assert!(reason(ended(&texts, &odd).await).starts_with("unreadable"));
    assert!(numbers.dead_letters(1).await.unwrap()[0].payload.is_none());
    assert_eq!(texts.dead_letters(1).await.unwrap()[0].payload.as_deref(), Some("seven"));
}

#[tokio::test]
async fn a_job_that_kills_its_workers_is_a_dead_letter_in_the_end() {
    let server = Server::start(&[]).await;
    let queue = queue(server.url());
    let poison = queue.enqueue(NewJob::new("poison".to_owned()).max_attempts(3)).await.unwrap().id;
    let deaths = Arc::new(AtomicU32::new(0));
    for death in 1..=3 {
        let counted = Arc::clone(&deaths);
        let running = tokio::spawn(worker(&queue).hold(HOLD).run(move |_job: Job<String>| {
            counted.fetch_add(1, SeqCst);
            std::future::pending()
        }));
        until("it is begun", || async { deaths.load(SeqCst) == death }).await;
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
    }
    let harmless = queue.enqueue("harmless".to_owned()).await.unwrap().id;
    let _running = tokio::spawn(worker(&queue).hold(HOLD).run(|job: Job<String>| async move { Ok(job.payload) }));
    assert_eq!(ended(&queue, &harmless).await, done("harmless"));
    assert_eq!(reason(ended(&queue, &poison).await), "abandoned, no attempt came to an end");
    assert_eq!(queue.dead_letters(10).await.unwrap()[0].attempts, 3);
}

#[tokio::test]
async fn heartbeats_keep_a_long_job_with_its_worker() {
    let server = Server::start(&[]).await;
    let queue = queue(server.url());
    let hold = Duration::from_secs(2);
    let id = queue.enqueue("long".to_owned()).await.unwrap().id;
    let (began, end) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    for _ in 0..2 {
        let (began, end) = (Arc::clone(&began), Arc::clone(&end));
        // Who has no place free does not look for the dead, and take its own job back.
        tokio::spawn(worker(&queue).concurrency(1).hold(hold).run(move |_job: Job<String>| {
            began.fetch_add(1, SeqCst);
            let end = Arc::clone(&end);
            async move {
                end.notified().await;
                Ok("kept".to_owned())
            }
        }));
    }
    until("it is begun", || async { began.load(SeqCst) == 1 }).await;
    // Longer than the hold and the longest pause between two looks for the dead.
    tokio::time::sleep(hold * 2).await;
    end.notify_one();
    assert_eq!(ended(&queue, &id).await, done("kept"));
    assert_eq!(began.load(SeqCst), 1);
}

const STREAM: &str = "sluicegate:!jobs:{tests}:stream";

#[tokio::test]
async fn one_dead_among_thousands_of_busy_is_found_at_once() {
    let server = Server::start(&[]).await;
    let queue = queue(server.url());
    let ids: Vec<_> =
        queue.enqueue_all((0..1_000).map(|n| n.to_string())).await.into_iter().map(|one| one.unwrap().id).collect();
    server.command(&["XGROUP", "CREATE", STREAM, "workers", "0"]).await;
    server.command(&["XREADGROUP", "GROUP", "workers", "busy", "COUNT", "1000", "STREAMS", STREAM, ">"]).await;
    let last = server.command(&["XREVRANGE", STREAM, "+", "-", "COUNT", "1"]).await;
    let [entry, _, id] = last.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{last}") };
    assert_eq!(ids[999].to_string(), id);
    // An hour without a word; all before it are new.
    server.command(&["XCLAIM", STREAM, "workers", "dead", "0", entry, "IDLE", "3600000"]).await;
    let work = worker(&queue).concurrency(1).hold(Duration::from_secs(600));
    let _running = tokio::spawn(work.run(|job: Job<String>| async move { Ok(job.payload) }));
    assert_eq!(ended(&queue, &ids[999]).await, done("999"));
}

#[tokio::test]
async fn what_others_put_into_the_stream_is_gone_after_a_hold() {
    let server = Server::start(&[]).await;
    let queue: JobQueue<String, String> = queue(server.url());
    for words in [["j", "nonsense"], ["other", "00000000000000000000000000000000X"]] {
        server.command(&["XADD", STREAM, "*", words[0], words[1]]).await;
    }
    let id = queue.enqueue("ours".to_owned()).await.unwrap().id;
    let work = worker(&queue).hold(HOLD);
    let drain = work.drain();
    let running = tokio::spawn(work.run(|job: Job<String>| async move { Ok(job.payload) }));
    assert_eq!(ended(&queue, &id).await, done("ours"));
    until("they are gone", || async { server.command(&["XLEN", STREAM]).await == "0" }).await;
    drain.drain();
    assert_eq!(running.await.unwrap().unwrap().done, 1);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.ready, stats.pending), (0, 0));
}

#[tokio::test]
async fn a_worker_that_redis_refuses_says_so() {
    let server = Server::start(&[]).await;
    server.command(&["ACL", "SETUSER", "clerk", "on", ">word", "~*", "&*", "+@all", "-xautoclaim"]).await;
    let url = server.url().replace("redis://", "redis://clerk:word@");
    let queue: JobQueue<String, String> = queue(url);
    queue.enqueue("ours".to_owned()).await.unwrap();
    let running = worker(&queue).run(|job: Job<String>| async move { Ok(job.payload) });
    let error = tokio::time::timeout(HANG, running).await.expect("it does not wait").unwrap_err();
    assert!(error.message().contains("6.2"), "{error}");
}

#[tokio::test]
async fn beyond_their_number_the_oldest_dead_letters_go() {
    let server = Server::start(&[]).await;
    let queue: JobQueue<String, String> = settings(server.url()).max_dead(2).build().unwrap();
    let mut ids = Vec::new();
    let _running =
        tokio::spawn(worker(&queue).concurrency(1).run(|_: Job<String>| async { Err(failed(ErrorKind::Auth)) }));
    for n in 0..3 {
        ids.push(queue.enqueue(n.to_string()).await.unwrap().id);
    }
    for id in &ids {
        assert!(reason(ended(&queue, id).await).starts_with("failed"));
    }
    let left: Vec<_> = queue.dead_letters(10).await.unwrap().into_iter().map(|letter| letter.id).collect();
    assert_eq!(left, ids[1..]);
}
