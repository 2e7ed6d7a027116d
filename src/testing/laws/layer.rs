//! What every layer must keep.

use std::sync::Arc;
use std::time::Duration;

use crate::client::{ClientInfo, LlmClient};
use crate::env::Env;
use crate::error::{Error, ErrorKind};
use crate::layer::Layer;
use crate::testing::{Reply, Scripted, drop_at_every_await};
use crate::types::{ChatRequest, ChatStream, EmbedRequest, StreamEvent, Usage, Vector};

/// Checks a layer that passes plain calls through, as all layers of this crate do:
///
/// 1. An answer, its usage and a vector arrive as the client gave them, from one upstream call.
/// 2. A stream yields the client's chunks in their order, then exactly one finish.
/// 3. An error keeps its kind, before a stream and inside one; a cut stream is an error.
/// 4. The client's `info` shows through.
/// 5. A call or stream dropped at any await leaves no upstream call open, and the next call works.
/// 6. `Debug` shows no prompt and no answer.
///
/// `make` makes a fresh layer for each law. Run it in paused time: layers may wait.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::time::Duration;
/// use sluicegate::{resilience::DeadlineLayer, testing::laws::layer_laws};
/// layer_laws(|| Box::new(DeadlineLayer::new(Duration::from_secs(60)))).await;
/// # }
/// ```
pub async fn layer_laws(make: impl Fn() -> Box<dyn Layer>) {
    let name = make().name();
    let wrap = |upstream: &Arc<Scripted>| {
        let wrapped = make().wrap(Arc::clone(upstream) as Arc<dyn LlmClient>, &Env::new());
        wrapped.unwrap_or_else(|error| broken(name, &format!("wraps a client: {error}")))
    };
    answers_pass(name, &wrap).await;
    errors_pass(name, &wrap).await;
    drops_leave_nothing(name, &wrap).await;
}

#[allow(clippy::panic, reason = "a broken law fails the test that checks it")]
fn broken(name: &str, law: &str) -> ! {
    panic!("the layer {name:?} breaks a law: {law}")
}

fn keep(name: &str, law: &str, kept: bool) {
    if !kept {
        broken(name, law);
    }
}

fn question(text: &str) -> ChatRequest {
    ChatRequest::new("gpt-5-mini").user(text)
}

async fn read(mut stream: ChatStream) -> (Vec<String>, usize, Option<Error>) {
    let (mut words, mut finishes, mut error) = (Vec::new(), 0, None);
    while let Some(event) = stream.next().await {
        match event {
            Ok(StreamEvent::Chunk(chunk)) => words.push(chunk.text().to_owned()),
            Ok(StreamEvent::Finish(_)) => finishes += 1,
            Err(failed) => error = Some(failed),
        }
    }
    (words, finishes, error)
}

async fn answers_pass(name: &str, wrap: &impl Fn(&Arc<Scripted>) -> Arc<dyn LlmClient>) {
    let usage = Usage::new(12, 7);
    let upstream = Scripted::new()
        .info(ClientInfo::new("who"))
        .usage(Some(usage.clone()))
        .always_reply(Reply::words(["one ", "two ", "three"]));
    let upstream = Arc::new(upstream);
    let client = wrap(&upstream);
    keep(name, "the client's info shows through", client.info().provider == "who");

    let answer = client.chat(question("secret a")).await;
    let whole = answer.is_ok_and(|answer| answer.text() == "one two three" && answer.usage == Some(usage));
    keep(name, "an answer and its usage pass unchanged", whole);
    keep(name, "one call makes one upstream call", upstream.calls() == 1);

    let Ok(stream) = client.chat_stream(question("secret b")).await else { broken(name, "a stream opens") };
    let (words, finishes, error) = read(stream).await;
    keep(name, "chunks pass in order", words == ["one ", "two ", "three", ""]);
    keep(name, "a stream has exactly one finish and no error", finishes == 1 && error.is_none());
    keep(name, "one stream makes one upstream call", upstream.calls() == 2);

    let vectors = client.embed(EmbedRequest::new("m", ["a", "bb"])).await;
    let expected = [Vector::Floats(vec![1.0, 0.0]), Vector::Floats(vec![2.0, 1.0])];
    let same = vectors.is_ok_and(|found| found.data.iter().map(|one| &one.embedding).eq(expected.iter()));
    keep(name, "vectors pass in order", same);

    let shown = format!("{client:?}");
    keep(name, "Debug shows no prompt and no answer", !shown.contains("secret") && !shown.contains("three"));
}

async fn errors_pass(name: &str, wrap: &impl Fn(&Arc<Scripted>) -> Arc<dyn LlmClient>) {
    // A kind that nobody may retry.
    let refused = || Error::new(ErrorKind::Auth, "laws", "no");
    let words = || match Reply::words(["one "]) {
        Reply::Chunks(chunks) => chunks,
        _ => Vec::new(),
    };
    let upstream = Scripted::new()
        .then(Reply::Fail(refused()))
        .then(Reply::Fail(refused()))
        .then(Reply::Break(words(), refused()))
        .then(Reply::Cut(words()));
    let client = wrap(&Arc::new(upstream));
    let kind = |error: Error| error.kind() == ErrorKind::Auth;
    keep(name, "an error keeps its kind", client.chat(question("a")).await.is_err_and(kind));
    let opened = client.chat_stream(question("b")).await;
    let early = match opened {
        Err(error) => kind(error),
        Ok(stream) => read(stream).await.2.is_some_and(kind),
    };
    keep(name, "an error before a stream keeps its kind", early);
    for (what, wanted) in [("breaks", ErrorKind::Auth), ("is cut", ErrorKind::Truncated)] {
        let Ok(stream) = client.chat_stream(question(what)).await else { broken(name, "a stream opens") };
        let (words, finishes, error) = read(stream).await;
        let told = error.is_some_and(|error| error.kind() == wanted);
        let law = format!("a stream that {what} passes its chunks, then an error, and has no finish");
        keep(name, &law, words.first().is_some_and(|word| word == "one ") && finishes == 0 && told);
    }
}

async fn drops_leave_nothing(name: &str, wrap: &impl Fn(&Arc<Scripted>) -> Arc<dyn LlmClient>) {
    let upstream = Scripted::new()
        .always_reply(Reply::words(["one ", "two"]))
        .latency(Duration::from_millis(5))
        .chunk_gap(Duration::from_millis(5));
    let upstream = Arc::new(upstream);
    let client = wrap(&upstream);
    let asked = std::cell::Cell::new(0);
    let next = || {
        asked.set(asked.get() + 1);
        question(&format!("question {}", asked.get()))
    };
    let settled = async || {
        keep(name, "a dropped call leaves no upstream call open", upstream.active() == 0);
        keep(name, "the call after a dropped one works", client.chat(next()).await.is_ok());
    };
    drop_at_every_await(|| client.chat(next()), settled).await;
    let stream = || async {
        if let Ok(stream) = client.chat_stream(next()).await {
            read(stream).await;
        }
    };
    drop_at_every_await(stream, settled).await;
    drop_at_every_await(|| client.embed(EmbedRequest::new("m", ["a"])), settled).await;
}
