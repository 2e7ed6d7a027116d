//! Which entries to forget, and what they can be selected by.

use std::fmt;

use wildmatch::WildMatch;

use super::{CacheKey, Entry};

/// Which entries to forget.
///
/// ```
/// use sluicegate::cache::Selector;
/// let all_answers_of_a_model = Selector::Pattern("responses/gpt-5*".into());
/// let all_about_prices = Selector::Tag("price-list".into());
/// # let _ = (all_answers_of_a_model, all_about_prices);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selector {
    /// The entry of this key.
    Key(CacheKey),
    /// The entries of these keys.
    Keys(Vec<CacheKey>),
    /// The entries that were given this tag.
    Tag(String),
    /// The entries whose `namespace/name` this pattern matches as a whole: `*` stands for any text, slashes included, `?`
    /// for one character. The name of an answer or a vector is its model; that of a value is its key.
    Pattern(String),
    /// The entries of this namespace.
    Namespace(String),
    /// All of them.
    All,
}

impl Selector {
    /// Whether this entry is to be forgotten.
    pub fn selects(&self, entry: &Entry) -> bool {
        self.takes(entry.namespace(), entry.labels(), || entry.key())
    }

    /// Whether what has this namespace, these labels and this key is to be forgotten.
    pub(crate) fn takes(&self, namespace: &str, labels: &Labels, key: impl FnOnce() -> CacheKey) -> bool {
        match self {
            Self::Key(wanted) => key() == *wanted,
            Self::Keys(wanted) => wanted.contains(&key()),
            Self::Tag(tag) => labels.tags.iter().any(|given| **given == **tag),
            Self::Pattern(pattern) => WildMatch::new(pattern).matches(&format!("{namespace}/{}", labels.name)),
            Self::Namespace(name) => namespace == name,
            Self::All => true,
        }
    }
}

/// What an entry can be selected by, beside its key and its namespace.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Labels {
    pub(crate) name: Box<str>,
    pub(crate) tags: Box<[Box<str>]>,
}

impl Labels {
    /// A name: the model of an answer or a vector, the key of a value.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), tags: Box::default() }
    }

    /// With these tags.
    #[must_use]
    pub fn tags<T: AsRef<str>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags = tags.into_iter().map(|tag| tag.as_ref().into()).collect();
        self
    }

    /// About how many bytes of memory they take.
    pub(super) fn weight(&self) -> usize {
        self.name.len() + self.tags.iter().map(|tag| 16 + tag.len()).sum::<usize>()
    }
}

impl fmt::Debug for Labels {
    // The name of a value is its key, and tags are the user's own words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Labels").field("tags", &self.tags.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debug_print_tells_neither_name_nor_tags() {
        let printed = format!("{:?}", Labels::new("patient:7").tags(["acme"]));
        assert!(!printed.contains("patient") && !printed.contains("acme"), "{printed}");
    }

    #[test]
    fn each_selector_takes_its_own() {
        let key = |byte: u8| CacheKey::of(&[byte]);
        let labels = Labels::new("meta/llama-3").tags(["prices", "eu"]);
        let takes = |selector: Selector| selector.takes("responses", &labels, || key(1));
        assert!(takes(Selector::Key(key(1))) && !takes(Selector::Key(key(2))));
        assert!(takes(Selector::Keys(vec![key(2), key(1)])) && !takes(Selector::Keys(vec![])));
        assert!(takes(Selector::Tag("eu".into())) && !takes(Selector::Tag("e".into())));
        for pattern in ["responses/*", "*/llama-3", "*", "responses/meta/llama-?"] {
            assert!(takes(Selector::Pattern(pattern.into())), "{pattern}");
        }
        for pattern in ["", "responses", "responses/llama*", "llama-3", "responses/meta/llama-3?"] {
            assert!(!takes(Selector::Pattern(pattern.into())), "{pattern}");
        }
        assert!(takes(Selector::Namespace("responses".into())) && !takes(Selector::Namespace("resp".into())));
        assert!(takes(Selector::All));
    }
}
