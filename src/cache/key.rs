//! The names of a request: a fast one inside the process, a strong one outside it.

use std::cell::Cell;
use std::fmt;
use std::sync::OnceLock;
use std::time::Instant;

use super::canonical::{self, Sharing, write_chat, write_chat_body, write_chat_opening, write_embedding, write_value};
use super::namespace::{EMBEDDINGS, RESPONSES};
use crate::client::ClientInfo;
use crate::fingerprint::fingerprint;
use crate::types::{CacheControl, ChatRequest, EmbedItem, EmbedRequest, Extensions, Scope, Tenant};

/// The 256-bit name of a request outside the process: blake3 of its canonical bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    pub(super) fn of(canonical: &[u8]) -> Self {
        Self(*blake3::hash(canonical).as_bytes())
    }

    /// Reads what [`to_hex`](Self::to_hex) wrote: a tier outside the process names its entries by it.
    #[cfg(feature = "redis")]
    pub(super) fn from_hex(hex: &[u8]) -> Option<Self> {
        blake3::Hash::from_hex(hex).ok().map(|hash| Self(*hash.as_bytes()))
    }

    /// A key that was stored as bytes.
    #[cfg(feature = "_envelope")]
    pub(super) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest as 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl fmt::Debug for CacheKey {
    // A full key of a guessable prompt would tell who reads the log what was asked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// What a tier is asked: the canonical bytes of a request, a fingerprint of them under a seed of this process, and
/// their [`CacheKey`], computed on first use.
pub struct Probe {
    bytes: Vec<u8>,
    fingerprint: u128,
    key: OnceLock<CacheKey>,
    now: Instant,
}

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What the form of most requests to one client begins with: it is the same for all that name no tenant and no controls.
pub(super) struct Opening(Box<[u8]>);

impl Opening {
    pub(super) fn of(info: &ClientInfo) -> Self {
        let mut bytes = Vec::new();
        write_chat_opening(&mut bytes, (RESPONSES, Sharing::Tenant(None)), (info, ""));
        Self(bytes.into())
    }

    /// Whether this request begins so.
    pub(super) fn is_of(request: &ChatRequest) -> bool {
        let extensions = &request.extensions;
        extensions.get::<CacheControl>().is_none() && extensions.get::<Tenant>().is_none()
    }
}

/// A buffer that grew beyond this is not kept for the next request.
const KEEP: usize = 256 * 1024;

impl Probe {
    /// The probe of a chat request to this client, at this time, in the namespace and scope its
    /// [`CacheControl`] names.
    pub fn chat(info: &ClientInfo, request: &ChatRequest, now: Instant) -> Self {
        Self::chat_marked(info, request, "", now)
    }

    /// The same under a policy of this mark.
    pub(super) fn chat_marked(info: &ClientInfo, request: &ChatRequest, mark: &str, now: Instant) -> Self {
        let place = place(&request.extensions, RESPONSES);
        Self::write(now, |bytes| write_chat(bytes, place, (info, mark), request))
    }

    /// The same for a request of nobody's and without controls, whose form begins with this.
    #[inline]
    pub(super) fn chat_opened(opening: &Opening, request: &ChatRequest, now: Instant) -> Self {
        Self::write(now, |bytes| {
            bytes.extend_from_slice(&opening.0);
            write_chat_body(bytes, request);
        })
    }

    /// The probe of one input of an embedding request to this client, at this time.
    pub fn embedding(info: &ClientInfo, request: &EmbedRequest, input: EmbedItem<'_>, now: Instant) -> Self {
        Self::embedding_marked(info, request, input, "", now)
    }

    /// The same under a policy of this mark.
    pub(super) fn embedding_marked(
        info: &ClientInfo,
        request: &EmbedRequest,
        input: EmbedItem<'_>,
        mark: &str,
        now: Instant,
    ) -> Self {
        let place = place(&request.extensions, EMBEDDINGS);
        Self::write(now, |bytes| write_embedding(bytes, place, (info, mark), request, input))
    }

    /// The probe of a value of the user's own, for this tenant if there is one, at this time.
    pub fn value(namespace: &str, tenant: Option<&Tenant>, key: &str, now: Instant) -> Self {
        let sharing = Sharing::Tenant(tenant.map(|Tenant(tenant)| tenant.as_str()));
        Self::write(now, |bytes| write_value(bytes, namespace, sharing, key))
    }

    /// The probe of a request whose canonical bytes these are, at this time.
    pub(super) fn of_bytes(canonical: &[u8], now: Instant) -> Self {
        Self::write(now, |bytes| bytes.extend_from_slice(canonical))
    }

    /// A probe of what is written into the buffer.
    fn write(now: Instant, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = BUFFER.take();
        bytes.clear();
        write(&mut bytes);
        let fingerprint = fingerprint(&bytes);
        Self { bytes, fingerprint, key: OnceLock::new(), now }
    }

    /// The same probe at another time.
    pub(super) fn again(&self, now: Instant) -> Self {
        Self { bytes: self.bytes.clone(), fingerprint: self.fingerprint, key: self.key.clone(), now }
    }

    /// The namespace it looks in.
    pub fn namespace(&self) -> &str {
        canonical::namespace(&self.bytes)
    }

    /// The key, if it has been computed.
    pub(super) fn known_key(&self) -> Option<CacheKey> {
        self.key.get().copied()
    }

    /// The canonical bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A fast hash of the bytes, good within this process only. Two requests may share it: compare the bytes.
    pub fn fingerprint(&self) -> u128 {
        self.fingerprint
    }

    /// The name of the request outside the process.
    pub fn key(&self) -> CacheKey {
        *self.key.get_or_init(|| CacheKey::of(&self.bytes))
    }

    /// Hashes a very large request before [`key`](Self::key) does so at one go: part by part, others in between.
    pub(super) async fn hash_ahead(&self) {
        /// Takes 0.15 ms, or up to 1 ms where the processor cannot hash several blocks at once.
        const PART: usize = 1 << 20;
        if self.bytes.len() <= PART || self.key.get().is_some() {
            return;
        }
        let mut hasher = blake3::Hasher::new();
        for part in self.bytes.chunks(PART) {
            hasher.update(part);
            tokio::task::yield_now().await;
        }
        self.key.get_or_init(|| CacheKey(*hasher.finalize().as_bytes()));
    }

    /// When it was asked: entries that have expired by then are misses.
    pub fn now(&self) -> Instant {
        self.now
    }
}

/// The namespace and the circle of those who share an entry.
fn place<'a>(extensions: &'a Extensions, default: &'static str) -> (&'a str, Sharing<'a>) {
    let control = extensions.get::<CacheControl>();
    let namespace = control.and_then(|control| control.namespace.as_deref()).unwrap_or(default);
    (namespace, Sharing::of(extensions, control.map_or(Scope::Tenant, |control| control.scope)))
}

impl Drop for Probe {
    fn drop(&mut self) {
        if self.bytes.capacity() <= KEEP {
            let bytes = std::mem::take(&mut self.bytes);
            // A call kept in another thread-local may be dropped after this thread's buffer: then there is none to refill.
            let _ = BUFFER.try_with(|buffer| buffer.set(bytes));
        }
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debug_print_does_not_tell_the_prompt() {
        let now = crate::Env::new().now();
        let probe = Probe::chat(&ClientInfo::new("p"), &ChatRequest::new("m").user("secret"), now);
        assert!(!format!("{probe:?}").contains("secret"));
        assert_eq!(probe.key(), probe.key());
        assert_eq!(probe.key().to_hex().len(), 64);
    }

    /// Without care this ends the process: a panic while a thread's locals are destroyed aborts.
    #[test]
    fn a_probe_may_outlive_its_threads_buffer() {
        thread_local! {
            static KEPT: Cell<Option<Probe>> = const { Cell::new(None) };
        }
        let thread = std::thread::spawn(|| {
            // Locals are destroyed last made first, so this one is made before the buffer.
            KEPT.set(None);
            let now = crate::Env::new().now();
            KEPT.set(Some(Probe::chat(&ClientInfo::new("p"), &ChatRequest::new("m").user("hi"), now)));
        });
        assert!(thread.join().is_ok());
    }
}
