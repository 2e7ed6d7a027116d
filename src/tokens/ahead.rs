//! Large counts leave the async threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::TokenCounter;
use crate::offload::{LARGE_TEXT, offload};
use crate::types::{Message, Messages};

/// After so much others have their turn: some 10 ms.
const TURN: usize = 256 * 1024;

/// A conversation is counted from its newest message on, so behind so many messages that are remembered, all are.
const REMEMBERED: usize = 8;

/// Counts messages before somebody on an async thread does, if they are many: those that the counter does not remember,
/// of more than 16 KiB together, are counted on Tokio's threads for blocking work, as many counts at once as there are
/// cores, in turns of whole messages of 256 KiB together. After that the counter remembers them, and counting them here
/// costs a hash and a look-up each.
///
/// Looks at the newest messages until eight in a row are remembered. Without a Tokio runtime, and for a counter that
/// says nothing of what it remembers, it does nothing: whoever needs the counts makes them in place.
///
/// `tasks` tracks the work, so that a shutdown waits for it. Cancel-safe: a turn that has begun goes on to its end, and
/// is remembered.
pub async fn count_ahead(counter: &Arc<dyn TokenCounter>, tasks: &TaskTracker, model: &str, messages: &Messages) {
    if Handle::try_current().is_err() {
        return;
    }
    let Some(mut next) = first_unknown(&**counter, model, messages) else { return };
    let model: Arc<str> = model.into();
    while next < messages.len() {
        let (counter, model, messages) = (Arc::clone(counter), Arc::clone(&model), messages.clone());
        let turn = move || count_from(next, &*counter, &model, &messages);
        // A counter that panics there would have panicked here; what is not remembered is counted in place.
        let turn = move || catch_unwind(AssertUnwindSafe(turn)).unwrap_or(usize::MAX);
        next = offload(tasks, true, turn).await;
    }
}

/// Counts from this message on for a turn; where the next one begins.
fn count_from(first: usize, counter: &dyn TokenCounter, model: &str, messages: &Messages) -> usize {
    let (mut next, mut counted) = (first, 0_usize);
    for message in messages.iter().skip(first) {
        counter.message(model, message);
        (next, counted) = (next + 1, counted.saturating_add(text_bytes(message)));
        if counted >= TURN {
            break;
        }
    }
    next
}

fn text_bytes(message: &Message) -> usize {
    let calls = message.tool_calls.iter().map(|call| call.function.arguments.len());
    message.texts().map(str::len).chain(calls).sum()
}

/// Where the messages begin that are not remembered, if they are large.
fn first_unknown(counter: &dyn TokenCounter, model: &str, messages: &Messages) -> Option<usize> {
    // The common case first: what is not even there need not be asked for.
    if messages.iter().map(|message| text_bytes(message)).sum::<usize>() <= LARGE_TEXT {
        return None;
    }
    let (mut unknown, mut remembered, mut first) = (0_usize, 0, messages.len());
    for (at, message) in messages.iter().enumerate().rev() {
        match counter.uncounted(model, message) {
            0 => remembered += 1,
            bytes => (unknown, remembered, first) = (unknown.saturating_add(bytes), 0, at),
        }
        if remembered == REMEMBERED {
            break;
        }
    }
    (unknown > LARGE_TEXT).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::Tiktoken;

    fn conversation(messages: usize, bytes: usize) -> Messages {
        (0..messages).map(|number| Message::user(format!("{number} {}", "word ".repeat(bytes / 5)))).collect()
    }

    #[tokio::test]
    async fn a_large_conversation_is_counted_once_and_elsewhere() {
        let tiktoken = Arc::new(Tiktoken::new());
        let counter: Arc<dyn TokenCounter> = tiktoken.clone();
        let tasks = TaskTracker::new();
        let mut messages = conversation(300, 1_000);
        count_ahead(&counter, &tasks, "gpt-5", &messages).await;
        let work = tiktoken.work();
        assert!(work.bytes > 300_000, "{work:?}");
        for message in messages.iter() {
            counter.message("gpt-5", message);
        }
        assert_eq!(tiktoken.work(), work, "all is remembered");
        messages.push(Message::user("One small question more."));
        count_ahead(&counter, &tasks, "gpt-5", &messages).await;
        assert_eq!(tiktoken.work(), work, "what is small is left to whoever needs it");
    }

    #[tokio::test]
    async fn a_small_conversation_stays() {
        let tiktoken = Arc::new(Tiktoken::new());
        let counter: Arc<dyn TokenCounter> = tiktoken.clone();
        count_ahead(&counter, &TaskTracker::new(), "gpt-5", &conversation(15, 1_000)).await;
        assert_eq!(tiktoken.work().pieces, 0);
    }

    /// Remembers nothing, and cannot count.
    #[derive(Debug)]
    struct Broken;

    impl TokenCounter for Broken {
        fn text(&self, _: &str, _: &str) -> u64 {
            panic!("broken")
        }
        fn message(&self, model: &str, _: &Message) -> u64 {
            self.text(model, "")
        }
        fn request(&self, body: &crate::types::ChatBody) -> u64 {
            self.text(&body.model, "")
        }
        fn uncounted(&self, _: &str, _: &Message) -> usize {
            LARGE_TEXT + 1
        }
    }

    #[tokio::test]
    async fn a_counter_that_panics_and_callers_that_leave_hold_nobody_up() {
        let cores = std::thread::available_parallelism().unwrap().get();
        let (tasks, messages) = (TaskTracker::new(), conversation(2, 10));
        let broken: Arc<dyn TokenCounter> = Arc::new(Broken);
        for _ in 0..2 * cores {
            count_ahead(&broken, &tasks, "gpt-5", &messages).await;
            tokio::select! {
                biased;
                () = count_ahead(&broken, &tasks, "gpt-5", &messages) => {}
                () = std::future::ready(()) => {}
            }
        }
        count_ahead(&broken, &tasks, "gpt-5", &messages).await;
        tasks.close();
        tasks.wait().await;
    }

    /// Remembers nothing, and notes where it counts.
    #[derive(Debug, Default)]
    struct Elsewhere(parking_lot::Mutex<Vec<std::thread::ThreadId>>);

    impl TokenCounter for Elsewhere {
        fn text(&self, _: &str, text: &str) -> u64 {
            self.0.lock().push(std::thread::current().id());
            text.len() as u64
        }
        fn message(&self, model: &str, message: &Message) -> u64 {
            self.text(model, &message.text())
        }
        fn request(&self, body: &crate::types::ChatBody) -> u64 {
            self.text(&body.model, "")
        }
        fn uncounted(&self, _: &str, message: &Message) -> usize {
            text_bytes(message)
        }
    }

    #[tokio::test]
    async fn many_are_counted_in_turns_and_none_twice() {
        let elsewhere = Arc::new(Elsewhere::default());
        let counter: Arc<dyn TokenCounter> = elsewhere.clone();
        let messages = [16 << 20, 10, 10, TURN, 10].map(|bytes| Message::user("a".repeat(bytes))).into_iter().collect();
        let tasks = TaskTracker::new();
        let mut turns = 0;
        {
            let mut ahead = std::pin::pin!(count_ahead(&counter, &tasks, "m", &messages));
            while futures_util::poll!(&mut ahead).is_pending() {
                // Others on this thread, however long it takes.
                turns += 1;
                tokio::task::yield_now().await;
            }
        }
        let threads = elsewhere.0.lock().clone();
        assert_eq!(threads.len(), messages.len());
        assert!(!threads.contains(&std::thread::current().id()) && turns > 0);
        assert_eq!(count_from(0, &*counter, "m", &messages), 1, "one is a turn");
        assert_eq!(count_from(1, &*counter, "m", &messages), 4, "until there is a turn's worth");
        assert_eq!(count_from(4, &*counter, "m", &messages), 5);
    }

    #[test]
    fn without_a_runtime_nothing_is_left() {
        let tiktoken = Arc::new(Tiktoken::new());
        let counter: Arc<dyn TokenCounter> = tiktoken.clone();
        let (tasks, messages) = (TaskTracker::new(), conversation(300, 1_000));
        let ahead = std::pin::pin!(count_ahead(&counter, &tasks, "gpt-5", &messages));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(ahead.poll(&mut context).is_ready());
        assert_eq!(tiktoken.work().pieces, 0);
    }
}
