//! Code fences.

use super::lines::{after_marker, indent};

/// How much further in than its opening a closing marker may stand, or further out.
const SLACK: usize = 3;

/// An open code fence: three backticks or tildes or more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fence {
    mark: u8,
    width: usize,
    column: usize,
}

impl Fence {
    /// The fence that a line opens, within list items too.
    pub(super) fn open(line: &str) -> Option<Self> {
        let (mut column, mut rest) = indent(line);
        while let Some(after) = after_marker(rest) {
            let (blanks, item) = indent(after);
            column += rest.len() - after.len() + blanks;
            rest = item;
        }
        let fence = Self::marker(column, rest)?;
        // Backticks that close on their own line are inline code.
        let info = rest.as_bytes().get(fence.width..).unwrap_or_default();
        (fence.mark == b'~' || memchr::memchr(b'`', info).is_none()).then_some(fence)
    }

    /// What is open after a line within the fence: it ends with its own marker, at least as long, with nothing after it.
    pub(super) fn after(self, line: &str) -> Option<Self> {
        let (column, rest) = indent(line);
        let Some(found) = Self::marker(column, rest) else { return Some(self) };
        let bare = rest.trim_end_matches([' ', '\t']).len() == found.width;
        if !bare || found.mark != self.mark || found.width < self.width || column > self.column + SLACK {
            return Some(self);
        }
        // Far outside the list item that holds the fence, it ends that item and opens a fence of its own.
        (column + SLACK < self.column).then_some(found)
    }

    fn marker(column: usize, rest: &str) -> Option<Self> {
        let mark = *rest.as_bytes().first().filter(|mark| matches!(mark, b'`' | b'~'))?;
        let width = rest.bytes().take_while(|byte| *byte == mark).count();
        (width >= 3).then_some(Self { mark, width, column })
    }
}
