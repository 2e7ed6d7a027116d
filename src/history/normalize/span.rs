//! Inline code that goes over the ends of lines.

/// The width of the backticks that opened the inline code a paragraph is in; zero outside.
///
/// Backticks that nothing closes are taken to be open to the end of the paragraph: more is left alone than need be.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Span {
    width: usize,
}

impl Span {
    pub(super) fn is_open(self) -> bool {
        self.width > 0
    }

    /// What is open after a line.
    pub(super) fn after(mut self, line: &str) -> Self {
        let bytes = line.as_bytes();
        let mut from = 0;
        while let Some(found) = bytes.get(from..).and_then(|rest| memchr::memchr(b'`', rest)) {
            let start = from + found;
            let run = bytes.iter().skip(start).take_while(|byte| **byte == b'`').count();
            let slashes = bytes.get(from..start).unwrap_or_default().iter().rev().take_while(|b| **b == b'\\').count();
            from = start + run;
            if self.width == run {
                self.width = 0;
            } else if self.width == 0 {
                // A backslash takes the first one of the run away; within code it is a backslash.
                self.width = run - slashes % 2;
            }
        }
        self
    }
}
