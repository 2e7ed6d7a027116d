//! Replays the load against a client and measures what its callers see.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use sluicegate::types::{ChatRequest, Source, StreamEvent};
use sluicegate::{Error, LlmClient, OptimizedClient, Retryability};

use super::load::Arrival;

/// One side of the comparison, as `--json` prints it.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Side {
    pub(crate) wall_s: f64,
    pub(crate) calls: u64,
    pub(crate) upstream_calls: u64,
    pub(crate) errors: u64,
    pub(crate) http_429: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) first_chunk_p50_ms: f64,
    pub(crate) input_tokens: u64,
    pub(crate) cached_input_tokens: u64,
    pub(crate) output_tokens: u64,
    /// `null` when the model's price is unknown.
    pub(crate) cost_usd: Option<f64>,
    pub(crate) hits: u64,
    pub(crate) coalesced: u64,
}

impl Side {
    /// Calls answered per second.
    pub(crate) fn throughput(&self) -> f64 {
        (self.calls - self.errors) as f64 / self.wall_s
    }
}

/// What one caller saw.
struct Seen {
    latency: Duration,
    first_chunk: Option<Duration>,
    outcome: Result<Source, Error>,
}

/// How often a caller of the plain client tries before it gives up.
const PATIENCE: u32 = 60;

/// Plays the load; `patient` callers try again by themselves, as official SDKs do, because their client does not.
pub(crate) async fn replay(name: &str, client: &OptimizedClient, load: &[Arrival], patient: bool) -> Side {
    let bar = ProgressBar::new(load.len() as u64);
    let style = ProgressStyle::with_template("{msg:10} [{bar:40}] {pos}/{len} {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar.set_message(name.to_owned());
    let started = Instant::now();
    let callers: Vec<_> = load
        .iter()
        .cloned()
        .enumerate()
        .map(|(number, arrival)| {
            let (client, bar) = (client.clone(), bar.clone());
            tokio::spawn(async move {
                tokio::time::sleep_until((started + arrival.at).into()).await;
                let seen = call(&client, &arrival, if patient { PATIENCE } else { 1 }, number as u64).await;
                bar.inc(1);
                seen
            })
        })
        .collect();
    let mut seen = Vec::new();
    for caller in callers {
        match caller.await {
            Ok(one) => seen.push(one),
            Err(error) => bar.println(format!("a caller died: {error}")),
        }
    }
    bar.finish();
    if let Some(error) = seen.iter().find_map(|one| one.outcome.as_ref().err()) {
        bar.println(format!("first error that reached a caller: {error}"));
    }
    summarize(client, &seen, started.elapsed(), load.len() as u64)
}

async fn call(client: &OptimizedClient, arrival: &Arrival, attempts: u32, seed: u64) -> Seen {
    let started = Instant::now();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut first_chunk = None;
    let mut attempt = 1;
    let outcome = loop {
        let request = arrival.request.clone();
        let answer = if arrival.stream {
            stream(client, request, started, &mut first_chunk).await
        } else {
            client.chat(request).await.map(|answer| answer.trace().source)
        };
        match answer {
            Err(error) if attempt < attempts && matches!(error.retryability(), Retryability::After(_)) => {
                // The provider's hint and the SDKs' back-off: half a second doubling to eight, jittered.
                let backoff = Duration::from_millis(500) * 2_u32.pow(attempt.min(5) - 1);
                let jitter = backoff.min(Duration::from_secs(8)).mul_f64(random.f64());
                tokio::time::sleep(error.retry_after().unwrap_or_default() + jitter).await;
                attempt += 1;
            }
            other => break other,
        }
    };
    Seen { latency: started.elapsed(), first_chunk, outcome }
}

async fn stream(
    client: &OptimizedClient,
    request: ChatRequest,
    started: Instant,
    first_chunk: &mut Option<Duration>,
) -> Result<Source, Error> {
    let mut stream = client.chat_stream(request).await?;
    while let Some(event) = stream.next().await {
        match event? {
            StreamEvent::Chunk(chunk) => {
                if first_chunk.is_none() && chunk.has_content() {
                    *first_chunk = Some(started.elapsed());
                }
            }
            StreamEvent::Finish(finish) => return Ok(finish.trace.source),
        }
    }
    Ok(Source::Upstream)
}

fn summarize(client: &OptimizedClient, seen: &[Seen], wall: Duration, calls: u64) -> Side {
    let report = client.report();
    let percentile = |mut values: Vec<Duration>, percent: usize| {
        values.sort_unstable();
        let rank = (values.len() * percent).div_ceil(100).max(1) - 1;
        values.get(rank).map_or(0.0, |value| value.as_secs_f64() * 1e3)
    };
    let latencies = || seen.iter().filter(|one| one.outcome.is_ok()).map(|one| one.latency).collect::<Vec<_>>();
    let answered =
        |wanted: fn(&Source) -> bool| seen.iter().filter(|one| one.outcome.as_ref().is_ok_and(wanted)).count() as u64;
    Side {
        wall_s: wall.as_secs_f64(),
        calls,
        upstream_calls: report.attempts,
        errors: calls - answered(|_| true),
        http_429: report.rate_limited,
        p50_ms: percentile(latencies(), 50),
        p95_ms: percentile(latencies(), 95),
        p99_ms: percentile(latencies(), 99),
        first_chunk_p50_ms: percentile(seen.iter().filter_map(|one| one.first_chunk).collect(), 50),
        input_tokens: report.input_tokens,
        cached_input_tokens: report.cached_input_tokens,
        output_tokens: report.output_tokens,
        cost_usd: (report.unpriced_attempts == 0).then(|| report.cost.dollars()),
        hits: answered(|source| matches!(source, Source::Cache(_))),
        coalesced: answered(|source| *source == Source::Coalesced),
    }
}

/// The plain client: nothing but the counting of what goes upstream.
pub(crate) fn plain(client: Arc<dyn LlmClient>) -> sluicegate::Result<OptimizedClient> {
    OptimizedClient::builder(client).build()
}
