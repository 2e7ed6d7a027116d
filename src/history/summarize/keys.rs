//! What a summary stands for, as a key.

use std::io::Write;

use crate::types::Messages;

/// The content of all messages that a summary stands for, and all that shapes it, hashed with blake3: a summary found
/// under a key is of no other conversation, without a look at the messages it was made of.
pub(super) type Key = [u8; 32];

/// The key of nothing said yet.
pub(super) fn root(shape: &[&str]) -> Key {
    let mut hasher = blake3::Hasher::new();
    for part in shape {
        add(&mut hasher, part.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// The keys of everything said before each of these positions, which ascend, given the key of what was said before one of
/// them. Each is made of the one before it, message by message, so that to go on it takes no more than the last. Instructions
/// are no part: they are never summarised, and may change from call to call.
pub(super) fn keys(
    messages: &Messages,
    (mut hashed, mut key): (usize, Key),
    positions: impl Iterator<Item = usize>,
) -> Vec<(usize, Key)> {
    let mut bytes = Vec::new();
    let mut keys = Vec::new();
    for position in positions {
        let new = messages.get(hashed..position).unwrap_or_default();
        for message in new.iter().filter(|message| !message.role.is_instruction()) {
            bytes.clear();
            if serde_json::to_writer(&mut bytes, &**message).is_err() {
                bytes.clear();
                // Writing to memory cannot fail.
                let _ = write!(bytes, "{message:?}");
            }
            let mut hasher = blake3::Hasher::new();
            hasher.update(&key);
            add(&mut hasher, &bytes);
            key = *hasher.finalize().as_bytes();
        }
        hashed = position.max(hashed);
        keys.push((position, key));
    }
    keys
}

/// Where what belongs to a key is remembered, for a conversation of this root: a key may have come with a stored
/// conversation, and then it need not be of this tenant, or of summaries of this shape.
pub(super) fn owned(root: &Key, key: &Key) -> Key {
    let mut hasher = blake3::Hasher::new_keyed(root);
    hasher.update(key);
    *hasher.finalize().as_bytes()
}

/// A key of its own for this text in the place of this key.
pub(super) fn bound(key: &Key, text: &str) -> Key {
    // Hashed apart from messages, so that no message gives the same key.
    let mut hasher = blake3::Hasher::new_derive_key("sluicegate 2026-11 a summary that came with its conversation");
    hasher.update(key);
    hasher.update(text.as_bytes());
    *hasher.finalize().as_bytes()
}

fn add(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Message;

    fn key(shape: &[&str], messages: &[Message]) -> Key {
        let messages: Messages = messages.to_vec().into();
        keys(&messages, (0, root(shape)), [messages.len()].into_iter())[0].1
    }

    #[test]
    fn a_key_covers_what_was_said_and_not_the_instructions() {
        let said = [Message::user("a"), Message::assistant("b")];
        let plain = key(&["m"], &said);
        assert_eq!(key(&["m"], &[&[Message::system("x")], &said[..]].concat()), plain);
        for other in [
            key(&["n"], &said),
            key(&["m", ""], &said),
            key(&["m"], &said[..1]),
            key(&["m"], &[Message::user("a"), Message::user("b")]),
            key(&["m"], &[Message::user("ab"), Message::assistant("")]),
            key(&["m"], &[Message::user("a"), Message::tool("c", "b")]),
        ] {
            assert_ne!(other, plain);
        }
    }

    #[test]
    fn a_longer_conversation_has_the_keys_of_the_shorter_one() {
        let messages: Messages = (0..6).map(|at| Message::user(at.to_string())).collect();
        let root = (0, root(&["m"]));
        let long = keys(&messages, root, [2, 4, 6].into_iter());
        assert_eq!(keys(&messages, root, [4].into_iter())[0], long[1]);
        assert_eq!(keys(&messages, long[0], [4, 6].into_iter()), long[1..], "and it goes on from any of them");
    }
}
