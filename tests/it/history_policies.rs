//! Policies in the real stack: what is sent, what the trace and `describe()` tell, streams, errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use sluicegate::cache::Cache;
use sluicegate::history::{
    Allowance, Conversation, HistoryLayer, KeepAll, LastTurns, Oversized, PolicyChain, Relevance, Window,
};
use sluicegate::testing::{Gate, Scripted};
use sluicegate::tokens::{Tiktoken, TokenCounter};
use sluicegate::types::{ChatBody, ChatRequest, HistoryTrace, Message, StreamEvent};
use sluicegate::{ClientEmbedder, Env, ErrorKind, Layer, LlmClient, OptimizedClient};

fn talk(turns: usize) -> ChatRequest {
    let request = ChatRequest::new("gpt-5-mini").system("Be brief.");
    let request = (0..turns).fold(request, |request, turn| {
        request.user(format!("Question {turn} {}", "word ".repeat(turn % 7))).assistant(format!("Answer {turn}."))
    });
    request.user("And now?")
}

fn stack(upstream: &Arc<Scripted>, history: impl Into<sluicegate::history::HistoryLayer>) -> OptimizedClient {
    OptimizedClient::builder(Arc::clone(upstream)).history(history).build().unwrap()
}

/// What the trace of a call tells, and of the same call as a stream; both must have sent the same.
async fn both(client: &OptimizedClient, upstream: &Scripted, request: &ChatRequest) -> HistoryTrace {
    let told = client.chat(request.clone()).await.unwrap().trace().history;
    let mut stream = client.chat_stream(request.clone()).await.unwrap();
    let opening = stream.trace().history;
    assert_eq!(opening, told, "it is known when the stream opens");
    let mut streamed = None;
    while let Some(event) = stream.next().await {
        if let StreamEvent::Finish(finish) = event.unwrap() {
            streamed = Some(finish.trace.history);
        }
    }
    assert_eq!(streamed, Some(told));
    let sent = upstream.requests();
    let [.., chat, stream] = sent.as_slice() else { panic!("two calls") };
    assert_eq!(chat.messages, stream.messages);
    told
}

#[tokio::test]
async fn a_chain_adds_up_in_the_trace_and_says_what_it_is() {
    let upstream = Arc::new(Scripted::new());
    let chain = PolicyChain::new().then(LastTurns::new(20)).then(Window::tokens(100));
    let client = stack(&upstream, chain);
    assert!(client.describe().contains("the last 20 turns, then window, 100 tokens"), "{}", client.describe());
    let told = both(&client, &upstream, &talk(60)).await;
    assert!((80..=100).contains(&told.kept_tokens), "{told:?}");
    assert!(told.trimmed_tokens > 500 && told.shortened == 0, "{told:?}");
    assert_eq!(client.report().trimmed_tokens, 2 * u64::from(told.trimmed_tokens));
    assert_eq!(both(&client, &upstream, &talk(0)).await, HistoryTrace::default(), "what fits is not even counted");
}

/// Counts what it is asked to count.
#[derive(Debug)]
struct Asked(Tiktoken, Arc<AtomicUsize>);

impl TokenCounter for Asked {
    fn text(&self, model: &str, text: &str) -> u64 {
        self.0.text(model, text)
    }

    fn message(&self, model: &str, message: &Message) -> u64 {
        self.1.fetch_add(1, Relaxed);
        self.0.message(model, message)
    }

    fn request(&self, body: &ChatBody) -> u64 {
        self.0.request(body)
    }
}

#[tokio::test]
async fn a_turn_more_costs_a_chain_what_is_new_however_long_the_conversation() {
    let mut costs = Vec::new();
    // Their last turns are alike.
    for turns in [300, 860] {
        let asked = Arc::new(AtomicUsize::new(0));
        let env = Env::new().with_counter(Asked(Tiktoken::new(), Arc::clone(&asked)));
        let chain = PolicyChain::new().then(LastTurns::new(50)).then(Window::tokens(400));
        let client = HistoryLayer::from(chain).wrap(Arc::new(Scripted::new().always("Yes.")), &env).unwrap();
        let mut conversation = Conversation::new(talk(turns));
        let answer = client.chat(conversation.request()).await.unwrap();
        conversation.answered(&answer);
        asked.store(0, Relaxed);
        let mut shown = 0;
        for turn in 0..50 {
            conversation.user(format!("And {turn}?"));
            shown += conversation.active_len();
            let answer = client.chat(conversation.request()).await.unwrap();
            conversation.answered(&answer);
        }
        assert!(shown <= 50 * 103, "{shown} messages shown");
        costs.push((shown, asked.load(Relaxed)));
    }
    assert_eq!(costs[0], costs[1], "messages shown and counted");
    assert!(costs[0].1 < 50 * 60, "{costs:?}");
}

#[tokio::test]
async fn an_over_long_question_is_refused_or_shortened_as_set() {
    let long = talk(3).assistant("Yes.").user("many words of some kind ".repeat(400));
    let upstream = Arc::new(Scripted::new());
    let refused = stack(&upstream, Window::tokens(200)).chat(long.clone()).await.unwrap_err();
    assert_eq!((refused.kind(), refused.origin()), (ErrorKind::ContextLength, "history"));
    assert_eq!(upstream.calls(), 0);
    let client = stack(&upstream, Window::tokens(200).oversized(Oversized::Shorten));
    assert!(client.describe().contains("over-long messages shortened"), "{}", client.describe());
    let told = both(&client, &upstream, &long).await;
    assert_eq!(told.shortened, 1);
    assert!((190..=200).contains(&told.kept_tokens) && told.trimmed_tokens > 1_000, "{told:?}");
    let sent = upstream.requests();
    let texts: Vec<_> = sent[0].messages.iter().map(|message| message.text()).collect();
    assert_eq!(texts.len(), 2);
    assert!(texts[1].contains(" characters left out …]\n"), "{}", texts[1]);
}

#[tokio::test]
async fn keep_all_refuses_before_anything_is_sent() {
    let upstream = Arc::new(Scripted::new());
    let client = stack(&upstream, KeepAll::within(Allowance::tokens(300).reply_reserve(100)));
    assert_eq!(both(&client, &upstream, &talk(3)).await.trimmed_tokens, 0);
    let error = client.chat(talk(60)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContextLength);
    assert!(error.to_string().contains("200 are allowed"), "{error}");
    assert!(client.chat_stream(talk(60)).await.is_err());
    assert_eq!(upstream.calls(), 2);
    let empty = OptimizedClient::builder(Scripted::new()).history(PolicyChain::new()).build().unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::Config);
}

#[tokio::test(start_paused = true)]
async fn relevance_asks_its_embedder_and_does_without_one() {
    let (upstream, embedding) = (Arc::new(Scripted::new()), Arc::new(Scripted::new()));
    let relevance = Relevance::tokens(150, ClientEmbedder::new(Arc::clone(&embedding), "text-embedding-3-small"));
    let client = stack(&upstream, relevance.clone());
    assert!(client.describe().contains("nearest of 256, embedder within 2s"), "{}", client.describe());
    let told = both(&client, &upstream, &talk(60)).await;
    assert!((100..=150).contains(&told.kept_tokens) && told.trimmed_tokens > 500, "{told:?}");
    assert_eq!((embedding.calls(), relevance.fallbacks()), (1, 0), "the second call knew all vectors");

    // An embedder that never answers: the call goes through with the newest turns, and nothing stays open.
    let stuck = Arc::new(Scripted::new().gate(&Gate::closed()));
    let relevance =
        Relevance::tokens(150, ClientEmbedder::new(Arc::clone(&stuck), "m")).time_limit(Duration::from_millis(300));
    let client = stack(&upstream, relevance.clone());
    client.chat(talk(60)).await.unwrap();
    let plain = stack(&upstream, Window::tokens(150));
    plain.chat(talk(60)).await.unwrap();
    let sent = upstream.requests();
    let [.., fallen_back, window] = sent.as_slice() else { panic!("two calls") };
    assert_eq!(fallen_back.messages, window.messages);
    assert_eq!((relevance.fallbacks(), stuck.calls(), stuck.active()), (1, 1, 0));
}

#[tokio::test]
async fn what_is_told_is_of_this_call_whoever_the_answer_was_paid_for() {
    let gate = Gate::closed();
    let upstream = Arc::new(Scripted::new().gate(&gate));
    let builder = OptimizedClient::builder(Arc::clone(&upstream)).cache(Cache::memory(10));
    let client = builder.history(LastTurns::new(1)).build().unwrap();
    // They come to the same prompt.
    let lengths = [3, 0, 9];
    let calls = futures_util::future::join_all(lengths.map(|turns| client.chat(talk(turns))));
    let (answers, ()) = tokio::join!(calls, async { gate.open() });
    let trimmed: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().trace().history.trimmed_tokens).collect();
    assert!(trimmed[1] == 0 && 0 < trimmed[0] && trimmed[0] < trimmed[2], "{trimmed:?}");
    for (turns, trimmed) in lengths.into_iter().zip(trimmed) {
        let hit = client.chat(talk(turns)).await.unwrap();
        let stream = client.chat_stream(talk(turns)).await.unwrap();
        assert_eq!([hit.trace(), stream.trace()].map(|trace| trace.history.trimmed_tokens), [trimmed; 2]);
    }
    assert_eq!(upstream.calls(), 1);
}
