use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;
use crate::history::Window;
use crate::history::turns::turns;
use crate::tokens::TokenCounter;
use crate::types::{ChatBody, ChatRequest, FunctionCall, Message, Role, Tool, ToolCall};

/// A token a byte, one for the message, ten for a tool.
#[derive(Debug)]
struct Bytes;

impl TokenCounter for Bytes {
    fn text(&self, _: &str, text: &str) -> u64 {
        text.len() as u64
    }

    fn message(&self, model: &str, message: &Message) -> u64 {
        1 + message.texts().map(|text| self.text(model, text)).sum::<u64>()
    }

    fn request(&self, body: &ChatBody) -> u64 {
        let messages = body.messages.iter().map(|message| self.message(&body.model, message));
        10 * body.tools.len() as u64 + messages.sum::<u64>()
    }
}

fn fit(policy: &dyn HistoryPolicy, model: &str, messages: Messages, cached: f64) -> Result<Fit> {
    let mut request = ChatRequest::new(model).tool(Tool::function("look", "looks", serde_json::json!({})));
    request.messages = messages.clone();
    let budget = TokenBudget::new(&request, &Bytes).with_cached_share(cached);
    futures_util::FutureExt::now_or_never(policy.fit(messages, &budget)).expect("it waits for nothing")
}

/// A message of so many tokens. A letter for who speaks, `c` for a call of tools.
fn message((who, tokens): (char, usize)) -> Message {
    let words = "x".repeat(tokens - 1);
    match who {
        's' => Message::system(words),
        'u' => Message::user(words),
        't' => Message::tool("id", words),
        'a' => Message::assistant(words),
        _ => {
            let function = FunctionCall { name: "look".into(), ..FunctionCall::default() };
            let call = ToolCall { id: "id".into(), kind: "function".into(), function, extra: Default::default() };
            Message { tool_calls: vec![call], ..Message::new(Role::Assistant, words) }
        }
    }
}

/// Rounds of this many tokens, half asked and half answered, after instructions of ten; then a question.
fn rounds(count: usize, tokens: usize) -> Messages {
    let round = [('u', tokens / 2), ('a', tokens / 2)];
    let said = std::iter::repeat_n(round, count).flatten().chain([('u', tokens / 2)]);
    std::iter::once(('s', 10)).chain(said).map(message).collect()
}

/// Whole things that are said, of which conversations are made.
fn exchanges() -> impl Strategy<Value = Vec<Message>> {
    let tokens = || 2..40_usize;
    let short = (tokens(), tokens()).prop_map(|(ask, answer)| vec![('u', ask), ('a', answer)]);
    let tools = (tokens(), tokens(), tokens(), tokens()).prop_map(|(ask, call, result, answer)| {
        vec![('u', ask), ('c', call), ('t', result), ('t', result), ('a', answer)]
    });
    let odd = prop_oneof![
        Just(vec![('s', 3)]),
        Just(vec![('a', 9)]),
        Just(vec![('u', 7)]),
        Just(vec![('u', 4), ('u', 5), ('s', 2), ('a', 6)]),
        Just(vec![('u', 150)]),
        Just(vec![('u', 60), ('a', 90)]),
        Just(vec![
            ('u', 20),
            ('c', 30),
            ('t', 40),
            ('c', 25),
            ('t', 30),
            ('s', 2),
            ('a', 50),
            ('c', 9),
            ('t', 90),
            ('a', 5)
        ]),
        Just(vec![('u', 50), ('u', 60), ('u', 40), ('c', 30), ('t', 80), ('t', 50), ('a', 20)]),
    ];
    let exchange = prop_oneof![6 => short, 3 => tools, 2 => odd];
    prop::collection::vec(exchange, 1..30).prop_map(|said| said.concat().into_iter().map(message).collect())
}

fn settings() -> impl Strategy<Value = (StableWindow, f64)> {
    let breakpoints = prop_oneof![Just(Breakpoints::Off), Just(Breakpoints::Always)];
    (120..400_u64, 0.0..1.0_f64, 0.0..=1.0_f64, breakpoints).prop_map(|(limit, fill, cached, breakpoints)| {
        let window = StableWindow::tokens(limit).keep_at_least(fill).breakpoints(breakpoints);
        (window.prompt_cache(50, 8), cached)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// A conversation that shows only what was kept, and asks whenever it likes, comes to the same prompts.
    #[test]
    fn what_was_dropped_has_no_influence(said in exchanges(), (window, cached) in settings(), asks in prop::collection::vec(any::<bool>(), 150)) {
        let mut all = Messages::new();
        let mut kept = Messages::new();
        for (message, ask) in said.into_iter().zip(asks) {
            all.push(message.clone());
            kept.push(message);
            if !ask {
                continue;
            }
            let whole = fit(&window, "gpt-5", all.clone(), cached);
            let short = fit(&window, "gpt-5", kept.clone(), cached);
            match (whole, short) {
                (Ok(whole), Ok(short)) => {
                    prop_assert_eq!(&whole.messages, &short.messages);
                    prop_assert_eq!(whole.trace.kept_tokens, short.trace.kept_tokens);
                    kept = short.messages;
                }
                (Err(whole), Err(short)) => prop_assert_eq!(whole.kind(), short.kind()),
                (whole, short) => prop_assert!(false, "{whole:?} but {short:?}"),
            }
        }
    }

    /// Within the limit; instructions, the last turn and whole turns stay; fitting again changes nothing.
    #[test]
    fn the_laws_of_trimming(said in exchanges(), (window, cached) in settings()) {
        let all: Messages = said.into();
        let limit = window.allowance;
        let Ok(fitted) = fit(&window, "gpt-5", all.clone(), cached) else {
            prop_assert!(fit(&Window::within(limit), "gpt-5", all, cached).is_err(), "it refuses what a window refuses");
            return Ok(());
        };
        let kept = &fitted.messages;
        let total = |messages: &Messages| 10 + messages.iter().map(|message| Bytes.message("", message)).sum::<u64>();
        prop_assert_eq!(u64::from(fitted.trace.kept_tokens), total(kept));
        prop_assert_eq!(u64::from(fitted.trace.trimmed_tokens), total(&all) - total(kept));
        prop_assert!(fitted.trace.expected_cached_tokens <= fitted.trace.kept_tokens);
        prop_assert!(fit(&window, "gpt-5", kept.clone(), cached).unwrap().messages.ptr_eq(kept));

        let plain = fit(&Window::within(limit), "gpt-5", all.clone(), cached).unwrap().messages;
        let fixed = |end: usize| 10 + all.iter().take(end).filter(|message| message.role.is_instruction()).map(|message| Bytes.message("", message)).sum::<u64>();
        let alone = |turn: &std::ops::Range<usize>| {
            let said = all[turn.clone()].iter().filter(|message| !message.role.is_instruction());
            fixed(turn.end) + said.map(|message| Bytes.message("", message)).sum::<u64>()
        };
        let tokens = limit.limit(&TokenBudget::new(&ChatRequest::new("gpt-5"), &Bytes)).unwrap();
        let turns = turns(&all);
        // Of a turn too long by itself a plain window keeps more while it is the last, which then does not fit beside the next.
        let too_long = turns.iter().any(|turn| alone(turn) > tokens);
        prop_assert!(too_long || kept.len() <= plain.len(), "never more than what fits");
        let words = |messages: &[std::sync::Arc<Message>]| messages.iter().map(|message| (message.role.clone(), message.text())).collect::<Vec<_>>();
        let instructions = |messages: &Messages| messages.iter().filter(|message| message.role.is_instruction()).count();
        prop_assert_eq!(instructions(kept), instructions(&all));
        // From the first turn that is left on it is the conversation itself, and begins where the user speaks; unless that
        // turn does not fit by itself: then steps of it are missing behind what the user said last.
        let first = kept.iter().position(|message| !message.role.is_instruction());
        let lost = all.len() - kept.len();
        if let Some(first) = first.filter(|_| lost > 0) {
            prop_assert_eq!(&kept[first].role, &Role::User);
            let turn = turns.iter().find(|turn| words(&all[turn.start..]) == words(&kept[first..]));
            if turn.is_none() {
                let said = |messages: &[std::sync::Arc<Message>]| messages.iter().filter(|message| !message.role.is_instruction()).cloned().collect::<Vec<_>>();
                let (whole, left) = (said(&all), said(kept));
                let newest = if words(&whole).ends_with(&words(&left)) { &left[..] } else { &left[1..] };
                prop_assert!(words(&whole).ends_with(&words(newest)));
                prop_assert!(newest.first().is_some_and(|message| message.role != Role::Tool), "steps go whole");
                let from = all.iter().enumerate().rev().filter(|(_, message)| !message.role.is_instruction()).nth(newest.len() - 1).unwrap().0;
                let cut = turns.iter().find(|turn| turn.contains(&from)).unwrap();
                prop_assert!(alone(cut) > tokens, "only a turn too long by itself loses steps");
                let asked = all[cut.clone()].iter().rfind(|message| message.role == Role::User).unwrap();
                prop_assert!(kept.iter().any(|message| message.text() == asked.text()), "what the user said last stays");
            }
        } else {
            prop_assert_eq!(words(&all), words(kept));
        }
    }

    #[test]
    fn without_a_discount_it_is_the_plain_window(said in exchanges(), limit in 120..400_u64) {
        let all: Messages = said.into();
        let stable = fit(&StableWindow::tokens(limit), "gpt-5", all.clone(), 1.0).ok().map(|fit| fit.messages);
        prop_assert_eq!(stable, fit(&Window::tokens(limit), "gpt-5", all, 1.0).ok().map(|fit| fit.messages));
    }
}

#[test]
fn trims_rarely_and_deeply_and_in_between_only_grows() {
    let window = StableWindow::tokens(420);
    let mut before = Messages::new();
    let mut trims = 0;
    for count in 0..100 {
        let Fit { messages, trace, .. } = fit(&window, "gpt-5", rounds(count, 20), 0.1).unwrap();
        let grown = messages.len() > before.len() && messages.iter().zip(before.iter()).all(|(a, b)| a == b);
        let dropped = 2 * count + 2 - messages.len();
        if dropped * 10 == trace.trimmed_tokens as usize && messages.len() < before.len() {
            trims += 1;
            assert!((200..=280).contains(&trace.kept_tokens), "half the room and a bit: {trace:?}");
        } else {
            assert!(grown, "after {count}: {} messages, {} before", messages.len(), before.len());
        }
        before = messages;
    }
    // 100 rounds of 20 tokens into a room of 400 of which a trim frees about 180.
    assert!((8..=11).contains(&trims), "{trims}");
}

#[test]
fn tells_what_the_provider_should_have_cached() {
    // 10 of tools, 10 of instructions, a room of 380.
    let window = StableWindow::tokens(400).prompt_cache(16, 8);
    let expected: Vec<_> = (0..40)
        .map(|count| {
            let fit = fit(&window, "gpt-5", rounds(count, 20), 0.1).unwrap();
            (fit.trace.kept_tokens, fit.trace.expected_cached_tokens)
        })
        .collect();
    assert_eq!(expected[0], (30, 0), "there was no call before");
    for pair in expected.windows(2) {
        let [(before, _), (kept, cached)] = pair else { panic!() };
        // 20 tokens of tools and instructions are warm after a trim, in steps of 8.
        let warm = if kept > before { before / 8 * 8 } else { 16 };
        assert_eq!(*cached, warm, "{before} before, {kept} now");
    }
    assert!(expected.windows(2).any(|pair| pair[0].0 > pair[1].0), "it was trimmed");
    let shy = window.prompt_cache(1_024, 8);
    assert_eq!(fit(&shy, "gpt-5", rounds(9, 20), 0.1).unwrap().trace.expected_cached_tokens, 0);
}

#[test]
fn breakpoints_for_claude_and_only_for_claude() {
    let window = StableWindow::tokens(400);
    let messages = rounds(9, 20);
    let marks = |model: &str| {
        let fitted = fit(&window, model, messages.clone(), 0.1).unwrap().messages;
        let json = serde_json::to_string(&fitted).unwrap();
        (fitted.ptr_eq(&messages), json.matches("cache_control").count())
    };
    assert_eq!(marks("gpt-5"), (true, 0));
    assert_eq!(marks("anthropic/claude-sonnet-4-5"), (false, 3));
    let mut request = ChatRequest::new("claude-sonnet-4-5");
    request.messages = vec![Message::user("hi")].into();
    assert!(!window.fits(&request.messages, &TokenBudget::new(&request, &Bytes)), "there is one to place");
}

#[test]
fn an_over_long_turn_is_refused_or_shortened_as_set() {
    let window = StableWindow::tokens(600).prompt_cache(16, 4).breakpoints(Breakpoints::Always);
    let shortening = window.clone().oversized(Oversized::Shorten);
    assert!(shortening.check().is_ok() && shortening.settings().ends_with(", over-long messages shortened"));
    let said = [('s', 20), ('u', 30), ('a', 30), ('u', 2_000), ('c', 20), ('t', 900), ('a', 40), ('u', 30)];
    let upto = |count: usize| -> Messages { said[..count].iter().copied().map(message).collect() };
    for (count, shortened) in [(4, 1), (6, 2), (8, 0)] {
        let all = upto(count);
        let fitted = fit(&shortening, "gpt-5", all.clone(), 0.1).unwrap();
        assert_eq!(fitted.trace.shortened, shortened, "{count}");
        let carried = &fitted.carry.as_ref().unwrap().messages;
        assert!(carried.iter().all(|message| all.contains(message)), "{count}: carried as it came");
        let total = |messages: &Messages| 10 + messages.iter().map(|message| Bytes.message("", message)).sum::<u64>();
        let kept = total(&fitted.messages);
        assert!(kept <= 600);
        assert_eq!(
            (u64::from(fitted.trace.kept_tokens), u64::from(fitted.trace.trimmed_tokens)),
            (kept, total(&all) - kept)
        );
        assert!(fit(&shortening, "gpt-5", fitted.messages.clone(), 0.1).unwrap().messages.ptr_eq(&fitted.messages));
        // Tools and instructions: what stands behind them was shortened or dropped, now or the call before.
        assert_eq!(fitted.trace.expected_cached_tokens, 28, "{count}");
        assert!(serde_json::to_string(&fitted.messages).unwrap().contains("cache_control"));
        match fit(&window, "gpt-5", all, 0.1) {
            Ok(whole) => assert_eq!((count, whole.messages), (8, fitted.messages)),
            Err(error) => assert_eq!((count < 8, error.kind()), (true, ErrorKind::ContextLength)),
        }
    }
    let hopeless = StableWindow::tokens(100).oversized(Oversized::Shorten);
    assert_eq!(fit(&hopeless, "gpt-5", upto(4), 0.1).unwrap_err().kind(), ErrorKind::ContextLength);
}

#[test]
fn a_prompt_too_short_for_the_cache_is_not_counted() {
    let mut request = ChatRequest::new("gpt-5");
    let fits =
        |request: &ChatRequest| StableWindow::tokens(8_000).fits(&request.messages, &TokenBudget::new(request, &Bytes));
    request.messages = vec![Message::user("x".repeat(900))].into();
    assert!(fits(&request));
    request.messages = vec![Message::user("x".repeat(1_024))].into();
    assert!(!fits(&request), "what is cached of it is told");
}

#[test]
fn refuses_settings_that_cannot_work() {
    let window = || StableWindow::tokens(8_000);
    for (window, words) in [
        (window().keep_at_least(1.5), "keep_at_least = 1.5"),
        (window().keep_at_least(f64::NAN), "keep_at_least = NaN"),
        (window().margin(-0.1), "margin = -0.1"),
        (window().margin(f64::INFINITY), "margin = inf"),
        (window().cached_price(2.0), "cached_price = 2"),
        (window().write_price(0.5), "write_price = 0.5"),
        (window().prompt_cache(1_024, 0), "prompt_cache step = 0"),
        (StableWindow::tokens(0), "tokens = 0"),
    ] {
        let error = window.check().unwrap_err();
        assert!(error.to_string().contains(words), "{error} lacks {words}");
    }
    assert!(
        window().keep_at_least(1.0).margin(0.0).cached_price(0.0).write_price(2.0).prompt_cache(0, 1).check().is_ok()
    );
}
