//! Prompts brought into one form: fewer tokens, more cache hits, the same meaning.

mod documents;
mod fence;
mod form;
mod json;
mod label;
mod lines;
mod page;
mod passages;
mod prose;
mod regions;
mod repeats;
mod span;
mod squeeze;
mod white_space;
mod work;

#[cfg(test)]
mod proptests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use form::{Piece, aggressive, safe};
use white_space::may_change;

use crate::types::{Content, Message, Messages, Part, Role};

/// Brings what users and instructions say into one form.
///
/// Off unless set. Each message by itself, so that trimming a conversation never takes away the only copy of anything.
///
/// | level | what it does | before | after |
/// |---|---|---|---|
/// | safe | line ends, a lone `\r` too, become `\n` | `a\r\nb` | `a\nb` |
/// | safe | blanks at the end of a line and of the text go, also the two that break a line in Markdown, and blank lines at its start | `a  \nb\n` | `a\nb` |
/// | safe | several blank lines become one | `a\n\n\n\nb` | `a\n\nb` |
/// | aggressive | several blanks inside a sentence become one | `one   two` | `one two` |
/// | aggressive | a separator of more than 8 of `-`, `=`, `_`, `*` or `#` becomes 8 long | `------------` | `--------` |
/// | aggressive | a sentence of at least 32 bytes said again on the next line goes | `s\ns` | `s` |
/// | aggressive | a paragraph of at least 128 bytes that stood in the message before goes | `p\n\nq\n\np` | `p\n\nq` |
/// | aggressive | several paragraphs that stood there before in this order go together, with code, lists and tables between them, if they are at least 256 bytes and one of them is such a paragraph | `title\n\np\n\nq\n\ntitle\n\np` | `title\n\np\n\nq` |
/// | aggressive | a document of at least 128 bytes between tags goes if the same stood before in the same element, tags and all | `<doc>d</doc>\n<doc>d</doc>` | `<doc>d</doc>` |
///
/// Lengths are bytes of UTF-8, which go by what is said rather than by the script: 32 are about 32 Latin letters or 11
/// Chinese characters. The lengths are ours, not measured: long enough that a repeat is hardly meant.
///
/// # What stays, byte for byte
/// In both levels: code between fences (backticks or tildes, nested, in lists), code indented by four after a blank line, block quotes,
/// JSON (what begins a line with a bracket and looks the part, to the closing one), tables (a line with `|`, drawn with
/// boxes, or with tabs between words), inline code, what stands in `<pre>`, `<code>`, `<script>`, `<style>` or `<textarea>`
/// where that tag begins a line, every indentation.
/// Unicode's wide blanks, no-break spaces, joiners and line separators are characters like any other.
///
/// With `aggressive` also: lists, columns (gaps in two lines one below the other, or tabs), lines with a quotation, code (a
/// call such as `f(x)`), markup or comma-separated values in them, lines of ASCII without a blank (base64, sequences), whatever stands between tags (it goes as a whole or not at all). A repeat that is introduced
/// (by a line that ends with a colon, a heading, an opening tag, a title of less than 64 bytes, an image) stays too: "Text one: …
/// Text two: …, do they differ?" needs both. Nothing marks the place of what went: it stands word for word above.
///
/// In doubt it stays: code that nobody closes is code to the end of the message. Code, diffs and JSON that nothing of this
/// marks are prose: blanks at the ends of their lines go, and of several blank lines one is left.
///
/// Answers of the model are never touched: they are what it said, and the provider's prompt cache has them as it said them.
/// Results of tools are data, where a repeat or a blank may mean something; [`tool_results`](Self::tool_results) takes them in.
///
/// Normalising twice changes nothing more; nothing gets longer, or empty.
///
/// # Cost
/// `safe` passes over a clean text once. `aggressive` reads a clean text about five times, and one that it changes again
/// after each change, four times at most. Both take time in proportion to the text, whatever stands in it.
///
/// # Examples
/// ```
/// use sluicegate::history::Normalize;
/// use sluicegate::types::{Message, Messages};
///
/// let say = |normalize: Normalize, text: &str| normalize.apply(vec![Message::user(text)].into())[0].text();
///
/// let safe = |text: &str| say(Normalize::safe(), text);
/// assert_eq!(safe("a\r\nb"), "a\nb");
/// assert_eq!(safe("\na  \nb\n"), "a\nb");
/// assert_eq!(safe("a\n\n\n\nb"), "a\n\nb");
/// assert_eq!(safe("one   two"), "one   two");
/// assert_eq!(safe("```\na  \n\n\n\n```"), "```\na  \n\n\n\n```");
///
/// let aggressive = |text: &str| say(Normalize::aggressive(), text);
/// assert_eq!(aggressive("one   two"), "one two");
/// assert_eq!(aggressive("a\n------------\nb"), "a\n--------\nb");
/// let line = "Answer in one short sentence, please.";
/// assert_eq!(aggressive(&format!("{line}\n{line}")), line);
/// let paragraph = "The lock of the model K9 opens with a quarter turn to the left. ".repeat(3);
/// let (paragraph, title) = (paragraph.trim_end(), "The locks");
/// assert_eq!(aggressive(&format!("{paragraph}\n\nAnd yet more.\n\nSo:\n\n{paragraph}")).len(), paragraph.len() * 2 + 22);
/// let other = "There is another one, which needs no key at all, only a coin of the right size.";
/// assert_eq!(aggressive(&format!("{paragraph}\n\n{other}\n\n{paragraph}")), format!("{paragraph}\n\n{other}"));
/// let page = format!("{title}\n\n{paragraph}\n\n- a list\n\nThe end of this page about locks, such as it is today.");
/// let twice = format!("{page}\n\n{other}\n\n{page}");
/// assert_eq!(aggressive(&twice), format!("{page}\n\n{other}"));
/// let document = format!("<doc>\n{paragraph}\n</doc>");
/// assert_eq!(aggressive(&format!("{document}\n{document}\nWhat opens it?")), format!("{document}\nWhat opens it?"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Normalize {
    level: Level,
    tool_results: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Safe,
    Aggressive,
}

impl Normalize {
    /// White space only: it changes no word in any language.
    pub fn safe() -> Self {
        Self { level: Level::Safe, tool_results: false }
    }

    /// Gaps, separators and repeats too: for prompts put together by programs, where they mean nothing.
    pub fn aggressive() -> Self {
        Self { level: Level::Aggressive, ..Self::safe() }
    }

    /// Sets whether results of tools are normalised as well. Off by default: they are data, and a line said twice in a
    /// log happened twice.
    #[must_use]
    pub fn tool_results(mut self, too: bool) -> Self {
        self.tool_results = too;
        self
    }

    /// In words.
    pub(super) fn settings(self) -> String {
        let level = match self.level {
            Level::Safe => "safe",
            Level::Aggressive => "aggressive",
        };
        let tools = if self.tool_results { ", tool results too" } else { "" };
        format!("normalise, {level}{tools}")
    }

    /// The messages in their form; the very same list when they are in it already.
    #[must_use]
    pub fn apply(&self, mut messages: Messages) -> Messages {
        for position in 0..messages.len() {
            if let Some(message) = self.message(&messages[position]) {
                messages.make_mut()[position] = Arc::new(message);
            }
        }
        messages
    }

    fn takes(self, role: &Role) -> bool {
        *role == Role::User || role.is_instruction() || self.tool_results && matches!(role, Role::Tool | Role::Function)
    }

    /// The message in its form; `None` when it is in it already.
    fn message(self, message: &Message) -> Option<Message> {
        if !self.takes(&message.role) {
            return None;
        }
        let content = match message.content.as_ref()? {
            Content::Text(text) => Content::Text(self.text(text)?),
            Content::Parts(parts) => Content::Parts(self.parts(parts)?),
        };
        Some(Message { content: Some(content), ..message.clone() })
    }

    fn text(self, text: &str) -> Option<String> {
        if self.level == Level::Safe && !may_change(text) {
            return None;
        }
        let [piece] = self.form([Piece::text(text, true)])?;
        if let Piece::Text { text, .. } = piece { Some(text.into_owned()) } else { None }
    }

    fn parts(self, parts: &[Part]) -> Option<Vec<Part>> {
        let changes = |part: &Part| matches!(part, Part::Text { text, .. } if may_change(text));
        if self.level == Level::Safe && !parts.iter().any(changes) {
            return None;
        }
        let pieces = parts.iter().map(|part| match part {
            // What is not known of a part, a mark for the provider's cache say, must not get lost with it.
            Part::Text { text, extra } => Piece::text(text, !extra.is_empty()),
            _ => Piece::Media,
        });
        let pieces = self.form(pieces.collect::<Vec<_>>())?;
        let formed = parts.iter().zip(pieces).filter_map(|(part, piece)| match (part, piece) {
            (Part::Text { extra, .. }, Piece::Text { text, .. }) => {
                Some(Part::Text { text: text.into_owned(), extra: extra.clone() })
            }
            (_, Piece::Gone) => None,
            (other, _) => Some(other.clone()),
        });
        Some(formed.collect())
    }

    fn form<'a, P: AsMut<[Piece<'a>]>>(self, mut pieces: P) -> Option<P> {
        let done = safe(pieces.as_mut());
        let changed = match self.level {
            Level::Safe => done.changed,
            Level::Aggressive => aggressive(pieces.as_mut(), done) || done.changed,
        };
        changed.then_some(pieces)
    }
}
