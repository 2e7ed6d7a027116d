//! What can be said of a message whatever stands beside it.

use super::{Rule, Rules};
use crate::types::{Content, Message, Part, Role, ToolCall};

/// The longest id of a call, in bytes.
pub(in crate::history) const CALL_ID: usize = 40;
/// The longest name of a function or a speaker, in characters.
pub(in crate::history) const NAME: usize = 64;

/// The rule it breaks, if any.
pub(super) fn alone(rules: Rules, message: &Message) -> Result<(), Rule> {
    let named = |call: &ToolCall| {
        let name = &call.function.name;
        // Other kinds of calls carry their names elsewhere.
        call.kind != "function" || (!name.is_empty() && name.len() <= NAME && plain(name))
    };
    if rules.has(Rule::KnownRoles) && matches!(message.role, Role::Other(_)) {
        Err(Rule::KnownRoles)
    } else if rules.has(Rule::NoFunctions) && is_function(message) {
        Err(Rule::NoFunctions)
    } else if rules.has(Rule::Content) && !says_something(message) {
        Err(Rule::Content)
    } else if rules.has(Rule::TextNotBlank) && has_blank(message) {
        Err(Rule::TextNotBlank)
    } else if rules.has(Rule::Names) && !is_named(message) {
        Err(Rule::Names)
    } else if rules.has(Rule::FunctionNames) && !message.tool_calls.iter().all(named) {
        Err(Rule::FunctionNames)
    } else {
        Ok(())
    }
}

/// Nothing but white space.
pub(in crate::history) fn blank(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

/// Letters, digits, `_` and `-` alone.
pub(in crate::history) fn plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// A character that a speaker's name may have.
pub(in crate::history) fn well_named(letter: char) -> bool {
    !letter.is_whitespace() && !matches!(letter, '<' | '|' | '\\' | '/' | '>')
}

/// A name a speaker may have.
pub(in crate::history) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(well_named) && name.chars().nth(NAME).is_none()
}

fn is_named(message: &Message) -> bool {
    message.name.as_deref().map_or(message.role != Role::Function, is_name)
}

/// A call or a result in the oldest form of tools.
pub(in crate::history) fn is_function(message: &Message) -> bool {
    message.role == Role::Function || (message.role == Role::Assistant && has(message, "function_call"))
}

fn has(message: &Message, field: &str) -> bool {
    !message.extra.is_empty() && message.extra.get(field).is_some_and(|value| !value.is_null())
}

/// An assistant's message says something beside its text: it calls tools, refuses, or speaks.
fn says_otherwise(message: &Message) -> bool {
    let field = || has(message, "function_call") || has(message, "audio");
    message.role == Role::Assistant && (!message.tool_calls.is_empty() || message.refusal.is_some() || field())
}

/// Content, or what stands for it in an assistant's message.
pub(in crate::history) fn says_something(message: &Message) -> bool {
    match &message.content {
        Some(Content::Text(_)) => true,
        Some(Content::Parts(parts)) if !parts.is_empty() => true,
        // An unknown role has rules of its own.
        _ => matches!(message.role, Role::Other(_)) || says_otherwise(message),
    }
}

/// Whether there is text that is no text.
pub(in crate::history) fn has_blank(message: &Message) -> bool {
    match &message.content {
        None => false,
        Some(Content::Text(text)) if text.is_empty() => {
            !matches!(message.role, Role::Tool | Role::Function) && !says_otherwise(message)
        }
        Some(Content::Text(text)) => blank(text),
        Some(Content::Parts(parts)) => parts.iter().any(is_blank),
    }
}

/// A part of text that is no text.
pub(in crate::history) fn is_blank(part: &Part) -> bool {
    matches!(part, Part::Text { text, .. } if blank(text))
}

/// Whether its text ends in white space.
pub(in crate::history) fn untrimmed(message: &Message) -> bool {
    let end = match &message.content {
        Some(Content::Text(text)) => Some(text),
        Some(Content::Parts(parts)) => match parts.last() {
            Some(Part::Text { text, .. }) => Some(text),
            _ => None,
        },
        None => None,
    };
    message.tool_calls.is_empty() && end.is_some_and(|text| text.ends_with(char::is_whitespace))
}
