use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::history::{HistoryPolicy, Rules, Window};
use crate::tokens::{Tiktoken, TokenCounter};
use crate::types::{ChatBody, ChatRequest, FunctionCall, ToolCall};

/// Counts as `Tiktoken` does, and how many bytes it was given.
#[derive(Debug, Default)]
struct Counting {
    exact: Tiktoken,
    bytes: AtomicU64,
}

impl TokenCounter for Counting {
    fn text(&self, model: &str, text: &str) -> u64 {
        self.exact.text(model, text)
    }

    fn message(&self, model: &str, message: &Message) -> u64 {
        self.bytes.fetch_add(message.text().len() as u64, Ordering::Relaxed);
        self.exact.message(model, message)
    }

    fn request(&self, body: &ChatBody) -> u64 {
        self.exact.request(body)
    }
}

/// What is sent of this within so many tokens; checked for what must hold of everything that is.
async fn shorten(request: &ChatRequest, tokens: u64) -> Result<Fit> {
    let counter = Tiktoken::new();
    let window = Window::tokens(tokens).oversized(Oversized::Shorten);
    let fit = window.fit(request.messages.clone(), &TokenBudget::new(request, &counter)).await?;
    let mut sent = request.clone();
    sent.messages = fit.messages.clone();
    assert!(counter.request(&sent) <= tokens, "within the budget");
    assert_eq!(u64::from(fit.trace.kept_tokens), counter.request(&sent));
    let again = window.fit(fit.messages.clone(), &TokenBudget::new(&sent, &counter)).await?;
    assert!(again.messages.ptr_eq(&fit.messages), "fitting again changes nothing");
    let fresh = window.fit(request.messages.clone(), &TokenBudget::new(request, &Tiktoken::new())).await?;
    assert_eq!(fresh.messages, fit.messages, "whatever was counted before");
    Ok(fit)
}

fn prose(words: usize) -> String {
    (0..words).map(|word| format!("word{}{}", word % 97, if word % 12 == 11 { ".\n" } else { " " })).collect()
}

fn step(number: usize, result: &str) -> [Message; 2] {
    let arguments = format!("{{\"page\": {number}, \"why\": \"{}\"}}", "because ".repeat(10));
    let function = FunctionCall { name: "look".into(), arguments, ..FunctionCall::default() };
    let id = format!("call{number}");
    let call = ToolCall { id: id.clone(), kind: "function".into(), function, extra: Default::default() };
    [Message { tool_calls: vec![call], ..Message::empty(Role::Assistant) }, Message::tool(id, result)]
}

#[tokio::test]
async fn the_last_question_loses_its_middle_and_nothing_else() {
    let text = prose(5_000);
    let request = ChatRequest::new("gpt-4o").user("old").assistant("older").system("Be brief.").user(text.clone());
    let fit = shorten(&request, 1_000).await.unwrap();
    assert!(fit.trace.kept_tokens > 980, "little stays unused: {}", fit.trace.kept_tokens);
    assert_eq!(fit.trace.shortened, 1);
    let trimmed = Tiktoken::new().request(&request) - u64::from(fit.trace.kept_tokens);
    assert!(u64::from(fit.trace.trimmed_tokens).abs_diff(trimmed) < 20, "{:?}", fit.trace);
    let texts: Vec<_> = fit.messages.iter().map(|message| message.text()).collect();
    assert_eq!(texts[0], "Be brief.");
    let (head, rest) = texts[1].split_once("\n[… ").unwrap();
    let (number, tail) = rest.split_once(" characters left out …]\n").unwrap();
    assert!(text.starts_with(head) && text.ends_with(tail) && !head.is_empty() && !tail.is_empty());
    assert_eq!(number.replace(',', "").parse::<usize>().unwrap(), text.len() - head.len() - tail.len());
}

#[tokio::test]
async fn refuses_unless_it_is_told_to_shorten_and_what_cannot_fit_even_then() {
    let request = ChatRequest::new("gpt-4o").system(prose(100)).user(prose(1_000));
    let counter = Tiktoken::new();
    let budget = TokenBudget::new(&request, &counter);
    let error = Window::tokens(1_000).fit(request.messages.clone(), &budget).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContextLength);
    let window = Window::tokens(1_000).oversized(Oversized::Shorten);
    let fit = window.fit(request.messages.clone(), &budget).await.unwrap();
    assert_ne!(fit.messages, request.messages);
    assert_eq!(fit.carry.unwrap().messages, request.messages, "the next time it is shown whole");
    let error = shorten(&request, 200).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContextLength);
    assert!(error.to_string().contains("shortened as far as they may be, 200 are allowed"), "{error}");
}

#[tokio::test]
async fn earlier_steps_go_first_and_the_question_is_cut_last() {
    let steps: Vec<Message> = (0..100).flat_map(|number| step(number, &prose(40 + number))).collect();
    let mut messages = vec![Message::system("Be brief."), Message::user(prose(150))];
    messages.extend(steps);
    let request = ChatRequest::new("gpt-4o").messages(messages);
    let all = Tiktoken::new().request(&request);
    let fit = shorten(&request, all / 4 * 3).await.unwrap();
    assert_eq!(fit.trace.shortened, 0, "leaving out is enough");
    let left = fit.messages.len() - 2;
    assert!(left.is_multiple_of(2) && left < 200, "{left}");
    assert_eq!(fit.messages[..2], request.messages[..2]);
    assert_eq!(fit.messages[2..], request.messages[202 - left..]);
    // The newest step alone, and its result cut; then the question too.
    let mut cut = Vec::new();
    for limit in (0..900).rev().step_by(50) {
        let Ok(fit) = shorten(&request, limit).await else { break };
        if fit.trace.shortened == 0 {
            continue;
        }
        let trimmed = all - u64::from(fit.trace.kept_tokens);
        assert_eq!(u64::from(fit.trace.trimmed_tokens), trimmed, "dropped and cut");
        assert_eq!(fit.messages.len(), 4);
        let [_, asked, call, result] = &fit.messages[..] else { panic!() };
        assert_eq!((call, &result.tool_call_id), (&request.messages[200], &request.messages[201].tool_call_id));
        assert!(result.text().contains("left out") && asked.text().len() > 150 && result.text().len() > 150);
        cut.push(asked.text().contains("left out"));
    }
    assert!(cut.is_sorted() && cut.contains(&true) && cut.contains(&false), "{cut:?}");
}

#[tokio::test]
async fn text_in_parts_is_shortened_and_media_is_not() {
    let image = Part::image(format!("data:image/png;base64,{}", "A".repeat(50_000)));
    let extra = serde_json::Map::from_iter([("cache_control".to_owned(), serde_json::json!({"type": "ephemeral"}))]);
    let parts =
        vec![Part::text("What is this?"), image.clone(), Part::Text { text: prose(2_000), extra: extra.clone() }];
    let message = Message { content: Some(Content::Parts(parts)), name: Some("Ann".into()), ..Message::user("") };
    let request = ChatRequest::new("gpt-4o").message(message);
    let fit = shorten(&request, 1_200).await.unwrap();
    let Some(Content::Parts(parts)) = &fit.messages[0].content else { panic!("still parts") };
    assert_eq!(parts[..2], [Part::text("What is this?"), image]);
    assert!(matches!(&parts[2], Part::Text { text, extra: kept } if text.contains("left out") && *kept == extra));
    assert_eq!(fit.messages[0].name.as_deref(), Some("Ann"));
}

#[tokio::test]
async fn counts_little_more_than_what_is_kept() {
    let request = ChatRequest::new("gpt-4o").user(prose(10_000));
    let counter = Counting::default();
    let window = Window::tokens(1_000).oversized(Oversized::Shorten);
    let fit = window.fit(request.messages.clone(), &TokenBudget::new(&request, &counter)).await.unwrap();
    let (whole, kept) = (request.messages[0].text().len() as u64, fit.messages[0].text().len() as u64);
    let counted = counter.bytes.load(Ordering::Relaxed);
    // The whole once by the window and once, from memory, by the draft; then at most nine tries.
    assert!(counted <= 2 * whole + 9 * 2 * kept, "{counted} of {whole}, {kept} kept");
}

#[tokio::test]
async fn any_script_and_any_length_is_cut_to_fit_or_refused() {
    let mut random = fastrand::Rng::with_seed(7);
    let pieces = [
        "漢字かな交じり文",
        "👩‍👩‍👧‍👦",
        " ",
        "\n",
        "aaaa",
        "ไทย",
        "e\u{301}",
        "QUJDRA==",
        "word ",
        "\u{1F1E9}\u{1F1EA}",
        "{\"a\": 1},",
    ];
    let (mut fitted, mut refused) = (0, 0);
    for round in 0..60_u64 {
        let mut text = |most: usize| {
            let piece = pieces[random.usize(..pieces.len())];
            let other = pieces[random.usize(..pieces.len())];
            let count = random.usize(..most);
            (0..count).map(|nth| if nth % 7 == 0 { other } else { piece }).collect::<String>()
        };
        let mut request = ChatRequest::new("gpt-4o").system(text(20)).user(text(3_000));
        for number in 0..(round % 5) as usize {
            for message in step(number, &text(2_000)) {
                request = request.message(message);
            }
        }
        if round % 2 == 0 {
            request = request.assistant(text(3_000));
        }
        match shorten(&request, 300 + round * 10).await {
            Ok(fit) => {
                fitted += 1;
                assert_eq!(Rules::openai().check(&fit.messages), Ok(()), "no call without its result");
                assert_eq!(fit.messages[0], request.messages[0], "instructions stay");
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.kind(), ErrorKind::ContextLength);
            }
        }
    }
    assert!(fitted > 30 && refused > 0, "{fitted} {refused}");
}
