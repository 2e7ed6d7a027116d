//! Lines of a file, none of them too long.

use std::io::Result;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// A line is at most so long; what is longer is passed over without being kept.
const LONGEST: usize = 64 << 20;

/// What a unit of a task's budget pays for; there are 128.
const PART: usize = 8 << 10;

/// The lines of a reader, one at a time, in one buffer.
pub(crate) struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    longest: usize,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, line: Vec::new(), longest: LONGEST }
    }

    /// Takes the line that was read last, and its memory: long ones are few.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.line)
    }

    /// The next line without its end; `Some(None)` for one that is too long.
    pub(crate) async fn next(&mut self) -> Result<Option<Option<&[u8]>>> {
        self.line.clear();
        let (mut too_long, mut any) = (false, false);
        loop {
            let read = self.reader.fill_buf().await?;
            if read.is_empty() {
                break;
            }
            any = true;
            let end = memchr::memchr(b'\n', read);
            let part = &read[..end.unwrap_or(read.len())];
            too_long |= self.line.len() + part.len() > self.longest;
            if !too_long {
                self.line.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            // A reader that never waits would never pause: a megabyte at a time.
            for _ in 0..=used / PART {
                tokio::task::coop::consume_budget().await;
            }
            if end.is_some() {
                break;
            }
        }
        Ok(any.then_some((!too_long).then_some(self.line.as_slice())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_that_is_too_long_is_passed_over() {
        // A small buffer, so that lines come in parts.
        let text = b"one\n\nfar too long\ntwo\nlast" as &[u8];
        let mut lines = Lines::new(tokio::io::BufReader::with_capacity(3, text));
        lines.longest = 5;
        let mut seen = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            seen.push(line.map(|line| String::from_utf8(line.to_vec()).unwrap()));
        }
        let line = |text: &str| Some(text.to_owned());
        assert_eq!(seen, [line("one"), line(""), None, line("two"), line("last")]);
    }
}
