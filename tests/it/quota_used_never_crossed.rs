//! The provider's limits are used to the last percent and never crossed: alone, and as four processes.

#[cfg(feature = "redis")]
mod corrected;
#[cfg(feature = "redis")]
mod processes;

use std::sync::Arc;
use std::time::Duration;

use sluicegate::providers::{OpenAi, Simulated};
use sluicegate::schedule::{Admission, OutputCount, ScheduleLayer};
use sluicegate::types::ChatRequest;
use sluicegate::{Env, ErrorKind, Layer, LlmClient};

use crate::simulated::simulated_server::SimulatedServer;

const RPM: u32 = 600;
const TPM: u32 = 90_000;
const MINUTE: Duration = Duration::from_secs(60);

/// A backlog's call: short or long, streamed or not, with and without a limit of its own.
fn request(number: usize, short: bool) -> (ChatRequest, bool) {
    let words = if short { 4 } else { [4, 40, 160, 400][number % 4] };
    let request =
        ChatRequest::new("gpt-5-mini").user(format!("Question {number}: {}", "why is it so ".repeat(words / 4)));
    let request = match number % 5 {
        _ if short => request.max_tokens(30),
        0 => request.max_tokens(50),
        1 => request.max_tokens(1_000),
        2 => request.max_tokens(200),
        _ => request,
    };
    (request, number.is_multiple_of(3))
}

async fn call(llm: &dyn LlmClient, (request, streamed): (ChatRequest, bool)) -> sluicegate::Result<()> {
    if streamed {
        llm.chat_stream(request).await?.collect().await?;
    } else {
        llm.chat(request).await?;
    }
    Ok(())
}

fn provider() -> Simulated {
    Simulated::builder().rpm(RPM).tpm(TPM).build().unwrap()
}

/// For a provider that reserves `max_tokens`, of a bucket that holds six seconds' worth. The burst is below that, and above
/// what the largest call reserves: a bucket that must be full for a call to start has no room for what the calls before it
/// give back.
fn careful(admission: Admission) -> Admission {
    admission.count_output(OutputCount::Limit).burst(Duration::from_secs(4))
}

fn wrap(client: impl LlmClient, admission: Admission) -> Arc<dyn LlmClient> {
    let admission = careful(admission);
    ScheduleLayer::from(admission).wrap(Arc::new(client), &Env::new()).unwrap()
}

/// The larger share of both limits that this many requests and tokens are in this time.
fn share(requests: u64, tokens: u64, time: Duration) -> f64 {
    let minutes = time.as_secs_f64() / 60.0;
    (requests as f64 / f64::from(RPM)).max(tokens as f64 / f64::from(TPM)) / minutes
}

#[tokio::test(start_paused = true)]
async fn alone() {
    for (short, calls) in [(false, 2_500), (true, 5_000)] {
        let (provider, env) = (provider(), Env::new());
        let llm = wrap(provider.clone(), Admission::new().rpm(RPM).tpm(TPM));
        let started = env.now();
        let tasks: Vec<_> = (0..calls)
            .map(|number| {
                let llm = Arc::clone(&llm);
                tokio::spawn(async move { call(&*llm, request(number, short)).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        let (stats, took) = (provider.stats(), env.now() - started);
        assert_eq!((stats.rejected_429, stats.accepted), (0, calls as u64));
        let used = share(stats.accepted, stats.input_tokens + stats.output_tokens, took);
        assert!(used >= 0.95, "{used:.3} of the quota in {took:?}");
    }
}

/// How much of it, and how many were refused, in some minutes, of a provider whose bucket holds a minute's worth.
async fn used_of_a_minutes_bucket(admission: Admission, most: u32) -> (f64, u64) {
    let provider = Simulated::builder().rpm(RPM).tpm(TPM).burst_seconds(60.0).output_tokens(10, 900).build().unwrap();
    let (env, admission) = (Env::new(), admission.rpm(RPM).tpm(TPM));
    let llm = ScheduleLayer::from(admission).wrap(Arc::new(provider.clone()), &env).unwrap();
    let tasks: Vec<_> = (0..1_500)
        .map(|number| {
            let (llm, (request, streamed)) = (Arc::clone(&llm), request(number, false));
            tokio::spawn(async move { call(&*llm, (request.max_tokens(most), streamed)).await })
        })
        .collect();
    env.sleep(6 * MINUTE).await;
    let stats = provider.stats();
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    (share(stats.accepted, stats.input_tokens + stats.output_tokens, 6 * MINUTE), stats.rejected_429)
}

#[tokio::test(start_paused = true)]
async fn with_default_settings_too() {
    for most in [1_000, 2_000] {
        let (used, refused) = used_of_a_minutes_bucket(Admission::new(), most).await;
        assert!(used >= 0.95 && refused == 0, "{used:.3} of the quota, {refused} refused");
    }
}

#[tokio::test(start_paused = true)]
async fn with_large_reservations_and_a_burst_for_them() {
    let admission = Admission::new().count_output(OutputCount::Limit).burst(MINUTE / 2);
    let (used, refused) = used_of_a_minutes_bucket(admission, 2_000).await;
    assert!(used >= 0.95 && refused == 0, "{used:.3} of the quota, {refused} refused");
}

#[tokio::test(start_paused = true)]
async fn wrong_limits_are_corrected_within_a_minute() {
    for short in [false, true] {
        for (rpm, tpm) in [(2 * RPM, 2 * TPM), (RPM / 2, TPM / 2)] {
            let (provider, env) = (provider(), Env::new());
            let llm = wrap(provider.clone(), Admission::new().rpm(rpm).tpm(tpm));
            let tasks: Vec<_> = (0..5_000)
                .map(|number| {
                    let llm = Arc::clone(&llm);
                    tokio::spawn(async move {
                        while let Err(error) = call(&*llm, request(number, short)).await {
                            assert_eq!(error.kind(), ErrorKind::RateLimited);
                        }
                    })
                })
                .collect();
            env.sleep(MINUTE).await;
            let first = provider.stats();
            env.sleep(5 * MINUTE).await;
            let stats = provider.stats();
            tasks.iter().for_each(tokio::task::JoinHandle::abort);
            assert_eq!(stats.rejected_429, first.rejected_429, "none after the first minute, {rpm} rpm, {tpm} tpm");
            let tokens =
                |stats: &sluicegate::providers::simulated::SimulatedStats| stats.input_tokens + stats.output_tokens;
            let used = share(stats.accepted - first.accepted, tokens(&stats) - tokens(&first), 5 * MINUTE);
            assert!((0.95..1.01).contains(&used), "{used:.3} of the quota with {rpm} rpm, {tpm} tpm");
        }
    }
}

#[tokio::test]
async fn over_real_http_too() {
    // A tenfold provider in real time: a few seconds' worth.
    let (rpm, tpm) = (10 * RPM, 20 * TPM);
    for (configured, first) in [(1, false), (2, true)] {
        let builder = Simulated::builder().rpm(rpm).tpm(tpm).first_chunk(Duration::from_millis(30), 0.3);
        let provider = builder.tokens_per_second(2_000.0).build().unwrap();
        let server = SimulatedServer::start(provider.clone()).await.unwrap();
        let client = OpenAi::builder(&server.base_url()).build().unwrap();
        let llm = wrap(client, Admission::new().rpm(configured * rpm).tpm(configured * tpm));
        if first {
            // One answer's headers put a wrong limit right.
            call(&*llm, request(0, false)).await.unwrap();
        }
        let tasks: Vec<_> = (0..300)
            .map(|number| {
                let llm = Arc::clone(&llm);
                tokio::spawn(async move { call(&*llm, request(number, false)).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(provider.stats().rejected_429, 0);
        server.stop().await;
    }
}
