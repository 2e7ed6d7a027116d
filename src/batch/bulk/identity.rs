//! By what an item is told from the others, and from itself after it was changed.

use serde_json::Value;

use crate::types::{ChatRequest, Tenant};

/// Hashes of an item's id and of what it asks. Full ids are not kept: a million items take some 30 MB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) id: u128,
    pub(super) body: u128,
}

/// What this asks, and for whom.
pub(super) fn body(request: &ChatRequest) -> u128 {
    let mut bytes = Vec::with_capacity(1 << 10);
    // A body of finite numbers is always JSON; others are refused before they get here.
    sorted(&serde_json::to_value(request.body()).unwrap_or_default(), &mut bytes);
    if let Some(Tenant(tenant)) = request.extensions.get::<Tenant>() {
        bytes.extend_from_slice(tenant.as_bytes());
    }
    hash(&bytes)
}

/// The first half of a blake3.
pub(super) fn hash(bytes: &[u8]) -> u128 {
    let hash = blake3::hash(bytes);
    u128::from_le_bytes(std::array::from_fn(|n| hash.as_bytes()[n]))
}

/// JSON with the keys of its objects in order, whatever order the map type keeps.
fn sorted(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| name.as_str());
            out.push(b'{');
            for (name, value) in fields {
                text(name, out);
                out.push(b':');
                sorted(value, out);
                out.push(b',');
            }
            out.push(b'}');
        }
        Value::Array(values) => {
            out.push(b'[');
            for value in values {
                sorted(value, out);
                out.push(b',');
            }
            out.push(b']');
        }
        Value::String(string) => text(string, out),
        other => out.extend_from_slice(other.to_string().as_bytes()),
    }
}

/// Length first, so that no text can look like two.
fn text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_asked_is_told_apart_and_the_order_of_fields_is_not() {
        let parse =
            |text: &str| -> ChatRequest { serde_json::from_str::<crate::types::ChatBody>(text).unwrap().into() };
        let one = parse(r#"{"model":"m","messages":[{"role":"user","content":"a"}],"metadata":{"x":1,"y":2}}"#);
        let same = parse(r#"{"metadata":{"y":2,"x":1},"messages":[{"content":"a","role":"user"}],"model":"m"}"#);
        let other = parse(r#"{"model":"m","messages":[{"role":"user","content":"a"}],"metadata":{"x":1,"y":3}}"#);
        assert_eq!(body(&one), body(&same));
        assert_ne!(body(&one), body(&other));
        assert_ne!(body(&one), body(&one.clone().with(Tenant("t".into()))));
    }
}
