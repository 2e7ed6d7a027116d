//! Who speaks before, after and beside whom.

use std::sync::Arc;

use crate::history::rules::untrimmed;
use crate::history::{Rule, Rules};
use crate::types::{Content, Message, Part, Role};

/// What the user says before an assistant that speaks first.
const BEGINNING: &str = "(The beginning of this conversation is missing.)";
/// What the user says after an assistant that may not speak last.
const GO_ON: &str = "Please continue.";

/// Moves instructions to the front.
pub(super) fn instructions_first(messages: Vec<Arc<Message>>, repaired: &mut u32) -> Vec<Arc<Message>> {
    let start = messages.iter().take_while(|message| message.role.is_instruction()).count();
    let late = messages.iter().skip(start).filter(|message| message.role.is_instruction()).count();
    if late == 0 {
        return messages;
    }
    *repaired += u32::try_from(late).unwrap_or(u32::MAX);
    let (mut first, rest): (Vec<_>, Vec<_>) = messages.into_iter().partition(|message| message.role.is_instruction());
    first.extend(rest);
    first
}

/// Joins users and assistants in a row, where the rules will have it so.
pub(super) fn join(rules: Rules, messages: Vec<Arc<Message>>, repaired: &mut u32) -> Vec<Arc<Message>> {
    let mut out: Vec<Arc<Message>> = Vec::with_capacity(messages.len());
    for message in messages {
        let joins = match message.role {
            Role::User => rules.has(Rule::UsersApart),
            Role::Assistant => rules.has(Rule::AssistantsApart),
            _ => false,
        };
        match out.last_mut().filter(|last| joins && last.role == message.role) {
            Some(last) => {
                append(Arc::make_mut(last), Arc::unwrap_or_clone(message));
                *repaired += 1;
            }
            None => out.push(message),
        }
    }
    out
}

fn append(first: &mut Message, mut second: Message) {
    if first.name != second.name {
        // Taken once from the first, so that joining many stays linear.
        for message in [&mut *first, &mut second] {
            if let Some(name) = message.name.take() {
                message.content = tell(&name, message.content.take());
            }
        }
    }
    first.content = match (first.content.take(), second.content) {
        (Some(Content::Text(mut text)), Some(Content::Text(more))) => {
            paragraph(&mut text, &more);
            Some(Content::Text(text))
        }
        (Some(one), Some(other)) => {
            let mut parts = into_parts(one);
            parts.extend(into_parts(other));
            Some(Content::Parts(parts))
        }
        (one, other) => one.or(other),
    };
    first.tool_calls.append(&mut second.tool_calls);
    match (&mut first.refusal, second.refusal) {
        (Some(text), Some(more)) => paragraph(text, &more),
        (one, other) => *one = one.take().or(other),
    }
    // Not `append`, which goes through all that the first one has.
    first.extra.extend(second.extra);
}

fn paragraph(text: &mut String, more: &str) {
    if !text.is_empty() && !more.is_empty() {
        text.push_str("\n\n");
    }
    text.push_str(more);
}

/// The speaker's name in the text.
fn tell(name: &str, content: Option<Content>) -> Option<Content> {
    match content? {
        Content::Text(text) => Some(Content::Text(format!("{name}: {text}"))),
        Content::Parts(parts) => {
            let name = Part::text(format!("{name}:"));
            Some(Content::Parts([name].into_iter().chain(parts).collect()))
        }
    }
}

fn into_parts(content: Content) -> Vec<Part> {
    match content {
        Content::Text(text) if text.is_empty() => Vec::new(),
        Content::Text(text) => vec![Part::text(text)],
        Content::Parts(parts) => parts,
    }
}

/// Lets the user speak first, and the assistant last only as it may.
pub(super) fn first_and_last(rules: Rules, mut messages: Vec<Arc<Message>>, repaired: &mut u32) -> Vec<Arc<Message>> {
    let spoken = |message: &Arc<Message>| !message.role.is_instruction();
    let Some(first) = messages.iter().position(spoken) else { return messages };
    if rules.has(Rule::UserFirst) && messages.get(first).is_some_and(|message| message.role != Role::User) {
        messages.insert(first, Arc::new(Message::user(BEGINNING)));
        *repaired += 1;
    }
    let Some(last) = messages.iter_mut().rfind(|message| spoken(message)) else { return messages };
    if last.role != Role::Assistant {
        return messages;
    }
    if rules.has(Rule::UserLast) {
        messages.push(Arc::new(Message::user(GO_ON)));
        *repaired += 1;
    } else if rules.has(Rule::PrefillTrimmed) && untrimmed(last) {
        let text = match &mut Arc::make_mut(last).content {
            Some(Content::Text(text)) => Some(text),
            Some(Content::Parts(parts)) => match parts.last_mut() {
                Some(Part::Text { text, .. }) => Some(text),
                _ => None,
            },
            None => None,
        };
        if let Some(text) = text {
            text.truncate(text.trim_end().len());
            *repaired += 1;
        }
    }
    messages
}
