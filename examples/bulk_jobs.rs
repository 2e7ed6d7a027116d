//! A bulk run over a file of requests, with a progress bar: stop it with Ctrl-C, or kill it, and run it again.
//!
//! ```sh
//! cargo run --release --example bulk_jobs --features disk
//! ```
//!
//! It writes 2,000 requests, some of them broken, to a folder of its own under the system's temporary one, and asks a
//! simulated provider. Ctrl-C drains: what is under way ends, and the next run goes on from the checkpoint. `kill -9` costs
//! the calls that were under way and nothing else. At the end the same input is run without its checkpoint: the cache on
//! disk has the answers too. `--fresh` begins anew.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]
#![allow(clippy::disallowed_methods, reason = "callers live in real time")]

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use sluicegate::batch::{Bulk, Progress, jsonl};
use sluicegate::cache::Cache;
use sluicegate::cache::tier::Disk;
use sluicegate::providers::Simulated;
use sluicegate::types::ChatRequest;
use sluicegate::{OptimizedClient, Retry};
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};

const REQUESTS: usize = 2_000;

/// Lines as OpenAI's Batch API takes them, and every 500th broken.
fn write_input(file: &Path) -> Result<(), Box<dyn Error>> {
    let mut lines = String::new();
    for n in 1..=REQUESTS {
        let request = ChatRequest::new("gpt-5-mini")
            .system("Sort the ticket into billing, technical or other, and say why in one sentence.")
            .user(format!("Ticket {n}: since the update of day {} my order {} cannot be opened.", n % 28, n * 7));
        let body = serde_json::to_string(request.body())?;
        let body = if n % 500 == 0 { "{\"model\": " } else { body.as_str() };
        lines += &format!(
            "{{\"custom_id\": \"ticket-{n}\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": {body}}}\n"
        );
    }
    std::fs::write(file, lines)?;
    Ok(())
}

fn client(folder: &Path) -> sluicegate::Result<OptimizedClient> {
    let model = Simulated::builder().seed(5).first_chunk(Duration::from_millis(250), 0.3).tokens_per_second(1_000.0);
    let model = model.output_tokens(20, 80).error_rate(0.01).build()?;
    let disk = Disk::open(folder.join("cache")).build()?;
    OptimizedClient::builder(model).cache(Cache::memory(10_000).tier(disk)).retry(Retry::standard()).build()
}

/// One line that is drawn over itself; without a terminal, a line now and then.
struct Bar {
    terminal: bool,
    shown: u64,
}

impl Bar {
    fn draw(&mut self, progress: &Progress) {
        const WIDTH: u64 = 24;
        let total = progress.total.unwrap_or(progress.finished()).max(1);
        let part = (progress.finished() * WIDTH / total).min(WIDTH) as usize;
        let (full, empty) = ("#".repeat(part), "-".repeat(WIDTH as usize - part));
        if self.terminal {
            print!("\r\x1b[K[{full}{empty}] {progress}");
        } else if progress.ended || progress.finished() >= self.shown + total / 5 {
            self.shown = progress.finished();
            println!("[{full}{empty}] {progress}");
        }
        let _shown = std::io::stdout().flush();
    }
}

/// Runs to its end with a bar, the results into a file.
async fn show(bulk: &Bulk, input: &Path, output: &Path) -> Result<Progress, Box<dyn Error>> {
    let mut run = bulk.run_lines(File::open(input).await?).await?;
    let (progress, drain) = (run.progress(), run.drain());
    let mut bar = Bar { terminal: std::io::stdout().is_terminal(), shown: 0 };
    let mut results = BufWriter::new(File::create(output).await?);
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    // One for the whole run: a signal that comes while an item is written is not missed.
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            item = run.next() => match item {
                Some(item) => results.write_all(&jsonl::line(&item?)).await?,
                None => break,
            },
            _ = tick.tick() => bar.draw(&progress.borrow()),
            stopped = &mut stop, if !drain.is_draining() => {
                stopped?;
                drain.drain();
                eprintln!("\nstopping: {} calls under way end first", progress.borrow().under_way);
            }
        }
    }
    results.flush().await?;
    let end = *progress.borrow();
    bar.draw(&end);
    println!();
    Ok(end)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join("sluicegate-bulk-jobs");
    if std::env::args().any(|argument| argument == "--fresh") && folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let (input, output) = (folder.join("requests.jsonl"), folder.join("results.jsonl"));
    write_input(&input)?;
    let llm = client(&folder)?;
    let bulk = llm.bulk().concurrency(64).total(jsonl::count(File::open(&input).await?).await?);

    let end = show(&bulk.clone().checkpoint(folder.join("checkpoint.jsonl")), &input, &output).await?;
    println!("answered now {} for {}", end.done - end.recorded - end.cached, end.cost);
    println!("from before  {} that had cost {}", end.recorded, end.recorded_cost);
    println!("results      {}", output.display());
    if end.stopped {
        println!("\nRun it again: it goes on where it was stopped.");
        return Ok(());
    }

    println!("\nThe same input without its checkpoint:");
    let end = show(&bulk, &input, &folder.join("results-again.jsonl")).await?;
    println!("from the cache {}, asked {}, paid {}", end.cached, end.done - end.cached, end.cost);
    println!("\nRun it again: all is recorded. With --fresh it begins anew.");
    llm.shutdown().await;
    Ok(())
}
