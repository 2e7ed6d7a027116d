//! Many callers that ask in a loop, through the whole stack, and what each of their calls met.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sluicegate::OptimizedClient;
use sluicegate::cache::{Cache, CacheLayer};
use sluicegate::providers::client_fn;
use sluicegate::types::{ChatRequest, ChatResponse, Source};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::wait::HANG;

/// Questions that are asked, over and over: more than fit into the small memory of a stack with one.
const QUESTIONS: usize = 400;
/// How long a caller waits between two calls: thousands of calls a second, and a machine that is not busy with them
/// alone.
const PAUSE: Duration = Duration::from_millis(50);

/// One call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    /// What was wrong with the answer, if anything was.
    pub(crate) outcome: Result<Source, String>,
}

impl Call {
    pub(crate) fn took(&self) -> Duration {
        self.ended - self.begun
    }

    pub(crate) fn is_hit(&self) -> bool {
        self.outcome == Ok(Source::Cache("redis"))
    }
}

/// The callers, and the stack that they share. The model behind it answers at once, so what a call takes was added.
pub(crate) struct Crowd {
    pub(crate) layer: CacheLayer,
    going: Arc<AtomicBool>,
    /// When the last call began that Redis served.
    last_hit: watch::Receiver<Option<Instant>>,
    callers: JoinSet<Vec<Call>>,
}

impl Crowd {
    pub(crate) fn of(callers: usize, cache: Cache) -> Self {
        let layer = CacheLayer::from(cache);
        let echo = client_fn(async |request: ChatRequest| {
            let question = request.messages.last().map(|message| message.text()).unwrap_or_default();
            Ok(ChatResponse::from_text(format!("answer to {question}")))
        });
        let client = OptimizedClient::builder(echo).cache(layer.clone()).build().unwrap();
        let (hits, last_hit) = watch::channel(None);
        let (hits, going, mut tasks) = (Arc::new(hits), Arc::new(AtomicBool::new(true)), JoinSet::new());
        for seed in 0..callers as u64 {
            let random = fastrand::Rng::with_seed(seed);
            tasks.spawn(ask_on(client.clone(), Arc::clone(&going), Arc::clone(&hits), random));
        }
        Self { layer, going, last_hit, callers: tasks }
    }

    /// Waits for a call that began after this moment and was served by Redis; when it was seen.
    pub(crate) async fn served_after(&self, moment: Instant) -> Instant {
        let mut last_hit = self.last_hit.clone();
        let served = last_hit.wait_for(|hit| hit.is_some_and(|begun| begun > moment));
        let served = tokio::time::timeout(HANG, served).await;
        assert!(served.is_ok(), "Redis did not serve within {HANG:?}");
        Instant::now()
    }

    /// Lets them end; all calls in the order in which they ended.
    pub(crate) async fn end(self) -> Vec<Call> {
        self.going.store(false, Ordering::Relaxed);
        let mut calls: Vec<Call> = self.callers.join_all().await.into_iter().flatten().collect();
        calls.sort_by_key(|call| call.ended);
        calls
    }
}

async fn ask_on(
    client: OptimizedClient,
    going: Arc<AtomicBool>,
    hits: Arc<watch::Sender<Option<Instant>>>,
    mut random: fastrand::Rng,
) -> Vec<Call> {
    let mut calls = Vec::new();
    while going.load(Ordering::Relaxed) {
        tokio::time::sleep(PAUSE.mul_f64(0.5 + random.f64())).await;
        let call = one(&client, &random.usize(..QUESTIONS).to_string()).await;
        if call.is_hit() {
            hits.send_modify(|last| *last = (*last).max(Some(call.begun)));
        }
        calls.push(call);
    }
    calls
}

async fn one(client: &OptimizedClient, question: &str) -> Call {
    let request = ChatRequest::new("m").user(question);
    let begun = Instant::now();
    let outcome = match client.chat(request).await {
        Ok(answer) if answer.text() == format!("answer to {question}") => Ok(answer.trace().source),
        Ok(answer) => Err(format!("{question} was answered with {}", answer.text())),
        Err(error) => Err(error.to_string()),
    };
    Call { begun, ended: Instant::now(), outcome }
}
