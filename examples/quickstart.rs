//! Replays a support desk's load, first through the plain client, then through the optimised one, and prints what that
//! saves.
//!
//! ```sh
//! cargo run --release --example quickstart
//! ```
//!
//! Without a key it talks over real HTTP to a simulated provider on the loopback, with rate limits, latencies, errors
//! and prompt caching like a real one's. With `OPENAI_BASE_URL`, `OPENAI_API_KEY` and `OPENAI_MODEL` set it talks to
//! that endpoint instead; `--limit N` keeps the bill small, `--only plain|optimized` runs one side, and `--json` prints
//! the numbers as JSON.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]
#![allow(clippy::disallowed_methods, reason = "callers live in real time")]

#[path = "support/quickstart/load.rs"]
mod load;
#[path = "support/quickstart/replay.rs"]
mod replay;
#[path = "support/simulated_server.rs"]
mod simulated_server;
#[path = "support/quickstart/table.rs"]
mod table;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use sluicegate::cache::Cache;
use sluicegate::history::{Normalize, Window};
use sluicegate::providers::{OpenAi, Simulated};
use sluicegate::{Admission, LlmClient, OptimizedClient, Retry, Timeouts};

use replay::Side;
use simulated_server::SimulatedServer;

/// The simulated provider's limits, which the optimised client is told and the plain one runs into.
const RPM: u32 = 600;
const TPM: u32 = 1_500_000;
/// The load's minute is played in six seconds: a desk ten times as busy.
const SPEED: f64 = 10.0;

const HELP: &str = "\
cargo run --release --example quickstart -- [--only plain|optimized] [--limit N] [--json]
with OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL set: against that endpoint";

struct Options {
    plain: bool,
    optimized: bool,
    limit: usize,
    json: bool,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options { plain: true, optimized: true, limit: usize::MAX, json: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        match flag.as_str() {
            "--json" => options.json = true,
            "--limit" => {
                let value = arguments.next().ok_or("--limit needs a number")?;
                options.limit = value.parse().map_err(|error| format!("--limit {value}: {error}"))?;
            }
            "--only" => match arguments.next().as_deref() {
                Some("plain") => options.optimized = false,
                Some("optimized") => options.plain = false,
                other => return Err(format!("--only {}: plain or optimized", other.unwrap_or_default()).into()),
            },
            "--help" => {
                println!("{HELP}");
                std::process::exit(0);
            }
            other => return Err(format!("unknown flag {other}\n{HELP}").into()),
        }
    }
    if options.limit == 0 {
        return Err("--limit 0: at least 1".into());
    }
    Ok(options)
}

/// A new provider for each side, so that the second finds neither warm prompt caches nor spent limits.
async fn provider() -> Result<SimulatedServer, Box<dyn Error>> {
    let simulated = Simulated::builder()
        .seed(7)
        .first_chunk(Duration::from_millis(350), 0.35)
        .tokens_per_second(150.0)
        .output_tokens(30, 300)
        .rpm(RPM)
        .tpm(TPM)
        .error_rate(0.01)
        .build()?;
    Ok(SimulatedServer::start(simulated).await?)
}

/// The one builder call.
fn optimized(client: impl LlmClient, limits_known: bool) -> sluicegate::Result<OptimizedClient> {
    let admission = Admission::new().concurrency(64);
    let admission = if limits_known { admission.rpm(RPM).tpm(TPM).burst(Duration::from_secs(5)) } else { admission };
    OptimizedClient::builder(client)
        .cache(Cache::memory(10_000).ttl(Duration::from_secs(3600)))
        .normalize(Normalize::safe())
        .history(Window::tokens(4_000))
        .schedule(admission)
        .retry(Retry::standard())
        .timeouts(Timeouts::standard())
        .deadline(Duration::from_secs(120))
        .build()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    // An empty one counts as unset, as for the client.
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let endpoint = set("OPENAI_BASE_URL").or(set("OPENAI_API_KEY"));
    let real = endpoint.is_some() && set("OPENAI_MODEL").is_some();
    if endpoint.is_some() && !real {
        eprintln!("OPENAI_MODEL is not set: staying with the simulated provider");
    }
    let model = set("OPENAI_MODEL").filter(|_| real).unwrap_or_else(|| "gpt-5-mini".to_owned());
    let mut load = load::read(&model)?;
    load.truncate(options.limit);
    let mut sides: [Option<Side>; 2] = [None, None];
    for (place, wanted, name) in [(0, options.plain, "plain"), (1, options.optimized, "optimised")] {
        if !wanted {
            continue;
        }
        let (server, base) = if real {
            (None, OpenAi::from_env().build()?)
        } else {
            for arrival in &mut load {
                arrival.at = arrival.at.div_f64(if place == 0 || !options.plain { SPEED } else { 1.0 });
            }
            let server = provider().await?;
            let base = OpenAi::builder(&server.base_url()).build()?;
            (Some(server), base)
        };
        let client = if place == 0 { replay::plain(Arc::new(base))? } else { optimized(base, server.is_some())? };
        if !options.json {
            println!("\n{}", client.describe());
        }
        sides[place] = Some(replay::replay(name, &client, &load, place == 0).await);
        client.shutdown().await;
        if let Some(server) = server {
            server.stop().await;
        }
    }
    let [plain, optimized] = &sides;
    if options.json {
        let mut both = serde_json::Map::new();
        for (name, side) in [("plain", plain), ("optimized", optimized)] {
            if let Some(side) = side {
                both.insert(name.to_owned(), serde_json::to_value(side)?);
            }
        }
        println!("{}", serde_json::Value::Object(both));
    } else {
        table::print(plain.as_ref(), optimized.as_ref());
    }
    Ok(())
}
