//! Messages put right one by one.

use std::sync::Arc;

use crate::history::rules::{NAME, has_blank, is_blank, is_function, is_name, plain, says_something, well_named};
use crate::history::{Rule, Rules};
use crate::types::{Content, FunctionCall, Message, Role, ToolCall};

/// What stands where a user or a tool said nothing.
const EMPTY: &str = "(empty)";
/// What a function is called whose name is not known.
pub(super) const UNKNOWN: &str = "unknown_tool";

pub(super) fn put_right(rules: Rules, messages: &[Arc<Message>], repaired: &mut u32) -> Vec<Arc<Message>> {
    let mut out = Vec::with_capacity(messages.len());
    for message in messages {
        let mut fixed = Arc::clone(message);
        let changed = role(rules, &mut fixed) | function(rules, &mut fixed) | names(rules, &mut fixed);
        let (filled, stays) = content(rules, &mut fixed);
        *repaired += u32::from(changed || filled || !stays);
        if stays {
            out.push(fixed);
        }
    }
    out
}

/// A role the chat API knows. Words of other libraries are understood.
fn role(rules: Rules, message: &mut Arc<Message>) -> bool {
    let Role::Other(word) = &message.role else { return false };
    if !rules.has(Rule::KnownRoles) {
        return false;
    }
    let (role, name) = match word.to_ascii_lowercase().as_str() {
        "human" => (Role::User, None),
        "ai" | "bot" | "model" => (Role::Assistant, None),
        _ => (Role::User, Some(speaker(word))),
    };
    let message = Arc::make_mut(message);
    message.role = role;
    if message.name.is_none() {
        message.name = name;
    }
    true
}

/// The oldest form of tools in the newer one. The ids are given when calls and results are paired.
fn function(rules: Rules, message: &mut Arc<Message>) -> bool {
    if !rules.has(Rule::NoFunctions) || !is_function(message) {
        return false;
    }
    let message = Arc::make_mut(message);
    if let Some(call) = message.extra.remove("function_call") {
        let unread = FunctionCall { arguments: call.to_string(), ..FunctionCall::default() };
        let function = serde_json::from_value(call).unwrap_or(unread);
        let kind = "function".to_owned();
        message.tool_calls.push(ToolCall { id: String::new(), kind, function, extra: Default::default() });
    }
    if message.role == Role::Function {
        message.role = Role::Tool;
    }
    true
}

fn names(rules: Rules, message: &mut Arc<Message>) -> bool {
    let mut changed = false;
    if rules.has(Rule::Names) {
        let name = match &message.name {
            Some(name) if !is_name(name) => Some(speaker(name)),
            None if message.role == Role::Function => Some(UNKNOWN.to_owned()),
            _ => None,
        };
        if let Some(name) = name {
            Arc::make_mut(message).name = Some(name);
            changed = true;
        }
    }
    let wrong = |call: &ToolCall| call.kind == "function" && function_name(&call.function.name) != call.function.name;
    if rules.has(Rule::FunctionNames) && message.tool_calls.iter().any(wrong) {
        for call in Arc::make_mut(message).tool_calls.iter_mut().filter(|call| wrong(call)) {
            call.function.name = function_name(&call.function.name);
        }
        changed = true;
    }
    changed
}

fn speaker(name: &str) -> String {
    let name = name.chars().take(NAME).map(|letter| if well_named(letter) { letter } else { '_' });
    let name: String = name.collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// A name that a function may have.
pub(super) fn function_name(name: &str) -> String {
    let name = plainly(name, NAME);
    if name.is_empty() { UNKNOWN.to_owned() } else { name }
}

/// At most so many letters, digits, `_` and `-`; what is none becomes `_`.
pub(super) fn plainly(text: &str, most: usize) -> String {
    let letter = |letter: char| if letter.is_ascii() && plain(letter.encode_utf8(&mut [0; 4])) { letter } else { '_' };
    text.chars().take(most).map(letter).collect()
}

/// Whether something had to be done about the content, and whether the message stays.
fn content(rules: Rules, message: &mut Arc<Message>) -> (bool, bool) {
    let absent = rules.has(Rule::Content) && !says_something(message);
    let blank = rules.has(Rule::TextNotBlank) && has_blank(message);
    if !absent && !blank {
        return (false, true);
    }
    // What a part says beside text stays.
    if let (true, Some(Content::Parts(parts))) = (blank, &message.content)
        && !parts.iter().all(is_blank)
    {
        let parts = parts.iter().filter(|part| !is_blank(part)).cloned().collect();
        Arc::make_mut(message).content = Some(Content::Parts(parts));
        return (true, true);
    }
    match message.role {
        Role::System | Role::Developer => (true, false),
        Role::Assistant => {
            let without = Message { content: None, ..(**message).clone() };
            let stays = says_something(&without);
            *message = Arc::new(without);
            (true, stays)
        }
        _ => {
            Arc::make_mut(message).content = Some(Content::Text(EMPTY.to_owned()));
            (true, true)
        }
    }
}
