//! What a passage is introduced by: "Text two:" and then nothing would be worse than a repeat.

use super::page::{closing, opening};
use super::work::reads;

/// A title is shorter than this, in bytes.
const TITLE: usize = 64;

/// Whether the last line with words, of those taken in, introduces what follows: it ends with a colon, is a heading, an
/// opening tag, or the short first line of a paragraph that no mark ends but a full stop.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Label {
    introduces: bool,
    within_paragraph: bool,
}

impl Label {
    pub(super) fn introduces(self) -> bool {
        self.introduces
    }

    /// The next line.
    pub(super) fn line(&mut self, line: &str) {
        reads(line.len());
        let words = line.trim();
        if words.is_empty() {
            self.within_paragraph = false;
        } else if words.contains(char::is_alphanumeric) {
            let said = words.ends_with(['?', '!', '？', '！', '。']);
            let title = words.len() < TITLE && !self.within_paragraph && !said;
            self.introduces = words.ends_with([':', '：'])
                || words.starts_with('#')
                || closing(words).is_none() && (title || opening(words).is_some());
            self.within_paragraph = true;
        }
    }

    /// The next part is a text.
    pub(super) fn part(&mut self) {
        self.within_paragraph = false;
    }

    /// The next part is something else, which may belong to what follows.
    pub(super) fn media(&mut self) {
        *self = Self { introduces: true, within_paragraph: false };
    }
}
