//! What a call that waits for admission takes in memory.
//!
//! `cargo bench --bench waiters` prints the table. The allocator counts what was asked of it: what the gate keeps, and the
//! boxed future of `admit`.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::alloc::System;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};

use cap::Cap;
use sluicegate::Env;
use sluicegate::schedule::{Admission, AdmissionGate, Job, Permit, Scheduler};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

type Ask<'a> = Pin<Box<dyn Future<Output = sluicegate::Result<Permit>> + Send + 'a>>;

fn enter<'a>(gate: &'a AdmissionGate, job: &'a Job<'a>) -> Ask<'a> {
    let mut ask = gate.admit(job);
    assert!(ask.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    ask
}

/// Bytes of each of so many waiters, of so many tenants.
fn bytes(waiters: usize, tenants: usize) -> usize {
    let names: Vec<_> = (0..tenants).map(|number| format!("tenant {number}")).collect();
    let jobs: Vec<_> = names.iter().map(|name| Job::new("gpt-5-mini").tokens(100, 50).tenant(Some(name))).collect();
    let gate = Admission::new().concurrency(1).queue(waiters + 1).start(&Env::new()).unwrap();
    let _running = futures_util::FutureExt::now_or_never(gate.admit(&jobs[0])).unwrap().unwrap();
    let mut asks: Vec<Ask<'_>> = Vec::with_capacity(waiters);
    let before = ALLOCATOR.allocated();
    asks.extend((0..waiters).map(|number| enter(&gate, &jobs[number % tenants])));
    (ALLOCATOR.allocated() - before) / waiters
}

fn main() {
    // `cargo test` runs benches too, in test mode: nothing is measured then.
    if std::env::args().any(|arg| arg == "--bench") {
        println!("\nbytes of a waiter, its future included");
        println!("{:>8}{:>14}{:>14}{:>18}", "waiters", "one tenant", "100 tenants", "a tenant of each");
        for waiters in [1_000, 10_000, 100_000] {
            let [one, some, each] = [1, 100, waiters].map(|tenants| bytes(waiters, tenants));
            println!("{waiters:>8}{one:>14}{some:>14}{each:>18}");
        }
    }
}
