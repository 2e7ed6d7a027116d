//! The labels in an envelope: plain, and in front, so that who removes by them reads no more than the head.

use serde::{Deserialize, Serialize};

use super::header::{HEADER, Header};
use super::{Entry, Refused};
use crate::cache::selector::Labels;
use crate::cache::{CacheKey, Selector};

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    #[serde(rename = "space", borrow)]
    namespace: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    name: Box<str>,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    tags: Box<[Box<str>]>,
}

/// Appends the labels of this entry; how many bytes they take.
pub(super) fn write(out: &mut Vec<u8>, entry: &Entry) -> Result<u16, Refused> {
    let Labels { name, tags } = entry.labels().clone();
    let before = out.len();
    let wire = Wire { namespace: entry.namespace().into(), name, tags };
    serde_json::to_writer(&mut *out, &wire).map_err(|_| Refused::Payload)?;
    u16::try_from(out.len() - before).map_err(|_| Refused::TooLarge)
}

pub(super) fn read(bytes: &[u8]) -> Result<Labels, Refused> {
    let Wire { name, tags, .. } = serde_json::from_slice(bytes).map_err(|_| Refused::Payload)?;
    Ok(Labels { name, tags })
}

/// As many bytes of an envelope as hold the labels of nearly all of them.
pub(crate) const HEAD: usize = 1024;

/// What the head of an envelope tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Head {
    /// Whether the selector takes it.
    Taken(bool),
    /// So many bytes are needed to tell.
    Needs(usize),
}

/// Whether the selector takes the envelope that begins with these bytes. What is no envelope of this version is taken by
/// nothing but [`Selector::All`]: it is a miss in any case. The checksum is not looked at: forgetting costs a call at worst.
pub(crate) fn head(bytes: &[u8], selector: &Selector) -> Head {
    let all = Head::Taken(*selector == Selector::All);
    if bytes.len() < HEADER {
        return all;
    }
    let Ok(header) = Header::from_bytes(bytes) else { return all };
    let end = HEADER + usize::from(header.labels);
    let Some(labels) = bytes.get(HEADER..end) else { return Head::Needs(end) };
    let Ok(Wire { namespace, name, tags }) = serde_json::from_slice(labels) else { return all };
    Head::Taken(selector.takes(&namespace, &Labels { name, tags }, || CacheKey::from_bytes(header.key)))
}
