//! A load of the shape of production chat traffic, played against a server with so many places.
//!
//! The shape is that of the conversation part of the Azure LLM inference trace 2023: the quantiles of its lengths, and a
//! rate that wanders so that minutes differ as its minutes do (variance 16 times the mean of 333 calls a minute).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sluicegate::env::{Random, SeededRandom};
use sluicegate::types::{ChatRequest, ChatResponse, ChatStream, EmbedRequest, EmbedResponse, Priority, Tenant};
use sluicegate::{Admission, ClientInfo, Env, LlmClient, OptimizedClient, Result};

/// One call: when it comes, and what it takes of the server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) at: Duration,
    pub(crate) input: u32,
    pub(crate) output: u32,
    pub(crate) priority: Priority,
}

/// How the calls of one class fared.
#[derive(Debug, Clone, Default)]
pub(crate) struct Class {
    /// Seconds from arrival to answer, of those that were answered.
    pub(crate) latencies: Vec<f64>,
    /// Seconds the server alone would have taken, of all.
    pub(crate) alone: Vec<f64>,
    /// When answers came.
    pub(crate) answered_at: Vec<Duration>,
    pub(crate) refused: usize,
}

impl Class {
    pub(crate) fn p99(values: &[f64]) -> f64 {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values.get((values.len() * 99 / 100).min(values.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

/// What became of a load.
#[derive(Debug, Default)]
pub(crate) struct Played {
    pub(crate) low: Class,
    pub(crate) normal: Class,
    pub(crate) high: Class,
    /// The share of the server's places that were busy with calls that were answered, once it was busy at all.
    pub(crate) goodput: f64,
}

/// How long the server takes for a call: reading the prompt, then 20 ms a token.
pub(crate) fn service(input: u32, output: u32) -> Duration {
    Duration::from_micros(100_000 + u64::from(input) * 100 + u64::from(output) * 20_000)
}

const SHARES: [f64; 7] = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0];
const INPUT: [f64; 7] = [20.0, 181.0, 396.0, 1_020.0, 1_189.0, 4_083.0, 4_200.0];
const OUTPUT: [f64; 7] = [8.0, 41.0, 85.0, 129.0, 395.0, 451.0, 750.0];

fn quantile(table: &[f64; 7], share: f64) -> u32 {
    let upper = SHARES.iter().position(|known| *known >= share).unwrap_or(6).max(1);
    let within = (share - SHARES[upper - 1]) / (SHARES[upper] - SHARES[upper - 1]);
    (table[upper - 1] + (table[upper] - table[upper - 1]) * within).round() as u32
}

/// A fifth is urgent, three tenths can wait.
pub(crate) fn class(share: f64) -> Priority {
    match share {
        share if share < 0.2 => Priority::High,
        share if share < 0.7 => Priority::Normal,
        _ => Priority::Low,
    }
}

/// A load of this length that asks for so much of what a server with these places can do.
pub(crate) fn generate(seed: u64, places: usize, overload: f64, length: Duration) -> Vec<Arrival> {
    let random = SeededRandom::new(seed);
    let unit = || (random.next() >> 11) as f64 / (1_u64 << 53) as f64;
    let mean = {
        let calls = (0..10_000).map(|n| (f64::from(n) + 0.5) / 10_000.0);
        let (input, output) = calls.fold((0.0, 0.0), |(input, output), share| {
            (input + f64::from(quantile(&INPUT, share)), output + f64::from(quantile(&OUTPUT, share)))
        });
        service((input / 10_000.0) as u32, (output / 10_000.0) as u32).as_secs_f64()
    };
    let rate = overload * places as f64 / mean;
    let (mut arrivals, mut at, mut mood, mut moved) = (Vec::new(), 0.0, 0.0_f64, 0.0);
    while at < length.as_secs_f64() {
        // The rate wanders: a step every ten seconds, pulled back to its mean.
        while moved <= at {
            let gauss = (0..12).map(|_| unit()).sum::<f64>() - 6.0;
            mood = mood * 0.8 + gauss * 0.14;
            moved += 10.0;
        }
        at += -unit().max(1e-12).ln() / (rate * mood.exp());
        arrivals.push(Arrival {
            at: Duration::from_secs_f64(at),
            input: quantile(&INPUT, unit()),
            output: quantile(&OUTPUT, unit()),
            priority: class(unit()),
        });
    }
    arrivals
}

/// Answers after as long as such a call takes.
#[derive(Debug)]
struct Server(ClientInfo);

#[async_trait]
impl LlmClient for Server {
    fn info(&self) -> &ClientInfo {
        &self.0
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        let input: u32 = request.messages[0].text().parse().unwrap_or_default();
        tokio::time::sleep(service(input, request.output_limit().unwrap_or_default())).await;
        Ok(ChatResponse::from_text("done"))
    }

    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        Ok(ChatStream::from_response(&self.chat(request).await?))
    }

    async fn embed(&self, _: EmbedRequest) -> Result<EmbedResponse> {
        Ok(EmbedResponse::default())
    }
}

/// Plays a load against a server with so many places, behind this admission. Time is Tokio's, which should be paused.
pub(crate) async fn play(arrivals: Vec<Arrival>, places: usize, admission: Admission) -> Played {
    let llm = OptimizedClient::builder(Server(ClientInfo::new("server")))
        .schedule(admission.concurrency(places))
        .build()
        .expect("the settings are right");
    let played = Arc::new(Mutex::new(Played::default()));
    let busy = Arc::new(Mutex::new(0.0));
    let env = Env::new();
    let start = env.now();
    let last = arrivals.last().map_or(Duration::ZERO, |arrival| arrival.at);
    let warm = last / 10;
    let mut tasks = Vec::new();
    for arrival in arrivals {
        env.sleep_until(start + arrival.at).await;
        let (llm, played, busy, env) = (llm.clone(), Arc::clone(&played), Arc::clone(&busy), env.clone());
        tasks.push(tokio::spawn(async move {
            let Arrival { at, input, output, priority } = arrival;
            let request = ChatRequest::new("m").user(input.to_string()).max_tokens(output).with(priority);
            let answer = llm.chat(request.with(Tenant(format!("{}", input % 7)))).await;
            let now = env.now().saturating_duration_since(start);
            let alone = service(input, output);
            // What of its time in the server lies in the time that is looked at.
            let (from, to) = (now.saturating_sub(alone).max(warm), now.min(last));
            let mut played = played.lock();
            let class = match priority {
                Priority::High => &mut played.high,
                Priority::Normal => &mut played.normal,
                Priority::Low => &mut played.low,
            };
            class.alone.push(alone.as_secs_f64());
            match answer {
                Ok(_) => {
                    *busy.lock() += to.saturating_sub(from).as_secs_f64();
                    class.latencies.push(now.saturating_sub(at).as_secs_f64());
                    class.answered_at.push(now);
                }
                Err(_) => class.refused += 1,
            }
        }));
    }
    for task in tasks {
        task.await.expect("no call panics");
    }
    let mut played = std::mem::take(&mut *played.lock());
    played.goodput = *busy.lock() / ((last - warm).as_secs_f64() * places as f64);
    played
}
