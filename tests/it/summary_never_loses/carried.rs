//! A conversation in a handle: what it carries from call to call, and into another process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use async_trait::async_trait;
use sluicegate::history::{
    Conversation, Fit, HistoryPolicy, Normalize, PolicyChain, Repair, Rules, TokenBudget, Window,
};
use sluicegate::testing::Scripted;
use sluicegate::types::{ChatRequest, Message, Messages};
use sluicegate::{Env, OptimizedClient, Result};

use super::echo::{Echo, Mood, told};
use super::{LIMIT, Talk, fit, last_sent, policy, seconds, stack};

/// Says in the handle what was said in the talk since.
pub(super) fn catch_up(conversation: &mut Conversation, talk: &Talk) {
    talk.messages[conversation.len()..].iter().for_each(|message| conversation.push(Arc::clone(message)));
}

pub(super) fn empty() -> Conversation {
    Conversation::new(ChatRequest::new("gpt-5"))
}

/// Stored here, loaded there.
pub(super) fn loaded(conversation: &Conversation) -> Conversation {
    serde_json::from_str(&serde_json::to_string(conversation).unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn another_process_goes_on_without_writing_a_summary_again() {
    let (mut processes, mut handed_over) = (0, 0);
    for seed in 0..10 {
        // One that is shown everything each time, and goes on all the while.
        let (one, env) = (Echo::new([]), Env::new());
        let whole = policy(&one);
        let mut echo = Echo::new([]);
        let (mut llm, mut upstream) = stack(&policy(&echo));
        let (mut talk, mut conversation) = (Talk::new(seed), empty());
        let mut written = 0;
        for _ in 0..80 {
            talk.ask();
            catch_up(&mut conversation, &talk);
            if talk.random.usize(..6) == 0 {
                written += echo.calls();
                echo = Echo::new([]);
                (llm, upstream) = stack(&policy(&echo));
                conversation = loaded(&conversation);
                processes += 1;
            }
            let (expected, trace) = fit(&whole, &talk, &env).await;
            let answer = llm.chat(conversation.request()).await.unwrap();
            assert_eq!(last_sent(&upstream), expected, "seed {seed}");
            assert_eq!(answer.trace().history.summarized_tokens, trace.summarized_tokens);
            assert_eq!(talk.missing(&expected), [] as [usize; 0]);
            handed_over += usize::from(echo.calls() == 0 && trace.summarized_tokens > 0);
            assert_eq!(written + echo.calls(), one.calls(), "none is written again");
            if talk.random.usize(..6) > 0 {
                talk.answer();
            }
            catch_up(&mut conversation, &talk);
        }
        assert!(conversation.active_len() * 3 < conversation.len());
    }
    assert!(processes > 80 && handed_over > 100, "{processes} {handed_over}");
}

#[tokio::test(start_paused = true)]
async fn whatever_the_writer_does_to_a_conversation() {
    let (mut left_out, mut carried) = (0, 0);
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let moods = (0..10_000).map(|_| match random.usize(..8) {
            0 => Mood::Fails,
            1 => Mood::Hangs,
            2 => Mood::Panics,
            3 => Mood::Slow(seconds(35)),
            _ => Mood::Works,
        });
        let echo = Echo::new(moods);
        let make = || if seed % 3 == 0 { policy(&echo).background() } else { policy(&echo).request_tokens(1_240) };
        // Else a question may go without an answer, and the next is in the same turn.
        let polite = seed % 2 == 0;
        let (mut llm, mut upstream) = stack(&make());
        let (mut talk, mut conversation) = (Talk::new(seed), empty());
        for _ in 0..60 {
            talk.ask();
            catch_up(&mut conversation, &talk);
            match talk.random.usize(..10) {
                0 => {
                    (llm, upstream) = stack(&make());
                    conversation = loaded(&conversation);
                }
                1 => conversation.show_all(),
                2 => drop(conversation.request()),
                _ => {}
            }
            carried += usize::from(conversation.active_len() < conversation.len());
            llm.chat(conversation.request()).await.unwrap();
            let sent = last_sent(&upstream);
            let missing = talk.missing(&sent);
            if polite {
                talk.assert_demanded(&sent, &missing);
            }
            left_out += usize::from(!missing.is_empty());
            if polite || talk.random.usize(..5) > 0 {
                talk.answer();
            }
            catch_up(&mut conversation, &talk);
            tokio::time::advance(seconds(talk.random.u64(..40))).await;
        }
        // Now it works: everything is told again, even what was left out for long.
        echo.moods.lock().clear();
        talk.ask();
        catch_up(&mut conversation, &talk);
        for wait in [60, 10_000, 60] {
            tokio::time::sleep(seconds(wait)).await;
            llm.chat(conversation.request()).await.unwrap();
        }
        llm.chat(conversation.request()).await.unwrap();
        assert_eq!(talk.missing(&last_sent(&upstream)), [] as [usize; 0], "seed {seed}");
    }
    assert!(left_out > 50 && carried > 500, "{left_out} {carried}");
}

#[tokio::test(start_paused = true)]
async fn a_request_changed_on_its_way_is_a_prompt_like_any_other() {
    let echo = Echo::new([]);
    let (llm, upstream) = stack(&policy(&echo));
    let (mut talk, mut conversation) = (Talk::of(12), empty());
    catch_up(&mut conversation, &talk);
    llm.chat(conversation.request()).await.unwrap();
    let (active, said) = (conversation.active_len(), conversation.len());
    assert!(active < conversation.len());
    for turn in 0..30 {
        talk.answer();
        talk.ask();
        catch_up(&mut conversation, &talk);
        let mut changed = conversation.request();
        changed.messages.make_mut().insert(1, Arc::new(Message::system("context ".repeat(turn))));
        llm.chat(changed).await.unwrap();
        let sent = last_sent(&upstream);
        assert_eq!(Rules::openai().check(&sent), Ok(()));
        let (as_they_are, covered) = told(&sent);
        assert_eq!(as_they_are.len() + covered.len(), talk.next, "all is sent or covered");
        let since = conversation.len() - said;
        assert_eq!(conversation.active_len(), active + since, "what was carried before is still carried");
    }
    llm.chat(conversation.request()).await.unwrap();
    assert_eq!(talk.missing(&last_sent(&upstream)), [] as [usize; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_carried_summary_is_neither_put_right_nor_normalised() {
    // Two blank lines and a repeat, which normalising would take out; and before a question, which repair would join it to.
    let line = "They spoke of many things, and each of them at length.";
    let writer = Arc::new(Scripted::new().always(&format!("{line}\n\n\n{line}   \n{line}")));
    let summarize = || super::Summarize::with(Arc::clone(&writer), "gpt-5-nano").tokens(LIMIT).summary_tokens(60);
    let chain = || PolicyChain::new().then(summarize()).then(Window::tokens(LIMIT));
    let build = |upstream: &Arc<Scripted>, chained: bool| {
        let builder = OptimizedClient::builder(Arc::clone(upstream)).normalize(Normalize::aggressive());
        let builder = builder.repair(Repair::fix().rules(Rules::strict()));
        if chained { builder.history(chain()) } else { builder.history(summarize()) }.build().unwrap()
    };
    for chained in [false, true] {
        let (upstream, other) = (Arc::new(Scripted::new()), Arc::new(Scripted::new()));
        let (llm, whole) = (build(&upstream, chained), build(&other, chained));
        let (mut talk, mut conversation) = (Talk::new(3), empty());
        talk.messages = Messages::new();
        for _ in 0..40 {
            let question = super::say(super::Role::User, talk.next, 30);
            talk.messages.push(question);
            catch_up(&mut conversation, &talk);
            conversation = loaded(&conversation);
            llm.chat(conversation.request()).await.unwrap();
            whole.chat(talk.request()).await.unwrap();
            assert_eq!(last_sent(&upstream), last_sent(&other));
            talk.next += 1;
            talk.answer();
        }
        assert!(conversation.active_len() < conversation.len() / 2);
    }
}

/// Counts the messages its policy is shown.
#[derive(Debug)]
struct Spy<P>(P, Arc<AtomicUsize>);

#[async_trait]
impl<P: HistoryPolicy> HistoryPolicy for Spy<P> {
    fn settings(&self) -> String {
        self.0.settings()
    }

    fn check(&self) -> Result<()> {
        self.0.check()
    }

    fn fits(&self, messages: &Messages, budget: &TokenBudget<'_>) -> bool {
        self.0.fits(messages, budget)
    }

    async fn fit(&self, messages: Messages, budget: &TokenBudget<'_>) -> Result<Fit> {
        self.1.fetch_add(messages.len(), Relaxed);
        self.0.fit(messages, budget).await
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_long_conversation_only_what_is_new_is_shown() {
    let (echo, shown) = (Echo::new([]), Arc::new(AtomicUsize::new(0)));
    let spy = Spy(policy(&echo), Arc::clone(&shown));
    let upstream = Arc::new(Scripted::new());
    let llm = OptimizedClient::builder(Arc::clone(&upstream)).history(spy).build().unwrap();
    let (mut talk, mut conversation) = (Talk::of(900), empty());
    // Instructions stay for good, and there are a few too many in this talk.
    talk.messages.make_mut().retain(|message| !message.role.is_instruction());
    assert!(talk.messages.len() > 2_000);
    catch_up(&mut conversation, &talk);
    llm.chat(conversation.request()).await.unwrap();
    assert!(shown.swap(0, Relaxed) > 2_000, "once");
    for _ in 0..100 {
        talk.messages.push(super::say(super::Role::Assistant, talk.next, 20));
        talk.messages.push(super::say(super::Role::User, talk.next + 1, 20));
        talk.next += 2;
        catch_up(&mut conversation, &talk);
        llm.chat(conversation.request()).await.unwrap();
        assert_eq!(talk.missing(&last_sent(&upstream)), [] as [usize; 0]);
    }
    assert!(shown.load(Relaxed) < 100 * 40, "{shown:?} messages");
}
