//! A long conversation, turn by turn: what each history policy keeps, drops and summarises, what the provider bills at
//! the cached rate, and what that costs.
//!
//! ```sh
//! cargo run --release --features summarize --example long_chat   # a line every turn
//! cargo run --release --features summarize --example long_chat -- --turns 200 --tokens 8000 --every 20
//! ```
//!
//! It talks to a simulated provider in this process that caches prompts as OpenAI documents it. Half a minute passes
//! between two turns, in a clock that does not make anybody wait; the same numbers come out each time.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]
#![allow(clippy::disallowed_methods, reason = "the customer lives in the time of the clock")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use sluicegate::history::{Conversation, HistoryPolicy, StableWindow, Summarize, Window};
use sluicegate::observe::Report;
use sluicegate::providers::Simulated;
use sluicegate::types::{ChatRequest, ChatResponse};
use sluicegate::{Env, OptimizedClient};

const HELP: &str = "\
--turns N   questions asked, default 60
--tokens N  what a prompt may take, default 6000
--every N   print each Nth turn, default 1";

const SYSTEM: &str = "You help the customers of a shop for bicycles. Be friendly and brief. Ask for the number of the \
                      order when you need it, and never promise a date.";

/// One way to keep the conversation within its budget.
struct Side {
    name: &'static str,
    policy: Arc<dyn HistoryPolicy>,
    /// The client that the policy itself asks, if it asks one: what that costs is part of the bill.
    asks: Option<OptimizedClient>,
}

/// The policies that are compared: a new one is added here.
fn sides(tokens: u64, provider: &Simulated) -> sluicegate::Result<Vec<Side>> {
    let writer = OptimizedClient::builder(provider.clone()).build()?;
    let summaries = Summarize::with(writer.clone(), "gpt-5-mini").tokens(tokens);
    Ok(vec![
        Side { name: "window", policy: Arc::new(Window::tokens(tokens)), asks: None },
        Side { name: "prefix-stable window", policy: Arc::new(StableWindow::tokens(tokens)), asks: None },
        Side { name: "summaries", policy: Arc::new(summaries), asks: Some(writer) },
    ])
}

struct Options {
    turns: u64,
    tokens: u64,
    every: u64,
}

fn options() -> Result<Option<Options>, Box<dyn Error>> {
    let mut options = Options { turns: 60, tokens: 6_000, every: 1 };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        if flag == "--help" {
            return Ok(None);
        }
        let place = match flag.as_str() {
            "--turns" => &mut options.turns,
            "--tokens" => &mut options.tokens,
            "--every" => &mut options.every,
            _ => return Err(format!("unknown flag {flag}; --help lists them").into()),
        };
        let value = arguments.next().ok_or_else(|| format!("{flag} needs a number"))?;
        *place = value.parse().map_err(|error| format!("{flag} {value}: {error}"))?;
        if *place == 0 {
            return Err(format!("{flag} 0: at least 1").into());
        }
    }
    Ok(Some(options))
}

/// A new provider for each side, so that none finds the prompts of another in its cache.
fn provider() -> sluicegate::Result<Simulated> {
    Simulated::builder().seed(7).output_tokens(60, 250).build()
}

/// What the customer says: 20 to 120 words.
fn question(random: &mut fastrand::Rng) -> String {
    const WORDS: [&str; 24] = [
        "the",
        "brake",
        "of",
        "my",
        "bicycle",
        "and",
        "a",
        "wheel",
        "that",
        "squeaks",
        "when",
        "it",
        "rains",
        "but",
        "not",
        "after",
        "I",
        "oiled",
        "chain",
        "which",
        "came",
        "with",
        "order",
        "yesterday",
    ];
    let count = random.usize(20..120);
    let words: Vec<_> = (0..count).map(|_| WORDS[random.usize(..WORDS.len())]).collect();
    words.join(" ") + "?"
}

async fn talk(number: usize, options: &Options) -> Result<Option<(&'static str, Report)>, Box<dyn Error>> {
    let provider = provider()?;
    let Some(side) = sides(options.tokens, &provider)?.into_iter().nth(number) else { return Ok(None) };
    let llm = OptimizedClient::builder(provider).history(side.policy).build()?;
    println!("\n== {} ==\n{}\n", side.name, llm.describe().trim_end());
    println!(
        "{:>4} {:>9} {:>7} {:>7} {:>8} {:>10} {:>9} {:>7} {:>12}",
        "turn", "messages", "prompt", "kept", "dropped", "summarised", "expected", "cached", "cost"
    );
    let mut random = fastrand::Rng::with_seed(11);
    let mut conversation = Conversation::new(ChatRequest::new("gpt-5-mini").system(SYSTEM));
    for turn in 1..=options.turns {
        conversation.user(question(&mut random));
        let answer = llm.chat(conversation.request()).await?;
        conversation.answered(&answer);
        if turn % options.every == 0 {
            line(turn, conversation.active_len(), &answer);
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    let mut report = llm.report();
    if let Some(asked) = &side.asks {
        println!("\nwhat the policy itself asked:\n{}", asked.report());
        let asked = asked.report();
        report.cost += asked.cost;
        report.input_tokens += asked.input_tokens;
        report.cached_input_tokens += asked.cached_input_tokens;
        report.output_tokens += asked.output_tokens;
        report.attempts += asked.attempts;
    }
    println!("\n{report}");
    llm.shutdown().await;
    Ok(Some((side.name, report)))
}

/// A turn: what was sent, what was done to it, and what the provider billed.
fn line(turn: u64, messages: usize, answer: &ChatResponse) {
    let history = answer.trace().history;
    let (prompt, cached) = answer.usage.as_ref().map_or((0, 0), |usage| (usage.prompt_tokens, usage.cached_tokens()));
    // A prompt that surely fits is not counted before it is sent.
    let kept = if history.kept_tokens == 0 { prompt } else { u64::from(history.kept_tokens) };
    let cost = answer.trace().cost.map_or_else(|| "unknown".to_owned(), |cost| cost.to_string());
    let (dropped, summarized) = (history.trimmed_tokens, history.summarized_tokens);
    let expected = history.expected_cached_tokens;
    println!(
        "{turn:>4} {messages:>9} {prompt:>7} {kept:>7} {dropped:>8} {summarized:>10} {expected:>9} {cached:>7} {cost:>12}"
    );
}

/// The sides beside each other, the first the measure of the others.
fn totals(reports: &[(&str, Report)]) {
    // What this model's tokens cost, as the client's own table has it.
    let Some(price) = Env::new().prices().get("gpt-5-mini").copied() else { return };
    let input = |report: &Report| {
        let cached = report.cached_input_tokens.min(report.input_tokens);
        ((report.input_tokens - cached) as f64 * price.input + cached as f64 * price.cached_input) / 1e6
    };
    println!(
        "\n{:<20} {:>8} {:>10} {:>10} {:>10} {:>12} {:>10} {:>12}",
        "", "calls", "input", "cached", "output", "input cost", "to first", "cost"
    );
    let first = reports.first().map_or(1.0, |(_, report)| input(report));
    for (name, report) in reports {
        let cached = 100.0 * report.cached_input_tokens as f64 / report.input_tokens.max(1) as f64;
        println!(
            "{name:<20} {:>8} {:>10} {:>10} {:>10} {:>12} {:>10} {:>12}",
            report.attempts,
            report.input_tokens,
            format!("{cached:.0} %"),
            report.output_tokens,
            format!("${:.4}", input(report)),
            format!("{:.0} %", 100.0 * input(report) / first),
            report.cost.to_string(),
        );
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    let Some(options) = options()? else {
        println!("{HELP}");
        return Ok(());
    };
    let mut reports = Vec::new();
    while let Some(report) = talk(reports.len(), &options).await? {
        reports.push(report);
    }
    totals(&reports);
    Ok(())
}
