//! What admission costs: alone against a semaphore, and with a queue of up to 100,000.
//!
//! `cargo bench --bench schedule` prints the tables of times; `cargo bench --bench waiters` what a waiter takes in memory,
//! which an allocator of its own counts.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

use std::future::Future;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use governor::{Quota, RateLimiter};
use sluicegate::Env;
use sluicegate::schedule::{Admission, AdmissionGate, Job, Outcome, Permit, Scheduler};
use sluicegate::types::Usage;
use tokio::sync::Semaphore;

const CALLS: u32 = 20_000;

type Ask<'a> = Pin<Box<dyn Future<Output = sluicegate::Result<Permit>> + Send + 'a>>;

fn each(total: Duration, times: usize) -> f64 {
    total.as_nanos() as f64 / times as f64
}

/// The best of fifty: what it costs when nothing else runs.
async fn best<F: Future<Output = ()>>(mut run: impl FnMut() -> F) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..50 {
        let started = Instant::now();
        run().await;
        best = best.min(each(started.elapsed(), CALLS as usize));
    }
    best
}

async fn alone() {
    let semaphore = Arc::new(Semaphore::new(32));
    let floor = best(|| async {
        for _ in 0..CALLS {
            drop(black_box(Arc::clone(&semaphore).acquire_owned().await.unwrap()));
        }
    })
    .await;
    let governor = RateLimiter::direct(Quota::per_minute(NonZeroU32::MAX));
    let rated = best(|| async {
        for _ in 0..CALLS {
            black_box(governor.check()).unwrap();
            drop(black_box(Arc::clone(&semaphore).acquire_owned().await.unwrap()));
        }
    })
    .await;
    println!("\nnanoseconds to admit and settle one call, alone");
    println!("{:<52}{floor:>8.0}", "tokio semaphore, acquire_owned and drop");
    println!("{:<52}{rated:>8.0}", "the same behind a governor of requests");
    let row = async |name: &str, admission: Admission, job: Job<'_>, usage: Option<Usage>| {
        let gate = admission.start(&Env::new()).unwrap();
        let time = best(|| async {
            for _ in 0..CALLS {
                // As `ScheduleLayer` asks.
                let permit = match gate.try_admit(&job).unwrap() {
                    Some(permit) => permit,
                    None => gate.admit(&job).await.unwrap(),
                };
                black_box(permit).settle(Outcome::answered(usage.as_ref(), Duration::ZERO));
            }
        })
        .await;
        println!("{name:<52}{time:>8.0}{:>7.1}x", time / floor);
    };
    let (job, places) = (Job::new("m").tokens(100, 50), Admission::new().concurrency(32));
    let rates = places.clone().rpm(u32::MAX).tpm(u32::MAX);
    row("concurrency", places.clone(), job, None).await;
    row("concurrency, a tenant", places, job.tenant(Some("acme")), None).await;
    row("concurrency, rpm, tpm", rates.clone(), job, None).await;
    row("the same, fewer tokens used than estimated", rates.clone(), job, Some(Usage::new(90, 10))).await;
    row("the same, more", rates, job, Some(Usage::new(110, 60))).await;
}

fn enter<'a>(gate: &'a AdmissionGate, job: &'a Job<'a>) -> Ask<'a> {
    let mut ask = gate.admit(job);
    assert!(ask.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    ask
}

fn queue(waiters: usize, tenants: usize) {
    let names: Vec<_> = (0..tenants).map(|number| format!("tenant {number}")).collect();
    let jobs: Vec<_> = names.iter().map(|name| Job::new("gpt-5-mini").tokens(100, 50).tenant(Some(name))).collect();
    let gate = Admission::new().concurrency(1).queue(waiters + 1).start(&Env::new()).unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let mut running = futures_util::FutureExt::now_or_never(gate.admit(&jobs[0])).unwrap().unwrap();
    let mut asks: Vec<Ask<'_>> = Vec::with_capacity(waiters);
    asks.extend((0..waiters).map(|number| enter(&gate, &jobs[number % tenants])));

    let turns = waiters.min(1_000);
    // In pairs, so that the queue keeps its length.
    let (mut entering, mut leaving) = (Duration::ZERO, Duration::ZERO);
    for turn in 0..turns {
        let middle = asks.swap_remove((turn * 7_919) % asks.len());
        let started = Instant::now();
        drop(middle);
        leaving += started.elapsed();
        let started = Instant::now();
        let ask = enter(&gate, &jobs[turn % tenants]);
        entering += started.elapsed();
        asks.push(ask);
    }
    let mut handing = Duration::ZERO;
    for _ in 0..turns.min(200) {
        let started = Instant::now();
        running.settle(Outcome::answered(None, Duration::ZERO));
        handing += started.elapsed();
        let ready = asks.iter_mut().enumerate().find_map(|(at, ask)| match ask.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(permit) => Some((at, permit.unwrap())),
            std::task::Poll::Pending => None,
        });
        let (at, permit) = ready.unwrap();
        drop(asks.swap_remove(at));
        running = permit;
    }
    println!(
        "{waiters:>8}{tenants:>9}{:>9.0}{:>9.0}{:>11.0}",
        each(entering, turns),
        each(leaving, turns),
        each(handing, turns.min(200))
    );
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // `cargo test` runs benches too, in test mode: nothing is measured then.
    if std::env::args().any(|arg| arg == "--bench") {
        alone().await;
        println!("\nnanoseconds to enter a queue so long, to leave it and to hand a place over");
        println!("{:>8}{:>9}{:>9}{:>9}{:>11}", "waiters", "tenants", "enter", "leave", "hand over");
        for waiters in [1_000, 10_000, 100_000] {
            for tenants in [1, 100, waiters] {
                queue(waiters, tenants);
            }
        }
    }
}
