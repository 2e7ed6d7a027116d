//! Redis is there, and says no.

use std::sync::Arc;

use parking_lot::Mutex;
use sluicegate::ErrorKind;
use sluicegate::batch::{Job, JobQueue, JobState, NewJob};

use super::{HOLD, done, ended, failed, queue, worker};
use crate::redis::server::Server;
use crate::redis::wait::until;

/// Names and numbers of the attempts that were begun.
type Began = Arc<Mutex<Vec<(String, u32)>>>;

fn often(text: &str) -> NewJob<String> {
    NewJob::new(text.to_owned()).max_attempts(1_000)
}

fn count(began: &Began, name: &str) -> usize {
    began.lock().iter().filter(|(begun, _)| begun == name).count()
}

#[cfg(feature = "metrics")]
fn counted(snapshot: metrics_util::debugging::Snapshot) -> u64 {
    use metrics_util::debugging::DebugValue;

    let all = snapshot.into_vec().into_iter();
    let refused = all.filter(|(key, ..)| key.key().name() == "sluicegate.jobs.refused");
    refused.map(|(_, _, _, value)| if let DebugValue::Counter(count) = value { count } else { 0 }).sum()
}

#[tokio::test]
async fn a_verdict_that_is_refused_is_told_and_its_job_found_again() {
    #[cfg(feature = "metrics")]
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    #[cfg(feature = "metrics")]
    let _local = metrics::set_default_local_recorder(&recorder);
    let server = Server::start(&[]).await;
    // No results can be kept.
    server.command(&["ACL", "SETUSER", "clerk", "on", ">word", "~*", "&*", "+@all", "-set"]).await;
    let queue: JobQueue<String, String> = queue(server.url().replace("redis://", "redis://clerk:word@"));
    let first = queue.enqueue(often("first")).await.unwrap().id;
    let second = queue.enqueue(often("second")).await.unwrap().id;
    let began = Began::default();
    let seen = Arc::clone(&began);
    let work = worker(&queue).concurrency(1).hold(HOLD);
    let drain = work.drain();
    let running = tokio::spawn(work.run(move |job: Job<String>| {
        seen.lock().push((job.payload.clone(), job.attempt));
        async move { Ok(job.payload) }
    }));
    // There is one place: each has to let go of it.
    until("both are begun, and again", || async { count(&began, "first") > 1 && count(&began, "second") > 1 }).await;
    let refusals = queue.refusals();
    let code = refusals.last.as_ref().and_then(|error| error.code()).unwrap().to_owned();
    assert!(refusals.count >= 2 && ["NOPERM", "ERR"].contains(&&*code), "{refusals:?}");
    server.command(&["ACL", "SETUSER", "clerk", "+set"]).await;
    assert_eq!(ended(&queue, &first).await, done("first"));
    assert_eq!(ended(&queue, &second).await, done("second"));
    drain.drain();
    let report = running.await.unwrap().unwrap();
    assert_eq!((report.done, report.lost, report.dead, report.refused), (2, 0, 0, queue.refusals().count));
    #[cfg(feature = "metrics")]
    assert_eq!(counted(recorder.snapshotter().snapshot()), report.refused);
    // Each attempt has counted.
    for name in ["first", "second"] {
        let attempts: Vec<_> = began.lock().iter().filter(|one| one.0 == name).map(|one| one.1).collect();
        assert!(attempts.iter().copied().eq(1..=attempts.len() as u32), "{name} {attempts:?}");
    }
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.ready, stats.delayed, stats.pending, stats.dead), (0, 0, 0, 0));
}

/// How often somebody with a free place has looked for jobs: that script alone is sent whole.
async fn looks(server: &Server) -> u64 {
    let stats = server.command(&["INFO", "commandstats"]).await;
    let calls = stats.split("cmdstat_eval:calls=").nth(1).and_then(|rest| rest.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test]
async fn a_server_that_takes_no_writes_for_long_is_told_and_loses_no_job() {
    let server = Server::start(&[]).await;
    let queue: JobQueue<String, String> = queue(server.url());
    let id = queue.enqueue(often("patient")).await.unwrap().id;
    let (began, go) = (Began::default(), Arc::new(tokio::sync::Semaphore::new(0)));
    let (seen, gate) = (Arc::clone(&began), Arc::clone(&go));
    let running = tokio::spawn(worker(&queue).concurrency(1).hold(HOLD).run(move |job: Job<String>| {
        seen.lock().push((job.payload.clone(), job.attempt));
        let gate = Arc::clone(&gate);
        async move {
            let _open = gate.acquire().await.unwrap();
            Ok(job.payload)
        }
    }));
    until("it is begun", || async { count(&began, "patient") == 1 }).await;
    let before = looks(&server).await;
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    go.add_permits(1);
    until("its place is free", || async { looks(&server).await > before }).await;
    assert_eq!(queue.refusals().last.and_then(|error| error.code().map(str::to_owned)).as_deref(), Some("READONLY"));
    server.command(&["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(ended(&queue, &id).await, done("patient"));
    assert_eq!(began.lock().last().map(|one| one.1), Some(2), "the attempt whose end was refused has counted");
    running.abort();
}

#[tokio::test]
async fn a_job_that_cannot_be_begun_keeps_no_place() {
    let server = Server::start(&[]).await;
    let queue: JobQueue<String, String> = queue(server.url());
    let odd = queue.enqueue(often("odd")).await.unwrap().id;
    let even = queue.enqueue(often("even")).await.unwrap().id;
    // Somebody has put something else in its place.
    let name = format!("sluicegate:!jobs:{{tests}}:job:{odd}");
    assert_eq!(server.command(&["DEL", &name]).await, "1");
    server.command(&["RPUSH", &name, "a list"]).await;
    let _running =
        tokio::spawn(worker(&queue).concurrency(1).hold(HOLD).run(|job: Job<String>| async move { Ok(job.payload) }));
    assert_eq!(ended(&queue, &even).await, done("even"));
    let last = queue.refusals().last.unwrap();
    assert!(["WRONGTYPE", "ERR"].contains(&last.code().unwrap()), "{last}");
}

#[tokio::test]
async fn a_right_that_is_missing_is_not_taken_for_a_job_that_is_lost() {
    let server = Server::start(&[]).await;
    server.command(&["ACL", "SETUSER", "clerk", "on", ">word", "~*", "&*", "+@all", "-xpending"]).await;
    let queue: JobQueue<String, String> = queue(server.url().replace("redis://", "redis://clerk:word@"));
    let id = queue.enqueue(often("patient")).await.unwrap().id;
    let work = worker(&queue).hold(HOLD);
    let drain = work.drain();
    let running = tokio::spawn(work.run(|job: Job<String>| async move { Ok(job.payload) }));
    until("it is told", || async { queue.refusals().count > 0 }).await;
    server.command(&["ACL", "SETUSER", "clerk", "+xpending"]).await;
    assert_eq!(ended(&queue, &id).await, done("patient"));
    drain.drain();
    let report = running.await.unwrap().unwrap();
    assert_eq!((report.done, report.lost, report.refused), (1, 0, queue.refusals().count));
}

/// A user who may do all but this.
async fn without(server: &Server, right: &str) -> JobQueue<String, String> {
    server.command(&["ACL", "SETUSER", "clerk", "on", ">word", "~*", "&*", "+@all", &format!("-{right}")]).await;
    queue(server.url().replace("redis://", "redis://clerk:word@"))
}

#[tokio::test]
async fn an_attempt_that_is_refused_its_beginning_does_not_count() {
    let server = Server::start(&[]).await;
    let free: JobQueue<String, String> = queue(server.url());
    let id = free.enqueue(NewJob::new("patient".to_owned()).max_attempts(1)).await.unwrap().id;
    let queue = without(&server, "hset").await;
    let _running = tokio::spawn(worker(&queue).hold(HOLD).run(|job: Job<String>| async move { Ok(job.payload) }));
    until("it is told", || async { queue.refusals().count > 1 }).await;
    assert_eq!(free.stats().await.unwrap().dead, 0, "it was never begun");
    server.command(&["ACL", "SETUSER", "clerk", "+hset"]).await;
    assert_eq!(ended(&free, &id).await, done("patient"));
}

#[tokio::test]
async fn a_job_that_fails_for_good_is_a_dead_letter_and_has_its_result_or_neither() {
    for right in ["set", "xadd"] {
        let server = Server::start(&[]).await;
        let free: JobQueue<String, String> = queue(server.url());
        let id = free.enqueue(often("bad")).await.unwrap().id;
        let queue = without(&server, right).await;
        let work = worker(&queue).hold(HOLD);
        let drain = work.drain();
        let running = tokio::spawn(work.run(|_: Job<String>| async { Err(failed(ErrorKind::Auth)) }));
        until("it is told", || async { queue.refusals().count > 0 }).await;
        let stats = free.stats().await.unwrap();
        assert_eq!((stats.dead, free.result(&id).await.unwrap()), (0, JobState::Waiting), "{right}");
        server.command(&["ACL", "SETUSER", "clerk", &format!("+{right}")]).await;
        assert!(matches!(ended(&free, &id).await, JobState::Dead(_)), "{right}");
        drain.drain();
        let report = running.await.unwrap().unwrap();
        assert_eq!((report.dead, report.lost, free.stats().await.unwrap().dead), (1, 0, 1), "{right}");
    }
}

#[tokio::test]
async fn a_worker_that_may_take_no_jobs_any_more_tells_it_and_goes_on() {
    for right in ["xreadgroup", "zrangebyscore"] {
        let server = Server::start(&[]).await;
        let queue = without(&server, "select").await;
        let work = worker(&queue).hold(HOLD);
        let drain = work.drain();
        let running = tokio::spawn(work.run(|job: Job<String>| async move { Ok(job.payload) }));
        let first = queue.enqueue(often("first")).await.unwrap().id;
        assert_eq!(ended(&queue, &first).await, done("first"));
        assert_eq!(queue.refusals().count, 0);
        server.command(&["ACL", "SETUSER", "clerk", &format!("-{right}")]).await;
        let second = queue.enqueue(often("second")).await.unwrap().id;
        until("it is told, and again", || async { queue.refusals().count > 1 }).await;
        let code = queue.refusals().last.and_then(|error| error.code().map(str::to_owned)).unwrap();
        assert!(["NOPERM", "ERR"].contains(&&*code), "{code}");
        server.command(&["ACL", "SETUSER", "clerk", &format!("+{right}")]).await;
        assert_eq!(ended(&queue, &second).await, done("second"));
        drain.drain();
        let report = running.await.unwrap().unwrap();
        assert_eq!((report.done, report.lost, report.refused), (2, 0, queue.refusals().count), "{right}");
    }
}

#[tokio::test]
async fn a_worker_that_may_not_keep_hold_of_its_jobs_tells_it() {
    let server = Server::start(&[]).await;
    let queue = without(&server, "xclaim").await;
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = Arc::clone(&go);
    let work = worker(&queue).concurrency(1).hold(HOLD);
    let drain = work.drain();
    let running = tokio::spawn(work.run(move |job: Job<String>| {
        let gate = Arc::clone(&gate);
        async move {
            let _open = gate.acquire().await.unwrap();
            Ok(job.payload)
        }
    }));
    let id = queue.enqueue(often("long")).await.unwrap().id;
    until("it is told, and again", || async { queue.refusals().count > 1 }).await;
    go.add_permits(1);
    assert_eq!(ended(&queue, &id).await, done("long"));
    drain.drain();
    let report = running.await.unwrap().unwrap();
    assert_eq!((report.done, report.refused), (1, queue.refusals().count));
}
