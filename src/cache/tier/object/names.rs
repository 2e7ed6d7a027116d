//! What entries are called in the store: `<prefix>/v2/<namespace>/<first 2 digits>/<64 digits of the key>`.
//!
//! The version of the envelope stands in the name, so that two versions of the crate do not take turns in removing each
//! other's entries while a fleet is updated. The two digits keep folders short and spread the load on stores that divide
//! their work by name.

use object_store::path::{Path, PathPart};

use crate::cache::CacheKey;
use crate::cache::envelope::VERSION;

const DIGITS: usize = 64;
/// The folder of the namespace without a name. No other is called so: a `%` in a name is written `%25`.
const NAMELESS: &str = "%";

/// The names under one prefix.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: Path,
}

impl Names {
    pub(super) fn new(prefix: Path) -> Self {
        Self { prefix }
    }

    /// What lies in any version.
    pub(super) fn root(&self) -> &Path {
        &self.prefix
    }

    /// What lies in this version.
    pub(super) fn version(&self) -> Path {
        self.prefix.clone().join(format!("v{VERSION}"))
    }

    /// What lies in this namespace.
    pub(super) fn namespace(&self, namespace: &str) -> Path {
        match namespace {
            // Not `join`, which would write `%25`.
            "" => Path::parse(format!("{}/{NAMELESS}", self.version())).unwrap_or_else(|_| self.version()),
            named => self.version().join(named),
        }
    }

    /// Where the entry of this key lies in this namespace.
    pub(super) fn of(&self, namespace: &str, key: &CacheKey) -> Path {
        Self::within(self.namespace(namespace), key)
    }

    /// Where the entry of this key lies in the namespace of this folder.
    pub(super) fn within(namespace: Path, key: &CacheKey) -> Path {
        let hex = key.to_hex();
        namespace.join(&hex[..2]).join(hex)
    }

    /// Whether this tier gives such names, in this version or another. Whatever else lies under the prefix is not touched.
    pub(super) fn gave(&self, name: &Path) -> bool {
        let Some(inside) = name.prefix_match(&self.prefix) else { return false };
        let parts: Vec<PathPart<'_>> = inside.collect();
        let [version, _, digits, hex] = &parts[..] else { return false };
        let (digits, hex) = (digits.as_ref(), hex.as_ref());
        let number = version.as_ref().strip_prefix('v').unwrap_or_default();
        // One spelling only: a name in capitals is not one of ours.
        !number.is_empty()
            && number.bytes().all(|digit| digit.is_ascii_digit())
            && hex.len() == DIGITS
            && hex.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
            && *digits == hex[..2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new(Path::parse("llm/answers").unwrap())
    }

    #[test]
    fn a_name_says_version_namespace_and_key() {
        let hex = "c7".repeat(32);
        let key = CacheKey::from_bytes([0xc7; 32]);
        let name = names().of("responses", &key);
        assert_eq!(name.as_ref(), format!("llm/answers/v{VERSION}/responses/c7/{hex}"));
        assert!(names().gave(&name));
        let old = Path::parse(format!("llm/answers/v1/responses/c7/{hex}")).unwrap();
        assert!(names().gave(&old), "an older version's");
    }

    #[test]
    fn no_namespace_leaves_its_folder() {
        let key = CacheKey::from_bytes([0xc7; 32]);
        let mut seen = std::collections::HashSet::new();
        for namespace in ["", "%", "%25", ".", "..", "a/b", "a%2Fb", "a", "A", "ü", "*", "\0"] {
            let name = names().of(namespace, &key);
            assert!(names().gave(&name), "{namespace:?}: {name}");
            assert!(Path::parse(name.as_ref()).is_ok(), "{namespace:?}: {name}");
            assert!(seen.insert(name), "{namespace:?} shares its folder");
        }
    }

    #[test]
    fn what_is_not_ours_is_known() {
        let hex = "c7".repeat(32);
        for foreign in [
            "llm/answers".to_owned(),
            format!("llm/answers/v2/responses/c8/{hex}"),
            format!("llm/answers/v2/responses/c7/{}", hex.to_uppercase()),
            format!("llm/answers/v2/responses/c7/{hex}0"),
            format!("llm/answers/v2/responses/c7/{hex}/more"),
            format!("llm/answers/v/responses/c7/{hex}"),
            format!("llm/answers/vx/responses/c7/{hex}"),
            format!("llm/answers/responses/c7/{hex}"),
            format!("llm/answers2/v2/responses/c7/{hex}"),
            format!("other/v2/responses/c7/{hex}"),
        ] {
            assert!(!names().gave(&Path::parse(&foreign).unwrap()), "{foreign}");
        }
    }
}
