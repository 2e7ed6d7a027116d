//! What the stack costs: a warm memory hit against the floor of what a hit must do, and a miss whose client costs nothing.
//!
//! `cargo bench --bench overhead` prints the times; the table at its end gives each hit as a multiple of its floor.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::disallowed_methods)]

use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use criterion::{BenchmarkId, Criterion};
use quick_cache::UnitWeighter;
use quick_cache::sync::DefaultLifecycle;
use sluicegate::cache::{Cache, Probe};
use sluicegate::history::{Normalize, Window};
use sluicegate::types::{
    ChatCompletion, ChatRequest, ChatResponse, ChatStream, EmbedRequest, EmbedResponse, Message, Role, Usage,
};
use sluicegate::{Admission, Chain, ClientInfo, LlmClient, OptimizedClient, Result, Retry, Slot, Timeouts};
use twox_hash::XxHash3_128;

/// A client that answers at once.
#[derive(Debug)]
struct Instantly(ClientInfo, Arc<ChatCompletion>);

impl Instantly {
    fn new() -> Self {
        let mut completion = ChatCompletion::text("gpt-5-mini", "Rayleigh scattering.");
        completion.usage = Some(Usage::new(100, 10));
        Self(ClientInfo::new("bench"), Arc::new(completion))
    }
}

#[async_trait]
impl LlmClient for Instantly {
    fn info(&self) -> &ClientInfo {
        &self.0
    }

    async fn chat(&self, _: ChatRequest) -> Result<ChatResponse> {
        Ok(ChatResponse::new(Arc::clone(&self.1)))
    }

    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        Ok(ChatStream::from_response(&self.chat(request).await?))
    }

    async fn embed(&self, _: EmbedRequest) -> Result<EmbedResponse> {
        Ok(EmbedResponse::default())
    }
}

/// The three sizes of `Speed`: bytes of text and messages.
const SIZES: [(&str, usize, usize); 3] = [("0.5 KB", 512, 2), ("4 KB", 4_096, 4), ("64 KB", 65_536, 64)];

fn request(bytes: usize, messages: usize, salt: u64) -> ChatRequest {
    let each = bytes / messages;
    let text = |n: usize| {
        let line = format!("{salt} {n} the quick brown fox jumps over the lazy dog near the river bank\n");
        let mut text = line.repeat(each / line.len() + 1);
        text.truncate(each);
        text.trim_end().to_owned()
    };
    let role = |n: usize| match n {
        0 => Role::System,
        n if n % 2 == 1 => Role::User,
        _ => Role::Assistant,
    };
    let list: Vec<_> = (0..messages).map(|n| Message::new(role(n), text(n))).collect();
    ChatRequest::new("gpt-5-mini").messages(list)
}

/// Limits that are never reached: a rate that binds would be measured instead of the stack.
fn admission() -> Admission {
    Admission::new().concurrency(32).rpm(u32::MAX).tpm(u32::MAX)
}

/// The README's ten lines.
fn recommended() -> OptimizedClient {
    OptimizedClient::builder(Instantly::new())
        .cache(Cache::memory(10_000))
        .history(Window::tokens(120_000))
        .schedule(admission())
        .retry(Retry::standard())
        .build()
        .unwrap()
}

/// Every layer there is.
fn everything() -> OptimizedClient {
    OptimizedClient::builder(Instantly::new())
        .cache(Cache::memory(10_000))
        .history(Window::tokens(120_000))
        .normalize(Normalize::safe())
        .schedule(admission())
        .retry(Retry::standard())
        .timeouts(Timeouts::standard())
        .deadline(Duration::from_secs(60))
        .build()
        .unwrap()
}

#[derive(Default)]
struct Low(u64);

impl Hasher for Low {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

#[allow(dead_code, reason = "the answer that is found, as in the real cache")]
struct Kept(Box<[u8]>, Arc<ChatCompletion>);

type FloorCache =
    quick_cache::sync::Cache<u128, Arc<Kept>, UnitWeighter, BuildHasherDefault<Low>, DefaultLifecycle<u128, Arc<Kept>>>;

/// What a hit must do: hash the canonical bytes, find, compare in full, behind one boxed call.
#[async_trait]
trait Floor {
    async fn get(&self, bytes: &[u8]) -> Option<Arc<Kept>>;
}

struct FloorImpl(FloorCache);

#[async_trait]
impl Floor for FloorImpl {
    async fn get(&self, bytes: &[u8]) -> Option<Arc<Kept>> {
        self.0.get(&XxHash3_128::oneshot_with_seed(7, bytes)).filter(|kept| *kept.0 == *bytes)
    }
}

fn floor(bytes: &[u8]) -> Box<dyn Floor + Sync> {
    let cache =
        FloorCache::with(10_000, 10_000, UnitWeighter, BuildHasherDefault::default(), DefaultLifecycle::default());
    let kept = Kept(bytes.into(), Arc::new(ChatCompletion::default()));
    cache.insert(XxHash3_128::oneshot_with_seed(7, bytes), Arc::new(kept));
    Box::new(FloorImpl(cache))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn bench(c: &mut Criterion) {
    let runtime = runtime();
    let mut group = c.benchmark_group("hit");
    for (name, bytes, messages) in SIZES {
        let request = request(bytes, messages, 0);
        let canonical = Probe::chat(&ClientInfo::new("bench"), &request, Instant::now()).bytes().to_vec();
        let floor = floor(&canonical);
        group.bench_function(BenchmarkId::new("floor", name), |b| {
            b.to_async(&runtime).iter(async || assert!(floor.get(black_box(&canonical)).await.is_some()));
        });
        let bare = OptimizedClient::builder(Instantly::new()).cache(Cache::memory(10_000)).build().unwrap();
        for (what, client) in [("cache", bare), ("recommended", recommended()), ("everything", everything())] {
            runtime.block_on(client.chat(request.clone())).unwrap();
            group.bench_function(BenchmarkId::new(what, name), |b| {
                b.to_async(&runtime).iter(async || client.chat(black_box(request.clone())).await.unwrap());
            });
        }
    }
    group.finish();

    let mut group = c.benchmark_group("layers");
    for depth in [0, 1, 10] {
        let chain = (0..depth).fold(Chain::new(), |chain, _| chain.then(Pass));
        let builder = OptimizedClient::builder(Instantly::new()).outside(Slot::Cache, chain);
        let client = builder.build().unwrap();
        let request = request(512, 2, 0);
        group.bench_function(BenchmarkId::new("bare", depth), |b| {
            b.to_async(&runtime).iter(async || client.chat(black_box(request.clone())).await.unwrap());
        });
    }
    group.finish();

    let mut group = c.benchmark_group("miss");
    for (name, bytes, messages) in SIZES {
        let client = everything();
        // Every request is new, and made outside the measured time.
        let salt = std::cell::Cell::new(0);
        group.bench_function(BenchmarkId::new("everything", name), |b| {
            b.to_async(&runtime).iter_batched(
                || {
                    salt.set(salt.get() + 1);
                    request(bytes, messages, salt.get())
                },
                |request| async { client.chat(request).await.unwrap() },
                criterion::BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// A layer that only passes on.
#[derive(Debug)]
struct Pass;

impl sluicegate::Layer for Pass {
    fn name(&self) -> &'static str {
        "pass"
    }

    fn settings(&self) -> String {
        String::new()
    }

    fn wrap(&self, inner: Arc<dyn LlmClient>, _: &sluicegate::Env) -> Result<Arc<dyn LlmClient>> {
        Ok(Arc::new(Passed(inner)))
    }
}

#[derive(Debug)]
struct Passed(Arc<dyn LlmClient>);

#[async_trait]
impl LlmClient for Passed {
    fn info(&self) -> &ClientInfo {
        self.0.info()
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        self.0.chat(request).await
    }

    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        self.0.chat_stream(request).await
    }

    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        self.0.embed(request).await
    }
}

/// One hot key on two threads: total calls per second against one thread's.
fn contention() {
    let client = recommended();
    let request = request(512, 2, 0);
    runtime().block_on(client.chat(request.clone())).unwrap();
    let rate = |threads: usize| {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    runtime().block_on(async {
                        // Each thread has its own request, as callers have.
                        let request = self::request(512, 2, 0);
                        for _ in 0..300_000 {
                            black_box(client.chat(request.clone()).await.unwrap());
                        }
                    });
                });
            }
        });
        threads as f64 * 300_000.0 / started.elapsed().as_secs_f64()
    };
    rate(1);
    let (one, two) = (rate(1), rate(2));
    println!(
        "\nhot key, 0.5 KB: {:.2} M hits/s on one thread, {:.2} M on two ({:.2}x)",
        one / 1e6,
        two / 1e6,
        two / one
    );
}

/// Medians as criterion stored them, hits as multiples of their floor.
fn table() {
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
    let median = |group: &str, what: &str, name: &str| -> Option<f64> {
        let path = format!("{target}/criterion/{group}/{what}/{name}/new/estimates.json");
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        json["median"]["point_estimate"].as_f64()
    };
    println!("\nA hit, in ns (times the floor); a miss through every layer, in us:");
    let titles = ["prompt", "floor", "cache", "recommended", "everything", "miss"];
    println!(
        "{:<8} {:>8} {:>16} {:>16} {:>16} {:>8}",
        titles[0], titles[1], titles[2], titles[3], titles[4], titles[5]
    );
    for (name, ..) in SIZES {
        let hit = |what| median("hit", what, name).unwrap_or(f64::NAN);
        let floor = hit("floor");
        let cell = |what| format!("{:.0} ({:.1}x)", hit(what), hit(what) / floor);
        let miss = median("miss", "everything", name).unwrap_or(f64::NAN) / 1e3;
        let [cache, recommended, everything] = ["cache", "recommended", "everything"].map(cell);
        println!("{name:<8} {floor:>8.0} {cache:>16} {recommended:>16} {everything:>16} {miss:>8.1}");
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    bench(&mut criterion);
    criterion.final_summary();
    // `cargo test` runs benches too, in test mode: nothing is measured then.
    if std::env::args().any(|arg| arg == "--bench") {
        table();
        contention();
    }
}
