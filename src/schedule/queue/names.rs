//! Names, kept once while somebody waits under them.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

/// The number of a name.
pub(super) type Name = u32;

/// Names by number. Every [`take`](Self::take) needs its [`release`](Self::release).
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Where in `kept` a name is: a map of names would keep each twice.
    numbers: HashTable<Name>,
    kept: Vec<Kept>,
    free: Vec<Name>,
    hasher: RandomState,
}

/// A name in use; a place without users is free.
#[derive(Debug)]
struct Kept {
    name: Box<str>,
    users: u32,
}

impl Names {
    /// The number of this name, if somebody uses it.
    pub(super) fn find(&self, name: &str) -> Option<Name> {
        let is = |number: &Name| self.kept.get(*number as usize).is_some_and(|kept| *kept.name == *name);
        self.numbers.find(self.hasher.hash_one(name), is).copied()
    }

    /// The number of this name, from now on if need be.
    pub(super) fn take(&mut self, name: &str) -> Name {
        if let Some(number) = self.find(name) {
            self.share(number);
            return number;
        }
        let kept = Kept { name: name.into(), users: 1 };
        let number = match self.free.pop() {
            Some(number) => {
                self.kept[number as usize] = kept;
                number
            }
            None => {
                self.kept.push(kept);
                Name::try_from(self.kept.len() - 1).unwrap_or(Name::MAX)
            }
        };
        let (kept, hasher) = (&self.kept, &self.hasher);
        let hash = |number: &Name| kept.get(*number as usize).map_or(0, |kept| hasher.hash_one(&*kept.name));
        self.numbers.insert_unique(hasher.hash_one(name), number, hash);
        number
    }

    /// One more user of a name in use.
    fn share(&mut self, number: Name) {
        if let Some(kept) = self.kept.get_mut(number as usize) {
            kept.users += 1;
        }
    }

    /// One user less; the last one takes the name along.
    pub(super) fn release(&mut self, number: Name) {
        let Some(kept) = self.kept.get_mut(number as usize) else { return };
        kept.users -= 1;
        if kept.users > 0 {
            return;
        }
        let name = std::mem::take(&mut kept.name);
        if let Ok(found) = self.numbers.find_entry(self.hasher.hash_one(&*name), |known| *known == number) {
            found.remove();
        }
        self.free.push(number);
        if self.numbers.is_empty() {
            *self = Self::default();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }
}
