//! Large counts leave the async threads.

use std::sync::{Arc, LazyLock};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::TokenCounter;
use crate::types::{Message, Messages};

/// Texts of more than this together are counted elsewhere: at 30 to 55 ns a byte they take 8 to 14 ms. Less than this
/// stays, because ordinary prompts are less, and are counted in part only; it holds the thread up for as long as it takes.
const LARGE: usize = 256 * 1024;

/// A conversation is counted from its newest message on, so behind so many messages that are remembered, all are.
const REMEMBERED: usize = 8;

/// As many counts at once as there are cores: more would only make each slower.
static COUNTING: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Arc::new(Semaphore::new(cores))
});

/// Counts messages before somebody on an async thread does, if they are many: those that the counter does not remember,
/// of more than 256 KiB together, are counted on Tokio's threads for blocking work, as many counts at once as there are
/// cores. After that the counter remembers them, and counting them here costs a hash and a look-up each.
///
/// Looks at the newest messages until eight in a row are remembered. Without a Tokio runtime, and for a counter that says
/// nothing of what it remembers, it does nothing: whoever needs the counts makes them in place.
///
/// `tasks` tracks the work, so that a shutdown waits for it. Cancel-safe: counting that has begun goes on to its end, and
/// is remembered.
pub async fn count_ahead(counter: &Arc<dyn TokenCounter>, tasks: &TaskTracker, model: &str, messages: &Messages) {
    if Handle::try_current().is_err() {
        return;
    }
    let Some(first) = first_unknown(&**counter, model, messages) else { return };
    let Ok(permit) = COUNTING.clone().acquire_owned().await else { return };
    let (counter, model, messages) = (counter.clone(), model.to_owned(), messages.clone());
    let counted = tasks.spawn_blocking(move || {
        let _permit = permit;
        for message in messages.iter().skip(first) {
            counter.message(&model, message);
        }
    });
    // A counter that panics there would have panicked here; what is not remembered is counted in place.
    drop(counted.await);
}

/// Where the messages begin that are not remembered, if they are large.
fn first_unknown(counter: &dyn TokenCounter, model: &str, messages: &Messages) -> Option<usize> {
    // The common case first: what is not even there need not be asked for.
    let there = |message: &Message| {
        let calls = message.tool_calls.iter().map(|call| call.function.arguments.len());
        message.texts().map(str::len).chain(calls).sum::<usize>()
    };
    if messages.iter().map(|message| there(message)).sum::<usize>() <= LARGE {
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
    (unknown > LARGE).then_some(first)
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
        count_ahead(&counter, &TaskTracker::new(), "gpt-5", &conversation(200, 1_000)).await;
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
            LARGE + 1
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
