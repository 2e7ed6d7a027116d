//! A typed map that travels with a call, never on the wire and never in a key.

use std::any::{Any, TypeId};
use std::sync::Arc;

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
pub struct Extensions(Vec<(TypeId, Arc<dyn Any + Send + Sync>)>);

impl Extensions {
    /// An empty map.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Puts a value in, replacing one of the same type.
    pub fn insert<T: Any + Send + Sync>(&mut self, value: T) {
        let id = TypeId::of::<T>();
        let value: Arc<dyn Any + Send + Sync> = Arc::new(value);
        match self.0.iter_mut().find(|(known, _)| *known == id) {
            Some(place) => place.1 = value,
            None => self.0.push((id, value)),
        }
    }

    /// The value of this type.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
        let id = TypeId::of::<T>();
        self.0.iter().find(|(known, _)| *known == id).and_then(|(_, value)| value.downcast_ref())
    }

    /// Takes the value of this type out; whether there was one.
    pub fn remove<T: Any + Send + Sync>(&mut self) -> bool {
        let before = self.0.len();
        self.0.retain(|(known, _)| *known != TypeId::of::<T>());
        self.0.len() != before
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Extensions {
    // Values may be anything the user put in, so only their number is shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Extensions({})", self.0.len())
    }
}
