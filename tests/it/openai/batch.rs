//! The Batch API end to end, over a real socket, against the simulated provider's server.
//!
//! Batches move on with each look, and waits are milliseconds: no test is about time.

mod deferred;
mod faults;
mod paying_once;
mod told;
mod whole;

use std::time::Duration;

use sluicegate::Env;
use sluicegate::env::Clock;
use sluicegate::providers::openai::Batches;
use sluicegate::providers::{OpenAi, Simulated};
use sluicegate::types::ChatRequest;

use crate::simulated::simulated_server::SimulatedServer;
use crate::simulated::simulated_server::batches::{Script, Seen};

/// Waits a thousandth of what it is asked to: back-off stays in its order, and a test takes no minutes.
#[derive(Debug, Default)]
struct Hurried(sluicegate::env::TokioClock);

impl Clock for Hurried {
    fn now(&self) -> std::time::Instant {
        self.0.now()
    }

    fn wall(&self) -> std::time::SystemTime {
        self.0.wall()
    }

    fn sleep_until(&self, until: std::time::Instant) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        let now = self.now();
        self.0.sleep_until(now + until.saturating_duration_since(now) / 1_000)
    }
}

struct House {
    server: SimulatedServer,
    openai: OpenAi,
    batches: Batches,
}

impl House {
    async fn new(script: Script) -> Self {
        let quick = Simulated::builder().first_chunk(Duration::ZERO, 0.0).tokens_per_second(1e9).output_tokens(20, 20);
        let server = SimulatedServer::start(quick.build().unwrap()).await.unwrap();
        server.batches().set(script);
        let openai = OpenAi::builder(&server.base_url()).build().unwrap();
        let batches = openai.batches().env(Env::new().with_clock(Hurried::default()));
        Self { server, openai, batches }
    }

    fn seen(&self) -> Seen {
        self.server.batches().seen()
    }
}

fn questions(count: usize) -> Vec<ChatRequest> {
    (0..count).map(|n| ChatRequest::new("gpt-5-mini").user(format!("Question {n}?"))).collect()
}
