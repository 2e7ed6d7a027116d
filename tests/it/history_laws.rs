//! Whatever the conversation: within budget, valid for OpenAI and Anthropic, instructions and the user's last message
//! kept, and fitting again changes nothing.

#[path = "history_laws/offenders.rs"]
mod offenders;

use std::sync::Arc;

use async_trait::async_trait;
use offenders::offenders;
use sluicegate::history::{
    Breakpoints, HistoryPolicy, KeepAll, LastTurns, Oversized, PolicyChain, Relevance, Repair, Rule, Rules,
    StableWindow, Window,
};
use sluicegate::testing::Conversations;
use sluicegate::testing::laws::PolicyLaws;
use sluicegate::tokens::Tiktoken;
use sluicegate::types::{Message, Messages};
use sluicegate::{Embedder, Result};

type Make = fn(u64) -> Arc<dyn HistoryPolicy>;

/// Policies that keep a limit.
fn policies() -> Vec<(&'static str, Make)> {
    vec![
        ("window", |tokens| Arc::new(Window::tokens(tokens))),
        ("window, shortening", |tokens| Arc::new(Window::tokens(tokens).oversized(Oversized::Shorten))),
        ("prefix-stable", |tokens| Arc::new(StableWindow::tokens(tokens).cached_price(0.1))),
        ("prefix-stable with breakpoints", |tokens| {
            Arc::new(StableWindow::tokens(tokens).cached_price(0.1).breakpoints(Breakpoints::Always))
        }),
        ("prefix-stable, shortening", |tokens| {
            let window = StableWindow::tokens(tokens).cached_price(0.1).breakpoints(Breakpoints::Always);
            Arc::new(window.oversized(Oversized::Shorten))
        }),
        ("last turns, then window", |tokens| {
            Arc::new(PolicyChain::new().then(LastTurns::new(3)).then(Window::tokens(tokens)))
        }),
        ("relevance", |tokens| Arc::new(Relevance::tokens(tokens, Letters))),
    ]
}

/// As near as two texts' letters are alike.
#[derive(Debug)]
struct Letters;

#[async_trait]
impl Embedder for Letters {
    async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        let vector = |text: &String| {
            let mut counts = vec![0.0; 16];
            text.bytes().for_each(|byte| counts[usize::from(byte) % 16] += 1.0);
            counts
        };
        Ok(texts.iter().map(vector).collect())
    }
}

#[tokio::test]
async fn policies_without_a_limit() {
    let policies: [Make; 2] = [|_| Arc::new(LastTurns::new(2)), |_| Arc::new(KeepAll::new())];
    let counter = Arc::new(Tiktoken::new());
    for make in policies {
        PolicyLaws::new(make).without_limit().counter(counter.clone()).conversations(10_000).check().await;
    }
}

/// It refuses what a policy that trims must not, so that law does not bind it.
#[tokio::test]
async fn keep_all_leaves_a_conversation_as_it_is_or_refuses_it() {
    let laws = PolicyLaws::new(|tokens| Arc::new(KeepAll::tokens(tokens))).without_limit();
    laws.counter(Arc::new(Tiktoken::new())).conversations(10_000).check().await;
}

/// Of a summary no more is asked than of the rest: but it is the user's, so it may stand before another of the user's
/// messages, which both providers take.
#[cfg(feature = "summarize")]
#[tokio::test]
async fn a_summary_is_a_prompt_like_any_other() {
    use sluicegate::history::Summarize;
    let make = |tokens| -> Arc<dyn HistoryPolicy> {
        let writer = sluicegate::testing::Scripted::new().always("They spoke of many things.");
        Arc::new(Summarize::with(writer, "gpt-4o").tokens(tokens).summary_tokens(20))
    };
    let laws = PolicyLaws::new(make).without_rule(Rule::UsersApart).counter(Arc::new(Tiktoken::new()));
    laws.conversations(10_000).check().await;
}

#[tokio::test]
async fn every_policy_on_ten_thousand_conversations() {
    let counter = Arc::new(Tiktoken::new());
    for (name, make) in policies() {
        println!("{name}");
        PolicyLaws::new(make).counter(counter.clone()).conversations(10_000).check().await;
    }
}

#[tokio::test]
async fn a_policy_that_breaks_a_law_is_found() {
    let counter = Arc::new(Tiktoken::new());
    for (law, make) in offenders() {
        let laws = PolicyLaws::new(make).counter(counter.clone());
        let found = futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(laws.check())).await;
        let words = *found.expect_err(law).downcast::<String>().unwrap();
        let words = words.lines().next().unwrap_or_default();
        assert!(words.contains(law), "{law}: {words}");
    }
}

/// All that is said and returned, to see that nothing gets lost.
fn texts(messages: &[Arc<Message>]) -> Vec<String> {
    let texts = messages.iter().flat_map(|message| message.texts()).map(|text| text.trim().to_owned());
    texts.filter(|text| !text.is_empty()).collect()
}

#[test]
fn what_came_broken_is_put_right_once_and_nothing_said_is_lost() {
    let mut made_up = Conversations::new(1);
    let mut put_right = 0;
    for number in 0..10_000 {
        let conversation = match number % 4 {
            0 => made_up.loose(),
            _ => made_up.broken(),
        };
        for rules in [Rules::openai(), Rules::anthropic(), Rules::strict()] {
            let repair = Repair::fix().rules(rules);
            let (fixed, repaired) = match repair.apply(conversation.clone()) {
                Ok(done) => done,
                Err(error) => {
                    let nobody = conversation.iter().all(|message| {
                        message.role.is_instruction() || texts(std::slice::from_ref(message)).is_empty()
                    });
                    assert!(nobody, "{error} {conversation:#?}");
                    continue;
                }
            };
            assert_eq!(rules.check(&fixed), Ok(()));
            assert_eq!(fixed.ptr_eq(&conversation), repaired == 0);
            assert_eq!(rules.check(&conversation).is_ok(), repaired == 0);
            put_right += u32::from(repaired > 0);
            let (again, none) = repair.apply(fixed.clone()).unwrap();
            assert!(again.ptr_eq(&fixed) && none == 0);
            let after = texts(&fixed).join("\n");
            for text in texts(&conversation) {
                assert!(after.contains(&text), "{text:?} is lost by {rules}: {conversation:#?}\n{fixed:#?}");
            }
            assert_eq!(Repair::refuse().rules(rules).apply(conversation.clone()).is_ok(), repaired == 0);
        }
    }
    assert!(put_right > 10_000, "{put_right} were broken");
}

/// Rules of one's own, too: what cannot be put right by them is refused, never sent.
#[test]
fn any_choice_of_rules_is_kept_or_refused() {
    let mut random = fastrand::Rng::with_seed(5);
    let mut made_up = Conversations::new(5);
    let (mut put_right, mut refused) = (0, 0);
    for number in 0..20_000 {
        let conversation = made_up.broken();
        let mut rules = Rules::strict();
        for _ in 0..random.usize(1..12) {
            rules = rules.without(*random.choice(RULES).unwrap());
        }
        let repair = Repair::fix().rules(rules);
        match repair.apply(conversation.clone()) {
            Ok((fixed, repaired)) => {
                put_right += usize::from(repaired > 0);
                assert_eq!(rules.check(&fixed), Ok(()));
                let (again, none) = repair.apply(fixed.clone()).unwrap();
                assert!(again.ptr_eq(&fixed) && none == 0);
                let after = texts(&fixed).join("\n");
                for text in texts(&conversation) {
                    assert!(after.contains(&text), "{text:?} is lost by {rules:?}: {conversation:#?}\n{fixed:#?}");
                }
            }
            Err(error) => {
                refused += 1;
                println!("{number}: {error} {rules:?}");
            }
        }
    }
    println!("{put_right} {refused}");
    assert!(put_right > 10_000 && refused < 200, "{put_right} {refused}");
}

const RULES: &[Rule] = &[
    Rule::Present,
    Rule::KnownRoles,
    Rule::NoFunctions,
    Rule::Content,
    Rule::TextNotBlank,
    Rule::Names,
    Rule::FunctionNames,
    Rule::CallsAnswered,
    Rule::ResultsHaveCalls,
    Rule::CallIds,
    Rule::CallIdsOnce,
    Rule::CallIdsPlain,
    Rule::CallIdsShort,
    Rule::InstructionsFirst,
    Rule::UserFirst,
    Rule::UsersApart,
    Rule::AssistantsApart,
    Rule::PrefillTrimmed,
    Rule::UserLast,
];

#[tokio::test]
async fn what_was_put_right_is_valid_after_every_policy() {
    use sluicegate::history::TokenBudget;
    use sluicegate::types::ChatRequest;
    let counter = Tiktoken::new();
    let mut made_up = Conversations::new(2);
    let mut trimmed = 0;
    for rules in [Rules::openai(), Rules::anthropic(), Rules::strict()] {
        for _ in 0..1_000 {
            let Ok((fixed, _)) = Repair::fix().rules(rules).apply(made_up.broken()) else { continue };
            let request = ChatRequest::new("gpt-4o").messages(fixed.clone());
            let budget = TokenBudget::new(&request, &counter);
            let limit = budget.prompt(&fixed) * 2 / 3;
            for (name, make) in policies() {
                let Ok(fit) = make(limit).fit(fixed.clone(), &budget).await else { continue };
                trimmed += u32::from(fit.messages.len() < fixed.len());
                assert_eq!(rules.check(&fit.messages), Ok(()), "{name}");
            }
        }
    }
    assert!(trimmed > 500, "{trimmed} were trimmed");
}

#[test]
fn a_hundred_thousand_broken_messages_take_linear_time() {
    // Quadratic work on these would take minutes.
    let orphans = (0..50_000).map(|_| Message::tool("same", "r"));
    let users = (0..50_000).map(|number| {
        let extra = [(format!("field {number}"), number.into())].into_iter().collect();
        Message { extra, ..Message::user("u") }
    });
    let all: Messages = orphans.chain(users).collect();
    let (fixed, _) = Repair::fix().rules(Rules::strict()).apply(all).unwrap();
    assert_eq!(Rules::strict().check(&fixed), Ok(()));
    assert_eq!(fixed.len(), 1 + 1 + 50_000 + 1);
}
