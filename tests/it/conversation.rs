//! A conversation in a handle: the prompts are those of sending it all each time, and nothing that goes wrong loses a
//! word.

use std::sync::Arc;
use std::time::Duration;

use sluicegate::cache::{Cache, CacheLayer, Namespace, Values};
use sluicegate::history::{
    Conversation, HistoryPolicy, LastTurns, Normalize, Oversized, PolicyChain, Repair, StableWindow, Window,
};
use sluicegate::testing::{Gate, Reply, Scripted};
use sluicegate::types::{
    ChatCompletion, ChatRequest, Content, FunctionCall, HistoryTrace, Message, Messages, Part, Role, ToolCall,
};
use sluicegate::{Env, Error, ErrorKind, Layer, OptimizedClient};

fn stack(upstream: &Arc<Scripted>, window: u64) -> OptimizedClient {
    let builder = OptimizedClient::builder(Arc::clone(upstream)).history(Window::tokens(window));
    builder.normalize(Normalize::safe()).build().unwrap()
}

fn template() -> ChatRequest {
    ChatRequest::new("gpt-5-mini").system("Be brief.  ")
}

/// The prompts that reached the provider.
fn prompts(upstream: &Scripted) -> Vec<Messages> {
    upstream.requests().iter().map(|request| request.messages.clone()).collect()
}

fn texts(messages: &[Arc<Message>]) -> Vec<String> {
    messages.iter().map(|message| message.text()).collect()
}

/// What is said in a turn: a question, now and then new instructions, or a tool called and its result.
fn turn(random: &mut fastrand::Rng, number: usize) -> Vec<Message> {
    let mut said = Vec::new();
    let words = |random: &mut fastrand::Rng| "to be or not  \n".repeat(random.usize(1..12)) + &number.to_string();
    if random.u8(..10) == 0 {
        said.push(Message::system(format!("Rule {number}.")));
    }
    let mut question = Message::user(words(random));
    match random.u8(..8) {
        0 => question.content = Some(Content::Parts(vec![Part::text(words(random))])),
        1 => question.content = Some(Content::Parts(vec![Part::text("A page:\n"), Part::text(words(random))])),
        _ => {}
    }
    said.push(question);
    if random.u8(..4) == 0 {
        let function = FunctionCall { name: "look".into(), arguments: "{}".into(), ..FunctionCall::default() };
        let id = format!("call-{number}");
        let call = ToolCall { id: id.clone(), kind: "function".into(), function, extra: Default::default() };
        said.push(Message { tool_calls: vec![call], ..Message::empty(Role::Assistant) });
        said.push(Message::tool(id, words(random)));
    }
    said
}

/// Says sixty turns to two stacks; one is shown the handle's requests, the other the whole conversation. The prompts must
/// be the same. The smallest share of the log that was shown, in percent.
async fn same_prompts(seed: u64, model: &str, stack: impl Fn(&Arc<Scripted>) -> OptimizedClient) -> usize {
    let mut random = fastrand::Rng::with_seed(seed);
    let upstreams = [(); 2].map(|()| Arc::new(Scripted::new().always("So it is.")));
    let [of_handle, of_whole] = [0, 1].map(|side| stack(&upstreams[side]));
    let mut talk = Conversation::new(template());
    talk.set_model(model);
    let mut smallest = 100;
    for number in 0..60 {
        for message in turn(&mut random, number) {
            talk.push(message);
        }
        if random.u8(..8) == 0 {
            let text = serde_json::to_string(&talk).unwrap();
            talk = serde_json::from_str(&text).unwrap();
        }
        let whole: Messages = talk.messages().iter().cloned().collect();
        let whole = of_whole.chat(ChatRequest::new(model).messages(whole)).await.unwrap();
        let answer = if random.bool() {
            let answer = of_handle.chat(talk.request()).await.unwrap();
            talk.answered(&answer);
            answer
        } else {
            let stream = of_handle.chat_stream(talk.request()).await.unwrap();
            talk.read(stream, |_| {}).await.unwrap()
        };
        assert_eq!(answer.text(), "So it is.");
        // What was done this time, and not ever.
        let ever = |mut trace: HistoryTrace| {
            (trace.trimmed_tokens, trace.normalized_tokens) = (0, 0);
            trace
        };
        assert_eq!(ever(answer.trace().history), ever(whole.trace().history), "seed {seed}, turn {number}");
        smallest = smallest.min(talk.active_len() * 100 / talk.len());
    }
    let [handle, whole] = upstreams.map(|upstream| prompts(&upstream));
    assert_eq!(handle.len(), 60);
    for (number, (handle, whole)) in handle.iter().zip(&whole).enumerate() {
        assert_eq!(texts(handle), texts(whole), "seed {seed}, turn {number}");
        assert_eq!(handle, whole, "seed {seed}, turn {number}");
    }
    smallest
}

#[tokio::test]
async fn the_prompts_are_those_of_sending_it_all_each_time() {
    for seed in 0..8 {
        let smallest = same_prompts(seed, "gpt-5-mini", |upstream| stack(upstream, 400)).await;
        assert!(smallest < 25, "the active part is less than a quarter of the log");
    }
}

#[tokio::test]
async fn so_they_are_by_every_policy() {
    type Make = fn() -> Arc<dyn HistoryPolicy>;
    fn stable() -> StableWindow {
        StableWindow::tokens(400).cached_price(0.1)
    }
    let policies: [(&str, Make, bool); 8] = [
        ("gpt-5-mini", || Arc::new(StableWindow::tokens(400).cached_price(0.1).prompt_cache(100, 10)), true),
        // Marks that a provider's cache asks for come back in what was kept.
        ("claude-sonnet-4-5", || Arc::new(stable()), true),
        ("gpt-5-mini", || Arc::new(PolicyChain::new().then(LastTurns::new(12)).then(Window::tokens(400))), true),
        ("claude-sonnet-4-5", || Arc::new(PolicyChain::new().then(LastTurns::new(30)).then(stable())), false),
        ("gpt-5-mini", || Arc::new(PolicyChain::new().then(stable()).then(LastTurns::new(4))), true),
        ("gpt-5-mini", || Arc::new(stable().oversized(Oversized::Shorten)), true),
        ("gpt-5-mini", || Arc::new(PolicyChain::new().then(stable())), true),
        ("gpt-5-mini", || Arc::new(LastTurns::new(5)), true),
    ];
    for (number, (model, policy, drops)) in policies.into_iter().enumerate() {
        for seed in 0..4 {
            let smallest = same_prompts(seed, model, |upstream| {
                let builder = OptimizedClient::builder(Arc::clone(upstream)).history(policy());
                builder.normalize(Normalize::aggressive()).repair(Repair::fix()).build().unwrap()
            });
            assert_eq!(smallest.await < 50, drops, "policy {number}");
        }
    }
}

#[tokio::test]
async fn so_they_are_where_a_stack_stands_on_another_with_a_history_of_its_own() {
    for seed in 0..4 {
        same_prompts(seed, "gpt-5-mini", |upstream| {
            let inner = stack(upstream, 400);
            let outer = StableWindow::tokens(600).cached_price(0.1);
            OptimizedClient::builder(inner).history(outer).build().unwrap()
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_or_dropped_call_loses_nothing() {
    let down = Error::new(ErrorKind::Server, "test", "down");
    let [half, rest] = [Reply::words(["half"]), Reply::text("whole")];
    let Reply::Chunks(chunks) = half else { unreachable!() };
    let script = [Reply::Fail(down.clone()), Reply::Break(chunks.clone(), down), Reply::Cut(chunks), rest];
    let upstream = script.into_iter().fold(Scripted::new(), Scripted::then);
    let upstream = Arc::new(upstream.latency(Duration::from_secs(9)).always("again"));
    let llm = stack(&upstream, 60);
    let mut talk = Conversation::new(template());
    for n in 0..20 {
        talk.user(format!("question {n}"));
        talk.push(Message::assistant(format!("answer {n}")));
    }
    talk.user("the question");
    let said = texts(talk.messages());

    llm.chat(talk.request()).await.unwrap_err();
    for _ in 0..2 {
        let stream = llm.chat_stream(talk.request()).await.unwrap();
        talk.read(stream, |_| {}).await.unwrap_err();
    }
    let dropped = tokio::time::timeout(Duration::from_secs(1), llm.chat(talk.request())).await;
    assert!(dropped.is_err() && texts(talk.messages()) == said, "nothing is added, nothing is gone");

    let answer = llm.chat(talk.request()).await.unwrap();
    talk.answered(&answer);
    let prompts = prompts(&upstream);
    assert!(prompts.len() == 5 && prompts.iter().all(|prompt| *prompt == prompts[0]), "the same is asked each time");
    assert!(prompts[0].len() < 20 && prompts[0].last().unwrap().text() == "the question");
    assert_eq!(talk.len(), said.len() + 1);

    talk.user("one more");
    let stream = llm.chat_stream(talk.request()).await.unwrap();
    let mut seen = String::new();
    let dropped = talk.read(stream, |chunk| seen.push_str(chunk.text()));
    drop(dropped);
    assert_eq!(talk.len(), said.len() + 2, "a stream that is dropped says nothing");
}

#[tokio::test]
async fn two_requests_at_a_time_ask_the_same_and_the_later_state_stands() {
    let gate = Gate::closed();
    let upstream = Arc::new(Scripted::new().gate(&gate).always("yes"));
    let llm = stack(&upstream, 60);
    let mut talk = Conversation::new(template());
    for n in 0..20 {
        talk.user(format!("question {n}"));
        talk.push(Message::assistant(format!("answer {n}")));
    }
    talk.user("which?");
    let [first, second] = [talk.request(), talk.request()];
    let calls = async { tokio::join!(llm.chat(first), llm.chat(second)) };
    let (answers, ()) = tokio::join!(calls, async { gate.open() });
    let sent = prompts(&upstream);
    assert_eq!(sent[0], sent[1]);
    talk.answered(&answers.1.unwrap());
    let active = talk.active_len();
    assert!(active < 20 && talk.len() == 43);

    // Asked again: the answer taken back, another one given.
    talk.truncate(42);
    let again = llm.chat(talk.request()).await.unwrap();
    assert_eq!(prompts(&upstream)[2], sent[0]);
    talk.answered(&again);
    assert_eq!(talk.active_len(), active);
}

#[tokio::test]
async fn a_policy_that_carries_nothing_sees_it_all() {
    /// A window that may change its mind.
    #[derive(Debug)]
    struct Undecided(Window);

    #[async_trait::async_trait]
    impl sluicegate::history::HistoryPolicy for Undecided {
        fn settings(&self) -> String {
            self.0.settings()
        }
        fn check(&self) -> sluicegate::Result<()> {
            self.0.check()
        }
        fn fits(&self, messages: &Messages, budget: &sluicegate::history::TokenBudget<'_>) -> bool {
            self.0.fits(messages, budget)
        }
        async fn fit(
            &self,
            messages: Messages,
            budget: &sluicegate::history::TokenBudget<'_>,
        ) -> sluicegate::Result<sluicegate::history::Fit> {
            Ok(sluicegate::history::Fit { carry: None, ..self.0.fit(messages, budget).await? })
        }
    }

    let upstream = Arc::new(Scripted::new());
    let policy = Undecided(Window::tokens(40));
    let llm = OptimizedClient::builder(Arc::clone(&upstream)).history(policy).build().unwrap();
    let mut talk = Conversation::new(template());
    for n in 0..20 {
        talk.user(format!("question {n}"));
        let answer = llm.chat(talk.request()).await.unwrap();
        talk.answered(&answer);
        assert_eq!(talk.active_len(), talk.len());
    }
    assert!(prompts(&upstream)[19].len() < 20);
}

fn talks(cache: Cache) -> Values {
    let layer = CacheLayer::from(cache.namespace(Namespace::new("talks").ttl(Duration::from_secs(86_400))));
    layer.wrap(Arc::new(Scripted::new()), &Env::new()).unwrap();
    layer.namespace("talks").unwrap().tenant("acme")
}

/// Says a little, stores it, and goes on with what `reload` opens.
async fn goes_on(store: Values, reload: impl FnOnce() -> Values) {
    let mut completion = ChatCompletion::text("m", "Rayleigh scattering.");
    completion.choices[0].message.extra.insert("reasoning_content".into(), "It is the air.".into());
    let upstream = Arc::new(Scripted::new().always_reply(Reply::Completion(Box::new(completion))));
    let llm = stack(&upstream, 100);
    let mut talk = Conversation::new(template().temperature(0.3));
    for n in 0..10 {
        talk.user(format!("Why is the sky blue, asked the {n}th time?"));
        let answer = llm.chat(talk.request()).await.unwrap();
        talk.answered(&answer);
    }
    store.put("talk-17", talk.clone()).await.unwrap();
    drop(store);
    let store = reload();
    let loaded = store.get::<Conversation>("talk-17").await.unwrap().unwrap();
    let mut loaded = Conversation::clone(&loaded);
    assert_eq!(loaded.messages(), talk.messages());
    assert!(loaded.active_len() == talk.active_len() && talk.active_len() < talk.len());
    assert_eq!(loaded.messages()[2].extra["reasoning_content"], "It is the air.");
    for talk in [&mut talk, &mut loaded] {
        talk.user("And on Mars?");
        llm.chat(talk.request()).await.unwrap();
    }
    let requests = upstream.requests();
    let [.., own, again] = requests.as_slice() else { panic!("two at least") };
    assert_eq!(own.body(), again.body());
    assert!(store.get::<Conversation>("talk-18").await.unwrap().is_none());

    // What another version wrote is not taken for a conversation, and stays to be read by that one.
    let later = serde_json::json!({"version": 3});
    store.put("later", later.clone()).await.unwrap();
    assert!(store.get::<Conversation>("later").await.unwrap().is_none());
    assert_eq!(store.get::<serde_json::Value>("later").await.unwrap().as_deref(), Some(&later));
}

#[tokio::test]
async fn it_is_stored_in_memory_and_taken_up_again() {
    let store = talks(Cache::memory(100));
    goes_on(store.clone(), || store).await;
}

#[cfg(feature = "disk")]
#[tokio::test]
async fn it_is_stored_on_disk_and_taken_up_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let open = || talks(Cache::memory(100).tier(super::disk::open(folder.path())));
    goes_on(open(), open).await;
}
