//! Normalisation in the stack: what it saves is told, and prompts that mean the same share one call.

use std::sync::Arc;
use std::time::Duration;

use sluicegate::cache::Cache;
use sluicegate::history::Normalize;
use sluicegate::testing::Scripted;
use sluicegate::tokens::TokenCounter;
use sluicegate::types::{ChatBody, ChatRequest, Message, Source, StreamEvent};
use sluicegate::{Builder, OptimizedClient};

/// Counts bytes as tokens, and refuses to be asked for much at once.
#[derive(Debug)]
struct Bytes;

impl TokenCounter for Bytes {
    fn text(&self, _: &str, text: &str) -> u64 {
        assert!(text.len() <= 64 << 10, "a huge text is not counted on the way");
        text.len() as u64
    }

    fn message(&self, model: &str, message: &Message) -> u64 {
        self.text(model, &message.text())
    }

    fn request(&self, body: &ChatBody) -> u64 {
        body.messages.iter().map(|message| self.message(&body.model, message)).sum()
    }
}

fn ask(text: &str) -> ChatRequest {
    ChatRequest::new("m").user(text)
}

fn stack(upstream: &Arc<Scripted>, normalize: Normalize) -> Builder {
    OptimizedClient::builder(Arc::clone(upstream)).counter(Bytes).normalize(normalize)
}

const PARAGRAPH: &str = "The lock of the model K9 opens with a quarter turn to the left, and closes with another one to \
                         the right, as long as the key is in it.";

#[tokio::test(start_paused = true)]
async fn what_is_sent_is_in_form_and_what_it_saved_is_told() {
    let upstream = Arc::new(Scripted::new());
    let client = stack(&upstream, Normalize::safe()).build().unwrap();
    let response = client.chat(ask("one  \r\n\r\n\r\n\r\ntwo  ")).await.unwrap();
    assert_eq!(upstream.requests()[0].messages[0].text(), "one\n\ntwo");
    assert_eq!(response.trace().history.normalized_tokens, 10);

    let clean = client.chat(ask("one\n\ntwo")).await.unwrap();
    assert_eq!(clean.trace().history.normalized_tokens, 0);

    let mut stream = client.chat_stream(ask("one   \n")).await.unwrap();
    let mut told = None;
    while let Some(event) = stream.next().await {
        if let StreamEvent::Finish(finish) = event.unwrap() {
            told = Some(finish.trace.history.normalized_tokens);
        }
    }
    assert_eq!(told, Some(4));
    assert_eq!(client.report().normalized_tokens, 14);
}

#[tokio::test(start_paused = true)]
async fn prompts_that_differ_in_form_alone_share_one_call() {
    let repeated = format!("{PARAGRAPH}\n\nWhat opens it, and when?   \n\n{PARAGRAPH}");
    let once = format!("{PARAGRAPH}\n\nWhat opens it, and when?");
    let labelled = format!("{PARAGRAPH}\n\nWhat opens it, and when? It says:\n\n{PARAGRAPH}");
    for (normalize, prompts, calls) in [
        (None, ["What is it?", "What is it? \n", "What is it?\r\n", "What  is it?"].as_slice(), 4),
        (Some(Normalize::safe()), &["What is it?", "What is it? \n", "What is it?\r\n"], 1),
        (Some(Normalize::safe()), &["What is it?", "What  is it?"], 2),
        (Some(Normalize::aggressive()), &["What is it?", "What  is it?", "What   is it? \r\n"], 1),
        (Some(Normalize::safe()), &[&once, &repeated], 2),
        (Some(Normalize::aggressive()), &[&once, &repeated], 1),
        (Some(Normalize::aggressive()), &[&once, &labelled], 2),
    ] {
        let upstream = Arc::new(Scripted::new());
        let builder = OptimizedClient::builder(Arc::clone(&upstream));
        let builder = builder.cache(Cache::memory(100).ttl(Duration::from_secs(60)));
        let client = normalize.into_iter().fold(builder, Builder::normalize).build().unwrap();
        let mut hits = 0;
        for prompt in prompts {
            let response = client.chat(ask(prompt)).await.unwrap();
            hits += usize::from(response.trace().source != Source::Upstream);
        }
        assert_eq!((upstream.calls(), hits), (calls, prompts.len() - calls), "{normalize:?} {prompts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hit_tells_what_was_saved_too() {
    let upstream = Arc::new(Scripted::new());
    let cache = Cache::memory(100).ttl(Duration::from_secs(60));
    let client = stack(&upstream, Normalize::aggressive()).cache(cache).build().unwrap();
    let text = format!(
        "{PARAGRAPH}\n\nAs it stands in the handbook of the lock, on the second page and the third.\n\n{PARAGRAPH}"
    );
    for _ in 0..2 {
        let response = client.chat(ask(&text)).await.unwrap();
        assert_eq!(response.trace().history.normalized_tokens as usize, PARAGRAPH.len() + 2);
    }
    assert_eq!(upstream.calls(), 1);
    assert_eq!(client.report().normalized_tokens as usize, 2 * (PARAGRAPH.len() + 2));
}

#[tokio::test(start_paused = true)]
async fn huge_messages_are_estimated() {
    let upstream = Arc::new(Scripted::new());
    let client = stack(&upstream, Normalize::safe()).build().unwrap();
    let huge = format!("{}{}", "a ".repeat(40 << 10), " ".repeat(4000));
    let response = client.chat(ask(&huge)).await.unwrap();
    // The counter panics on it; four bytes are taken for a token, and the blank after the last word goes too.
    assert_eq!(response.trace().history.normalized_tokens, 1000);

    // Many that are not huge each are counted only so far.
    let messages =
        (0..100).fold(ChatRequest::new("m"), |request, _| request.user(format!("{}        ", "a".repeat(1016))));
    let response = client.chat(messages).await.unwrap();
    assert_eq!(response.trace().history.normalized_tokens, 8 * 8 + 92 * 2);
}

#[test]
fn describe_says_the_level() {
    let upstream = Arc::new(Scripted::new());
    let describe = |normalize| stack(&upstream, normalize).build().unwrap().describe();
    assert!(describe(Normalize::safe()).contains("history   normalise, safe\n"));
    assert!(describe(Normalize::aggressive()).contains("history   normalise, aggressive\n"));
    assert!(describe(Normalize::aggressive().tool_results(true)).contains("normalise, aggressive, tool results too\n"));
}
