//! How many tokens a model takes.

use std::collections::HashMap;

use super::name::{bare, is_of_whole};

/// How many tokens the models take, prompt and reply together, by model name.
///
/// A model is found by its exact name, otherwise by the longest name in the table that its own begins with, so that
/// `gpt-5-mini-2025-08-07` is a `gpt-5`. What is before the last `/`, and `ft:`, is left out, unless the table has a name
/// with it. One that is not found is looked for behind the first and the second dot, as Bedrock names it:
/// `us.anthropic.claude-sonnet-4-5`. Of a model that is not found nothing is known.
///
/// ```
/// use sluicegate::tokens::ContextWindows;
/// let contexts = ContextWindows::published().set("house-model", 32_000);
/// assert_eq!(contexts.get("house-model-v2"), Some(32_000));
/// assert_eq!(contexts.get("openai/gpt-4o-mini"), Some(128_000));
/// assert_eq!(contexts.get("somebody-elses"), None);
/// ```
#[derive(Debug, Clone, Default)]
pub struct ContextWindows(HashMap<String, u64>);

/// Bedrock's region and provider.
const HOSTS: usize = 2;

/// As the providers published them in autumn 2025. Of models with a larger window on request, the ordinary one.
const PUBLISHED: &[(&str, u64)] = &[
    ("gpt-5", 400_000),
    ("gpt-5-chat", 128_000),
    ("gpt-5.1-chat", 128_000),
    ("gpt-4.5", 128_000),
    ("gpt-4.1", 1_047_576),
    ("gpt-4o", 128_000),
    ("chatgpt-4o", 128_000),
    ("gpt-4-turbo", 128_000),
    ("gpt-4-1106", 128_000),
    ("gpt-4-0125", 128_000),
    ("gpt-4", 8_192),
    ("gpt-4-32k", 32_768),
    ("gpt-3.5-turbo", 16_385),
    ("gpt-35-turbo", 16_385),
    ("gpt-oss-", 131_072),
    ("o1", 200_000),
    ("o1-mini", 128_000),
    ("o1-preview", 128_000),
    ("o3", 200_000),
    ("o4-mini", 200_000),
    ("codex-mini", 200_000),
    ("claude-", 200_000),
    ("claude-2.0", 100_000),
    ("claude-instant", 100_000),
    ("gemini-3-", 1_048_576),
    ("gemini-2.5-", 1_048_576),
    ("gemini-2.0-flash", 1_048_576),
    ("gemini-1.5-flash", 1_048_576),
    ("gemini-1.5-pro", 2_097_152),
    ("llama-3.1-", 131_072),
    ("llama-3.2-", 131_072),
    ("llama-3.3-", 131_072),
    ("mistral-large-", 131_072),
    ("mistral-medium-", 131_072),
    ("mistral-small-", 131_072),
    ("ministral-", 131_072),
    ("codestral-", 262_144),
    ("deepseek-chat", 131_072),
    ("deepseek-reasoner", 131_072),
    ("command-r", 128_000),
    ("command-a-", 256_000),
    ("grok-3", 131_072),
    ("grok-4", 256_000),
];

impl ContextWindows {
    /// A table that knows no model.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Published sizes of common models (autumn 2025).
    pub fn published() -> Self {
        Self(PUBLISHED.iter().map(|(model, tokens)| ((*model).to_owned(), *tokens)).collect())
    }

    /// Adds or replaces what is known of the models whose name begins so.
    #[must_use]
    pub fn set(mut self, model: impl Into<String>, tokens: u64) -> Self {
        self.0.insert(model.into(), tokens);
        self
    }

    /// How many tokens this model takes, if that is known.
    pub fn get(&self, model: &str) -> Option<u64> {
        let name = bare(model);
        let whole = if name.len() == model.len() { "" } else { model };
        let longest = self.0.keys().map(String::len).max().unwrap_or_default();
        let of_whole = beginnings(whole, longest).filter(|beginning| is_of_whole(beginning));
        let hosted = name.match_indices('.').take(HOSTS).filter_map(|(dot, _)| name.get(dot + 1..));
        let of_hosted = hosted.flat_map(|name| beginnings(name, longest));
        of_whole.chain(beginnings(name, longest)).chain(of_hosted).find_map(|beginning| self.0.get(beginning).copied())
    }
}

/// The longest first. None is longer than those of the table: whoever sends a request may call its model what they like.
fn beginnings(name: &str, longest: usize) -> impl Iterator<Item = &str> {
    let mut end = longest.min(name.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let name = &name[..end];
    name.char_indices().rev().map(|(at, last)| &name[..at + last.len_utf8()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_decides() {
        let contexts = ContextWindows::published();
        for (model, tokens) in [
            ("gpt-4", 8_192),
            ("gpt-4-0613", 8_192),
            ("gpt-4-32k-0613", 32_768),
            ("gpt-4-turbo-2024-04-09", 128_000),
            ("gpt-4o-mini", 128_000),
            ("gpt-4.1-nano", 1_047_576),
            ("gpt-5-mini-2025-08-07", 400_000),
            ("gpt-5-chat-latest", 128_000),
            ("o1-2024-12-17", 200_000),
            ("o1-mini-2024-09-12", 128_000),
            ("ft:gpt-4o-mini:org::id", 128_000),
            ("anthropic/claude-sonnet-4-5", 200_000),
            ("models/gemini-1.5-pro-002", 2_097_152),
            ("anthropic.claude-3-5-sonnet-20241022-v2:0", 200_000),
            ("bedrock/us.anthropic.claude-sonnet-4-5", 200_000),
        ] {
            assert_eq!(contexts.get(model), Some(tokens), "{model}");
        }
        assert_eq!(contexts.get("gpt"), None, "a name shorter than the beginning does not begin with it");
        assert_eq!((contexts.get(""), contexts.get("a.b.c.claude-haiku"), contexts.get(".")), (None, None, None));
        let own = contexts.set("gpt-4o-mini", 1).set("é", 2);
        assert_eq!((own.get("gpt-4o-mini-x"), own.get("gpt-4o")), (Some(1), Some(128_000)));
        assert_eq!(own.get("édition"), Some(2), "by characters");
        // In no time: it would take minutes if each beginning of it were looked up.
        assert_eq!(own.get(&"gpt-4é".repeat(1 << 17)), Some(8_192));
        let own = own.set("house/", 3).set("house/gpt-4o", 4).set("ft:gpt-4o:org", 5);
        assert_eq!((own.get("house/gpt-5"), own.get("house/gpt-4o-mini")), (Some(3), Some(4)), "named as a whole");
        assert_eq!((own.get("ft:gpt-4o:org::id"), own.get("ft:gpt-4o:else")), (Some(5), Some(128_000)));
        assert_eq!(own.get("claude-proxy/gpt-5"), Some(400_000), "a beginning of no name");
    }
}
