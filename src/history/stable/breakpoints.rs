//! Where a provider that asks for it is told to cache the prompt.

use std::sync::Arc;

use serde_json::Value;

use crate::types::{Content, Extra, Message, Messages, Part, Role, Tool};

/// Whether prompts carry `cache_control` breakpoints, `{"type": "ephemeral"}` in a text part, as Anthropic's models and
/// the gateways to them read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Breakpoints {
    /// For models that have `claude` in their name, after its last `/`, in capitals or not, as those of Bedrock have.
    #[default]
    Auto,
    /// For every model.
    Always,
    /// Never: no message is touched.
    Off,
}

/// Anthropic allows four in a request, and one is left to the tools.
const ALLOWED: usize = 4;
const MOST: usize = 3;

const KEY: &str = "cache_control";

impl Breakpoints {
    /// Whether prompts for this model carry them.
    pub(super) fn serve(self, model: &str) -> bool {
        match self {
            Self::Auto => model.rsplit('/').next().is_some_and(is_claude),
            Self::Always => true,
            Self::Off => false,
        }
    }
}

fn is_claude(name: &str) -> bool {
    const CLAUDE: &[u8] = b"claude";
    name.as_bytes().windows(CLAUDE.len()).any(|window| window.eq_ignore_ascii_case(CLAUDE))
}

/// Sets breakpoints on the last leading instruction, on the last message a user or a tool sent, and on the one that was
/// the last in the call before, so that this call finds what that one wrote; and lifts those of earlier calls. None
/// before another's that lives longer. The very same list when they stand there already.
///
/// A provider leaves breakpoints out when it compares prompts (Anthropic, "Prompt caching": its example of a
/// conversation moves them on from call to call), and a text is the same to it plain or as the only part. So that
/// placing does not depend on what was placed before, a bare text in a single part is written plain.
pub(super) fn place(mut messages: Messages, tools: &[Tool]) -> Messages {
    let wanted = wanted(&messages, tools);
    let changed: Vec<_> = messages
        .iter()
        .enumerate()
        .filter_map(|(position, message)| Some((position, written(message, wanted.contains(&Some(position)))?)))
        .collect();
    if !changed.is_empty() {
        let list = messages.make_mut();
        for (position, message) in changed {
            if let Some(place) = list.get_mut(position) {
                *place = Arc::new(message);
            }
        }
    }
    messages
}

/// The positions that are to carry one.
fn wanted(messages: &[Arc<Message>], tools: &[Tool]) -> [Option<usize>; MOST] {
    let sent = |message: &Arc<Message>| matches!(message.role, Role::User | Role::Tool | Role::Function);
    let leading = messages.iter().take_while(|message| message.role.is_instruction()).count().checked_sub(1);
    let last = messages.iter().rposition(sent);
    // Words of the model at the very end begin the answer to come; no call has given them.
    let (_, earlier) = messages.split_last().map_or((None, messages), |(last, rest)| (Some(last), rest));
    let answer = earlier.iter().rposition(|message| message.role == Role::Assistant);
    let before = answer.and_then(|answer| messages.get(..answer)?.iter().rposition(sent));

    let foreign: usize =
        messages.iter().filter(|message| mark(message) == Mark::Foreign).map(|one| controls(one).count()).sum();
    // Anthropic refuses a breakpoint of five minutes, as these are, before one that lives longer.
    let from = messages.iter().rposition(|message| controls(message).any(is_long)).map_or(0, |long| long + 1);
    let free =
        |position: &usize| *position >= from && messages.get(*position).is_some_and(|message| takes_mark(message));
    let mut places = [last, leading, before.filter(|before| Some(*before) != last)];
    let mut left = MOST.min(ALLOWED.saturating_sub(of_tools(tools))).saturating_sub(foreign);
    for place in &mut places {
        *place = place.filter(free).filter(|_| left > 0);
        left -= usize::from(place.is_some());
    }
    places
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    None,
    /// In the form in which it is set here: moved on.
    Ours,
    /// In any other: never touched.
    Foreign,
}

fn mark(message: &Message) -> Mark {
    let last = parts(message).last();
    let ours = matches!(last, Some(Part::Text { extra, .. }) if extra.get(KEY).is_some_and(is_plain));
    match controls(message).count() {
        0 => Mark::None,
        1 if ours => Mark::Ours,
        _ => Mark::Foreign,
    }
}

/// The breakpoints on the tools.
fn of_tools(tools: &[Tool]) -> usize {
    let on = |tool: &Tool| {
        let of_function = tool.function.as_ref().is_some_and(|function| function.extra.contains_key(KEY));
        usize::from(tool.extra.contains_key(KEY)) + usize::from(of_function)
    };
    tools.iter().map(on).sum()
}

/// The breakpoints on a message and on anything in it.
fn controls(message: &Message) -> impl Iterator<Item = &Value> {
    let of_parts = parts(message).iter().filter_map(|part| match part {
        Part::Text { extra, .. } | Part::ImageUrl { extra, .. } | Part::InputAudio { extra, .. } => extra.get(KEY),
        Part::Other(value) => value.get(KEY),
    });
    let of_calls = message.tool_calls.iter().filter_map(|call| call.extra.get(KEY));
    of_parts.chain(of_calls).chain(message.extra.get(KEY))
}

fn parts(message: &Message) -> &[Part] {
    match &message.content {
        Some(Content::Parts(parts)) => parts,
        _ => &[],
    }
}

/// Whether what it caches lives longer than the usual five minutes.
fn is_long(control: &Value) -> bool {
    control.get("ttl").is_some_and(|ttl| ttl != "5m")
}

/// `{"type": "ephemeral"}` and no more.
fn is_plain(control: &Value) -> bool {
    control
        .as_object()
        .is_some_and(|fields| fields.len() == 1 && fields.get("type").is_some_and(|kind| kind == "ephemeral"))
}

/// Whether it can carry one of ours: it must end with words, and nobody else's be on it.
fn takes_mark(message: &Message) -> bool {
    let words = match &message.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => match parts.last() {
            Some(Part::Text { text, .. }) => text,
            _ => return false,
        },
        None => return false,
    };
    // Anthropic refuses breakpoints on empty texts.
    !words.trim().is_empty() && mark(message) != Mark::Foreign
}

/// The message with or without a breakpoint; `None` when it is as it should be.
fn written(message: &Message, marked: bool) -> Option<Message> {
    let content = match (mark(message), message.content.as_ref()?) {
        (Mark::None, Content::Text(text)) if marked => {
            Content::Parts(vec![Part::Text { text: text.clone(), extra: control() }])
        }
        (Mark::None, Content::Parts(parts)) if marked => Content::Parts(with_last(parts, |extra| {
            extra.iter().map(|(key, value)| (key.clone(), value.clone())).chain(control()).collect()
        })),
        (Mark::Ours, Content::Parts(parts)) if !marked => plain(with_last(parts, |extra| {
            extra.iter().filter(|(key, _)| *key != KEY).map(|(key, value)| (key.clone(), value.clone())).collect()
        })),
        (Mark::None, Content::Parts(parts)) if is_bare(parts) => plain(parts.clone()),
        _ => return None,
    };
    Some(Message { content: Some(content), ..message.clone() })
}

fn control() -> Extra {
    let kind = [("type".to_owned(), Value::from("ephemeral"))].into_iter().collect();
    [(KEY.to_owned(), Value::Object(kind))].into_iter().collect()
}

fn with_last(parts: &[Part], change: impl Fn(&Extra) -> Extra) -> Vec<Part> {
    let mut parts = parts.to_vec();
    if let Some(Part::Text { extra, .. }) = parts.last_mut() {
        *extra = change(extra);
    }
    parts
}

fn is_bare(parts: &[Part]) -> bool {
    matches!(parts, [Part::Text { extra, .. }] if extra.is_empty())
}

fn plain(parts: Vec<Part>) -> Content {
    match <[Part; 1]>::try_from(parts) {
        Ok([Part::Text { text, extra }]) if extra.is_empty() => Content::Text(text),
        Ok(part) => Content::Parts(part.into()),
        Err(parts) => Content::Parts(parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(messages: Messages) -> Messages {
        super::place(messages, &[])
    }

    /// The positions that carry a breakpoint.
    fn marked(messages: &Messages) -> Vec<usize> {
        (0..messages.len()).filter(|at| mark(&messages[*at]) != Mark::None).collect()
    }

    fn talk() -> Vec<Message> {
        let [system, user, answer] = [Message::system, Message::user, Message::assistant];
        vec![system("a"), system("b"), user("c"), answer("d"), user("e"), answer("f"), user("g")]
    }

    #[test]
    fn stands_on_instructions_and_on_what_stays() {
        let messages: Messages = talk().into();
        let placed = place(messages.clone());
        assert_eq!(marked(&placed), [1, 4, 6]);
        let json = serde_json::to_value(&*placed[6]).unwrap();
        let part = serde_json::json!({"type": "text", "text": "g", "cache_control": {"type": "ephemeral"}});
        assert_eq!(json, serde_json::json!({"role": "user", "content": [part]}));
        assert!(place(placed.clone()).ptr_eq(&placed), "placing again changes nothing");
    }

    #[test]
    fn moves_on_with_the_conversation_and_leaves_no_trace() {
        let more = [Message::assistant("h"), Message::tool("id", "i")];
        let mut placed = place(talk().into());
        more.iter().for_each(|message| placed.push(message.clone()));
        let whole: Messages = talk().into_iter().chain(more).collect();
        assert_eq!(place(placed.clone()), place(whole));
        assert_eq!(marked(&place(placed)), [1, 6, 8]);
    }

    #[test]
    fn leaves_the_marks_of_others_alone_and_stays_within_four() {
        let long = serde_json::json!({"type": "ephemeral", "ttl": "1h"});
        let theirs = |text: &str| {
            let extra = [(KEY.to_owned(), long.clone())].into_iter().collect();
            Message {
                content: Some(Content::Parts(vec![Part::Text { text: text.into(), extra }])),
                ..Message::user("")
            }
        };
        let mut list = talk();
        list[1] = Message { role: Role::System, ..theirs("b") };
        assert_eq!(marked(&place(list.clone().into())), [1, 4, 6]);
        list[6] = theirs("g");
        let messages: Messages = list.into();
        let placed = place(messages.clone());
        assert_eq!(marked(&placed), [1, 6]);
        assert!(Arc::ptr_eq(&placed[6], &messages[6]));
    }

    /// A message of so many parts, each with a breakpoint that lives so long.
    fn theirs_of(parts: usize, ttl: &str) -> Message {
        let control = serde_json::json!({"type": "ephemeral", "ttl": ttl});
        let part = Part::Text { text: "x".into(), extra: [(KEY.to_owned(), control)].into_iter().collect() };
        Message { content: Some(Content::Parts(vec![part; parts])), ..Message::user("") }
    }

    #[test]
    fn counts_every_mark_of_others_not_every_message() {
        for theirs in 1..=4 {
            let mut list = talk();
            list[2] = theirs_of(theirs, "5m");
            let placed = place(list.into());
            let marks: usize = placed.iter().map(|message| controls(message).count()).sum();
            assert!(marks <= MOST.max(theirs), "{theirs} of theirs, {marks} in all");
        }
    }

    #[test]
    fn counts_the_marks_on_tools() {
        let marked: Tool = serde_json::from_value(serde_json::json!({
            "type": "function", "function": {"name": "look", "parameters": {}}, "cache_control": {"type": "ephemeral"}
        }))
        .unwrap();
        for (tools, ours) in [(0, 3), (1, 3), (2, 2), (3, 1), (4, 0), (5, 0)] {
            let placed = super::place(talk().into(), &vec![marked.clone(); tools]);
            assert_eq!(placed.iter().flat_map(|message| controls(message)).count(), ours, "{tools} on tools");
        }
    }

    #[test]
    fn none_stands_before_one_that_lives_longer() {
        let mut list = talk();
        list[2] = theirs_of(1, "1h");
        assert_eq!(marked(&place(list.clone().into())), [2, 4, 6]);
        list[2] = theirs_of(1, "5m");
        assert_eq!(marked(&place(list.into())), [1, 2, 6]);
    }

    #[test]
    fn what_cannot_carry_one_stays_as_it_is() {
        let image = Content::Parts(vec![Part::text("look"), Part::image("https://example.com/a.png")]);
        let messages: Messages =
            vec![Message { content: Some(image), ..Message::user("") }, Message::assistant("x")].into();
        assert!(place(messages.clone()).ptr_eq(&messages));
        let empty: Messages = vec![Message::user(" ")].into();
        assert!(place(empty.clone()).ptr_eq(&empty));
        assert!(marked(&place(Messages::new())).is_empty());
    }

    #[test]
    fn only_claude_is_asked_by_itself() {
        for (model, serves) in [
            ("claude-sonnet-4-5", true),
            ("anthropic/claude-opus-4-1", true),
            ("us.anthropic.claude-sonnet-4-5", true),
            ("Claude-Haiku", true),
            ("claude/gpt-5", false),
            ("gpt-5", false),
        ] {
            assert_eq!(Breakpoints::Auto.serve(model), serves, "{model}");
        }
        assert!(Breakpoints::Always.serve("gpt-5") && !Breakpoints::Off.serve("claude-haiku-4-5"));
    }
}
