use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::*;
use crate::error::ErrorKind;
use crate::tokens::{Tiktoken, TokenCounter};
use crate::types::{ChatRequest, Content, Part};

/// Texts are near when they name the same thing; what it was asked stays to be seen.
#[derive(Debug, Default)]
struct Things {
    asked: Mutex<Vec<Vec<String>>>,
    fails: AtomicUsize,
    slow: Duration,
    odd: Option<f32>,
}

const THINGS: [&str; 4] = ["sky", "sea", "cat", "war"];

#[async_trait]
impl Embedder for Things {
    async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        self.asked.lock().push(texts.to_vec());
        let until = after_now(self.slow);
        TokioClock::new().sleep_until(until).await;
        if self.fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(Error::new(ErrorKind::Server, "things", "down"));
        }
        let vector = |text: &String| THINGS.map(|thing| text.matches(thing).count() as f32 + self.odd.unwrap_or(0.0));
        Ok(texts.iter().map(|text| vector(text).to_vec()).collect())
    }
}

fn after_now(wait: Duration) -> std::time::Instant {
    crate::env::after(TokioClock::new().now(), wait)
}

/// Room for the instructions, the question and five turns.
const ROOM: u64 = 130;

/// Ten turns about things in turn, an instruction among them, and a question about the sky.
fn talk() -> ChatRequest {
    let request = ChatRequest::new("gpt-4o").system("Be brief.");
    let request = (0..10).fold(request, |request, turn| {
        let thing = THINGS[turn % 4];
        let request = if turn == 5 { request.system("Be kind.") } else { request };
        request.user(format!("Question {turn} about the {thing}.")).assistant(format!("Answer {turn}."))
    });
    request.user("And the sky again?")
}

async fn fit(policy: &Relevance, request: &ChatRequest) -> Result<Fit> {
    let counter = Tiktoken::new();
    let limit = policy.allowance.limit(&TokenBudget::new(request, &counter)).unwrap();
    let fit = policy.fit(request.messages.clone(), &TokenBudget::new(request, &counter)).await?;
    let mut sent = request.clone();
    sent.messages = fit.messages.clone();
    assert!(counter.request(&sent) <= limit, "within the budget");
    assert_eq!(u64::from(fit.trace.kept_tokens), counter.request(&sent));
    let again = policy.fit(fit.messages.clone(), &TokenBudget::new(&sent, &counter)).await?;
    assert!(again.messages.ptr_eq(&fit.messages), "fitting again changes nothing");
    let told = counter.request(request) - counter.request(&sent);
    assert!(u64::from(fit.trace.trimmed_tokens).abs_diff(told) <= told / 5, "{:?} {told}", fit.trace);
    Ok(fit)
}

/// The numbers of the turns that were kept.
fn kept(fit: &Fit) -> Vec<u32> {
    let questions = fit.messages.iter().map(|message| message.text());
    questions.filter_map(|text| text.strip_prefix("Question ")?.get(..1)?.parse().ok()).collect()
}

fn texts(fit: &Fit) -> Vec<String> {
    fit.messages.iter().map(|message| message.text()).collect()
}

#[tokio::test]
async fn keeps_what_is_near_what_is_new_and_the_order() {
    let things = Arc::new(Things::default());
    let policy = Relevance::tokens(ROOM, Arc::clone(&things)).recent(1);
    let fitted = fit(&policy, &talk()).await.unwrap();
    // 0, 4 and 8 speak of the sky, 9 is new, 7 is the newest of the others.
    assert_eq!(kept(&fitted), [0, 4, 7, 8, 9]);
    let texts = texts(&fitted);
    assert_eq!(texts[..2], ["Be brief.", "Question 0 about the sky."]);
    assert!(texts.contains(&"Be kind.".to_owned()) && texts.last().unwrap() == "And the sky again?");
    assert_eq!(policy.fallbacks(), 0);
}

#[tokio::test]
async fn only_new_texts_are_embedded_and_in_one_call() {
    let things = Arc::new(Things::default());
    let policy = Relevance::tokens(ROOM, Arc::clone(&things)).recent(1);
    let request = talk().assistant("Blue.").user("Question about the sea?");
    fit(&policy, &talk()).await.unwrap();
    assert_eq!(things.asked.lock().len(), 1);
    assert_eq!(things.asked.lock()[0].len(), 10, "nine turns and the question");
    fit(&policy, &talk()).await.unwrap();
    assert_eq!(things.asked.lock().len(), 1, "all known");
    fit(&policy.clone(), &request).await.unwrap();
    assert_eq!(things.asked.lock().len(), 2);
    assert_eq!(things.asked.lock()[1], ["Question 9 about the sea.\nAnswer 9.", "Question about the sea?"]);
    let known = texts(&fit(&policy, &request).await.unwrap());
    let fresh = Relevance::tokens(ROOM, Things::default()).recent(1);
    assert_eq!(texts(&fit(&fresh, &request).await.unwrap()), known, "memory only saves time");
}

#[tokio::test]
async fn a_conversation_that_fits_is_not_sent_to_the_embedder() {
    let things = Arc::new(Things::default());
    let policy = Relevance::tokens(400, Arc::clone(&things));
    let request = talk();
    assert!(fit(&policy, &request).await.unwrap().messages.ptr_eq(&request.messages));
    assert!(things.asked.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_embedder_that_fails_is_left_alone_for_a_while_and_the_newest_are_kept() {
    let things = Arc::new(Things { fails: AtomicUsize::new(1), ..Things::default() });
    let clock = TokioClock::new();
    let policy = Relevance::tokens(ROOM, Arc::clone(&things)).recent(1).clock(clock);
    let plain = |fitted: &Fit| assert_eq!(kept(fitted), [5, 6, 7, 8, 9]);
    plain(&fit(&policy, &talk()).await.unwrap());
    assert_eq!((policy.fallbacks(), things.asked.lock().len()), (1, 1));
    plain(&fit(&policy, &talk()).await.unwrap());
    assert_eq!((policy.fallbacks(), things.asked.lock().len()), (2, 1), "not asked again at once");
    clock.sleep_until(after_now(Duration::from_secs(10))).await;
    assert_eq!(kept(&fit(&policy, &talk()).await.unwrap()), [0, 4, 7, 8, 9]);
    assert_eq!((policy.fallbacks(), things.asked.lock().len()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_slow_embedder_costs_no_more_than_the_time_limit() {
    let policy = Relevance::tokens(ROOM, Things { slow: Duration::from_secs(3600), ..Things::default() });
    let policy = policy.time_limit(Duration::from_millis(500));
    let began = TokioClock::new().now();
    assert_eq!(kept(&fit(&policy, &talk()).await.unwrap()), [5, 6, 7, 8, 9]);
    let took = TokioClock::new().now() - began;
    assert!((Duration::from_millis(500)..Duration::from_millis(600)).contains(&took), "{took:?}");
    assert_eq!(policy.fallbacks(), 1);
}

/// Vectors for so many texts.
type Vectors = fn(usize) -> Vec<Vec<f32>>;

/// Answers with what was set, whatever it is asked, or panics.
#[derive(Debug)]
struct Odd(Option<Vectors>, AtomicUsize);

#[async_trait]
impl Embedder for Odd {
    async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Ok(self.0.map(|answer| answer(texts.len())).expect("it is broken"))
    }
}

#[tokio::test(start_paused = true)]
async fn an_embedder_whose_vectors_are_of_no_use_has_failed() {
    let odd: [Option<Vectors>; 7] = [
        Some(|_| vec![vec![1.0]]),
        Some(|texts| vec![vec![]; texts]),
        Some(|texts| vec![vec![f32::NAN, 1.0]; texts]),
        Some(|texts| vec![vec![f32::INFINITY, 1.0]; texts]),
        Some(|texts| (1..=texts).map(|text| vec![1.0; text]).collect()),
        // The last is the question's.
        Some(|texts| (1..=texts).map(|text| vec![(texts - text) as f32]).collect()),
        None,
    ];
    for (nth, answer) in odd.into_iter().enumerate() {
        let embedder = Arc::new(Odd(answer, AtomicUsize::new(0)));
        let policy = Relevance::tokens(ROOM, Arc::clone(&embedder)).recent(1);
        for asked in 1..=2 {
            assert_eq!(kept(&fit(&policy, &talk()).await.unwrap()), [5, 6, 7, 8, 9], "{nth}");
            assert_eq!((policy.fallbacks(), embedder.1.load(Ordering::SeqCst)), (asked, 1), "{nth}");
        }
    }
}

#[tokio::test]
async fn ties_leave_the_newest() {
    let policy = Relevance::tokens(ROOM, Things { odd: Some(1e9), ..Things::default() }).recent(1);
    assert_eq!(kept(&fit(&policy, &talk()).await.unwrap()), [5, 6, 7, 8, 9]);
    assert_eq!(policy.fallbacks(), 0);
}

#[tokio::test]
async fn a_question_of_images_alone_is_not_compared() {
    let mut request = talk();
    let message = Message { content: Some(Content::Parts(vec![Part::image("https://x/y.png")])), ..Message::user("") };
    request = request.assistant("Blue.").message(message);
    let things = Arc::new(Things::default());
    let policy = Relevance::tokens(850, Arc::clone(&things));
    let counter = Tiktoken::new();
    let fit = policy.fit(request.messages.clone(), &TokenBudget::new(&request, &counter)).await.unwrap();
    assert!((1..10).contains(&kept(&fit).len()));
    assert!(things.asked.lock().is_empty() && policy.fallbacks() == 0);
}

#[tokio::test]
async fn long_turns_are_compared_by_their_beginning_and_only_candidates_are() {
    let things = Arc::new(Things::default());
    let policy = Relevance::tokens(400, Arc::clone(&things)).recent(0).candidates(2);
    let request = ChatRequest::new("gpt-4o").user("sea").assistant("old").user("漢".repeat(3_000)).assistant("x");
    let request = request.user("cat").message(Message::tool("c", "told by a tool")).user("And?");
    let counter = Tiktoken::new();
    policy.fit(request.messages.clone(), &TokenBudget::new(&request, &counter)).await.unwrap();
    let asked = things.asked.lock().concat();
    assert_eq!(asked, ["漢".repeat(COMPARED / 3), "cat".to_owned(), "And?".to_owned()]);
}

#[tokio::test]
async fn what_must_stay_is_settled_as_by_the_window() {
    let request = talk().assistant("Blue.").user("word ".repeat(300));
    let policy = Relevance::tokens(ROOM, Things::default());
    assert_eq!(fit(&policy, &request).await.unwrap_err().kind(), ErrorKind::ContextLength);
    let counter = Tiktoken::new();
    let policy = policy.oversized(Oversized::Shorten);
    let fit = policy.fit(request.messages.clone(), &TokenBudget::new(&request, &counter)).await.unwrap();
    assert_eq!(fit.trace.shortened, 1);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let policy = || Relevance::tokens(100, Things::default());
    let wrong = [
        policy().candidates(0),
        policy().candidates(2_048),
        policy().remember(256),
        policy().time_limit(Duration::ZERO),
        Relevance::tokens(0, Things::default()),
    ];
    for policy in wrong {
        assert_eq!(policy.check().unwrap_err().kind(), ErrorKind::Config, "{policy:?}");
    }
    assert!(policy().recent(0).check().is_ok());
    let settings = "relevance, window, 100 tokens, newest 2 turns, nearest of 256, embedder within 2s";
    assert_eq!(policy().settings(), settings);
}
