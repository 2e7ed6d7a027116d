//! What things are called in Redis. An entry: the prefix, and the 64 hexadecimal digits of its key in braces, so that its
//! lease, which has them too, lies in the same slot of a cluster. All names start with the prefix: rules of access say
//! so little as `~sluicegate:*`.

use crate::cache::CacheKey;

const DIGITS: usize = 64;

/// The names under one prefix.
#[derive(Clone)]
pub(super) struct Names(pub(super) String);

impl Names {
    pub(super) fn of(&self, key: &CacheKey) -> String {
        format!("{}{{{}}}", self.0, key.to_hex())
    }

    /// What the names of all entries start with, and no other name.
    pub(super) fn entries(&self) -> String {
        format!("{}{{", self.0)
    }

    /// The lease of this key.
    pub(super) fn lease(&self, key: &CacheKey) -> String {
        format!("{}!lease:{{{}}}", self.0, key.to_hex())
    }

    /// Where removals are published.
    pub(super) fn channel(&self) -> String {
        format!("{}!removed", self.0)
    }

    /// Where those who have heard of a removal are counted.
    pub(super) fn ticket(&self, ticket: &str) -> String {
        format!("{}!heard:{ticket}", self.0)
    }

    /// The key of a name that this tier gave; none for whatever else lives under the prefix.
    pub(super) fn key(&self, name: &[u8]) -> Option<CacheKey> {
        let hex = name.strip_prefix(self.0.as_bytes())?.strip_prefix(b"{")?.strip_suffix(b"}")?;
        // One spelling only: a name in capitals is not one of ours.
        let ours = hex.len() == DIGITS && !hex.iter().any(u8::is_ascii_uppercase);
        if ours { CacheKey::from_hex(hex) } else { None }
    }

    /// Matches every name under the prefix, and of foreign ones only those that start with it too.
    pub(super) fn pattern(&self) -> String {
        let mut pattern = String::with_capacity(self.0.len() + 1);
        for letter in self.0.chars() {
            if matches!(letter, '*' | '?' | '[' | ']' | '\\' | '^') {
                pattern.push('\\');
            }
            pattern.push(letter);
        }
        pattern.push('*');
        pattern
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_key_and_no_other_name_does() {
        let names = Names("app:".into());
        let key = CacheKey::from_hex(&[b'a'; 64]).unwrap();
        let name = names.of(&key);
        assert_eq!(names.key(name.as_bytes()), Some(key));
        assert!(name.starts_with(&names.entries()) && !names.lease(&key).starts_with(&names.entries()));
        let (upper, lease) = (format!("app:{{{}}}", "A".repeat(64)), names.lease(&key));
        for foreign in ["app:", "app:{}", "", &name[1..], &name[..67], &format!("{name}0"), &upper, &lease] {
            assert_eq!(names.key(foreign.as_bytes()), None, "{foreign}");
        }
        assert_eq!(Names("a*[b]?\\".into()).pattern(), "a\\*\\[b\\]\\?\\\\*");
    }
}
