//! How many tokens a model takes.

use std::collections::HashMap;

/// How many tokens the models take, prompt and reply together, by model name.
///
/// A model is found by its exact name, otherwise by the longest name in the table that its own begins with, so that
/// `gpt-5-mini-2025-08-07` is a `gpt-5`. What is before the last `/`, and `ft:`, is left out. Of a model that is not found
/// nothing is known.
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

/// As the providers published them in autumn 2025.
const PUBLISHED: &[(&str, u64)] = &[
    ("gpt-5", 400_000),
    ("gpt-4.1", 1_047_576),
    ("gpt-4o", 128_000),
    ("gpt-4-turbo", 128_000),
    ("gpt-4", 8_192),
    ("gpt-4-32k", 32_768),
    ("gpt-3.5-turbo", 16_385),
    ("gpt-35-turbo", 16_385),
    ("o1", 200_000),
    ("o3", 200_000),
    ("o4-mini", 200_000),
    ("claude-", 200_000),
    ("gemini-2.5-", 1_048_576),
    ("gemini-2.0-flash", 1_048_576),
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
        let model = model.rsplit('/').next().unwrap_or(model);
        let model = model.strip_prefix("ft:").unwrap_or(model);
        let beginnings = model.char_indices().map(|(at, first)| &model[..at + first.len_utf8()]);
        beginnings.rev().find_map(|beginning| self.0.get(beginning).copied())
    }
}
