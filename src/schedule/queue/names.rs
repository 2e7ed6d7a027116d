//! Names, kept once while somebody waits under them.

use std::collections::HashMap;
use std::sync::Arc;

/// The number of a name.
pub(super) type Name = u32;

/// Names by number. Every [`take`](Self::take) needs its [`release`](Self::release).
#[derive(Debug, Default)]
pub(super) struct Names {
    numbers: HashMap<Arc<str>, Name>,
    kept: Vec<Option<Kept>>,
    free: Vec<Name>,
}

#[derive(Debug)]
struct Kept {
    name: Arc<str>,
    users: u32,
}

impl Names {
    /// The number of this name, if somebody uses it.
    pub(super) fn find(&self, name: &str) -> Option<Name> {
        self.numbers.get(name).copied()
    }

    /// The number of this name, from now on if need be.
    pub(super) fn take(&mut self, name: &str) -> Name {
        if let Some(number) = self.find(name) {
            self.share(number);
            return number;
        }
        let name: Arc<str> = Arc::from(name);
        let kept = Some(Kept { name: Arc::clone(&name), users: 1 });
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
        self.numbers.insert(name, number);
        number
    }

    /// One more user of a name in use.
    fn share(&mut self, number: Name) {
        if let Some(Some(kept)) = self.kept.get_mut(number as usize) {
            kept.users += 1;
        }
    }

    /// One user less; the last one takes the name along.
    pub(super) fn release(&mut self, number: Name) {
        let Some(slot) = self.kept.get_mut(number as usize) else { return };
        if let Some(kept) = slot {
            kept.users -= 1;
            if kept.users > 0 {
                return;
            }
        }
        if let Some(kept) = slot.take() {
            self.numbers.remove(&kept.name);
            self.free.push(number);
        }
        if self.numbers.is_empty() {
            *self = Self::default();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }
}
