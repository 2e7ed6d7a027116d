//! What callers lose while Redis fails, how soon it is in use again, and what a hit costs beside a bare `GET`.
//!
//! `cargo bench --bench redis --features redis` prints three tables. It needs `redis-server`.
//!
//! Faults: 200 callers ask through the whole stack, each some 20 times a second, while Redis fails. The model behind the
//! stack answers at once, so what a call takes was added. `open` calls began after the tier's breaker had opened, which
//! is taken for the fifth error; `before` are those that ended between the fault and that moment. `back` is the time from
//! the end of the fault to the first call served by Redis again. For `flushed` all calls up to that count as before.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

#[allow(dead_code, unreachable_pub)]
#[path = "../tests/it/redis/crowd.rs"]
mod crowd;
#[allow(dead_code, unreachable_pub)]
#[path = "../tests/it/redis/proxy.rs"]
mod proxy;
#[allow(dead_code, unreachable_pub)]
#[path = "../tests/it/redis/server.rs"]
mod server;
#[allow(dead_code, unreachable_pub)]
#[path = "../tests/it/redis/wait.rs"]
mod wait;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crowd::{Call, Crowd};
use fred::clients::Client;
use fred::interfaces::{ClientLike, KeysInterface};
use fred::types::Builder;
use fred::types::config::Config;
use proxy::{Network, Proxy};
use server::Server;
use sluicegate::cache::tier::Redis;
use sluicegate::cache::{Cache, CacheTier, Entry, Probe};
use sluicegate::providers::client_fn;
use sluicegate::types::{ChatCompletion, ChatRequest, ChatResponse, Source};
use sluicegate::{ClientInfo, OptimizedClient};

const CALLERS: usize = 200;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Killed,
    Stopped,
    Flushed,
    Cut,
    BlackHoled,
    BlackHoledLong,
}

const FAULTS: [(Fault, &str); 6] = [
    (Fault::Killed, "kill -9, started 1 s later"),
    (Fault::Stopped, "SIGSTOP for 3 s"),
    (Fault::Flushed, "FLUSHALL"),
    (Fault::Cut, "cut in mid-reply, for 2 s"),
    (Fault::BlackHoled, "black hole for 3 s"),
    (Fault::BlackHoledLong, "black hole for 20 s"),
];

struct Times {
    fault: Instant,
    opened: Option<Instant>,
    healed: Instant,
    back: Instant,
}

fn percentile(calls: &[&Call], share: f64) -> String {
    let mut times: Vec<_> = calls.iter().map(|call| call.took().as_secs_f64() * 1e3).collect();
    times.sort_unstable_by(f64::total_cmp);
    let place = (times.len() as f64 * share) as usize;
    times.get(place.min(times.len().saturating_sub(1))).map_or("-".into(), |time| format!("{time:.2}"))
}

async fn suffer(fault: Fault, server: &mut Server, proxy: &Proxy, crowd: &Crowd) -> Times {
    let (begun, errors) = (Instant::now(), crowd.layer.tier_errors());
    let breaks = async {
        let second = Duration::from_secs(1);
        match fault {
            Fault::Killed => {
                server.kill();
                tokio::time::sleep(second).await;
                server.run().await;
            }
            Fault::Stopped => {
                server.signal("STOP");
                tokio::time::sleep(3 * second).await;
                server.signal("CONT");
            }
            Fault::Flushed => {
                server.command(&["FLUSHALL"]).await;
            }
            Fault::Cut | Fault::BlackHoled | Fault::BlackHoledLong => {
                proxy.set(if fault == Fault::Cut { Network::CutAfter(30) } else { Network::Silent });
                let seconds = [(Fault::Cut, 2), (Fault::BlackHoled, 3), (Fault::BlackHoledLong, 20)];
                tokio::time::sleep(second * seconds.iter().find(|(name, _)| *name == fault).unwrap().1).await;
                proxy.set(Network::Whole);
            }
        }
        Instant::now()
    };
    let opens = async {
        while crowd.layer.tier_errors() < errors + 5 {
            if fault == Fault::Flushed {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Some(Instant::now())
    };
    let (healed, opened) = tokio::join!(breaks, opens);
    Times { fault: begun, opened, healed, back: crowd.served_after(healed).await }
}

async fn faults() {
    println!("\n{CALLERS} callers, added per call, ms");
    println!(
        "{:<28}{:<14}{:>8}{:>8}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "fault", "stack", "calls", "errors", "before p50", "p99", "open p50", "p99", "back ms"
    );
    for (fault, name) in FAULTS {
        for stack in ["redis", "memory, redis", "a fleet"] {
            let mut server = Server::start(&[]).await;
            let proxy = Proxy::before(server.port).await;
            let url = if matches!(fault, Fault::Killed | Fault::Stopped) { server.url() } else { proxy.url() };
            let redis = Redis::builder(url).build().unwrap();
            let cache = match stack {
                "redis" => Cache::on(redis),
                "a fleet" => Cache::memory(20).fleet(redis),
                _ => Cache::memory(20).tier(redis),
            };
            let crowd = Crowd::of(CALLERS, cache);
            crowd.served_after(Instant::now() + Duration::from_millis(500)).await;
            let times = suffer(fault, &mut server, &proxy, &crowd).await;
            let calls = crowd.end().await;
            let errors = calls.iter().filter(|call| call.outcome.is_err()).count();
            let opened = times.opened.unwrap_or(times.back);
            let before: Vec<_> = calls.iter().filter(|call| call.ended > times.fault && call.begun <= opened).collect();
            let open: Vec<_> = calls.iter().filter(|call| call.begun > opened && call.ended < times.back).collect();
            println!(
                "{name:<28}{stack:<14}{:>8}{errors:>8}{:>10}{:>10}{:>10}{:>10}{:>10.0}",
                calls.len(),
                percentile(&before, 0.5),
                percentile(&before, 0.99),
                percentile(&open, 0.5),
                percentile(&open, 0.99),
                (times.back - times.healed).as_secs_f64() * 1e3,
            );
        }
    }
}

/// The memory this process holds, in MB.
fn held() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0.0);
    pages * 4096.0 / 1e6
}

/// Gets and puts without pause and without a breaker, in a black hole.
async fn memory() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::before(server.port).await;
    let redis = Redis::builder(proxy.url()).build().unwrap();
    let probe = Probe::chat(&ClientInfo::new("bench"), &ChatRequest::new("m").user("kept"), Instant::now());
    let probe = Arc::new(probe);
    let completion = Arc::new(ChatCompletion::text("m", "x".repeat(4096)));
    let hour = Duration::from_secs(3600);
    let entry = Arc::new(Entry::new(&probe, completion, Arc::from([]), Instant::now(), hour, None));
    while redis.put(&probe, entry.clone()).await.is_err() {}
    let (calls, going) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(true)));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (redis, probe, entry) = (redis.clone(), probe.clone(), entry.clone());
        let (calls, going) = (calls.clone(), going.clone());
        tasks.spawn(async move {
            while going.load(Ordering::Relaxed) {
                let _ = redis.get(&probe).await;
                let _ = redis.put(&probe, entry.clone()).await;
                calls.fetch_add(2, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
    }
    println!("\n{:<44}{:>12}{:>12}", "black hole, asked without pause", "calls", "held MB");
    let row = |name: &str| println!("{name:<44}{:>12}{:>12.1}", calls.load(Ordering::Relaxed), held());
    tokio::time::sleep(Duration::from_secs(1)).await;
    row("before");
    proxy.set(Network::Silent);
    for seconds in [1, 5, 10, 20] {
        tokio::time::sleep(Duration::from_secs(if seconds == 1 { 1 } else { seconds / 2 })).await;
        row(&format!("about {seconds} s"));
    }
    going.store(false, Ordering::Relaxed);
    tasks.join_all().await;
}

async fn bare(url: &str) -> Client {
    let client = Builder::from_config(Config::from_url(url).unwrap()).build().unwrap();
    client.init().await.unwrap();
    client
}

/// A hit through the whole stack and a bare GET of the same bytes, by turns.
async fn hit() {
    let server = Server::start(&[]).await;
    let text: String = {
        let mut random = fastrand::Rng::with_seed(1);
        (0..1_600).map(|_| random.alphanumeric()).collect()
    };
    let model = client_fn(move |_: ChatRequest| {
        let answer = ChatResponse::from_text(text.clone());
        async move { Ok(answer) }
    });
    let redis = Redis::builder(server.url()).get_timeout(wait::HANG).put_timeout(wait::HANG).build().unwrap();
    let client = OptimizedClient::builder(model).cache(Cache::on(redis)).build().unwrap();
    let request = || ChatRequest::new("gpt-5-mini").user("Why is the sky blue?");
    client.chat(request()).await.unwrap();
    let name = server.command(&["KEYS", "*"]).await;
    let bare = bare(&server.url()).await;
    let bytes = bare.get::<fred::bytes::Bytes, _>(&name).await.unwrap().len();
    let (mut stack, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..20_000 {
        let begun = Instant::now();
        black_box(bare.get::<fred::bytes::Bytes, _>(&name).await.unwrap());
        floor.push(begun.elapsed());
        let begun = Instant::now();
        let answer = black_box(client.chat(request()).await.unwrap());
        stack.push(begun.elapsed());
        assert_eq!(answer.trace().source, Source::Cache("redis"));
    }
    let mut at = |share: usize| {
        [&mut stack, &mut floor].map(|times| {
            times.sort_unstable();
            times[times.len() * share / 100].as_secs_f64() * 1e6
        })
    };
    println!("\n{:<44}{:>9}{:>9}", format!("a hit, {bytes} bytes, one caller, us"), "p50", "p99");
    let ([stack50, floor50], [stack99, floor99]) = (at(50), at(99));
    println!("{:<44}{floor50:>9.1}{floor99:>9.1}", "bare fred GET");
    println!("{:<44}{stack50:>9.1}{stack99:>9.1}", "through the whole stack");
    println!("{:<44}{:>9.2}{:>9.2}", "ratio", stack50 / floor50, stack99 / floor99);
}

fn main() {
    // `cargo test` runs benches too, in test mode: nothing is measured then.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::spawn(hit()).await.unwrap();
        tokio::spawn(memory()).await.unwrap();
        faults().await;
    });
}
