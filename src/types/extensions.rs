//! A typed map that travels with a call, never on the wire and never in a key.

use std::any::{Any, TypeId};
use std::sync::Arc;

use super::Deadline;

/// Values by type, at most one of each. Cloning shares the values; an empty map owns nothing.
///
/// Down the stack it carries per-call controls ([`Priority`](super::Priority), [`Deadline`](super::Deadline)); up the
/// stack, facts.
///
/// ```
/// use sluicegate::types::{Extensions, Priority};
/// let mut extensions = Extensions::new();
/// extensions.insert(Priority::High);
/// assert_eq!(extensions.get::<Priority>(), Some(&Priority::High));
/// ```
#[derive(Clone, Default)]
pub struct Extensions {
    // The control that every call of a stack with a deadline carries has a place of its own: no allocation on a hit.
    deadline: Option<Deadline>,
    others: Vec<(TypeId, Arc<dyn Any + Send + Sync>)>,
}

impl Extensions {
    /// An empty map.
    pub const fn new() -> Self {
        Self { deadline: None, others: Vec::new() }
    }

    /// Puts a value in, replacing one of the same type.
    pub fn insert<T: Any + Send + Sync>(&mut self, value: T) {
        if let Some(deadline) = (&value as &dyn Any).downcast_ref::<Deadline>() {
            self.deadline = Some(*deadline);
            return;
        }
        let id = TypeId::of::<T>();
        let value: Arc<dyn Any + Send + Sync> = Arc::new(value);
        match self.others.iter_mut().find(|(known, _)| *known == id) {
            Some(place) => place.1 = value,
            None => self.others.push((id, value)),
        }
    }

    /// The value of this type.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
        let id = TypeId::of::<T>();
        if id == TypeId::of::<Deadline>() {
            return self.deadline.as_ref().and_then(|deadline| (deadline as &dyn Any).downcast_ref());
        }
        self.others.iter().find(|(known, _)| *known == id).and_then(|(_, value)| value.downcast_ref())
    }

    /// Takes the value of this type out; whether there was one.
    pub fn remove<T: Any + Send + Sync>(&mut self) -> bool {
        let id = TypeId::of::<T>();
        if id == TypeId::of::<Deadline>() {
            return self.deadline.take().is_some();
        }
        let before = self.others.len();
        self.others.retain(|(known, _)| *known != id);
        self.others.len() != before
    }

    /// Whether it holds anything but values of these types.
    pub(crate) fn holds_others(&self, known: &[TypeId]) -> bool {
        self.others.iter().any(|(id, _)| !known.contains(id))
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.deadline.is_none() && self.others.is_empty()
    }
}

impl std::fmt::Debug for Extensions {
    // Values may be anything the user put in, so only their number is shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Extensions({})", self.others.len() + usize::from(self.deadline.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Priority;

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn holds_one_value_of_each_type() {
        let deadline = Deadline(std::time::Instant::now());
        let mut map = Extensions::new();
        assert!(map.is_empty() && map.get::<Deadline>().is_none());
        map.insert(Priority::Low);
        map.insert(Priority::High);
        map.insert(deadline);
        assert_eq!((map.get(), map.get()), (Some(&Priority::High), Some(&deadline)));
        assert!(map.remove::<Deadline>() && !map.remove::<Deadline>());
        assert!(map.remove::<Priority>() && map.is_empty());
    }
}
