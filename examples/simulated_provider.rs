//! A simulated OpenAI-compatible provider on the loopback, for any client to be pointed at.
//!
//! ```sh
//! cargo run --example simulated_provider -- --port 8080 --rpm 60 --tpm 40000 --error-rate 0.05
//! curl http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \
//!     -d '{"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Why is the sky blue?"}], "stream": true}'
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

#[path = "support/simulated_server.rs"]
mod simulated_server;

use std::error::Error;
use std::time::Duration;

use simulated_server::SimulatedServer;
use sluicegate::providers::Simulated;

const HELP: &str = "\
--port N               default: a free one
--seed N               default 0
--first-chunk-ms N     median time to the first chunk, default 350
--tokens-per-second N  output speed, default 80
--rpm N                requests per minute, default unlimited
--tpm N                tokens per minute, default unlimited
--error-rate P         share of calls that fail with 500 or 503, default 0
--stream-fault-rate P  share of streams that break, default 0";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut builder = Simulated::builder();
    let mut port = 0;
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        if flag == "--help" {
            println!("{HELP}");
            return Ok(());
        }
        let value = arguments.next().ok_or_else(|| format!("{flag} needs a value; --help lists the flags"))?;
        let wrong = |error: &dyn Error| format!("{flag} {value}: {error}");
        let whole = || value.parse::<u32>().map_err(|error| wrong(&error));
        let number = || value.parse::<f64>().map_err(|error| wrong(&error));
        builder = match flag.as_str() {
            "--port" => {
                port = value.parse().map_err(|error| wrong(&error))?;
                builder
            }
            "--seed" => builder.seed(value.parse().map_err(|error| wrong(&error))?),
            "--first-chunk-ms" => builder.first_chunk(Duration::from_millis(u64::from(whole()?)), 0.35),
            "--tokens-per-second" => builder.tokens_per_second(number()?),
            "--rpm" => builder.rpm(whole()?),
            "--tpm" => builder.tpm(whole()?),
            "--error-rate" => builder.error_rate(number()?),
            "--stream-fault-rate" => builder.stream_fault_rate(number()?),
            _ => return Err(format!("unknown flag {flag}; --help lists them").into()),
        };
    }
    let simulated = builder.build()?;
    let server = SimulatedServer::start_on(simulated.clone(), port).await?;
    println!("listening on {} (Ctrl-C ends it)", server.base_url());
    tokio::signal::ctrl_c().await?;
    server.stop().await;
    println!("{:#?}", simulated.stats());
    Ok(())
}
