//! A turn that is too long by itself: an agent at work, or a user who goes on and on. Its oldest steps go, what the user
//! said last and the newest steps stay.

use std::sync::Arc;

use sluicegate::history::{
    Conversation, Fit, HistoryPolicy, LastTurns, Oversized, PolicyChain, Relevance, Rules, StableWindow, TokenBudget,
    Window,
};
use sluicegate::testing::{Conversations, Scripted};
use sluicegate::tokens::{Tiktoken, TokenCounter};
use sluicegate::types::{ChatRequest, FunctionCall, HistoryTrace, Message, Messages, Role, ToolCall};
use sluicegate::{ClientEmbedder, ErrorKind, OptimizedClient, Result};

const MODEL: &str = "gpt-5-mini";

/// Tools called, and their results.
fn step(number: usize, calls: usize, words: usize) -> Vec<Message> {
    let function = || FunctionCall { name: "look".into(), arguments: "{}".into(), ..FunctionCall::default() };
    let id = |nth: usize| format!("call-{number}-{nth}");
    let call = |nth| ToolCall { id: id(nth), kind: "function".into(), function: function(), extra: Default::default() };
    let calling = Message { tool_calls: (0..calls).map(call).collect(), ..Message::empty(Role::Assistant) };
    let result = |nth| Message::tool(id(nth), format!("Result {number}. {}", "to be or not ".repeat(words)));
    std::iter::once(calling).chain((0..calls).map(result)).collect()
}

fn agent(steps: usize) -> ChatRequest {
    let request = ChatRequest::new(MODEL).system("Be brief.").user("Before?").assistant("Yes.").user("Find the bug.");
    (0..steps).flat_map(|number| step(number, 1 + number % 2, 3)).fold(request, ChatRequest::message)
}

fn policies(tokens: u64) -> Vec<(&'static str, Arc<dyn HistoryPolicy>)> {
    let embedder = ClientEmbedder::new(Scripted::new(), "text-embedding-3-small");
    vec![
        ("window", Arc::new(Window::tokens(tokens))),
        ("stable", Arc::new(StableWindow::tokens(tokens).cached_price(0.1))),
        ("relevance", Arc::new(Relevance::tokens(tokens, embedder))),
    ]
}

async fn fit(policy: &dyn HistoryPolicy, request: &ChatRequest) -> Result<Fit> {
    policy.fit(request.messages.clone(), &TokenBudget::new(request, &Tiktoken::new())).await
}

fn tokens(messages: &[Arc<Message>]) -> u64 {
    let messages: Messages = messages.iter().cloned().collect();
    Tiktoken::new().request(&ChatRequest::new(MODEL).messages(messages))
}

/// What was kept, checked for what must hold of every prompt.
async fn kept(policy: &dyn HistoryPolicy, request: &ChatRequest, limit: u64) -> Messages {
    let Fit { messages, trace, .. } = fit(policy, request).await.unwrap();
    let takes = tokens(&messages);
    assert!(takes <= limit && u64::from(trace.kept_tokens) == takes, "{takes} {trace:?}");
    let gone = tokens(&request.messages) - takes;
    assert!(u64::from(trace.trimmed_tokens).abs_diff(gone) <= gone / 20, "{gone} {trace:?}");
    for rules in [Rules::openai(), Rules::anthropic()] {
        assert_eq!(rules.check(&messages), Ok(()));
    }
    let mut again = request.clone();
    again.messages = messages.clone();
    assert!(fit(policy, &again).await.unwrap().messages.ptr_eq(&messages), "fitting again changes nothing");
    messages
}

#[tokio::test]
async fn an_agent_at_work_is_not_refused() {
    let request = agent(100);
    for (name, policy) in policies(300) {
        let kept = kept(&*policy, &request, 300).await;
        assert_eq!((kept[0].text().as_str(), kept[1].text().as_str()), ("Be brief.", "Find the bug."), "{name}");
        let (all, newest) = (&request.messages, kept.len() - 2);
        assert!(newest >= 6, "{name}: {newest}");
        assert_eq!(kept[2..], all[all.len() - newest..], "{name}");
        assert_eq!(kept[2].role, Role::Assistant, "{name}");
        if name != "stable" {
            let before = all[..all.len() - newest].iter().rposition(|message| message.role == Role::Assistant).unwrap();
            let more: Vec<_> = kept[..2].iter().chain(&all[before..]).cloned().collect();
            assert!(tokens(&more) > 300, "{name}: no step more would fit");
        }
    }
}

#[tokio::test]
async fn a_user_who_goes_on_and_on_is_not_refused() {
    let request = ChatRequest::new(MODEL).system("Be brief.");
    let request = (0..100).fold(request, |request, number| request.user(format!("And another thing, {number}.")));
    for (name, policy) in policies(200) {
        for request in [request.clone(), step(1, 2, 1).into_iter().fold(request.clone(), ChatRequest::message)] {
            let kept = kept(&*policy, &request, 200).await;
            let (all, newest) = (&request.messages, kept.len() - 1);
            assert!(newest >= 8, "{name}: {newest}");
            assert_eq!(kept[1..], all[all.len() - newest..], "{name}");
        }
    }
}

#[tokio::test]
async fn what_must_stay_and_does_not_fit_is_refused_or_shortened() {
    let long = ChatRequest::new(MODEL).system("Be brief.").user("Old.").user("many words of some kind ".repeat(100));
    let request = (0..5).flat_map(|number| step(number, 1, 3)).fold(long, ChatRequest::message);
    for (name, policy) in policies(300) {
        let error = fit(&*policy, &request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ContextLength, "{name}");
        let words = "instructions, the user's last message and the newest step take ";
        let least: u64 = error.to_string().split_once(words).unwrap().1.split(' ').next().unwrap().parse().unwrap();
        let stays = [0, 2, 11, 12].map(|at| Arc::clone(&request.messages[at]));
        assert_eq!(least, tokens(&stays), "{name}");
    }
    let shortening: [Arc<dyn HistoryPolicy>; 2] = [
        Arc::new(Window::tokens(300).oversized(Oversized::Shorten)),
        Arc::new(StableWindow::tokens(300).cached_price(0.1).oversized(Oversized::Shorten)),
    ];
    for policy in shortening {
        let sent = kept(&*policy, &request, 300).await;
        assert_eq!(sent.len(), 4);
        assert!(sent[1].text().starts_with("many words") && sent[1].text().contains("left out"));
        assert_eq!(sent[2..], request.messages[11..]);
        let carried = fit(&*policy, &request).await.unwrap().carry.unwrap().messages;
        assert_eq!(carried[1], request.messages[2], "the next time it is shown whole");
    }
}

/// The prompts of an agent's calls, and what the traces tell: the whole conversation shown each time, or through a handle.
/// Nothing where it was refused.
async fn prompts(
    in_handle: bool,
    talk: &[Vec<Message>],
    policy: Arc<dyn HistoryPolicy>,
) -> Vec<Option<(Messages, HistoryTrace)>> {
    let upstream = Arc::new(Scripted::new());
    let client = OptimizedClient::builder(Arc::clone(&upstream)).history(policy).build().unwrap();
    let mut handle = Conversation::new(ChatRequest::new(MODEL).system("Be brief."));
    let mut prompts = Vec::new();
    for said in talk {
        said.iter().for_each(|message| handle.push(message.clone()));
        let whole = ChatRequest::new(MODEL).messages(handle.messages().iter().cloned().collect::<Messages>());
        let answer = client.chat(if in_handle { handle.request() } else { whole }).await;
        prompts.push(match answer {
            Ok(answer) => Some((upstream.requests().last().unwrap().messages.clone(), answer.trace().history)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ContextLength);
                None
            }
        });
    }
    prompts
}

#[tokio::test]
async fn the_prompt_of_an_agent_at_work_only_grows_but_for_a_few_trims() {
    let mut talk =
        vec![vec![Message::user("Before?")], vec![Message::assistant("Yes."), Message::user("Find the bug.")]];
    talk.extend((0..200).map(|number| step(number, 1 + number % 2, 3)));
    talk.push(vec![Message::assistant("Found."), Message::user("And another?")]);
    talk.extend((200..300).map(|number| step(number, 1, 3)));
    let stable = || Arc::new(StableWindow::tokens(600).cached_price(0.1).prompt_cache(1, 1));
    let stateless: Vec<_> = prompts(false, &talk, stable()).await.into_iter().map(Option::unwrap).collect();
    let in_handle: Vec<_> = prompts(true, &talk, stable()).await.into_iter().map(Option::unwrap).collect();
    let mut trims = 0;
    for (call, pair) in stateless.windows(2).enumerate() {
        let [(before, told_before), (now, told)] = pair else { panic!() };
        assert_eq!(in_handle[call + 1].0, *now, "call {call}");
        assert_eq!(in_handle[call + 1].1.expected_cached_tokens, told.expected_cached_tokens, "call {call}");
        if now.starts_with(before) {
            assert_eq!(told.expected_cached_tokens, told_before.kept_tokens, "call {call}");
        } else {
            trims += 1;
            assert_eq!(u64::from(told.expected_cached_tokens), tokens(&now[..1]), "call {call}: instructions");
            // What is left of the first question goes as a whole.
            let first_goes = before[1].text() == "Find the bug." && now[1].text() == "And another?";
            assert!(first_goes || told.kept_tokens > 250, "not all is forgotten: {told:?}");
        }
        let asked = if call < 201 { "Find the bug." } else { "And another?" };
        assert!(call == 0 || now.iter().any(|message| message.text() == asked), "call {call}");
    }
    println!("{trims} trims in {} calls", stateless.len());
    assert!((5..45).contains(&trims), "{trims} trims in {} calls", stateless.len());
    // The second question came when there was room for it beside what the first had left.
    let second = &stateless[202].0;
    assert_eq!((second[1].text().as_str(), second.last().unwrap().text().as_str()), ("Find the bug.", "And another?"));
}

/// Turns of all kinds: some too long by themselves, some that never fit.
fn made_up(random: &mut fastrand::Rng) -> Vec<Vec<Message>> {
    let mut talk = Vec::new();
    for number in 0..25 {
        let mut said = Vec::new();
        if number > 0 {
            said.push(Message::assistant(format!("Answer {number}.")));
        }
        if random.u8(..10) == 0 {
            said.push(Message::system(format!("Rule {number}.")));
        }
        for _ in 0..*random.choice(&[1, 1, 1, 2, 9]).unwrap() {
            said.push(Message::user(format!("Question {number}. {}", "well, ".repeat(random.usize(..20)))));
        }
        talk.push(said);
        for nth in 0..*random.choice(&[0, 1, 2, 12]).unwrap() {
            let words = if random.u8(..30) == 0 { 60 } else { random.usize(..8) };
            talk.push(step(100 * number + nth, random.usize(1..3), words));
        }
    }
    talk
}

#[tokio::test]
async fn in_a_handle_the_prompts_are_those_of_the_whole_conversation() {
    let (mut shortened, mut refused) = (0, 0);
    for seed in 0..12 {
        let talk = made_up(&mut fastrand::Rng::with_seed(seed));
        let stable = || StableWindow::tokens(240).cached_price(0.1).prompt_cache(20, 4);
        let makes: [&dyn Fn() -> Arc<dyn HistoryPolicy>; 5] = [
            &|| Arc::new(Window::tokens(240)),
            &|| Arc::new(stable()),
            &|| Arc::new(Window::tokens(240).oversized(Oversized::Shorten)),
            &|| Arc::new(stable().oversized(Oversized::Shorten)),
            &|| Arc::new(PolicyChain::new().then(LastTurns::new(3)).then(stable().oversized(Oversized::Shorten))),
        ];
        for (nth, make) in makes.iter().enumerate() {
            let whole = prompts(false, &talk, make()).await;
            let handle = prompts(true, &talk, make()).await;
            for (call, (whole, handle)) in whole.iter().zip(&handle).enumerate() {
                let case = format!("seed {seed}, policy {nth}, call {call}");
                let (Some(whole), Some(handle)) = (whole, handle) else {
                    assert!(whole.is_none() && handle.is_none(), "{case}");
                    refused += 1;
                    continue;
                };
                assert_eq!(whole.0, handle.0, "{case}");
                // What surely fits is not counted, and less is shown in a handle.
                assert!(handle.1.kept_tokens == 0 || handle.1.kept_tokens == whole.1.kept_tokens, "{case}");
                // A chain whose other policy moved something expects nothing.
                let cached = whole.1.expected_cached_tokens;
                assert!(cached == handle.1.expected_cached_tokens || nth == 4, "{case}");
                shortened += usize::from(whole.1.shortened > 0);
            }
        }
    }
    assert!(shortened > 10 && refused > 10, "{shortened} {refused}");
}

#[tokio::test]
async fn only_what_must_stay_is_refused() {
    let mut made_up = Conversations::new(3);
    let mut random = fastrand::Rng::with_seed(3);
    let (mut refused, mut cut) = (0, 0);
    for _ in 0..2_000 {
        let messages = made_up.loose();
        let user = messages.iter().rposition(|message| message.role == Role::User);
        let step = messages.iter().rposition(|message| matches!(message.role, Role::User | Role::Assistant));
        let stays = |at: usize, message: &Message| {
            message.role.is_instruction() || Some(at) == user || step.is_none_or(|step| at >= step)
        };
        let least: Vec<_> = messages
            .iter()
            .enumerate()
            .filter(|(at, message)| stays(*at, message))
            .map(|(_, one)| one.clone())
            .collect();
        let (least, all) = (tokens(&least), tokens(&messages));
        let request = ChatRequest::new(MODEL).messages(messages);
        let limit = if random.bool() { least } else { random.u64(1..=all) };
        for (name, policy) in policies(limit) {
            match fit(&*policy, &request).await {
                Ok(fit) => {
                    assert!(least <= limit && tokens(&fit.messages) <= limit, "{name}");
                    cut += usize::from(fit.messages.len() < request.messages.len());
                }
                Err(error) => {
                    refused += 1;
                    assert!(least > limit && error.kind() == ErrorKind::ContextLength, "{name}: {least} {error}");
                }
            }
        }
    }
    assert!(refused > 100 && cut > 1_000, "{refused} {cut}");
}
