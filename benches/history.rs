//! What it costs to keep a conversation within its budget: cold, warm, and one turn more of a long one; and, where they
//! are installed, what the same costs LangChain and LiteLLM.
//!
//! ```sh
//! pip install -r benches/peers/history-requirements.txt   # for the peers, if wanted
//! cargo bench --bench history                              # SLUICEGATE_PEERS_PYTHON=/path/to/python chooses theirs
//! ```

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::disallowed_methods)]

#[path = "history/peers.rs"]
mod peers;
#[path = "history/talk.rs"]
mod talk;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sluicegate::history::{
    Conversation, HistoryLayer, HistoryPolicy, LastTurns, Normalize, PolicyChain, Repair, StableWindow, TokenBudget,
    Window,
};
use sluicegate::tokens::{Tiktoken, TokenCounter};
use sluicegate::types::{ChatRequest, ChatResponse, ChatStream, EmbedRequest, EmbedResponse, Messages};
use sluicegate::{ClientInfo, Env, Layer, LlmClient, OptimizedClient, Result};

use talk::Talk;

const MODEL: &str = "gpt-5-mini";
const BUDGET: u64 = 8_000;

/// The policies to measure, each of which keeps 8,000 tokens: a new one is added here.
fn policies() -> Vec<(&'static str, Arc<dyn HistoryPolicy>)> {
    vec![
        ("window", Arc::new(Window::tokens(BUDGET))),
        ("prefix-stable", Arc::new(StableWindow::tokens(BUDGET))),
        ("prefix-stable at 10 %", Arc::new(StableWindow::tokens(BUDGET).cached_price(0.1))),
        ("last turns, window", Arc::new(PolicyChain::new().then(LastTurns::new(100)).then(Window::tokens(BUDGET)))),
    ]
}

/// The steps before a policy: a new one is added here.
fn steps() -> Vec<(&'static str, HistoryLayer)> {
    vec![
        ("normalise, safe", Normalize::safe().into()),
        ("normalise, aggressive", Normalize::aggressive().into()),
        ("repair", Repair::fix().into()),
    ]
}

/// A client that answers at once, with an answer that was made before.
#[derive(Debug)]
struct Instantly(ClientInfo, ChatResponse);

#[async_trait]
impl LlmClient for Instantly {
    fn info(&self) -> &ClientInfo {
        &self.0
    }

    async fn chat(&self, _: ChatRequest) -> Result<ChatResponse> {
        Ok(self.1.clone())
    }

    async fn chat_stream(&self, _: ChatRequest) -> Result<ChatStream> {
        Ok(ChatStream::from_response(&self.1))
    }

    async fn embed(&self, _: EmbedRequest) -> Result<EmbedResponse> {
        Ok(EmbedResponse::default())
    }
}

fn instantly() -> Instantly {
    Instantly(ClientInfo::new("bench"), ChatResponse::from_text("It is as you say."))
}

/// The median of so many runs, and the 90th percentile, in microseconds.
#[derive(Clone, Copy)]
struct Took {
    median: f64,
    p90: f64,
}

impl Took {
    fn of(mut runs: Vec<Duration>) -> Self {
        runs.sort_unstable();
        let at = |percent: usize| runs[runs.len() * percent / 100].as_secs_f64() * 1e6;
        Self { median: at(50), p90: at(90) }
    }
}

fn row(what: &str, took: Took, target: &str) {
    println!("{what:<70} {:>9.1} {:>9.1}   {target}", took.median, took.p90);
}

fn counter() -> Tiktoken {
    let counter = Tiktoken::new();
    counter.warm_up(MODEL);
    counter
}

/// A history trimmed for the first time and again, by each policy.
async fn trims(request: &ChatRequest, runs: usize) -> Took {
    let mut window = None;
    for (name, policy) in policies() {
        let mut cold = Vec::new();
        let mut kept = 0;
        for _ in 0..runs / 10 {
            let counter = counter();
            let budget = TokenBudget::new(request, &counter);
            let messages = request.messages.clone();
            let started = Instant::now();
            let fit = black_box(policy.fit(messages, &budget).await.unwrap());
            cold.push(started.elapsed());
            kept = fit.messages.len();
        }
        let counter = counter();
        let budget = TokenBudget::new(request, &counter);
        let mut warm = Vec::new();
        for _ in 0..runs {
            let messages = request.messages.clone();
            let started = Instant::now();
            black_box(policy.fit(messages, &budget).await.unwrap());
            warm.push(started.elapsed());
        }
        let (cold, warm) = (Took::of(cold), Took::of(warm));
        row(&format!("{name}: cold, to {kept} messages"), cold, "under 1,200");
        row(&format!("{name}: warm"), warm, "under 10");
        window.get_or_insert(cold);
    }
    window.unwrap()
}

/// What else is done to a history on its way, and the shortest way there is: a prompt that fits.
async fn on_the_way(request: &ChatRequest, runs: usize) {
    for (name, layer) in steps() {
        let client = layer.wrap(Arc::new(instantly()), &Env::new()).unwrap();
        client.chat(request.clone()).await.unwrap();
        let mut took = Vec::new();
        for _ in 0..runs {
            let request = request.clone();
            let started = Instant::now();
            black_box(client.chat(request).await.unwrap());
            took.push(started.elapsed());
        }
        row(&format!("{name}, in form already"), Took::of(took), "");
    }
}

/// One turn more of a long conversation through a client with nothing but the policy: the question is added, the request
/// made, fitted and sent, the answer added.
async fn turns(talk: &mut Talk, length: usize, words: usize, runs: usize, new: bool) {
    for (name, policy) in policies() {
        let client = OptimizedClient::builder(instantly()).history(policy).build().unwrap();
        let mut conversation = Conversation::new(ChatRequest::new(MODEL).messages(talk.messages(length)));
        // The first request sees it all; from then on it is a turn more.
        conversation.user("Shall we go on?");
        let answer = client.chat(conversation.request()).await.unwrap();
        conversation.answered(&answer);
        let mut took = Vec::new();
        let same = talk.words(words);
        for _ in 0..runs {
            let question = if new { talk.words(words) } else { same.clone() };
            // Each time the same conversation, or its messages would in the end be those of this loop.
            let mut conversation = conversation.clone();
            let started = Instant::now();
            conversation.user(question);
            let answer = client.chat(conversation.request()).await.unwrap();
            conversation.answered(&answer);
            took.push(started.elapsed());
        }
        let what = if new { "new" } else { "counted before" };
        let title = format!("{name}: a turn more after {length} messages, {words} words {what}");
        row(&title, Took::of(took), "under 20");
    }
}

/// The same turn when the whole history is sent each time, for comparison.
async fn whole(talk: &mut Talk, length: usize, runs: usize) {
    for (name, policy) in policies() {
        let client = OptimizedClient::builder(instantly()).history(policy).build().unwrap();
        let mut messages: Messages = talk.messages(length).into();
        let mut took = Vec::new();
        for _ in 0..runs {
            let question = talk.words(15);
            let started = Instant::now();
            messages.push(sluicegate::types::Message::user(question));
            let answer = client.chat(ChatRequest::new(MODEL).messages(messages.clone())).await.unwrap();
            messages.push(answer.message());
            took.push(started.elapsed());
        }
        row(&format!("{name}: the same, all {length} messages sent each time"), Took::of(took), "");
    }
}

fn main() {
    // `cargo test` runs benches too, in test mode: a few rounds then, to see that they run.
    let measured = std::env::args().any(|arg| arg == "--bench");
    let runs = if measured { 2_000 } else { 10 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut talk = Talk::new(7);
    let request = ChatRequest::new(MODEL).messages(talk.messages(200));
    let tokens = counter().request(&request);
    println!("{} messages, {tokens} tokens, to {BUDGET}", request.messages.len());
    println!("{:<70} {:>9} {:>9}   target, us", "", "median us", "p90 us");
    let ours = runtime.block_on(async {
        let ours = trims(&request, runs).await;
        on_the_way(&request, runs).await;
        turns(&mut talk, 2_000, 15, runs, true).await;
        turns(&mut talk, 2_000, 120, runs, true).await;
        turns(&mut talk, 2_000, 120, runs, false).await;
        whole(&mut talk, 2_000, runs / 4).await;
        ours
    });
    if measured {
        println!();
        peers::run(&request, BUDGET, ours.median);
    }
}
