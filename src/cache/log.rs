//! Requests as lines: chat bodies in the wire shape, and beside them what decides where an answer is kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::{CacheControl, ChatBody, ChatRequest, Scope, Tenant};

/// The field that carries what is not part of the body.
const ASIDE: &str = "sluicegate";

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    body: &'a ChatBody,
    #[serde(rename = "sluicegate", skip_serializing_if = "Option::is_none")]
    aside: Option<Aside>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Aside {
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    public: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
}

/// The request as a line with its end; none if it cannot be written.
pub(super) fn line(request: &ChatRequest) -> Option<Vec<u8>> {
    let control = request.extensions.get::<CacheControl>().cloned().unwrap_or_default();
    let aside = Aside {
        tenant: request.extensions.get().map(|Tenant(tenant)| tenant.clone()),
        namespace: control.namespace,
        public: control.scope == Scope::Public,
        tags: control.tags,
        ttl_ms: control.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
    };
    let aside = (aside != Aside::default()).then_some(aside);
    let mut line = serde_json::to_vec(&Line { body: request.body(), aside }).ok()?;
    line.push(b'\n');
    Some(line)
}

/// The request of a line; none if it is no chat body.
pub(super) fn parse(line: &[u8]) -> Option<ChatRequest> {
    let mut body: ChatBody = serde_json::from_slice(line).ok()?;
    if body.model.is_empty() || body.messages.is_empty() {
        return None;
    }
    body.extra.remove("stream");
    body.extra.remove("stream_options");
    let aside = body.extra.remove(ASIDE);
    let mut request = ChatRequest::from(body);
    if let Some(aside) = aside {
        let Aside { tenant, namespace, public, tags, ttl_ms } = serde_json::from_value(aside).ok()?;
        if let Some(tenant) = tenant {
            request.extensions.insert(Tenant(tenant));
        }
        let scope = if public { Scope::Public } else { Scope::Tenant };
        let ttl = ttl_ms.map(Duration::from_millis);
        let control = CacheControl { scope, namespace, tags, ttl, ..CacheControl::new() };
        if control != CacheControl::new() {
            request.extensions.insert(control);
        }
    }
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_its_line() {
        let control = CacheControl::new().namespace("steps").scope(Scope::Public).tag("x").ttl(Duration::from_secs(5));
        let plain = ChatRequest::new("m").system("s").user("line\nbreak").temperature(0.3);
        let full = plain.clone().with(Tenant("t".into())).with(control.clone());
        for request in [plain, full] {
            let line = line(&request).unwrap();
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            let back = parse(&line).unwrap();
            assert_eq!(back.body(), request.body());
            assert_eq!(back.extensions.get::<Tenant>(), request.extensions.get());
            assert_eq!(back.extensions.get::<CacheControl>(), request.extensions.get());
        }
    }

    #[test]
    fn a_provider_s_log_is_understood() {
        let line =
            br#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{},"top_k":3}"#;
        let request = parse(line).unwrap();
        assert_eq!(request.extra.keys().collect::<Vec<_>>(), ["top_k"]);
        for bad in [&b"{"[..], b"[]", b"{}", br#"{"model":"m"}"#, br#"{"messages":[]}"#] {
            assert!(parse(bad).is_none());
        }
    }
}
