//! Texts that count as the same question.

use std::sync::Arc;

use crate::types::{ChatBody, Content, Message, Part, Role};

/// How the text of the last user message is read for the key. The request itself goes upstream as it is.
///
/// Only that message is touched, media and the fields around its text are not: the conversation before it, instructions
/// included, must be equal byte by byte. Whatever a form makes equal shares an answer: choose one for questions of
/// people, and [`Exact`](Self::Exact) where letters or white space carry meaning, as in code, tables and identifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum KeyTexts {
    /// As it is.
    #[default]
    Exact,
    /// Each run of white space, line breaks included, is one blank; none is left at either end.
    Whitespace,
    /// As [`Whitespace`](Self::Whitespace), in Unicode lower case, without the marks that end a sentence (`.` `!` `?`
    /// `…` and the like in other scripts) at its end. A text of such marks alone keeps them.
    Folded,
}

impl KeyTexts {
    /// Puts the last user message into this form.
    pub(super) fn apply(self, body: &mut ChatBody) {
        if self == Self::Exact {
            return;
        }
        let Some(last) = body.messages.iter().rposition(|message| message.role == Role::User) else { return };
        let message = &mut body.messages.make_mut()[last];
        self.message(Arc::make_mut(message));
    }

    fn message(self, message: &mut Message) {
        match &mut message.content {
            None => {}
            Some(Content::Text(text)) => *text = self.text(text),
            Some(Content::Parts(parts)) => {
                for part in parts {
                    if let Part::Text { text, .. } = part {
                        *text = self.text(text);
                    }
                }
            }
        }
    }

    fn text(self, text: &str) -> String {
        if self == Self::Exact {
            return text.to_owned();
        }
        let mut blanks_joined = String::with_capacity(text.len());
        for word in text.split_whitespace() {
            if !blanks_joined.is_empty() {
                blanks_joined.push(' ');
            }
            blanks_joined.push_str(word);
        }
        if self == Self::Whitespace {
            return blanks_joined;
        }
        let lower = blanks_joined.to_lowercase();
        let bare = lower.trim_end_matches(|c: char| c == ' ' || ends_a_sentence(c));
        if bare.is_empty() { lower } else { bare.to_owned() }
    }
}

/// Sentence marks of the scripts most written in. Brackets, quotes and signs such as `+` and `#` are not among them: `C`
/// and `C#` are two questions.
fn ends_a_sentence(c: char) -> bool {
    matches!(
        c,
        '.' | '!'
            | '?'
            | ','
            | ';'
            | ':'
            | '…'
            | '‼'
            | '‽'
            | '⁇'
            | '⁈'
            | '⁉'
            | '。'
            | '．'
            | '｡'
            | '！'
            | '？'
            | '，'
            | '、'
            | '；'
            | '：'
            | '؟'
            | '۔'
            | '،'
            | '؛'
            | '।'
            | '॥'
            | '։'
            | '።'
            | '፧'
            | '៕'
            | '။'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ChatRequest;

    #[test]
    fn texts_of_one_form() {
        for (text, whitespace, folded) in [
            ("Why?", "Why?", "why"),
            ("  why \n\t IS\u{a0}it ?! ", "why IS it ?!", "why is it"),
            ("ÄRGER…", "ÄRGER…", "ärger"),
            ("空は青い。", "空は青い。", "空は青い"),
            ("What is C#?", "What is C#?", "what is c#"),
            ("f(x). ", "f(x).", "f(x)"),
            ("1.5", "1.5", "1.5"),
            ("?!", "?!", "?!"),
            (" ", "", ""),
        ] {
            assert_eq!(KeyTexts::Whitespace.text(text), whitespace);
            assert_eq!(KeyTexts::Folded.text(text), folded);
            assert_eq!(KeyTexts::Exact.text(text), text);
            for form in [KeyTexts::Whitespace, KeyTexts::Folded] {
                let once = form.text(text);
                assert_eq!(form.text(&once), once, "a form is a form of itself");
            }
        }
    }

    #[test]
    fn only_the_last_user_message_is_touched() {
        let mut request = ChatRequest::new("m").system("Be  brief.").user("A  b?").assistant("C  d.");
        let mut parts = Message::user("");
        parts.content = Some(Content::Parts(vec![Part::text("E  f?"), Part::image("data:X  Y")]));
        request = request.message(parts).message(Message::tool("c", "G  h."));
        let before = request.clone();
        KeyTexts::Folded.apply(&mut request);
        for place in [0, 1, 2, 4] {
            assert_eq!(request.messages[place], before.messages[place]);
        }
        let expected = Content::Parts(vec![Part::text("e f"), Part::image("data:X  Y")]);
        assert_eq!(request.messages[3].content, Some(expected));
        assert_eq!(before.messages[3].text(), "E  f?", "what goes upstream is not changed");
    }
}
