//! Admission: limits, order, hand-over, and what a dropped call leaves behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sluicegate::schedule::{Admission, AdmissionGate, Job, Outcome, Permit, ScheduleLayer, Scheduler};
use sluicegate::testing::Scripted;
use sluicegate::types::{ChatRequest, Priority};
use sluicegate::{Env, Error, ErrorKind, Layer, LlmClient, Result};

mod adaptive;
mod calls;
mod cancelled;
mod control;
mod held;
mod limits;
mod order;
mod overload;
mod refusals;
mod untimed;

const SECOND: Duration = Duration::from_secs(1);

fn gate(admission: Admission) -> AdmissionGate {
    admission.start(&Env::new()).unwrap()
}

fn wrap(client: &Arc<Scripted>, gate: &AdmissionGate) -> Arc<dyn LlmClient> {
    let inner: Arc<dyn LlmClient> = client.clone();
    ScheduleLayer::from(gate.clone()).wrap(inner, &Env::new()).unwrap()
}

fn request() -> ChatRequest {
    ChatRequest::new("m").user("hello").max_tokens(10)
}

fn now() -> Instant {
    Env::new().now()
}

async fn sleep(wait: Duration) {
    Env::new().sleep(wait).await;
}

/// What the task answers; a lost wake-up fails the test instead of hanging it.
async fn soon<T>(task: tokio::task::JoinHandle<T>) -> T {
    tokio::select! {
        answer = task => answer.unwrap(),
        () = sleep(1_000_000 * SECOND) => panic!("a task hangs"),
    }
}

/// Lets every task that can run do so, without moving time.
async fn settle_down() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Asks in a task of its own, and notes the name once it is admitted; the permit is the task's answer.
fn ask(
    gate: &AdmissionGate,
    order: &Arc<Mutex<Vec<u32>>>,
    name: u32,
    priority: Priority,
) -> tokio::task::JoinHandle<Result<Permit>> {
    let (gate, order) = (gate.clone(), Arc::clone(order));
    tokio::spawn(async move {
        let permit = gate.admit(&Job::new("m").tokens(1, 0).priority(priority)).await?;
        order.lock().push(name);
        Ok(permit)
    })
}
