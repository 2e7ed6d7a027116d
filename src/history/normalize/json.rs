//! JSON, or what looks like it.

/// How many brackets of a value are open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Json {
    depth: usize,
}

impl Json {
    /// The value that a line (without its indentation) begins: an object or array whose first word looks the part. It
    /// may be closed by the same line.
    pub(super) fn open(line: &str) -> Option<Self> {
        let first = line.strip_prefix(['{', '['])?.trim_start_matches([' ', '\t']);
        let begins = |start: &str| first.starts_with(start);
        let looks_right = first.is_empty()
            || first.starts_with(['"', '\'', '{', '[', '}', ']', '-'])
            || first.starts_with(|c: char| c.is_ascii_digit())
            || ["true", "false", "null"].iter().any(|word| begins(word))
            // A bare key, as JavaScript and YAML allow it.
            || line.starts_with('{');
        looks_right.then_some(Self { depth: 0 })
    }

    /// Takes a line in; what is open after it. A value that is never closed goes on to the end of the text.
    pub(super) fn after(self, line: &str) -> Option<Self> {
        let mut depth = self.depth;
        let mut quoted = false;
        let mut bytes = line.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'"' => quoted = !quoted,
                b'\\' if quoted => {
                    bytes.next();
                }
                b'{' | b'[' if !quoted => depth += 1,
                b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        // A string does not go over the end of a line: the next one begins outside.
        (depth > 0).then_some(Self { depth })
    }
}
