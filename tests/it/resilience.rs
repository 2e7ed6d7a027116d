//! Retry, budget, deadline and timeouts together: exact waits and tokens, outages, recovery, and dropped calls.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluicegate::env::{Random, SeededRandom};
use sluicegate::providers::client_fn;
use sluicegate::resilience::{DeadlineLayer, RetryLayer, TimeoutLayer};
use sluicegate::testing::{Reply, Scripted, drop_at_every_await};
use sluicegate::types::{ChatRequest, ChatResponse, Deadline};
use sluicegate::{Chain, Env, Error, ErrorKind, Layer, LlmClient, Retry, RetryBudget, Retryability, Timeouts};

const SECOND: Duration = Duration::from_secs(1);

/// Jitter that is always exactly one half.
#[derive(Debug)]
struct Half;

impl Random for Half {
    fn next(&self) -> u64 {
        1 << 63
    }
}

fn request() -> ChatRequest {
    ChatRequest::new("m").user("hi")
}

fn failure(kind: ErrorKind) -> Error {
    Error::new(kind, "script", "scripted")
}

fn hinted(kind: ErrorKind, milliseconds: u64) -> Error {
    failure(kind).with_retryability(Retryability::After(Some(Duration::from_millis(milliseconds))))
}

/// One scripted call.
struct Case {
    name: &'static str,
    policy: Retry,
    tokens: u32,
    deadline: Option<Duration>,
    errors: Vec<Error>,
    /// For each attempt: milliseconds since the one before, and tokens left when it was made.
    attempts: &'static [(u64, u32)],
    /// `None` for an answer; what the error says about trying again, and the tokens left.
    end: (Option<Retryability>, u32),
}

impl Case {
    fn new(name: &'static str, errors: Vec<Error>, attempts: &'static [(u64, u32)]) -> Self {
        Self { name, policy: Retry::standard(), tokens: 500, deadline: None, errors, attempts, end: (None, 500) }
    }

    fn policy(self, policy: Retry) -> Self {
        Self { policy, ..self }
    }

    fn tokens(self, tokens: u32) -> Self {
        Self { tokens, ..self }
    }

    fn deadline(self, deadline: Duration) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    fn fails(self, retryability: Retryability, left: u32) -> Self {
        Self { end: (Some(retryability), left), ..self }
    }

    fn answers(self, left: u32) -> Self {
        Self { end: (None, left), ..self }
    }

    async fn run(self) {
        let env = Env::new().with_random(Half);
        let budget = RetryBudget::tokens(self.tokens);
        let refused_here = self.errors.iter().filter(|error| error.kind() == ErrorKind::Overloaded).count();
        let script = Arc::new(Mutex::new((VecDeque::from(self.errors), Vec::new(), env.now())));
        let (clock, tokens, shared) = (env.clone(), budget.clone(), Arc::clone(&script));
        let client = client_fn(move |_| {
            let mut script = shared.lock().unwrap();
            let waited = (clock.now() - script.2).as_millis() as u64;
            script.1.push((waited, tokens.available()));
            script.2 = clock.now();
            let reply = script.0.pop_front().map_or_else(|| Ok(ChatResponse::from_text("ok")), Err);
            async move { reply }
        });
        let llm = RetryLayer::from(self.policy.budget(budget.clone())).wrap(Arc::new(client), &env).unwrap();
        let start = env.now();
        let request = match self.deadline {
            Some(deadline) => request().with(Deadline(start + deadline)),
            None => request(),
        };
        let reply = llm.chat(request).await;

        let name = self.name;
        let script = script.lock().unwrap();
        assert_eq!(script.1, self.attempts, "{name}: waits and tokens");
        assert_eq!(env.now(), script.2, "{name}: fails at once when it gives up");
        let attempts = match &reply {
            Ok(answer) => answer.trace().attempts,
            Err(error) => error.attempts(),
        };
        assert_eq!(attempts as usize, self.attempts.len() - refused_here, "{name}: attempts told");
        let end = (reply.err().map(|error| error.retryability()), budget.available());
        assert_eq!(end, self.end, "{name}: end");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_table() {
    use ErrorKind::{Auth, Network, Overloaded, QuotaExhausted, RateLimited, Server, Timeout};
    use Retryability::{After, Never, Spent};
    let hint = |seconds: u64| After(Some(Duration::from_secs(seconds)));
    let all = |kinds: &[ErrorKind]| kinds.iter().copied().map(failure).collect::<Vec<_>>();
    let one = |error: Error| vec![error];
    let patient = || Retry::standard().attempts(7);
    let cases = [
        Case::new("no failure", vec![], &[(0, 500)]),
        Case::new("no failure refills", vec![], &[(0, 20)]).tokens(20).answers(20),
        Case::new("server, then well", all(&[Server]), &[(0, 500), (250, 486)]),
        Case::new("server, network, then well", all(&[Server, Network]), &[(0, 500), (250, 486), (500, 472)]),
        Case::new("down", all(&[Server; 3]), &[(0, 500), (250, 486), (500, 472)]).fails(Spent, 472),
        Case::new("rate limited", all(&[RateLimited; 3]), &[(0, 500), (500, 495), (1_000, 490)]).fails(Spent, 490),
        Case::new("full queue", all(&[Overloaded]), &[(0, 500), (500, 495)]),
        Case::new("timeouts cost double", all(&[Timeout; 3]), &[(0, 500), (250, 472), (500, 444)]).fails(Spent, 444),
        Case::new(
            "waits double up to the cap",
            all(&[Server; 7]),
            &[(0, 500), (250, 486), (500, 472), (1_000, 458), (2_000, 444), (4_000, 430), (4_000, 416)],
        )
        .policy(patient())
        .fails(Spent, 416),
        Case::new("one attempt", all(&[Server]), &[(0, 500)]).policy(Retry::standard().attempts(1)).fails(Spent, 500),
        Case::new("refused for good", all(&[Auth]), &[(0, 500)]).fails(Never, 500),
        Case::new("quota used up", all(&[QuotaExhausted]), &[(0, 500)]).fails(Never, 500),
        Case::new("refused on the second attempt", all(&[Server, Auth]), &[(0, 500), (250, 486)]).fails(Never, 486),
        Case::new("spent further inside", one(failure(Server).with_retryability(Spent)), &[(0, 500)]).fails(Spent, 500),
        Case::new("hint of nothing", one(hinted(RateLimited, 0)), &[(0, 500), (500, 495)]),
        Case::new("hint within", one(hinted(RateLimited, 20_000)), &[(0, 500), (20_500, 495)]),
        Case::new("hint of a server", one(hinted(Server, 20_000)), &[(0, 500), (20_250, 486)]),
        Case::new("longest hint", one(hinted(RateLimited, 60_000)), &[(0, 500), (60_500, 495)]),
        Case::new("hint too long", one(hinted(RateLimited, 61_000)), &[(0, 500)]).fails(hint(61), 500),
        Case::new("hint too long by choice", one(hinted(RateLimited, 6_000)), &[(0, 500)])
            .policy(Retry::standard().max_retry_after(5 * SECOND))
            .fails(hint(6), 500),
        Case::new("hint past the deadline", one(hinted(RateLimited, 20_000)), &[(0, 500)])
            .deadline(20 * SECOND)
            .fails(hint(20), 500),
        Case::new("wait past the deadline", all(&[Server; 3]), &[(0, 500), (250, 486)])
            .deadline(Duration::from_millis(700))
            .fails(Spent, 486),
        Case::new("deadline far enough", all(&[Server; 2]), &[(0, 500), (250, 486), (500, 472)])
            .deadline(Duration::from_millis(800)),
        Case::new("budget used up", all(&[Server; 3]), &[(0, 20), (250, 6)]).tokens(20).fails(Spent, 6),
        Case::new("budget left for a cheap one", all(&[Server, RateLimited]), &[(0, 20), (250, 6), (1_000, 1)])
            .tokens(20)
            .answers(20),
    ];
    for case in cases {
        case.run().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_total_outage_costs_few_attempts_and_retries_come_back_after_it() {
    let outages = [(ErrorKind::Server, 35), (ErrorKind::Timeout, 17), (ErrorKind::RateLimited, 100)];
    for (kind, retries) in outages {
        let down = Arc::new(Scripted::new().always_reply(Reply::Fail(failure(kind))));
        let well = Arc::new(Scripted::new());
        let (env, budget) = (Env::new().with_random(SeededRandom::new(7)), RetryBudget::standard());
        // Two layers with one budget: the bound holds for both together.
        let layers = [3, 5].map(|attempts| Retry::standard().attempts(attempts).budget(budget.clone()));
        let stack = |inner: &Arc<Scripted>| {
            layers.clone().map(|policy| RetryLayer::from(policy).wrap(inner.clone(), &env).unwrap())
        };
        let clients = stack(&down);
        let calls = (0..2_000).map(|call| clients[call % 2].chat(request()));
        assert!(futures_util::future::join_all(calls).await.iter().all(Result::is_err));
        assert_eq!(down.calls(), 2_000 + retries, "{kind}");
        assert!(down.calls() as f64 <= 1.1 * 2_000.0 + 35.0);

        let clients = stack(&well);
        let left = budget.available();
        assert!(left < 28, "{left} tokens left");
        for call in 0..500 {
            assert!(clients[call % 2].chat(request()).await.is_ok());
        }
        assert_eq!(budget.available(), 500);
        let flaky = Arc::new(Scripted::new().then(Reply::Fail(failure(kind))));
        assert_eq!(stack(&flaky)[0].chat(request()).await.unwrap().trace().attempts, 2);
    }
}

/// Deadline over retry over timeouts, as the stack orders them.
fn stack(inner: &Arc<Scripted>, limits: Timeouts, env: &Env) -> Arc<dyn LlmClient> {
    let chain = Chain::new()
        .then(DeadlineLayer::new(30 * SECOND))
        .then(RetryLayer::from(Retry::standard()))
        .then(TimeoutLayer::from(limits));
    chain.wrap(inner.clone(), env).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_retried_within_the_deadline() {
    let env = Env::new().with_random(Half);
    let inner = Arc::new(Scripted::new().chunk_gap(20 * SECOND));
    let llm = stack(&inner, Timeouts::none().first_chunk(10 * SECOND), &env);
    let start = env.now();
    let error = llm.chat_stream(request()).await.unwrap_err();
    // 10 s, 0.25 s, 10 s, 0.5 s, and the third attempt is cut by the deadline.
    assert_eq!((error.kind(), inner.calls()), (ErrorKind::Deadline, 3));
    assert_eq!((env.now() - start, inner.active(), inner.peak()), (30 * SECOND, 0, 1));

    let start = env.now();
    let deadline = Deadline(start + Duration::from_millis(10_200));
    let error = llm.chat_stream(request().with(deadline)).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Timeout, 1), "the wait would pass the deadline");
    assert_eq!(env.now() - start, 10 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn frees_everything_wherever_it_is_dropped() {
    let env = Env::new().with_random(Half);
    let slow = |reply| Arc::new(Scripted::new().latency(SECOND).chunk_gap(SECOND).always_reply(reply));
    let failing = Reply::Fail(failure(ErrorKind::Server));
    for inner in [slow(Reply::words(["a", "b"])), slow(failing)] {
        let llm = stack(&inner, Timeouts::standard(), &env);
        let settled = async || assert_eq!(inner.active(), 0);
        assert!(drop_at_every_await(|| llm.chat(request()), settled).await > 1);
        assert!(drop_at_every_await(async || llm.chat_stream(request()).await?.collect().await, settled).await > 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_sent_nothing_is_no_attempt_upstream() {
    let inner = Arc::new(Scripted::new().always_reply(Reply::Fail(failure(ErrorKind::Overloaded))));
    let llm = RetryLayer::from(Retry::standard()).wrap(inner, &Env::new()).unwrap();
    let error = llm.chat(request()).await.unwrap_err();
    assert_eq!((error.attempts(), error.retryability()), (0, Retryability::Spent));
}
