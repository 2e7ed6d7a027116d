//! Which vocabulary a model has.

use std::collections::HashSet;
use std::sync::LazyLock;

use tiktoken_rs::CoreBPE;

use super::name::{bare, begins};
use super::words::Words;

/// OpenAI's vocabularies of today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Cl100k,
    O200k,
}

/// tiktoken's own map of models (0.14), shortened to what tells the two apart. The longest beginning decides.
const MODELS: &[(&str, Encoding)] = &[
    ("gpt-4", Encoding::Cl100k),
    ("gpt-4o", Encoding::O200k),
    ("gpt-4.", Encoding::O200k),
    ("gpt-3.5", Encoding::Cl100k),
    ("gpt-35", Encoding::Cl100k),
    ("text-embedding-", Encoding::Cl100k),
    ("davinci-002", Encoding::Cl100k),
    ("babbage-002", Encoding::Cl100k),
    ("gpt-", Encoding::O200k),
    ("chatgpt-", Encoding::O200k),
    ("codex-", Encoding::O200k),
    ("computer-use-", Encoding::O200k),
    ("o1", Encoding::O200k),
    ("o3", Encoding::O200k),
    ("o4", Encoding::O200k),
];

impl Encoding {
    /// The vocabulary of a model of OpenAI's; of another name, the newest.
    pub(super) fn of(model: &str) -> Self {
        // The common ones first: this is asked for each message.
        let common = ["gpt-5", "gpt-4o", "gpt-4.1"].iter().find_map(|beginning| model.strip_prefix(beginning));
        if common.is_some_and(|rest| rest.bytes().all(|byte| byte != b'/')) {
            return Self::O200k;
        }
        let model = bare(model);
        let found = MODELS.iter().filter(|(beginning, _)| begins(model, beginning));
        found.max_by_key(|(beginning, _)| beginning.len()).map_or(Self::O200k, |(_, encoding)| *encoding)
    }

    /// Builds the vocabulary, the first time.
    fn vocabulary(self) -> &'static CoreBPE {
        match self {
            Self::Cl100k => tiktoken_rs::cl100k_base_singleton(),
            Self::O200k => tiktoken_rs::o200k_base_singleton(),
        }
    }

    /// The words of the vocabulary; builds both, the first time.
    pub(super) fn words(self) -> &'static Words {
        static CL100K: LazyLock<Words> = LazyLock::new(|| Words::of(Encoding::Cl100k.vocabulary()));
        static O200K: LazyLock<Words> = LazyLock::new(|| Words::of(Encoding::O200k.vocabulary()));
        match self {
            Self::Cl100k => &CL100K,
            Self::O200k => &O200K,
        }
    }

    /// The tokens of this text, unless the tokenizer's regular expression gives up on it. Special tokens count as the
    /// text they are.
    pub(super) fn count(self, text: &str) -> Option<u64> {
        // The fallible call: the infallible ones unwrap the regular expression's stack overflow.
        self.vocabulary().encode(text, &HashSet::new()).ok().map(|(tokens, _)| tokens.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_one_token() {
        for role in ["system", "developer", "user", "assistant", "tool", "function"] {
            for encoding in [Encoding::Cl100k, Encoding::O200k] {
                assert_eq!(encoding.count(role), Some(1), "{role}");
            }
        }
    }

    #[test]
    fn a_model_has_the_vocabulary_tiktoken_gives_it() {
        let older = ["gpt-4", "gpt-4-0613", "gpt-4-turbo", "gpt-3.5-turbo", "gpt-35-turbo", "text-embedding-3-small"];
        let newer =
            ["gpt-4o", "gpt-4o-mini", "gpt-4.1-nano", "gpt-4.5-preview", "gpt-5", "gpt-5.1-mini", "gpt-oss-20b"];
        let newest = ["o1", "o1-mini", "o3", "o4-mini", "chatgpt-4o-latest", "codex-mini", "somebody-elses", ""];
        for model in
            older.iter().copied().chain(["openai/gpt-4", "ft:gpt-3.5-turbo:org::id", "azure/gpt-35-turbo", "GPT-4"])
        {
            assert_eq!(Encoding::of(model), Encoding::Cl100k, "{model}");
        }
        for model in newer.iter().chain(&newest).copied().chain(["openai/gpt-4o", "ft:gpt-4o-mini:org::id"]) {
            assert_eq!(Encoding::of(model), Encoding::O200k, "{model}");
        }
    }
}
