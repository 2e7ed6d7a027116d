//! Work that can wait, at half the price: a batch by hand, and calls that the stack defers by itself.
//!
//! ```sh
//! cargo run --release --example batch_api --features openai,simulated
//! ```
//!
//! A simulated provider answers over real HTTP, and moves a batch on with each look at it. With the real one this takes
//! minutes to a day.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]
#![allow(clippy::disallowed_methods, reason = "callers live in real time")]

#[path = "support/simulated_server.rs"]
mod simulated_server;

use std::error::Error;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use simulated_server::SimulatedServer;
use simulated_server::batches::Script;
use sluicegate::OptimizedClient;
use sluicegate::batch::{DeferLayer, Deferred};
use sluicegate::providers::openai::Batches;
use sluicegate::providers::{OpenAi, Simulated};
use sluicegate::types::{ChatRequest, ChatResponse, Cost, Deadline, PriceTable};

const TICKETS: usize = 600;
const HOUR: Duration = Duration::from_secs(3600);

fn ticket(n: usize) -> ChatRequest {
    let model = if n.is_multiple_of(3) { "gpt-5" } else { "gpt-5-mini" };
    ChatRequest::new(model)
        .system("Sort the ticket into billing, technical or other, and say why in one sentence.")
        .user(format!("Ticket {n}: since the update of day {} my order {} cannot be opened.", n % 28, n * 7))
}

/// What the same answers cost when they are asked for one by one.
fn ordinary(answers: &[ChatResponse]) -> Cost {
    let prices = PriceTable::published();
    let price = |answer: &ChatResponse| prices.cost(&answer.model, answer.usage.as_ref()?);
    answers.iter().filter_map(price).sum()
}

fn billed(answers: &[ChatResponse]) -> Cost {
    answers.iter().filter_map(|answer| answer.trace().cost).sum()
}

/// A batch by hand: submitted, watched, read.
async fn by_hand(batches: &Batches) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let row = |what: &str, detail: String| println!("{what:<10} {:>6.1} s  {detail}", start.elapsed().as_secs_f64());
    let mut batch = batches.submit((0..TICKETS).map(ticket)).await?;
    row("submitted", format!("{TICKETS} requests as {}", batch.ids().join(", ")));

    let mut progress = batch.progress();
    let results = batch.results();
    tokio::pin!(results);
    let items = loop {
        tokio::select! {
            items = &mut results => break items?,
            Ok(()) = progress.changed() => row("polled", progress.borrow_and_update().to_string()),
        }
    };
    let failed = items.iter().filter(|item| item.result.is_err()).count();
    let answers: Vec<_> = items.into_iter().filter_map(|item| item.result.ok()).collect();
    row("done", format!("{} answers, {failed} failures", answers.len()));
    row("cost", format!("{} instead of {}", billed(&answers), ordinary(&answers)));
    Ok(())
}

/// The same by policy: calls whose deadline is far away become a batch, and their callers notice nothing.
async fn by_policy(openai: OpenAi, batches: Batches) -> Result<(), Box<dyn Error>> {
    let defer = DeferLayer::new(batches, 12 * HOUR).collect_for(Duration::from_millis(200));
    let llm = OptimizedClient::builder(openai).defer(defer).build()?;
    let patient = |n| ticket(n).with(Deadline(Instant::now() + 24 * HOUR));
    let urgent = llm.chat(ticket(1)).await?;
    let deferred = try_join_all((0..20).map(|n| llm.chat(patient(n)))).await?;
    for (what, answers) in [("urgent", &[urgent][..]), ("deferred", &deferred)] {
        let in_batches = answers.iter().filter(|answer| answer.extension::<Deferred>().is_some()).count();
        let (cost, full) = (billed(answers), ordinary(answers));
        println!(
            "{what:<10} {:>4} calls, {in_batches:>2} answered by batches, {cost} instead of {full}",
            answers.len()
        );
    }
    llm.shutdown().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let model = Simulated::builder().seed(5).first_chunk(Duration::from_millis(100), 0.3).tokens_per_second(1_000.0);
    let server = SimulatedServer::start(model.output_tokens(20, 80).error_rate(0.01).build()?).await?;
    server.batches().set(Script { looks: 6, ..Script::default() });
    let openai = OpenAi::builder(&server.base_url()).build()?;
    let batches = openai.batches().poll_every(Duration::from_millis(300));

    println!("A batch by hand");
    by_hand(&batches).await?;
    println!("\nCalls deferred by policy");
    by_policy(openai, batches).await?;
    server.stop().await;
    Ok(())
}
