//! The code of authenticity on an envelope.

use std::fmt;

/// A secret that marks entries as our own, so that whoever can write to a shared store cannot forge an answer or exchange
/// two. With it, entries that lack a valid mark are misses.
///
/// The mark covers the request's key, the times and the answer. It does not hide the answer: it is no encryption.
///
/// To change the secret, give the new one first and let the old be accepted until its entries have expired:
///
/// ```
/// use sluicegate::cache::MacKey;
/// # let (new, old) = ([2; 32], [1; 32]);
/// let key = MacKey::new(2, new).accepting(1, old);
/// ```
#[derive(Clone)]
pub struct MacKey {
    id: u32,
    secret: [u8; 32],
    accepted: Vec<(u32, [u8; 32])>,
}

impl MacKey {
    /// A secret of 32 random bytes, under an id that is stored with the entry in clear. Not a pass phrase: derive a key
    /// from one first.
    pub fn new(id: u32, secret: [u8; 32]) -> Self {
        Self { id, secret, accepted: Vec::new() }
    }

    /// Reads entries under this older secret too, but writes none. An id that is in use already is passed over.
    #[must_use]
    pub fn accepting(mut self, id: u32, secret: [u8; 32]) -> Self {
        self.accepted.push((id, secret));
        self
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(&self.secret, bytes)
    }

    pub(super) fn verify(&self, id: u32, bytes: &[u8], code: &[u8]) -> bool {
        let accepted = || self.accepted.iter().find(|(known, _)| *known == id).map(|(_, secret)| secret);
        let Some(secret) = (id == self.id).then_some(&self.secret).or_else(accepted) else { return false };
        let Ok(code) = <[u8; 32]>::try_from(code) else { return false };
        // Compares in constant time.
        blake3::keyed_hash(secret, bytes) == code
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MacKey").field("id", &self.id).finish_non_exhaustive()
    }
}
