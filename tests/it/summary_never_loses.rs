//! A failing, slow, cancelled, panicking or empty-answering writer of summaries never loses a message: each is sent as it
//! is, or covered by a summary, or left out because the budget demands it, and then it is in the next summary.

mod carried;
mod echo;
mod forged;
mod writers;

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::join_all;
use sluicegate::history::{HistoryPolicy, Summarize, SummaryRequest, TokenBudget, Window};
use sluicegate::testing::{Scripted, drop_at_every_await};
use sluicegate::tokens::{Tiktoken, TokenCounter};
use sluicegate::types::{
    ChatRequest, ChatResponse, ChatStream, Content, Deadline, EmbedRequest, EmbedResponse, FunctionCall, HistoryTrace,
    Message, Messages, Part, Role, Tenant, ToolCall,
};
use sluicegate::{ClientInfo, Env, Error, ErrorKind, LlmClient, OptimizedClient, Result};

use echo::{Echo, HEADER, Mood, say, told};

const LIMIT: u64 = 700;

/// Remembers what it counted.
static COUNTER: LazyLock<Tiktoken> = LazyLock::new(Tiktoken::new);

fn policy(echo: &Arc<Echo>) -> Summarize {
    Summarize::with(Arc::clone(echo), "gpt-5-nano").tokens(LIMIT).summary_tokens(60)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A conversation that grows: questions, answers, and at times tools and images. Each message begins with its id.
struct Talk {
    messages: Messages,
    next: usize,
    random: fastrand::Rng,
}

impl Talk {
    fn new(seed: u64) -> Self {
        let messages = vec![Message::system("Be brief.")].into();
        Self { messages, next: 0, random: fastrand::Rng::with_seed(seed) }
    }

    fn of(turns: usize) -> Self {
        let mut talk = Self::new(1);
        (0..turns).for_each(|_| talk.turn());
        talk.ask();
        talk
    }

    fn say(&mut self, role: Role) -> Message {
        let words = self.random.usize(1..60);
        self.next += 1;
        say(role, self.next - 1, words)
    }

    fn ask(&mut self) {
        let mut question = self.say(Role::User);
        if self.random.usize(..12) == 0 {
            let image = Part::ImageUrl {
                image_url: serde_json::from_value(serde_json::json!({"url": "https://x/y.png", "detail": "low"}))
                    .unwrap(),
                extra: Default::default(),
            };
            question.content = Some(Content::Parts(vec![Part::text(question.text()), image]));
        }
        self.messages.push(question);
        if self.random.usize(..10) == 0 {
            self.messages.push(Message::system("A later rule."));
        }
    }

    /// The model asks for tools, which answer.
    fn look(&mut self) {
        let mut calling = self.say(Role::Assistant);
        let count = self.random.usize(1..3);
        let ids: Vec<String> = (0..count).map(|at| format!("c{}-{at}", self.next)).collect();
        calling.tool_calls = ids.iter().map(|id| call(id)).collect();
        self.messages.push(calling);
        for id in ids {
            let result = Message { tool_call_id: Some(id), ..self.say(Role::Tool) };
            self.messages.push(result);
        }
    }

    fn answer(&mut self) {
        let answer = self.say(Role::Assistant);
        self.messages.push(answer);
    }

    fn turn(&mut self) {
        self.ask();
        if self.random.usize(..4) == 0 {
            self.look();
        }
        self.answer();
    }

    fn request(&self) -> ChatRequest {
        ChatRequest::new("gpt-5").messages(self.messages.clone())
    }

    /// What a prompt of these messages neither sends nor covers; that it is valid and within its budget.
    fn missing(&self, sent: &Messages) -> Vec<usize> {
        let tokens = COUNTER.request(&ChatRequest::new("gpt-5").messages(sent.clone()));
        assert!(tokens <= LIMIT, "{tokens} tokens");
        let instructions = |messages: &Messages| messages.iter().filter(|m| m.role.is_instruction()).count();
        assert_eq!(instructions(sent), instructions(&self.messages), "all instructions are sent");
        assert_eq!(sent.last(), self.messages.last());
        let last_question = self.messages.iter().rposition(|message| message.role == Role::User).unwrap();
        assert!(sent.contains(&self.messages[last_question]), "the last question is sent");
        assert_eq!(sent.iter().find(|m| !m.role.is_instruction()).unwrap().role, Role::User);
        let calls = sent.iter().flat_map(|m| &m.tool_calls).map(|call| call.id.as_str());
        let results = sent.iter().filter_map(|m| m.tool_call_id.as_deref());
        assert_eq!(calls.collect::<Vec<_>>(), results.collect::<Vec<_>>(), "calls and results go together");

        let (as_they_are, covered) = told(sent);
        assert!(as_they_are.iter().eq(&(self.next - as_they_are.len()..self.next).collect::<Vec<_>>()), "the newest");
        assert!(covered.iter().eq(&(0..covered.len()).collect::<Vec<_>>()), "the oldest: {covered:?}");
        assert!(covered.len() + as_they_are.len() <= self.next, "nothing is told twice");
        let told: BTreeSet<usize> = covered.into_iter().chain(as_they_are).collect();
        (0..self.next).filter(|id| !told.contains(id)).collect()
    }

    /// What was left out had to be: the turn before the oldest that is sent would not fit.
    fn assert_demanded(&self, sent: &Messages, missing: &[usize]) {
        let Some(newest) = missing.last() else { return };
        let place = |id: usize| self.messages.iter().position(|m| echo::id(&m.text()) == Some(id)).unwrap();
        let end = place(*newest) + 1;
        let start = self.messages[..end].iter().rposition(|message| message.role == Role::User).unwrap();
        let turn: u64 = self.messages[start..end]
            .iter()
            .filter(|message| !message.role.is_instruction())
            .map(|message| COUNTER.message("gpt-5", message))
            .sum();
        let tokens = COUNTER.request(&ChatRequest::new("gpt-5").messages(sent.clone()));
        assert!(tokens + turn > LIMIT, "{tokens} tokens were sent, and {turn} more would have fitted");
    }
}

fn call(id: &str) -> ToolCall {
    let function = FunctionCall { name: "look".into(), arguments: "{}".into(), ..FunctionCall::default() };
    ToolCall { id: id.into(), kind: "function".into(), function, extra: Default::default() }
}

async fn fit(policy: &Summarize, talk: &Talk, env: &Env) -> (Messages, HistoryTrace) {
    let request = talk.request();
    let fit = policy.fit(request.messages.clone(), &TokenBudget::of(&request, env)).await.unwrap();
    let mut sent = request.clone();
    sent.messages = fit.messages.clone();
    let again = policy.fit(sent.messages.clone(), &TokenBudget::of(&sent, env)).await.unwrap().messages;
    assert!(again.ptr_eq(&fit.messages), "fitting again changes nothing");
    (fit.messages, fit.trace)
}

/// The message that carries the summary.
fn carrier(sent: &Messages) -> &Message {
    sent.iter().find(|message| message.text().starts_with(HEADER)).unwrap()
}

/// A stack over a client that answers at once.
fn stack(policy: &Summarize) -> (OptimizedClient, Arc<Scripted>) {
    let upstream = Arc::new(Scripted::new());
    (OptimizedClient::builder(Arc::clone(&upstream)).history(policy.clone()).build().unwrap(), upstream)
}

fn last_sent(upstream: &Scripted) -> Messages {
    upstream.requests().last().unwrap().messages.clone()
}

#[tokio::test(start_paused = true)]
async fn whatever_the_writer_does() {
    let (mut left_out, mut summarized, mut tools) = (0, 0, 0);
    for seed in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed);
        let moods = (0..10_000).map(|_| match random.usize(..16) {
            0 => Mood::Fails,
            1 => Mood::Hangs,
            2 => Mood::Panics,
            3 => Mood::Breaks,
            4 => Mood::Blank,
            5 => Mood::Wordless,
            6 => Mood::Empty,
            7 => Mood::Slow(seconds(5)),
            8 => Mood::Slow(seconds(35)),
            _ => Mood::Works,
        });
        let echo = Echo::new(moods);
        let mut policy = policy(&echo);
        if seed % 3 == 0 {
            policy = policy.background();
        }
        let (env, mut talk) = (Env::new(), Talk::new(seed));
        for _ in 0..60 {
            talk.ask();
            for looked in 0..2 {
                if looked == 1 {
                    if talk.random.usize(..3) > 0 {
                        break;
                    }
                    tools += 1;
                    talk.look();
                }
                let (sent, trace) = fit(&policy, &talk, &env).await;
                let missing = talk.missing(&sent);
                talk.assert_demanded(&sent, &missing);
                assert_eq!(missing.is_empty(), trace.trimmed_tokens == 0, "{trace:?}");
                let covers = sent.iter().any(|message| message.text().starts_with(HEADER));
                assert_eq!(covers, trace.summarized_tokens > 0, "{trace:?}");
                left_out += usize::from(!missing.is_empty());
                summarized += usize::from(covers);
            }
            talk.answer();
            tokio::time::advance(seconds(talk.random.u64(..40))).await;
        }
        // Now it works: everything is told again, even what was left out for long.
        echo.moods.lock().clear();
        talk.ask();
        // What still hangs fails, the pause passes, and what is then begun in the background ends.
        for wait in [60, 10_000, 60] {
            tokio::time::sleep(seconds(wait)).await;
            fit(&policy, &talk, &env).await;
        }
        let (sent, trace) = fit(&policy, &talk, &env).await;
        assert_eq!(talk.missing(&sent), [] as [usize; 0], "seed {seed}");
        assert_eq!(trace.trimmed_tokens, 0);
        assert_eq!(echo.active(), 0);
        let stats = policy.stats();
        assert!(stats.failures > 0 && stats.summaries > 0 && stats.last_error.is_some(), "{stats:?}");
    }
    assert!(left_out > 100 && summarized > 1_000 && tools > 300, "{left_out} {summarized} {tools}");
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_works_leaves_nothing_out_and_the_prompt_only_grows_between_cuts() {
    let (mut cuts, mut calls) = (0, 0);
    for seed in 0..20 {
        let echo = Echo::new([]);
        let (env, policy, mut talk) = (Env::new(), policy(&echo), Talk::new(seed));
        let mut before = Messages::new();
        for _ in 0..80 {
            talk.ask();
            let (sent, _) = fit(&policy, &talk, &env).await;
            assert_eq!(talk.missing(&sent), [] as [usize; 0]);
            if !sent.starts_with(&before) {
                cuts += 1;
            }
            calls += 1;
            before = sent.clone();
            // Another process that sees this conversation for the first time sends the same.
            if talk.next % 7 == 0 {
                let (fresh, _) = fit(&self::policy(&Echo::new([])), &talk, &env).await;
                assert_eq!(fresh, sent);
            }
            talk.answer();
        }
        assert_eq!(policy.stats().summaries as usize, echo.calls());
        assert_eq!(policy.stats().input_tokens as usize, 100 * echo.calls());
    }
    assert!(cuts > 100 && calls > 3 * cuts, "{cuts} cuts in {calls} calls");
}

#[tokio::test(start_paused = true)]
async fn dropped_at_every_await() {
    let echo = Echo::new([]);
    let policy = policy(&echo).request_tokens(1_240).tokens(LIMIT);
    let (llm, upstream) = stack(&policy);
    let count = std::cell::Cell::new(0);
    let operation = || {
        // Never asked before, so each is summarised anew, in several requests.
        let mut talk = Talk::new(100 + count.get());
        count.set(count.get() + 1);
        (0..40).for_each(|_| talk.turn());
        talk.ask();
        echo.moods.lock().clear();
        echo.moods.lock().extend([Mood::Slow(seconds(1)); 100]);
        let (llm, upstream) = (&llm, &upstream);
        async move {
            llm.chat(talk.request()).await.unwrap();
            assert_eq!(talk.missing(&last_sent(upstream)), [] as [usize; 0]);
        }
    };
    let polls = drop_at_every_await(operation, async || {
        assert_eq!(echo.active(), 0, "no request is left behind");
    })
    .await;
    assert!(polls >= 3, "{polls}");

    // What a dropped call had summarised by then is not asked for again.
    let talk = Talk::of(60);
    let asked = echo.calls();
    let dropped = tokio::time::timeout(Duration::from_millis(1_500), llm.chat(talk.request())).await;
    assert!(dropped.is_err() && echo.calls() == asked + 2 && echo.active() == 0);
    llm.chat(talk.request()).await.unwrap();
    assert_eq!(talk.missing(&last_sent(&upstream)), [] as [usize; 0]);
    let requests = echo.requests.lock();
    let first =
        |at: usize| requests[at].messages[1].text().lines().find(|line| line.starts_with('{')).map(str::to_owned);
    assert_eq!(first(asked + 2), first(asked + 1), "it goes on where the other was dropped");
    assert_eq!(policy.stats().failures, 0, "to be dropped is no failure");
}

#[tokio::test(start_paused = true)]
async fn fifty_equal_calls_make_one_request() {
    let echo = Echo::new([Mood::Slow(seconds(3))]);
    let policy = policy(&echo);
    let (llm, upstream) = stack(&policy);
    let talk = Talk::of(12);
    // Every third goes away while it waits, the first among them.
    let calls = (0..50).map(|at| {
        let call = llm.chat(talk.request());
        async move {
            let patience = if at % 3 == 0 { seconds(1) } else { seconds(100) };
            tokio::time::timeout(patience, call).await.is_ok()
        }
    });
    let answered = join_all(calls).await.into_iter().filter(|answered| *answered).count();
    assert_eq!((answered, echo.calls(), echo.active()), (33, 1, 0));
    let sent = upstream.requests();
    assert!(sent.iter().all(|request| request.messages == sent[0].messages));
    assert_eq!(talk.missing(&sent[0].messages), [] as [usize; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn equal_calls_on_many_threads() {
    for round in 0..30 {
        let echo = Echo::new([]);
        let (llm, _) = stack(&policy(&echo));
        let talk = Talk::of(12 + round % 5);
        let calls = (0..16).map(|_| {
            let (llm, request) = (llm.clone(), talk.request());
            tokio::spawn(async move { llm.chat(request).await.map(drop) })
        });
        for done in join_all(calls.collect::<Vec<_>>()).await {
            done.unwrap().unwrap();
        }
        assert_eq!(echo.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_not_repeated_at_every_call() {
    let echo = Echo::new([Mood::Fails; 3]);
    let policy = policy(&echo);
    let (env, talk) = (Env::new(), Talk::of(12));
    for (wait, calls) in [(0, 1), (9, 1), (2, 2), (19, 2), (2, 3), (39, 3), (2, 4)] {
        tokio::time::advance(seconds(wait)).await;
        let (sent, _) = fit(&policy, &talk, &env).await;
        assert_eq!((echo.calls(), talk.missing(&sent).is_empty()), (calls, calls == 4), "after {wait} s");
        if calls < 4 {
            let request = talk.request();
            let window = Window::tokens(LIMIT).fit(request.messages.clone(), &TokenBudget::of(&request, &env)).await;
            assert_eq!(window.unwrap().messages, sent, "without any summary, what a window keeps");
        }
    }
    let stats = policy.stats();
    assert_eq!((stats.requests, stats.failures, stats.summaries, stats.input_tokens), (4, 3, 1, 3 * 7 + 100));
    assert!(stats.cost.picos() > 0);
}

#[tokio::test(start_paused = true)]
async fn in_the_background_no_call_waits() {
    let echo = Echo::new([Mood::Slow(seconds(5))]);
    let (llm, upstream) = stack(&policy(&echo).background());
    let talk = Talk::of(12);
    let start = tokio::time::Instant::now();
    llm.chat(talk.request()).await.unwrap();
    llm.chat(talk.request()).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(!talk.missing(&last_sent(&upstream)).is_empty());
    tokio::time::sleep(seconds(6)).await;
    let answer = llm.chat(talk.request()).await.unwrap();
    assert_eq!(talk.missing(&last_sent(&upstream)), [] as [usize; 0]);
    assert!(answer.trace().history.summarized_tokens > 0);
    assert_eq!(echo.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_in_the_background_outlives_the_stack_or_the_policy() {
    let echo = Echo::new([Mood::Hangs; 3]);
    let summarize = policy(&echo).background().time_limit(seconds(1_000_000));
    let (llm, _) = stack(&summarize);
    llm.chat(Talk::of(12).request()).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(echo.active(), 1);
    tokio::time::timeout(seconds(1), llm.shutdown()).await.unwrap();
    assert_eq!(echo.active(), 0);
    drop(llm);

    let (llm, _) = stack(&summarize);
    llm.chat(Talk::of(13).request()).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(echo.active(), 1);
    drop(llm);
    tokio::task::yield_now().await;
    assert_eq!(echo.active(), 0);

    // Outside a stack.
    let request = Talk::of(14).request();
    summarize.fit(request.messages.clone(), &TokenBudget::new(&request, &*COUNTER)).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(echo.active(), 1);
    drop(summarize);
    tokio::task::yield_now().await;
    assert_eq!(echo.active(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_not_spent_on_waiting() {
    let echo = Echo::new([Mood::Slow(seconds(8))]);
    let (llm, upstream) = stack(&policy(&echo));
    let talk = Talk::of(12);
    let start = tokio::time::Instant::now();
    let until: Instant = (start + seconds(10)).into_std();
    llm.chat(talk.request().with(Deadline(until))).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 5);
    assert!(!talk.missing(&last_sent(&upstream)).is_empty());
    tokio::time::sleep(seconds(4)).await;
    llm.chat(talk.request()).await.unwrap();
    assert_eq!(talk.missing(&last_sent(&upstream)), [] as [usize; 0]);
    assert_eq!(echo.calls(), 1, "it was finished in the background");
}

/// A client that is known only after it was wrapped.
#[derive(Debug, Clone, Default)]
struct Later {
    info: ClientInfo,
    stack: Arc<OnceLock<OptimizedClient>>,
    /// Instead of the request for a summary.
    sends: Arc<OnceLock<ChatRequest>>,
}

#[async_trait]
impl LlmClient for Later {
    fn info(&self) -> &ClientInfo {
        &self.info
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        self.stack.get().unwrap().chat(self.sends.get().cloned().unwrap_or(request)).await
    }

    async fn chat_stream(&self, _: ChatRequest) -> Result<ChatStream> {
        Err(Error::new(ErrorKind::Unsupported, "later", "not streamed"))
    }

    async fn embed(&self, _: EmbedRequest) -> Result<EmbedResponse> {
        Err(Error::new(ErrorKind::Unsupported, "later", "no vectors"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_stack_that_writes_its_own_summaries_does_so_once() {
    // Its own requests take more than the stack allows, and are not touched.
    let (later, talk) = (Later::default(), Talk::of(60));
    let policy = Summarize::with(later.clone(), "gpt-5-nano").tokens(LIMIT).summary_tokens(60);
    let (llm, upstream) = stack(&policy);
    later.stack.set(llm.clone()).unwrap();
    llm.chat(talk.request()).await.unwrap();
    let requests = upstream.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests[0].extensions.get::<SummaryRequest>().is_some());
    assert!(COUNTER.request(&requests[0]) > LIMIT);
    assert_eq!(carrier(&requests[1].messages).text(), format!("{HEADER}ok"));

    // One that sends the conversation itself back is refused, and the call goes on without a summary.
    for longer in [false, true] {
        let (later, mut talk) = (Later::default(), Talk::of(60));
        let policy = Summarize::with(later.clone(), "gpt-5-nano").tokens(LIMIT).summary_tokens(60);
        let (llm, upstream) = stack(&policy);
        later.stack.set(llm.clone()).unwrap();
        let request = talk.request();
        if longer {
            (0..20).for_each(|_| talk.turn());
            talk.ask();
        }
        later.sends.set(talk.request()).unwrap();
        let start = tokio::time::Instant::now();
        llm.chat(request).await.unwrap();
        assert_eq!((upstream.calls(), start.elapsed()), (1, Duration::ZERO));
        let stats = policy.stats();
        assert_eq!((stats.requests, stats.failures), (1, 1));
        assert_eq!(stats.last_error.unwrap().kind(), ErrorKind::InvalidRequest);
    }
}

#[tokio::test(start_paused = true)]
async fn no_request_for_a_summary_is_too_long_and_a_failed_one_loses_no_other() {
    let echo = Echo::new([Mood::Works, Mood::Works, Mood::Fails]);
    let policy = policy(&echo).request_tokens(1_240);
    let (env, mut talk) = (Env::new(), Talk::of(60));
    // A message that takes several requests by itself.
    talk.messages.make_mut().insert(1, Arc::new(Message::user("a long story, ".repeat(1_500))));
    let (sent, _) = fit(&policy, &talk, &env).await;
    assert!(!talk.missing(&sent).is_empty());
    assert_eq!(echo.calls(), 3);
    tokio::time::advance(seconds(11)).await;
    let (sent, trace) = fit(&policy, &talk, &env).await;
    assert_eq!(talk.missing(&sent), [] as [usize; 0]);
    assert_eq!(trace.trimmed_tokens, 0);
    let requests = echo.requests.lock();
    assert!(requests.len() > 8, "{}", requests.len());
    let mut story = 0;
    for request in requests.iter() {
        assert!(COUNTER.request(request) <= 1_240 && request.output_limit() == Some(60));
        story += request.messages[1].text().matches("a long story").count();
    }
    assert!(story >= 1_500, "{story}");
}

#[tokio::test(start_paused = true)]
async fn tenants_have_summaries_of_their_own() {
    let echo = Echo::new([]);
    let (llm, _) = stack(&policy(&echo));
    let talk = Talk::of(12);
    let tenants = [None, Some(Tenant("a".into())), Some(Tenant("b".into())), Some(Tenant(String::new()))];
    for _ in 0..2 {
        for tenant in tenants.clone() {
            let mut request = talk.request();
            tenant.into_iter().for_each(|tenant| request.extensions.insert(tenant));
            llm.chat(request).await.unwrap();
        }
    }
    assert_eq!(echo.tenants(), tenants);
}

#[tokio::test]
async fn a_summary_longer_than_its_room_is_cut() {
    let writer = Arc::new(Scripted::new().always(&"many words ".repeat(1_000)));
    let policy = Summarize::with(writer, "gpt-5-nano").tokens(LIMIT).summary_tokens(60);
    let (env, talk) = (Env::new(), Talk::of(12));
    let request = talk.request();
    let fit = policy.fit(request.messages.clone(), &TokenBudget::of(&request, &env)).await.unwrap();
    let summary = carrier(&fit.messages).text();
    assert!(summary.starts_with(HEADER) && summary.ends_with(" […]"), "{summary}");
    let tokens = COUNTER.message("gpt-5", carrier(&fit.messages));
    assert!((55..80).contains(&tokens), "{tokens}");

    // A long last turn leaves less room than a summary was promised, or none.
    for (left, room) in [(50, true), (5, false)] {
        let mut request = talk.request();
        request.messages.make_mut().retain(|message| message.role.is_instruction());
        request.messages.push(say(Role::User, 999, 500));
        let words = usize::try_from(500 + LIMIT - left - COUNTER.request(&request)).unwrap();
        request.messages = talk.messages.clone();
        request.messages.push(Message::assistant("And?"));
        request.messages.push(say(Role::User, 999, words));
        let budget = TokenBudget::of(&request, &env);
        let fit = policy.fit(request.messages.clone(), &budget).await.unwrap();
        let sent = ChatRequest::new("gpt-5").messages(fit.messages.clone());
        assert!(COUNTER.request(&sent) <= LIMIT && u64::from(fit.trace.kept_tokens) == COUNTER.request(&sent));
        let texts: Vec<_> = fit.messages.iter().map(|message| message.text()).collect();
        let cut =
            texts.iter().any(|text| text.starts_with(HEADER) && text.ends_with(" […]") && text.len() < summary.len());
        assert_eq!((cut, fit.trace.trimmed_tokens == 0), (room, room), "{left}: {texts:?}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let policy = || policy(&Echo::new([]));
    for (refused, why) in [
        (policy().low_water(1.0), "low_water = 1"),
        (policy().low_water(f64::NAN), "low_water = NaN"),
        (policy().summary_tokens(15), "summary_tokens = 15"),
        (policy().summary_tokens(350), "summary_tokens = 350 of 700"),
        (policy().request_tokens(1_239), "request_tokens = 1239"),
        (policy().time_limit(Duration::ZERO), "time_limit = 0s"),
        (policy().memory(1_000), "memory = 1000"),
        (policy().tokens(0), "tokens = 0"),
        (Summarize::with(Scripted::new(), "").tokens(LIMIT), "model = \"\""),
    ] {
        let error = refused.check().unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.message().contains(why), "{error}");
    }
    policy().check().unwrap();
    Summarize::with(Scripted::new(), "m").check().unwrap();
    let settings = policy().background().settings();
    assert_eq!(settings, "summarize by gpt-5-nano, 700 tokens, cut to 50 %, summaries of 60, in the background");
}
