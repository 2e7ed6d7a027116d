//! Into the queue and out of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use sluicegate::ErrorKind;
use sluicegate::batch::{Job, JobId, JobQueue, JobState, NewJob};
use tokio::sync::Semaphore;

use super::{done, ended, failed, queue, settings, worker};
use crate::redis::server::{Server, cluster};
use crate::redis::wait::until;

/// All of it, once.
async fn works(queue: &JobQueue<String, String>) {
    let results = queue.enqueue_all((0..600).map(|n| format!("job {n}"))).await;
    let ids: Vec<_> = results.into_iter().map(|result| result.unwrap().id).collect();
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.ready, stats.delayed, stats.pending, stats.dead), (600, 0, 0, 0));
    assert!(stats.lag.is_some());
    assert_eq!(queue.result(&ids[0]).await.unwrap(), JobState::Waiting);
    let work = worker(queue).concurrency(64);
    let drain = work.drain();
    let running = tokio::spawn(work.run(|job: Job<String>| async move { Ok(format!("{} done", job.payload)) }));
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(ended(queue, id).await, done(&format!("job {n} done")));
    }
    drain.drain();
    let report = running.await.unwrap().unwrap();
    assert_eq!((report.done, report.retried, report.dead, report.released, report.lost), (600, 0, 0, 0, 0));
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.ready, stats.delayed, stats.pending, stats.dead, stats.lag), (0, 0, 0, 0, None));
}

#[tokio::test]
async fn many_are_enqueued_and_all_are_done() {
    let server = Server::start(&[]).await;
    let queue = queue(server.url());
    works(&queue).await;
    // What is done leaves its result alone.
    assert_eq!(server.command(&["XLEN", "sluicegate:!jobs:{tests}:stream"]).await, "0");
    assert_eq!(server.command(&["KEYS", "*:job:*"]).await, "");
    let unknown = JobId::parse(&"0".repeat(32)).unwrap();
    assert_eq!(queue.result(&unknown).await.unwrap(), JobState::Unknown);
    queue.shutdown().await;
    assert_eq!(queue.stats().await.unwrap_err().kind(), ErrorKind::Shutdown);
}

#[tokio::test]
async fn what_is_given_together_stands_in_the_queue_in_its_order() {
    let server = Server::start(&[]).await;
    let queue: JobQueue<String, String> = queue(server.url());
    let ids = |results: Vec<sluicegate::Result<sluicegate::batch::Enqueued>>| {
        results.into_iter().map(|result| result.unwrap().id.to_string()).collect::<Vec<_>>()
    };
    // Several steps, one of them of a single job that is large.
    let text = |n: usize| if n == 700 { "x".repeat(2 << 20) } else { format!("job {n}") };
    let given = ids(queue.enqueue_all((0..1_000).map(text)).await);
    let stream = server.command(&["XRANGE", "sluicegate:!jobs:{tests}:stream", "-", "+"]).await;
    // Of each its entry, the name of its field, and its id.
    let found: Vec<_> = stream.lines().collect::<Vec<_>>().chunks(3).map(|row| row[2].to_owned()).collect();
    assert_eq!((found.len(), found == given), (1_000, true));
    let hour = Duration::from_secs(3600);
    let given = ids(queue.enqueue_all((0..1_000).map(|n| NewJob::new(n.to_string()).delay(hour))).await);
    let found = server.command(&["ZRANGE", "sluicegate:!jobs:{tests}:delayed", "0", "-1"]).await;
    assert!(found.lines().eq(&given), "they are moved into the stream as they stand");
}

#[tokio::test]
async fn each_of_many_has_its_own_result_in_its_place() {
    let server = Server::start(&[]).await;
    let queue: JobQueue<String, String> = settings(server.url()).max_waiting(3).build().unwrap();
    let job = |text: &str| NewJob::new(text.to_owned());
    let once = |text| job(text).idempotency_key("once");
    let jobs = [job("a").max_attempts(0), once("b"), once("c"), job("d"), job("e").max_attempts(0), job("f"), job("g")];
    let results = queue.enqueue_all(jobs).await;
    let told: Vec<_> = results
        .iter()
        .map(|result| match result {
            Ok(enqueued) => Ok(enqueued.repeated),
            Err(error) => Err(error.kind()),
        })
        .collect();
    let (bad, full) = (Err(ErrorKind::InvalidRequest), Err(ErrorKind::Overloaded));
    assert_eq!(told, [bad, Ok(false), Ok(true), Ok(false), bad, Ok(false), full]);
    assert_eq!(results[1].as_ref().unwrap().id, results[2].as_ref().unwrap().id);
    assert_eq!(queue.stats().await.unwrap().ready, 3);
}

#[tokio::test]
async fn a_queue_lies_in_one_slot_of_a_cluster() {
    let [one, _two] = cluster().await;
    let url = format!("redis-cluster://127.0.0.1:{}", one.port);
    works(&queue(url)).await;
}

#[tokio::test]
async fn a_delayed_job_waits_for_its_time() {
    let server = Server::start(&[]).await;
    let queue = queue(server.url());
    let order = Arc::new(Mutex::new(Vec::new()));
    let late = queue.enqueue(NewJob::new("late".to_owned()).delay(Duration::from_millis(1_500))).await.unwrap();
    let never = queue.enqueue(NewJob::new("never".to_owned()).delay(Duration::from_secs(3600))).await.unwrap();
    let early = queue.enqueue("early".to_owned()).await.unwrap();
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.ready, stats.delayed), (1, 2));
    let seen = Arc::clone(&order);
    let _running = tokio::spawn(worker(&queue).run(move |job: Job<String>| {
        seen.lock().push(job.payload.clone());
        async move { Ok(job.payload) }
    }));
    assert_eq!(ended(&queue, &early.id).await, done("early"));
    assert_eq!(ended(&queue, &late.id).await, done("late"));
    assert_eq!(*order.lock(), ["early", "late"]);
    assert_eq!(queue.result(&never.id).await.unwrap(), JobState::Waiting);
    assert_eq!(queue.stats().await.unwrap().delayed, 1);
}

#[tokio::test]
async fn an_idempotency_key_stands_for_one_job() {
    let server = Server::start(&[]).await;
    let queue = queue(server.url());
    let once = |text: &str| NewJob::new(text.to_owned()).idempotency_key("order 17 of Ms Smith");
    let (first, second) = tokio::join!(queue.enqueue(once("a")), queue.enqueue(once("b")));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(first.id == second.id && first.repeated != second.repeated, "{first:?} {second:?}");
    assert_eq!(queue.stats().await.unwrap().ready, 1);
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let _running = tokio::spawn(worker(&queue).run(move |_job: Job<String>| {
        counted.fetch_add(1, SeqCst);
        async { Ok("done".to_owned()) }
    }));
    assert_eq!(ended(&queue, &first.id).await, done("done"));
    let third = queue.enqueue(once("c")).await.unwrap();
    assert!(third.repeated && third.id == first.id);
    let other = queue.enqueue("d".to_owned()).await.unwrap();
    assert_eq!(ended(&queue, &other.id).await, done("done"));
    assert_eq!(runs.load(SeqCst), 2);
    assert!(!server.command(&["KEYS", "*"]).await.contains("Smith"));
}

#[tokio::test]
async fn what_fails_in_passing_is_tried_again() {
    let server = Server::start(&[]).await;
    let queue = queue(server.url());
    let id = queue.enqueue("unlucky".to_owned()).await.unwrap().id;
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&attempts);
    let work = worker(&queue);
    let drain = work.drain();
    let running = tokio::spawn(work.run(move |job: Job<String>| {
        seen.lock().push((job.attempt, job.max_attempts));
        async move {
            match job.attempt {
                1 => Err(failed(ErrorKind::Server)),
                2 => panic!("a job may panic"),
                _ => Ok("at last".to_owned()),
            }
        }
    }));
    assert_eq!(ended(&queue, &id).await, done("at last"));
    drain.drain();
    let report = running.await.unwrap().unwrap();
    assert_eq!((report.done, report.retried, report.dead), (1, 2, 0));
    assert_eq!(*attempts.lock(), [(1, 5), (2, 5), (3, 5)]);
}

#[tokio::test]
async fn a_full_queue_refuses_and_settings_are_checked() {
    let server = Server::start(&[]).await;
    let queue: JobQueue<String, String> = settings(server.url()).max_waiting(2).build().unwrap();
    queue.enqueue("a".to_owned()).await.unwrap();
    queue.enqueue(NewJob::new("b".to_owned()).delay(Duration::from_secs(60))).await.unwrap();
    assert_eq!(queue.enqueue("c".to_owned()).await.unwrap_err().kind(), ErrorKind::Overloaded);
    assert_eq!(queue.stats().await.unwrap().ready, 1);
    let none = queue.enqueue(NewJob::new("d".to_owned()).max_attempts(0)).await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::InvalidRequest);
    let url = || "redis://secret@127.0.0.1:1".to_owned();
    for (refused, setting) in [
        (settings(url()).name("a b").build::<(), ()>(), "name"),
        (settings(url()).prefix("{}").build(), "prefix"),
        (settings(url()).max_attempts(0).build(), "max_attempts"),
        (settings(url()).timeout(Duration::ZERO).build(), "timeout"),
        (settings("secret".to_owned()).build(), "url"),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(setting) && !error.to_string().contains("secret"), "{error}");
    }
    let refused = queue.worker().hold(Duration::ZERO).run(|_: Job<String>| async { Ok(String::new()) }).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Config);
}

#[tokio::test]
async fn a_worker_that_drains_finishes_what_it_has_and_gives_back_the_rest() {
    let server = Server::start(&[]).await;
    let queue = queue(server.url());
    for n in 0..10 {
        queue.enqueue(format!("{n}")).await.unwrap();
    }
    let gate = Arc::new(Semaphore::new(0));
    let began = Arc::new(AtomicU32::new(0));
    let (opened, counted) = (Arc::clone(&gate), Arc::clone(&began));
    let work = worker(&queue).concurrency(3);
    let drain = work.drain();
    let running = tokio::spawn(work.run(move |_job: Job<String>| {
        counted.fetch_add(1, SeqCst);
        let gate = Arc::clone(&opened);
        async move {
            gate.acquire().await.unwrap().forget();
            Ok("finished".to_owned())
        }
    }));
    until("three are in hand", || async { began.load(SeqCst) == 3 }).await;
    drain.drain();
    gate.add_permits(10);
    let report = running.await.unwrap().unwrap();
    assert_eq!((report.done, report.lost, began.load(SeqCst)), (3, 0, 3));
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.ready, stats.pending, stats.dead), (7, 0, 0));
    assert_eq!(server.command(&["XINFO", "CONSUMERS", "sluicegate:!jobs:{tests}:stream", "workers"]).await, "");
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn a_running_worker_sets_the_gauges() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let recorder = DebuggingRecorder::new();
    let _local = metrics::set_default_local_recorder(&recorder);
    let snapshotter = recorder.snapshotter();
    let gauges = || {
        let all = snapshotter.snapshot().into_vec();
        let named = all.into_iter().filter(|(key, ..)| key.key().labels().any(|label| label.value() == "tests"));
        let value = |value| if let DebugValue::Gauge(value) = value { value.0 } else { -1.0 };
        named.map(|(key, _, _, found)| (key.key().name().to_owned(), value(found))).collect::<BTreeMap<_, _>>()
    };
    let server = Server::start(&[]).await;
    let queue = queue(server.url());
    queue.enqueue(NewJob::new("late".to_owned()).delay(Duration::from_secs(3600))).await.unwrap();
    let _running = tokio::spawn(worker(&queue).run(|job: Job<String>| async move { Ok(job.payload) }));
    // What was looked at is forgotten.
    let told = Mutex::new(BTreeMap::new());
    until("a worker tells them", || async {
        told.lock().append(&mut gauges());
        !told.lock().is_empty()
    })
    .await;
    let gauges = told.into_inner();
    let names = ["ready", "delayed", "pending", "dead", "lag"].map(|name| format!("sluicegate.jobs.{name}"));
    assert!(gauges.len() == names.len(), "{gauges:?}");
    assert_eq!(names.map(|name| gauges[&name]), [0.0, 1.0, 0.0, 0.0, 0.0]);
}

#[tokio::test]
async fn a_client_that_shuts_down_costs_no_attempt() {
    let server = Server::start(&[]).await;
    let queue = queue(server.url());
    let id = queue.enqueue(NewJob::new("patient".to_owned()).max_attempts(1)).await.unwrap().id;
    // It ends by itself: its next job would fail the same way. What it released it may have taken again before its end.
    let report = worker(&queue).run(|_job: Job<String>| async { Err(failed(ErrorKind::Shutdown)) }).await.unwrap();
    assert!(report.released >= 1 && report.dead == 0, "{report:?}");
    let _running = tokio::spawn(worker(&queue).run(|job: Job<String>| async move { Ok(job.attempt.to_string()) }));
    assert_eq!(ended(&queue, &id).await, done("1"));
}
