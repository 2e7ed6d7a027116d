//! What a writer's answer says of itself, and where its input is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::{self, ThreadId};

use sluicegate::cache::Cache;
use sluicegate::history::{HistoryPolicy, Summarize, TokenBudget};
use sluicegate::testing::{Reply, Scripted};
use sluicegate::tokens::TokenCounter;
use sluicegate::types::{ChatBody, ChatCompletion, ChatRequest, Cost, FinishReason, Message};
use sluicegate::{Env, ErrorKind, OptimizedClient};

use super::{LIMIT, Talk, carrier};

#[tokio::test]
async fn what_the_model_cut_carries_the_mark() {
    for summary_tokens in [60, 16] {
        let mut half =
            ChatCompletion::text("m", "They spoke of the many things that there are to be spoken of, such as\n");
        half.choices[0].finish_reason = Some(FinishReason::Length);
        let writer = Scripted::new().always_reply(Reply::Completion(Box::new(half)));
        let policy = Summarize::with(writer, "gpt-5-nano").tokens(LIMIT).summary_tokens(summary_tokens);
        let (env, request) = (Env::new(), Talk::of(12).request());
        let fit = policy.fit(request.messages.clone(), &TokenBudget::of(&request, &env)).await.unwrap();
        let text = carrier(&fit.messages).text();
        assert!(text.ends_with(" […]") && text.matches('…').count() == 1, "{text}");
    }
}

#[tokio::test]
async fn a_hit_in_the_writers_own_cache_costs_nothing() {
    let writer = OptimizedClient::builder(Scripted::new().always("Much was said."));
    let writer = writer.cache(Cache::memory(100)).build().unwrap();
    let (env, request) = (Env::new(), Talk::of(12).request());
    let mut costs = Vec::new();
    for _ in 0..2 {
        let policy = Summarize::with(writer.clone(), "gpt-5-nano").tokens(LIMIT).summary_tokens(60);
        policy.fit(request.messages.clone(), &TokenBudget::of(&request, &env)).await.unwrap();
        let stats = policy.stats();
        assert_eq!((stats.summaries, stats.requests), (1, 1));
        costs.push(stats.cost);
    }
    assert!(costs[0] > Cost::ZERO && costs[1] == Cost::ZERO, "{costs:?}");
}

/// Counts a token for four bytes, and the bytes that the writer has counted on the thread it was made on: its texts and
/// its requests.
#[derive(Debug)]
struct Here(ThreadId, Arc<AtomicUsize>);

impl TokenCounter for Here {
    fn text(&self, _: &str, text: &str) -> u64 {
        if thread::current().id() == self.0 {
            self.1.fetch_add(text.len(), Relaxed);
        }
        text.len() as u64 / 4
    }

    fn message(&self, _: &str, message: &Message) -> u64 {
        let text = message.text();
        if text.starts_with("Each line below") {
            self.text("", &text);
        }
        text.len() as u64 / 4 + 4
    }

    fn request(&self, body: &ChatBody) -> u64 {
        body.messages.iter().map(|message| self.message("", message)).sum()
    }
}

#[tokio::test]
async fn a_long_conversation_is_quoted_on_another_thread() {
    for (words, elsewhere) in [(1_000, false), (4_000, true), (20_000, true)] {
        let here = Arc::new(AtomicUsize::new(0));
        let env = Env::new().with_counter(Here(thread::current().id(), Arc::clone(&here)));
        let policy = Summarize::with(Scripted::new().always("Much was said."), "gpt-5-nano").tokens(2_000);
        let request = ChatRequest::new("gpt-5-mini").user("word ".repeat(words)).assistant("So it is.");
        let request = request.user("word ".repeat(words)).assistant("So it is.").user("word ".repeat(words));
        let request = request.assistant("So it is.").user("And?");
        policy.fit(request.messages.clone(), &TokenBudget::of(&request, &env)).await.unwrap();
        assert_eq!(policy.stats().summaries, 1);
        let here = here.load(Relaxed);
        assert_eq!(here < 3 * words, elsewhere, "{here} bytes");
    }
}

/// Panics over the texts that the writer counts, and over nothing else.
#[derive(Debug)]
struct Broken;

impl TokenCounter for Broken {
    fn text(&self, _: &str, _: &str) -> u64 {
        panic!("this counter is broken")
    }

    fn message(&self, _: &str, message: &Message) -> u64 {
        message.text().len() as u64 / 4 + 4
    }

    fn request(&self, body: &ChatBody) -> u64 {
        body.messages.iter().map(|message| self.message("", message)).sum()
    }
}

#[tokio::test]
async fn a_counter_that_panics_is_told_as_such_wherever_it_counts() {
    for words in [1_000, 20_000] {
        let env = Env::new().with_counter(Broken);
        let policy = Summarize::with(Scripted::new().always("Much was said."), "gpt-5-nano").tokens(1_000);
        let request = ChatRequest::new("gpt-5-mini").user("word ".repeat(words)).assistant("So it is.").user("And?");
        policy.fit(request.messages.clone(), &TokenBudget::of(&request, &env)).await.unwrap();
        let stats = policy.stats();
        let error = stats.last_error.unwrap();
        assert_eq!((error.kind(), stats.failures, stats.requests), (ErrorKind::Panicked, 1, 0), "{words} words");
        assert_eq!(error.message(), "counting what is to be summarised panicked");
    }
}
