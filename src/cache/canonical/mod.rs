//! A request as bytes: everything that can change the answer, in one buffer, in one order.
//!
//! The form is length-prefixed and versioned, fields stand in a fixed order, objects are sorted by key (another crate
//! may have switched on `serde_json/preserve_order`), and negative zero is zero. It is written into a reused buffer and
//! hashed once: fed field by field, blake3 is up to ten times slower. Every struct is taken apart without `..`, so a field
//! added to it cannot be forgotten here.

mod bytes;
mod chat;
#[cfg(test)]
mod proptests;
#[cfg(test)]
mod tests;

use crate::client::ClientInfo;
use crate::types::{ChatBody, EmbedItem, EmbedRequest, Extensions, Scope, Tenant};
use bytes::Canonical;

/// Raised whenever the canonical form changes, so that entries of other versions are not found.
const VERSION: u8 = 2;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Chat = 0,
    Embedding = 1,
    Value = 2,
}

/// Who shares an entry.
#[derive(Clone, Copy)]
pub(super) enum Sharing<'a> {
    /// This tenant's calls, or those of none.
    Tenant(Option<&'a str>),
    /// Everybody.
    Public,
}

impl<'a> Sharing<'a> {
    pub(super) fn of(extensions: &'a Extensions, scope: Scope) -> Self {
        match scope {
            Scope::Public => Self::Public,
            Scope::Tenant => Self::Tenant(extensions.get().map(|Tenant(tenant)| tenant.as_str())),
        }
    }
}

/// Writes the canonical form of a chat request to this client.
pub(super) fn write_chat(
    bytes: &mut Vec<u8>,
    (namespace, sharing): (&str, Sharing<'_>),
    (info, salt): (&ClientInfo, &str),
    body: &ChatBody,
) {
    write_chat_opening(bytes, (namespace, sharing), (info, salt));
    write_chat_body(bytes, body);
}

/// Writes what the form of a chat request begins with.
pub(super) fn write_chat_opening(
    bytes: &mut Vec<u8>,
    (namespace, sharing): (&str, Sharing<'_>),
    (info, salt): (&ClientInfo, &str),
) {
    let mut out = Canonical(bytes);
    out.opening(Kind::Chat, namespace, sharing);
    out.client(info, salt);
}

/// Writes what the form of a chat request goes on with.
pub(super) fn write_chat_body(bytes: &mut Vec<u8>, body: &ChatBody) {
    Canonical(bytes).body(body);
}

/// Writes the canonical form of one input of an embedding request to this client.
pub(super) fn write_embedding(
    bytes: &mut Vec<u8>,
    (namespace, sharing): (&str, Sharing<'_>),
    (info, salt): (&ClientInfo, &str),
    request: &EmbedRequest,
    input: EmbedItem<'_>,
) {
    let EmbedRequest { model, input: _, dimensions, encoding_format, user, extra, extensions: _ } = request;
    let mut out = Canonical(bytes);
    out.opening(Kind::Embedding, namespace, sharing);
    out.client(info, salt);
    out.str(model);
    out.option(*dimensions, Canonical::u32);
    out.option(encoding_format.as_deref(), Canonical::str);
    out.option(user.as_deref(), Canonical::str);
    out.extra(extra);
    match input {
        EmbedItem::Text(text) => {
            out.tag(0);
            out.str(text);
        }
        EmbedItem::Tokens(tokens) => {
            out.tag(1);
            out.list(tokens, |out, token| out.u32(*token));
        }
    }
}

/// Writes the canonical form of a value of the user's own.
pub(super) fn write_value(bytes: &mut Vec<u8>, namespace: &str, sharing: Sharing<'_>, key: &str) {
    let mut out = Canonical(bytes);
    out.opening(Kind::Value, namespace, sharing);
    out.str(key);
}

/// Writes JSON so that equal JSON has equal bytes, whatever the order of its fields.
#[cfg(feature = "json-schema")]
pub(super) fn write_json(bytes: &mut Vec<u8>, value: &serde_json::Value) {
    Canonical(bytes).value(value);
}

/// What is asked for in a canonical form of this version.
pub(super) fn kind(bytes: &[u8]) -> Option<Kind> {
    let [VERSION, kind, ..] = bytes else { return None };
    [Kind::Chat, Kind::Embedding, Kind::Value].into_iter().find(|known| *known as u8 == *kind)
}

/// The namespace in a canonical form.
pub(super) fn namespace(bytes: &[u8]) -> &str {
    let text = || {
        let length = u64::from_le_bytes(*bytes.get(2..)?.first_chunk()?);
        std::str::from_utf8(bytes.get(10..)?.get(..usize::try_from(length).ok()?)?).ok()
    };
    text().unwrap_or_default()
}

impl Canonical<'_> {
    /// The namespace stands first, where it is found again.
    fn opening(&mut self, kind: Kind, namespace: &str, sharing: Sharing<'_>) {
        self.tag(VERSION);
        self.tag(kind as u8);
        self.str(namespace);
        match sharing {
            Sharing::Tenant(None) => self.tag(0),
            Sharing::Tenant(Some(tenant)) => {
                self.tag(1);
                self.str(tenant);
            }
            Sharing::Public => self.tag(2),
        }
    }

    fn client(&mut self, info: &ClientInfo, salt: &str) {
        let ClientInfo { provider, endpoint, account } = info;
        self.str(provider);
        self.str(endpoint);
        self.str(account);
        self.str(salt);
    }
}
