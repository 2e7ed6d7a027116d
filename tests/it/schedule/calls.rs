//! Calls through the layer: streams, what they report, what they are charged.

use super::*;
use futures_util::FutureExt;
use sluicegate::testing::Reply;
use sluicegate::types::{Deadline, EmbedRequest, StreamEvent, Usage};

#[tokio::test(start_paused = true)]
async fn a_stream_holds_its_permit_to_its_end() {
    let client = Arc::new(Scripted::new().always_reply(Reply::words(["a ", "b "])).chunk_gap(SECOND));
    let gate = gate(Admission::new().concurrency(1));
    let llm = wrap(&client, &gate);
    let mut stream = llm.chat_stream(request()).await.unwrap();
    let queued = tokio::spawn({
        let llm = Arc::clone(&llm);
        async move { llm.chat_stream(request()).await.unwrap().trace().queued }
    });
    while let Some(event) = stream.next().await {
        let held = usize::from(!matches!(event.unwrap(), StreamEvent::Finish(_)));
        assert_eq!(gate.load().queued, held, "the next one is let in with the finish");
    }
    assert_eq!(soon(queued).await, 4 * SECOND);
    assert_eq!(gate.load().in_flight, 0, "a dropped stream frees its permit");
    let broken = Error::new(ErrorKind::Server, "t", "");
    let client = Arc::new(Scripted::new().then(Reply::Break(Vec::new(), broken)).then(Reply::Cut(Vec::new())));
    let llm = wrap(&client, &gate);
    for _ in 0..2 {
        let mut stream = llm.chat_stream(request()).await.unwrap();
        assert_eq!(gate.load().in_flight, 1);
        assert!(stream.next().await.unwrap().is_err());
        assert_eq!(gate.load().in_flight, 0, "an error frees the permit, before the stream is dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_tell_how_long_they_were_queued() {
    let client = Arc::new(Scripted::new().latency(SECOND));
    let llm = wrap(&client, &gate(Admission::new().concurrency(1)));
    let embed = EmbedRequest::new("e", ["text"]);
    let stream = async { llm.chat_stream(request()).await.unwrap().collect().await };
    let (chat, stream, vectors) = tokio::join!(llm.chat(request()), stream, llm.embed(embed));
    let queued = [*chat.unwrap().trace(), *stream.unwrap().trace(), vectors.unwrap().trace].map(|trace| trace.queued);
    assert_eq!(queued, [Duration::ZERO, SECOND, 2 * SECOND]);
}

#[tokio::test(start_paused = true)]
async fn controls_of_the_request_are_obeyed() {
    let gate = gate(Admission::new().concurrency(1));
    let llm = wrap(&Arc::new(Scripted::new()), &gate);
    let _held = gate.admit(&Job::new("m")).await.unwrap();
    let late = llm.chat(request().with(Deadline(now() + SECOND))).await.unwrap_err();
    assert_eq!((late.kind(), late.origin()), (ErrorKind::Deadline, "schedule"));
}

#[tokio::test(start_paused = true)]
async fn refusals_of_the_provider_cost_no_tokens() {
    let limited = Error::new(ErrorKind::RateLimited, "t", "");
    let client = Arc::new(Scripted::new().then(Reply::Fail(limited)).always_reply(Reply::text("x")));
    let gate = gate(Admission::new().tpm(60_000).burst(SECOND));
    let llm = wrap(&client, &gate);
    assert!(llm.chat(request().max_tokens(990)).await.is_err());
    // Of another model: the refusal closes the gate for its own.
    let whole = Job::new("other").tokens(1_000, 0);
    assert!(gate.admit(&whole).now_or_never().is_some_and(|permit| permit.is_ok()));
}

#[tokio::test(start_paused = true)]
async fn a_stream_settles_with_its_usage_or_what_was_read_and_refunds_when_nothing_was() {
    let gate = gate(Admission::new().tpm(60_000).burst(SECOND));
    let llm = wrap(&Arc::new(Scripted::new().usage(Some(Usage::new(10, 5)))), &gate);
    let at_once = |tokens| gate.admit(&Job::new("m").tokens(tokens, 0)).now_or_never().is_some();
    let unread = llm.chat_stream(request().max_tokens(900)).await.unwrap();
    assert!(!at_once(1_000));
    drop(unread);
    assert!(at_once(1_000));
    llm.chat_stream(request().max_tokens(900)).await.unwrap().collect().await.unwrap();
    assert!(!at_once(986) && at_once(985));
    let mut left = llm.chat_stream(request().max_tokens(900)).await.unwrap();
    assert!(left.next().await.is_some() && !at_once(900));
    drop(left);
    assert!(!at_once(984) && at_once(970), "the prompt and a chunk");
}
