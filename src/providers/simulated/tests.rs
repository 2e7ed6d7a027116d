//! The provider as its callers see it, in paused time.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::*;
use crate::error::{Error, ErrorKind, Retryability};
use crate::testing::drop_at_every_await;
use crate::types::{Assembler, FinishReason, StreamEvent, Vector};

const MS: Duration = Duration::from_millis(1);

fn ask(question: &str) -> ChatRequest {
    ChatRequest::new("gpt-5-mini").user(question)
}

/// First chunk after exactly 100 ms, 10 tokens a second, answers of exactly 20 tokens.
fn steady() -> SimulatedBuilder {
    Simulated::builder().first_chunk(100 * MS, 0.0).tokens_per_second(10.0).output_tokens(20, 20)
}

async fn elapsed<T>(env: &Env, work: impl Future<Output = T>) -> (Duration, T) {
    let start = env.now();
    let value = work.await;
    (env.now() - start, value)
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_runs_the_same_way() {
    async fn run(seed: u64) -> Vec<String> {
        let env = Env::new();
        let builder = Simulated::builder().seed(seed).rpm(300).error_rate(0.2).stream_fault_rate(0.3);
        let provider = builder.env(env.clone()).build().unwrap();
        let mut log = Vec::new();
        for call in 0..60 {
            let request = ask(&format!("question {}", call % 7));
            let (took, outcome) = match call % 2 {
                0 => elapsed(&env, provider.chat(request)).await,
                _ => elapsed(&env, async { provider.chat_stream(request).await?.collect().await }).await,
            };
            let outcome = outcome.map(|answer| (answer.id.clone(), answer.text().to_owned(), answer.usage.clone()));
            log.push(format!("{took:?} {outcome:?}"));
        }
        log.push(format!("{:?}", provider.stats()));
        log
    }
    assert_eq!(run(7).await, run(7).await);
    let (one, other) = (run(7).await, run(8).await);
    assert!(one.iter().zip(&other).all(|(one, other)| one != other));
}

#[tokio::test(start_paused = true)]
async fn the_same_question_gets_the_same_answer_streamed_or_not() {
    let provider = Simulated::builder().build().unwrap();
    let mut request = ask("Why?");
    request.n = Some(3);
    let whole = provider.chat(request.clone()).await.unwrap();
    let streamed = provider.chat_stream(request).await.unwrap().collect().await.unwrap();
    assert_eq!((whole.choices.len(), &whole.choices), (3, &streamed.choices));
    assert_eq!(whole.usage, streamed.usage);
    assert_ne!(whole.choices[0].message, whole.choices[1].message);
    assert_ne!(whole.id, streamed.id);
    let other = provider.chat(ask("Who?")).await.unwrap();
    assert_ne!(other.text(), whole.text());
    // Usage is what the counter counts.
    let counter = provider.account.env.counter();
    let usage = other.usage.clone().unwrap();
    assert_eq!(usage.prompt_tokens, counter.request(&ask("Who?")));
    assert_eq!(usage.completion_tokens, counter.text("gpt-5-mini", other.text()));
}

#[tokio::test(start_paused = true)]
async fn chunks_come_at_the_output_speed() {
    let env = Env::new();
    let provider = steady().env(env.clone()).build().unwrap();
    let start = env.now();
    let mut stream = provider.chat_stream(ask("Why?")).await.unwrap();
    assert_eq!(env.now() - start, 20 * MS, "the stream opens before its first chunk");
    let mut times = Vec::new();
    let mut assembler = Assembler::new();
    while let Some(event) = stream.next().await {
        if let StreamEvent::Chunk(chunk) = event.unwrap() {
            if chunk.has_content() {
                times.push(env.now() - start);
            }
            assembler.push(&chunk);
        }
    }
    let expected: Vec<_> = (0..20).map(|place| 100 * MS + 100 * MS * place).collect();
    assert_eq!(times, expected);
    assert_eq!(env.now() - start, 100 * MS + 2_000 * MS, "the finish comes when the last token is written");
    let (took, whole) = elapsed(&env, provider.chat(ask("Why?"))).await;
    assert_eq!(took, 2_100 * MS);
    assert_eq!(whole.unwrap().choices, assembler.finish().choices);
}

async fn refusal(provider: &Simulated, request: &ChatRequest) -> Error {
    let error = provider.chat(request.clone()).await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::RateLimited, Some(429)));
    error
}

#[tokio::test(start_paused = true)]
async fn waiting_as_told_is_enough_and_a_millisecond_less_is_not() {
    for builder in [steady().rpm(30), steady().tpm(6_000).burst_seconds(0.1)] {
        for (short, admitted) in [(MS, false), (Duration::ZERO, true)] {
            let env = Env::new();
            let provider = builder.clone().env(env.clone()).build().unwrap();
            let request = ask("Why?").max_tokens(2_500);
            // Held streams keep their reservations.
            let mut held = Vec::new();
            while let Ok(stream) = provider.chat_stream(request.clone()).await {
                held.push(stream);
            }
            let (took, error) = elapsed(&env, refusal(&provider, &request)).await;
            assert_eq!((took, error.code()), (20 * MS, Some("rate_limit_exceeded")));
            let Retryability::After(Some(wait)) = error.retryability() else { panic!("no hint in {error:?}") };
            assert!(wait > 100 * MS, "{wait:?}");
            // The paused clock counts whole milliseconds, as the header does.
            let wait = Duration::from_millis(u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap());
            env.sleep(wait - short).await;
            assert_eq!(provider.chat_stream(request).await.is_ok(), admitted, "after {wait:?} less {short:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_states_the_limits() {
    let provider = steady().rpm(10).tpm(60_000).build().unwrap();
    let first = provider.chat(ask("Why?")).await.unwrap();
    let told = first.extension::<RateLimits>().unwrap();
    assert_eq!((told.limit_requests, told.limit_tokens), (Some(10), Some(60_000)));
    let error = refusal(&provider, &ask("Why?")).await;
    let told = error.rate_limits().unwrap();
    assert_eq!((told.limit_requests, told.remaining_requests), (Some(10), Some(0)));
    assert_eq!(error.retry_after(), told.reset_requests);
    let error = refusal(&provider, &ask("Why?").max_tokens(6_000)).await;
    assert_eq!((error.retryability(), error.code()), (Retryability::Never, Some("tokens")));
    assert!(error.provider_message().unwrap().starts_with("Request too large for gpt-5-mini"));
}

#[tokio::test(start_paused = true)]
async fn a_crowd_never_uses_more_than_limit_times_time_plus_burst() {
    for (rpm, tpm) in [(Some(120), None), (None, Some(30_000))] {
        let env = Env::new();
        let builder = Simulated::builder().rpm(rpm).tpm(tpm).error_rate(0.1).stream_fault_rate(0.2);
        let provider = builder.env(env.clone()).build().unwrap();
        let start = env.now();
        let end = start + Duration::from_secs(120);
        join_all((0..25).map(|caller| crowd_member(&provider, caller, end))).await;
        let (stats, minutes) = (provider.stats(), (env.now() - start).as_secs_f64() / 60.0);
        let tokens = stats.input_tokens + stats.output_tokens;
        // What is allowed, and that it is used.
        let (allowed, used) = match (rpm, tpm) {
            (Some(rpm), _) => (f64::from(rpm) * (minutes + 0.1), stats.accepted),
            (_, tpm) => (f64::from(tpm.unwrap_or(0)) * minutes + 4_096.0, tokens),
        };
        assert!((allowed * 0.7..=allowed).contains(&(used as f64)), "{used} of {allowed}: {stats:?}");
        assert!(stats.rejected_429 > 0 && stats.in_flight == 0 && stats.peak_in_flight > 1);
        assert_eq!(stats.requests, stats.accepted + stats.rejected_429);
    }
}

/// Asks one question after another, waits when it is told to.
async fn crowd_member(provider: &Simulated, caller: u32, end: Instant) {
    let env = &provider.account.env;
    for turn in 0.. {
        let request = ask(&format!("{caller} {}", turn % 3)).max_tokens(200);
        let answer = async { provider.chat_stream(request).await?.collect().await };
        let wait = answer.await.err().and_then(|error| error.retry_after()).unwrap_or(MS);
        env.sleep(wait).await;
        if env.now() > end {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_at_any_point_frees_and_settles() {
    let provider = steady().tpm(6_000).burst_seconds(60.0).build().unwrap();
    let env = provider.account.env.clone();
    let settled = async || {
        assert_eq!(provider.stats().in_flight, 0);
        // All that was not used is back: one minute refills whatever was.
        env.sleep(Duration::from_secs(60)).await;
        assert_eq!(provider.rate_limits().remaining_tokens, Some(6_000));
    };
    let chat = drop_at_every_await(|| provider.chat(ask("Why?")), settled).await;
    let settled = async || assert_eq!(provider.stats().in_flight, 0);
    let stream = || async { provider.chat_stream(ask("Why?")).await?.collect().await };
    let streamed = drop_at_every_await(stream, settled).await;
    assert!(chat > 2 && streamed > 20, "{chat} and {streamed} polls");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_stream_is_charged_what_was_written() {
    let provider = steady().tpm(60_000).build().unwrap();
    let input = provider.account.env.counter().request(&ask("Why?"));
    let mut stream = provider.chat_stream(ask("Why?").max_tokens(1_000)).await.unwrap();
    assert_eq!(provider.stats().in_flight, 1);
    assert_eq!(provider.rate_limits().remaining_tokens, Some(6_000 - input - 1_000 + 20));
    // Who speaks, and six pieces at 100, 200, … 600 ms: five tokens are written by then.
    for _ in 0..7 {
        stream.next().await.unwrap().unwrap();
    }
    let full_but = 6_000 - provider.rate_limits().remaining_tokens.unwrap();
    drop(stream);
    let stats = provider.stats();
    assert_eq!((stats.in_flight, stats.input_tokens, stats.output_tokens), (0, input, 5));
    let given_back = full_but - (6_000 - provider.rate_limits().remaining_tokens.unwrap());
    assert_eq!(given_back, full_but, "600 ms refill 600 tokens, more than was used: full again");
}

#[tokio::test(start_paused = true)]
async fn faults_come_as_often_as_told() {
    let provider = steady().error_rate(0.25).prompt_cache(None).build().unwrap();
    let (mut statuses, mut input) = (Vec::new(), 0);
    for call in 0..400 {
        match provider.chat(ask(&call.to_string())).await {
            Ok(answer) => input += answer.usage.as_ref().unwrap().prompt_tokens,
            Err(error) => {
                assert_eq!((error.kind(), error.retryability()), (ErrorKind::Server, Retryability::After(None)));
                statuses.push(error.status().unwrap());
            }
        }
    }
    assert!((75..=125).contains(&statuses.len()), "{}", statuses.len());
    assert!(statuses.contains(&500) && statuses.contains(&503));
    let stats = provider.stats();
    assert_eq!(stats.faults, statuses.len() as u64);
    let answered = 400 - stats.faults;
    assert_eq!((stats.input_tokens, stats.output_tokens), (input, answered * 20), "failed calls cost nothing");
}

#[tokio::test(start_paused = true)]
async fn broken_streams_alternate_between_an_error_and_a_cut() {
    let provider = steady().stream_fault_rate(1.0).build().unwrap();
    let mut kinds = Vec::new();
    for call in 0..40 {
        let mut stream = provider.chat_stream(ask(&call.to_string())).await.unwrap();
        let mut assembler = Assembler::new();
        let error = loop {
            match stream.next().await.unwrap() {
                Ok(StreamEvent::Chunk(chunk)) => assembler.push(&chunk),
                Ok(StreamEvent::Finish(_)) => panic!("a broken stream finished"),
                Err(error) => break error,
            }
        };
        let sofar = assembler.finish();
        assert!(!sofar.choices[0].message.text().is_empty(), "something was said before");
        assert_eq!(sofar.choices[0].finish_reason, None);
        kinds.push(error.kind());
    }
    let turns = [ErrorKind::Server, ErrorKind::Truncated].repeat(20);
    assert_eq!(kinds, turns);
    assert_eq!((provider.stats().faults, provider.stats().in_flight), (40, 0));
    assert!(provider.chat(ask("whole answers do not break")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_prompt_cache_knows_a_prompt_once_it_was_read() {
    let env = Env::new();
    let provider = steady().env(env.clone()).build().unwrap();
    let base = ask(&"Name the source of every number that you give. ".repeat(200));
    let cached = |answer: Result<ChatResponse>| answer.unwrap().usage.as_ref().unwrap().cached_tokens();
    // Dropped while it is read, and two at once: nobody finds anything.
    drop(provider.chat_stream(base.clone()).await.unwrap());
    let both = join_all([provider.chat(base.clone()), provider.chat(base.clone())]).await;
    assert_eq!(both.into_iter().map(cached).collect::<Vec<_>>(), [0, 0]);
    let found = cached(provider.chat(base.clone().user("And why?")).await);
    assert!(found > 1_024 && found.is_multiple_of(128), "{found}");
    assert_eq!(provider.stats().cached_tokens, found);
    env.sleep(Duration::from_secs(301)).await;
    assert_eq!(cached(provider.chat(base).await), 0);
}

#[tokio::test(start_paused = true)]
async fn refuses_what_it_cannot_serve() {
    let provider = Simulated::builder().build().unwrap();
    let mut many = ask("Why?");
    many.n = Some(129);
    for request in [ChatRequest::new("m"), ask("Why?").max_tokens(0), many] {
        let error = provider.chat(request).await.unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::InvalidRequest, Some(400)));
    }
    let cut = provider.chat(ask("Why?").max_tokens(3)).await.unwrap();
    assert_eq!(cut.choices[0].finish_reason, Some(FinishReason::Length));
    assert_eq!(cut.usage.as_ref().unwrap().completion_tokens, 3);
}

#[tokio::test(start_paused = true)]
async fn embeds_in_the_form_and_length_asked_for() {
    let provider = steady().build().unwrap();
    let start: Instant = provider.account.env.now();
    let mut request = EmbedRequest::new("text-embedding-3-small", ["blue sky", "sky, blue"]);
    let answer = provider.embed(request.clone()).await.unwrap();
    assert_eq!(provider.account.env.now() - start, 100 * MS);
    let (Vector::Floats(one), Vector::Floats(two)) = (&answer.data[0].embedding, &answer.data[1].embedding) else {
        panic!("numbers were asked for")
    };
    assert_eq!(one.len(), 64);
    assert!(one.iter().zip(two).all(|(one, two)| (one - two).abs() < 1e-5), "the same words");
    assert_eq!(answer.usage.unwrap().prompt_tokens, 5);
    request.dimensions = Some(8);
    request.encoding_format = Some("base64".into());
    let answer = provider.embed(request).await.unwrap();
    assert!(matches!(&answer.data[1].embedding, Vector::Base64(text) if text.len() == 44));
}
