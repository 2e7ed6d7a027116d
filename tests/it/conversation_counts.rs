//! A turn more of a conversation costs what is new in it: counted by messages, not by the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use sluicegate::OptimizedClient;
use sluicegate::history::{Conversation, HistoryPolicy, KeepAll, LastTurns, PolicyChain, StableWindow, Window};
use sluicegate::testing::Scripted;
use sluicegate::tokens::TokenCounter;
use sluicegate::types::{ChatBody, ChatRequest, Message};

/// A token for each word, and how many messages were counted.
#[derive(Debug, Default)]
struct ByWords(Arc<AtomicUsize>);

impl TokenCounter for ByWords {
    fn text(&self, _: &str, text: &str) -> u64 {
        text.split_whitespace().count() as u64
    }

    fn message(&self, model: &str, message: &Message) -> u64 {
        self.0.fetch_add(1, Relaxed);
        self.text(model, &message.text())
    }

    fn request(&self, body: &ChatBody) -> u64 {
        body.messages.iter().map(|message| self.text(&body.model, &message.text())).sum()
    }
}

/// How many messages are counted in each of 300 turns, when 400 messages were said before.
async fn counted(policy: impl HistoryPolicy) -> Vec<usize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let upstream = Scripted::new().always("It is as you say, in so many words.");
    let client = OptimizedClient::builder(upstream).counter(ByWords(Arc::clone(&asked))).history(policy);
    let client = client.build().unwrap();
    let said = |at: usize| format!("Number {at}: {}", "word ".repeat(at % 13));
    let before = (0..200)
        .fold(ChatRequest::new("m").system("Be brief."), |request, at| request.user(said(at)).assistant(said(at + 5)));
    let mut talk = Conversation::new(before);
    let mut counted = Vec::new();
    for at in 0..300 {
        talk.user(said(at));
        asked.store(0, Relaxed);
        let answer = client.chat(talk.request()).await.unwrap();
        counted.push(asked.load(Relaxed));
        talk.answered(&answer);
    }
    counted
}

#[tokio::test]
async fn a_turn_more_counts_what_is_new() {
    fn stable() -> StableWindow {
        StableWindow::tokens(400).cached_price(0.1)
    }
    let chain = |turns| PolicyChain::new().then(LastTurns::new(turns));
    let policies: [(&str, Arc<dyn HistoryPolicy>); 7] = [
        ("window", Arc::new(Window::tokens(400))),
        ("stable", Arc::new(stable())),
        ("keep all", Arc::new(KeepAll::tokens(12_000))),
        ("a window that never fills", Arc::new(Window::tokens(12_000))),
        // The turns before the window slide, and so does what it is shown.
        ("turns, window", Arc::new(chain(100).then(Window::tokens(400)))),
        ("turns, then a window that is larger", Arc::new(chain(10).then(Window::tokens(400)))),
        ("turns, stable", Arc::new(chain(30).then(stable()))),
    ];
    for (name, policy) in policies {
        let counted = counted(policy).await;
        // The first time all that matters; then an answer and a question.
        assert!(counted[0] > 2, "{name}: {counted:?}");
        assert!(counted[1..].iter().all(|messages| *messages <= 2), "{name}: {counted:?}");
    }
}
