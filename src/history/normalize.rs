//! Prompts brought into one form: fewer tokens, more cache hits, the same meaning.

use std::sync::Arc;

use memchr::{memchr, memchr_iter};

use crate::types::{Content, Message, Messages, Part, Role};

/// Brings what users and instructions say into one form: line ends become `\n`, blanks at the ends of lines and of the
/// text go, and several blank lines become one.
///
/// Nothing inside a code fence (three backticks or tildes) changes. Answers of the model and results of tools are left
/// as they are. Normalising twice changes nothing more, and a text of blanks alone stays.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Normalize {}

impl Normalize {
    /// White space only: it changes no word in any language.
    pub fn safe() -> Self {
        Self {}
    }

    /// In words.
    pub(super) fn settings(self) -> String {
        "normalise white space".to_owned()
    }

    /// The messages in their form; the very same list when they are in it already.
    #[must_use]
    pub fn apply(&self, mut messages: Messages) -> Messages {
        for position in 0..messages.len() {
            if let Some(message) = normalize_message(&messages[position]) {
                messages.make_mut()[position] = Arc::new(message);
            }
        }
        messages
    }
}

fn normalize_message(message: &Message) -> Option<Message> {
    if !(message.role == Role::User || message.role.is_instruction()) {
        return None;
    }
    let content = match message.content.as_ref()? {
        Content::Text(text) => Content::Text(normalize_text(text)?),
        Content::Parts(parts) => {
            let changed = |part: &Part| matches!(part, Part::Text { text, .. } if normalize_text(text).is_some());
            if !parts.iter().any(changed) {
                return None;
            }
            let normalized = parts.iter().map(|part| match part {
                Part::Text { text, extra } => {
                    Part::Text { text: normalize_text(text).unwrap_or_else(|| text.clone()), extra: extra.clone() }
                }
                other => other.clone(),
            });
            Content::Parts(normalized.collect())
        }
    };
    Some(Message { content: Some(content), ..message.clone() })
}

/// The text in its form; `None` when it is in it already.
fn normalize_text(text: &str) -> Option<String> {
    if !may_change(text) {
        return None;
    }
    let normalized = rewrite(text);
    (!normalized.is_empty() && normalized != text).then_some(normalized)
}

/// Whether there is anything to look at: a quick search that passes over clean text at memory speed.
fn may_change(text: &str) -> bool {
    let bytes = text.as_bytes();
    let blank = |byte: &u8| byte.is_ascii_whitespace();
    bytes.last().is_some_and(blank)
        || memchr(b'\r', bytes).is_some()
        || memchr_iter(b'\n', bytes).any(|at| {
            let before = &bytes[..at];
            matches!(before.last(), Some(b' ' | b'\t')) || before.ends_with(b"\n\n")
        })
}

fn rewrite(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut fence: Option<&str> = None;
    let mut blank_lines = 0;
    for line in lines(text) {
        let marker = fence_marker(line);
        if fence.is_some() {
            out.push_str(line);
            out.push('\n');
            // A fence ends with its own marker, at least as long, and nothing after it.
            if let (Some(open), Some(close)) = (fence, marker)
                && close.starts_with(open)
                && line.trim() == close
            {
                fence = None;
            }
            continue;
        }
        let line = line.trim_end_matches([' ', '\t']);
        if line.is_empty() {
            blank_lines += 1;
            if blank_lines > 1 {
                continue;
            }
        } else {
            blank_lines = 0;
            fence = marker;
        }
        out.push_str(line);
        out.push('\n');
    }
    if fence.is_some() {
        // An open fence is code to its end: only the line end added above goes.
        if !text.ends_with(['\n', '\r']) {
            out.pop();
        }
    } else {
        out.truncate(out.trim_end_matches([' ', '\t', '\n']).len());
    }
    out
}

/// Lines without their ends, which may be `\n`, `\r\n` or a lone `\r`.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let current = rest.take().filter(|text| !text.is_empty())?;
        match current.find(['\n', '\r']) {
            None => Some(current),
            Some(end) => {
                let width = if current[end..].starts_with("\r\n") { 2 } else { 1 };
                rest = Some(&current[end + width..]);
                Some(&current[..end])
            }
        }
    })
}

/// The backticks or tildes that open or close a code fence.
fn fence_marker(line: &str) -> Option<&str> {
    let line = line.trim_start_matches(' ');
    let mark = line.chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
    let width = line.chars().take_while(|c| *c == mark).count();
    (width >= 3).then(|| &line[..width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn brings_white_space_into_one_form() {
        for (text, expected) in [
            ("a\r\nb\rc", Some("a\nb\nc")),
            ("a  \nb\t\n", Some("a\nb")),
            ("a\n\n\n\nb", Some("a\n\nb")),
            ("a\n \n\t\nb", Some("a\n\nb")),
            ("\u{3000}你好\n世界  ", Some("\u{3000}你好\n世界")),
            ("a\n\nb", None),
            ("  indented\n  list", None),
            (" \n ", None),
            ("", None),
        ] {
            assert_eq!(normalize_text(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn leaves_code_alone() {
        let code = "Look:\n```python\nx = 1  \n\n\n\ny = 2\n```\nwhy?";
        assert_eq!(normalize_text(code), None);
        let mixed = "a \n~~~\ncode  \n```\n~~~\nb  ";
        assert_eq!(normalize_text(mixed).as_deref(), Some("a\n~~~\ncode  \n```\n~~~\nb"));
        assert_eq!(normalize_text("a\n```\nopen  "), None);
    }

    #[test]
    fn only_users_and_instructions_are_touched() {
        let messages: Messages =
            vec![Message::user("a "), Message::assistant("b "), Message::tool("c", "d "), Message::system("e ")].into();
        let texts: Vec<_> = Normalize::safe().apply(messages).iter().map(|message| message.text()).collect();
        assert_eq!(texts, ["a", "b ", "d ", "e"]);
        let clean: Messages = vec![Message::user("a")].into();
        assert!(Normalize::safe().apply(clean.clone()).ptr_eq(&clean));
    }

    proptest! {
        #[test]
        fn twice_is_once_and_no_word_changes(text in "[ab`~ \t\r\n\u{e9}]{0,60}") {
            let once = normalize_text(&text).unwrap_or_else(|| text.clone());
            prop_assert_eq!(normalize_text(&once), None, "{:?} -> {:?}", &text, &once);
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(words(&once), words(&text));
        }
    }
}
