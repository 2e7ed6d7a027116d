//! A conversation cut into what may be dropped together.

use std::ops::Range;
use std::sync::Arc;

use crate::types::{Message, Role};

/// The turns of a conversation, oldest first, as ranges of positions. Instructions may stand inside a range; they
/// belong to no turn.
///
/// A turn begins with what the user says and takes all that follows up to the next thing the user says, so tool calls
/// and their results are in one turn, and a conversation that starts at a turn is valid. What comes before the user
/// first speaks is a turn of its own.
pub(super) fn turns(messages: &[Arc<Message>]) -> Vec<Range<usize>> {
    let mut begins = Begins::default();
    let starts = messages.iter().enumerate().filter(|(_, message)| begins.at(&message.role));
    let starts: Vec<usize> = starts.map(|(position, _)| position).collect();
    let ends = starts.iter().skip(1).copied().chain([messages.len()]);
    starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
}

/// Tells, message by message, where a turn begins.
#[derive(Debug, Default)]
pub(super) struct Begins {
    /// Who spoke last, instructions apart: the user, or somebody else.
    last: Option<bool>,
}

impl Begins {
    /// Whether with the next message, of this role, a turn begins.
    pub(super) fn at(&mut self, role: &Role) -> bool {
        if role.is_instruction() {
            return false;
        }
        let user = *role == Role::User;
        let last = self.last.replace(user);
        // Several user messages in a row are one thing said.
        last.is_none_or(|last_user| user && !last_user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(roles: &str) -> Vec<Range<usize>> {
        let role = |letter| match letter {
            's' => Role::System,
            'u' => Role::User,
            'a' => Role::Assistant,
            _ => Role::Tool,
        };
        turns(&roles.chars().map(|letter| Arc::new(Message::new(role(letter), "x"))).collect::<Vec<_>>())
    }

    #[test]
    fn turns_begin_where_the_user_speaks() {
        assert_eq!(cut("suauattau"), [1..3, 3..8, 8..9]);
        assert_eq!(cut("suuasu"), [1..5, 5..6]);
        assert_eq!(cut("saua"), [1..2, 2..4]);
        assert_eq!(cut("s"), [] as [Range<usize>; 0]);
    }
}
