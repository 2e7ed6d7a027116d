//! Wraps a client of your own, here a closure, and shows what an answer tells about itself.
//!
//! ```sh
//! cargo run --example wrap_your_client
//! ```

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use sluicegate::cache::Cache;
use sluicegate::history::{Normalize, Window};
use sluicegate::providers::client_fn;
use sluicegate::types::{ChatCompletion, ChatRequest, ChatResponse, Priority, StreamEvent, Usage};
use sluicegate::{Admission, OptimizedClient, Retry, Timeouts};

/// Where your own client would be called.
async fn ask_the_model(request: ChatRequest) -> sluicegate::Result<ChatResponse> {
    let mut completion = ChatCompletion::text(&request.model, "Because air scatters blue light more than red.");
    completion.usage = Some(Usage::new(14, 10));
    Ok(completion.into())
}

#[tokio::main]
async fn main() -> sluicegate::Result<()> {
    let llm = OptimizedClient::builder(client_fn(ask_the_model))
        .cache(Cache::memory(10_000).ttl(Duration::from_secs(3600)))
        .normalize(Normalize::safe())
        .history(Window::tokens(8_000))
        .schedule(Admission::new().concurrency(32).rpm(500).tpm(200_000))
        .retry(Retry::standard())
        .timeouts(Timeouts::standard())
        .deadline(Duration::from_secs(60))
        .build()?;
    println!("{}", llm.describe());

    let question = ChatRequest::new("gpt-5-mini").system("Be brief.").user("Why is the sky blue?");
    for _ in 0..2 {
        let answer = llm.chat(question.clone().with(Priority::High)).await?;
        println!("{} [{}]", answer.text(), answer.trace());
    }

    let mut stream = llm.chat_stream(question).await?;
    while let Some(event) = stream.next().await {
        match event? {
            StreamEvent::Chunk(chunk) => print!("{}", chunk.text()),
            StreamEvent::Finish(finish) => println!(" [{}]", finish.trace),
        }
    }

    println!("\n{}", llm.report());
    llm.shutdown().await;
    Ok(())
}
