//! Durable jobs against a real `redis-server`, with real time.
//!
//! No test sleeps for luck: it polls for what must come to pass, with a deadline that only a hang reaches.

mod dead;
mod killed;
mod outages;
mod queue;
mod refused;
mod room;
mod taken_over;

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sluicegate::batch::{JobId, JobQueue, JobQueueBuilder, JobRetry, JobState, Worker};
use sluicegate::redis::RedisServer;
use sluicegate::{Error, ErrorKind};

use crate::redis::wait::HANG;

/// How long a worker keeps what it does not touch: short, so that tests of dead workers are.
const HOLD: Duration = Duration::from_millis(300);

/// A queue that waits as long as a machine under load may need.
fn settings(url: String) -> JobQueueBuilder {
    JobQueue::at(RedisServer::at(url).connect_timeout(HANG / 2)).name("tests").timeout(HANG / 2)
}

fn queue<T, O>(url: String) -> JobQueue<T, O>
where
    T: Serialize + DeserializeOwned + Send + 'static,
    O: Serialize + DeserializeOwned + Send + 'static,
{
    settings(url).build().unwrap()
}

fn soon() -> JobRetry {
    JobRetry::standard().base(Duration::from_millis(20)).cap(Duration::from_millis(50))
}

fn worker(queue: &JobQueue<String, String>) -> Worker<String, String> {
    queue.worker().retry(soon())
}

fn failed(kind: ErrorKind) -> Error {
    Error::new(kind, "tests", "as the test wants it")
}

async fn ended(queue: &JobQueue<String, String>, id: &JobId) -> JobState<String> {
    queue.wait(id, HANG).await.unwrap()
}

fn done(text: &str) -> JobState<String> {
    JobState::Done(text.to_owned())
}
