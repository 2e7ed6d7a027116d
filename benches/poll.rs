//! The longest poll of each operation, by the size of what it handles.
//!
//! `cargo bench --bench poll --features disk` prints milliseconds: how long a task on the same thread waits for its turn
//! at worst. Of three runs the one with the least, for the others had company.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use sluicegate::batch::{Bulk, jsonl};
use sluicegate::cache::tier::Disk;
use sluicegate::cache::{Cache, CacheTier, Entry, Probe};
use sluicegate::providers::client_fn;
use sluicegate::tokens::{Tiktoken, TokenCounter, count_ahead};
use sluicegate::types::{
    ChatChunk, ChatCompletion, ChatRequest, ChatResponse, ChatStream, EmbedResponse, Finish, Message, Trace,
};
use sluicegate::{ClientInfo, Env, OptimizedClient};

const SIZES: [usize; 10] =
    [4 << 10, 15 << 10, 23 << 10, 31 << 10, 64 << 10, 128 << 10, 512 << 10, 2 << 20, 16 << 20, 64 << 20];

/// What it comes to, and its longest poll.
async fn polled<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let (mut future, mut longest) = (pin!(future), Duration::ZERO);
    let done = std::future::poll_fn(|cx| {
        let start = Instant::now();
        let polled = future.as_mut().poll(cx);
        longest = longest.max(start.elapsed());
        match polled {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    (done, longest)
}

fn text(bytes: usize, seed: u64) -> String {
    let mut dice = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let word = ["the ", "quota ", "is ", "spent ", "before ", "noon, ", "so ", "\"wait\"\n", "a while ", "and "];
        text.push_str(word[(dice % 10) as usize]);
        if dice.is_multiple_of(7) {
            text.push_str(&format!("{:x} ", dice >> 40));
        }
    }
    text
}

struct Row(&'static str, Vec<Option<Duration>>);

impl Row {
    fn print(&self) {
        print!("{:34}", self.0);
        for longest in &self.1 {
            match longest {
                Some(longest) => print!("{:>9.3}", longest.as_secs_f64() * 1e3),
                None => print!("{:>9}", "-"),
            }
        }
        println!();
    }
}

async fn row(name: &'static str, most: usize, run: impl AsyncFn(usize, u64) -> Duration) {
    let mut row = Row(name, Vec::new());
    for size in SIZES {
        let mut best: Option<Duration> = None;
        for seed in 1..=if size <= most { 3 } else { 0 } {
            let longest = run(size, seed + size as u64).await;
            best = Some(best.map_or(longest, |best| best.min(longest)));
        }
        row.1.push(best);
    }
    row.print();
}

fn entry(probe: &Probe, env: &Env, size: usize, seed: u64, streamed: bool) -> Arc<Entry> {
    let words = text(size, seed);
    let chunks: Arc<[_]> = match streamed {
        true => words
            .as_bytes()
            .chunks(200)
            .map(|part| ChatChunk::text_delta("m", String::from_utf8_lossy(part)))
            .map(Arc::new)
            .collect(),
        false => Arc::from([]),
    };
    let completion = Arc::new(ChatCompletion::text("m", words));
    Arc::new(Entry::new(probe, completion, chunks, env.now(), Duration::from_secs(600), None))
}

async fn tiers(env: &Env) {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path()).build().unwrap();
    let of = |size, seed| {
        let request = ChatRequest::new("m").user(format!("{size} {seed}"));
        Probe::chat(&ClientInfo::new("p"), &request, env.now())
    };
    for streamed in [false, true] {
        let (put, get) = if streamed { ("disk put, streamed", "disk get, streamed") } else { ("disk put", "disk get") };
        row(put, 16 << 20, async |size, seed| {
            let probe = of(size, seed);
            let entry = entry(&probe, env, size, seed, streamed);
            // Memory has it as well, so that this is not the last to drop it.
            polled(disk.put(&probe, Arc::clone(&entry))).await.1
        })
        .await;
        row(get, 16 << 20, async |size, seed| polled(disk.get(&of(size, seed))).await.1).await;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("{:34}{}", "longest poll, ms", SIZES.map(|size| format!("{:>7} K", size >> 10)).concat());
    let env = Env::new();
    let counter: Arc<dyn TokenCounter> = Arc::new(Tiktoken::new());
    counter.text("gpt-5-mini", "warm");
    row("count", 16 << 20, async |size, seed| {
        let messages = [Message::user(text(size, seed))].into_iter().collect();
        polled(count_ahead(&counter, env.tasks(), "gpt-5-mini", &messages)).await.1
    })
    .await;
    row("(counted in place)", 16 << 20, async |size, seed| {
        let message = Message::user(text(size, seed + 1000));
        polled(async { counter.message("gpt-5-mini", &message) }).await.1
    })
    .await;
    row("(summed up by the estimate)", 16 << 20, async |size, seed| {
        let message = Message::user(text(size, seed));
        polled(async { counter.message("claude-sonnet-4-5", &message) }).await.1
    })
    .await;
    answers().await;
    tiers(&env).await;

    let client = client_fn(|_request| async { Ok(ChatResponse::from_text("short")) });
    let llm = OptimizedClient::builder(client).cache(Cache::memory(100)).build().unwrap();
    for name in ["memory miss, by the prompt", "memory hit, by the prompt"] {
        row(name, 64 << 20, async |size, seed| {
            let request = ChatRequest::new("m").user(text(size, seed));
            polled(llm.chat(request)).await.1
        })
        .await;
    }
    row("(the strong key alone)", 64 << 20, async |size, seed| {
        let probe = Probe::chat(&ClientInfo::new("p"), &ChatRequest::new("m").user(text(size, seed)), env.now());
        polled(async { probe.key() }).await.1
    })
    .await;

    let line = |size, seed| {
        let body = serde_json::json!({"model": "m", "messages": [{"role": "user", "content": text(size, seed)}]});
        (body.to_string() + "\n").into_bytes()
    };
    row("line of a bulk file, read", 32 << 20, async |size, seed| {
        let mut lines = Box::pin(jsonl::requests(std::io::Cursor::new(line(size, seed))));
        polled(lines.next()).await.1
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    for checkpoint in [false, true] {
        let name = if checkpoint { "bulk run with a checkpoint" } else { "bulk run of one request" };
        row(name, 64 << 20, async |size, seed| {
            let request = ChatRequest::new("m").user(text(size, seed));
            let mut bulk = Bulk::new(llm.clone());
            if checkpoint {
                bulk = bulk.checkpoint(folder.path().join(format!("{size} {seed}")));
            }
            let mut run = bulk.run([request]).await.unwrap();
            polled(run.next()).await.1
        })
        .await;
    }
    let long = client_fn(|request: ChatRequest| async move { Ok(ChatResponse::from_text(request.messages[0].text())) });
    let long = Bulk::new(long);
    row("bulk run, by the answer", 16 << 20, async |size, seed| {
        let path = folder.path().join(format!("answer {size} {seed}"));
        let run = long.clone().checkpoint(path).run([ChatRequest::new("m").user(text(size, seed))]).await.unwrap();
        polled(run.write_to(tokio::io::sink())).await.1
    })
    .await;

    row("stream replayed and collected", 16 << 20, async |size, seed| {
        let words = text(size, seed);
        let parts = words.as_bytes().chunks(20).map(|part| ChatChunk::text_delta("m", String::from_utf8_lossy(part)));
        let chunks: Arc<[_]> = parts.map(Arc::new).collect();
        let stream = ChatStream::replay(Arc::clone(&chunks), Finish { usage: None, trace: Trace::default() });
        let (answer, longest) = polled(stream.collect()).await;
        black_box(answer.unwrap());
        longest
    })
    .await;
    history().await;
}

/// What providers send, read in place: an answer of text, and vectors. And what goes out.
async fn answers() {
    row("(answer read in place)", 16 << 20, async |size, seed| {
        let body = serde_json::to_vec(&ChatCompletion::text("m", text(size, seed))).unwrap();
        polled(async { drop(serde_json::from_slice::<ChatCompletion>(&body).unwrap()) }).await.1
    })
    .await;
    row("(logprobs read in place)", 16 << 20, async |size, seed| {
        let token =
            |at: usize| serde_json::json!({"token": " word", "logprob": -0.012_345 * at as f64, "bytes": [32, 119]});
        let mut answer = serde_json::to_value(ChatCompletion::text("m", text(100, seed))).unwrap();
        answer["choices"][0]["logprobs"] =
            serde_json::json!({"content": (0..size / 60).map(token).collect::<Vec<_>>()});
        let body = answer.to_string();
        polled(async { drop(serde_json::from_slice::<ChatCompletion>(body.as_bytes()).unwrap()) }).await.1
    })
    .await;
    row("(vectors read in place)", 16 << 20, async |size, seed| {
        let number = |at: usize| ((at as u64 ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32 * 1e-8;
        let one =
            |index: usize| serde_json::json!({"index": index, "embedding": (0..1536).map(number).collect::<Vec<_>>()});
        let body = serde_json::json!({"data": (0..size.div_ceil(30_000)).map(one).collect::<Vec<_>>()}).to_string();
        let body = &body[..];
        polled(async { drop(serde_json::from_str::<EmbedResponse>(body).unwrap()) }).await.1
    })
    .await;
    row("(request written in place)", 16 << 20, async |size, seed| {
        let request = ChatRequest::new("m").user(text(size, seed));
        polled(async { serde_json::to_vec(request.body()).unwrap().len() }).await.1
    })
    .await;
    row("(request dropped)", 64 << 20, async |size, seed| {
        let request = ChatRequest::new("m").user(text(size, seed));
        polled(async { drop(request) }).await.1
    })
    .await;
}

async fn history() {
    use sluicegate::history::{Normalize, Repair};
    let client = || client_fn(|_request| async { Ok(ChatResponse::from_text("short")) });
    for name in ["history: Normalize", "history: Repair"] {
        let builder = OptimizedClient::builder(client());
        let llm =
            if name.ends_with('e') { builder.normalize(Normalize::safe()) } else { builder.repair(Repair::fix()) };
        let llm = llm.build().unwrap();
        row(name, 16 << 20, async |size, seed| {
            let request = ChatRequest::new("m").user(text(size, seed));
            polled(llm.chat(request)).await.1
        })
        .await;
    }
}
