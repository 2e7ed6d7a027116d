//! The lines of a checkpoint.
//!
//! The first is [`HEAD`], each other one `{"check":"<16 hex digits>","item":<JSON>}`, the digits being the xxh3-64 of
//! the bytes of that JSON: `{"first":{"id":…,"body":…}}` names the first item of the input, all others are answers.

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::identity::Identity;
use crate::types::{ChatCompletion, Cost};

pub(super) const HEAD: &[u8] = b"{\"sluicegate\":\"bulk checkpoint\",\"version\":1}\n";
const OPENING: &[u8] = b"{\"check\":\"";
const MIDDLE: &[u8] = b"\",\"item\":";
const CHECK: usize = 16;
const AROUND: usize = OPENING.len() + CHECK + MIDDLE.len();

/// What a line tells without its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    First(Identity),
    Answer(Identity),
}

#[derive(Serialize, Deserialize)]
struct First {
    first: Names,
}

#[derive(Serialize, Deserialize)]
struct Names {
    #[serde(with = "hex")]
    id: u128,
    #[serde(with = "hex")]
    body: u128,
}

#[derive(Serialize)]
struct Answered<'a> {
    id: &'a str,
    #[serde(with = "hex")]
    body: u128,
    picodollars: Option<u64>,
    response: &'a ChatCompletion,
}

#[derive(Deserialize)]
struct Named {
    id: String,
    #[serde(with = "hex")]
    body: u128,
}

#[derive(Deserialize)]
struct Kept {
    picodollars: Option<u64>,
    response: ChatCompletion,
}

mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(number: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{number:032x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = String::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

fn line(json: serde_json::Result<Vec<u8>>) -> serde_json::Result<Vec<u8>> {
    let json = json?;
    let check = format!("{:016x}", XxHash3_64::oneshot(&json));
    Ok([OPENING, check.as_bytes(), MIDDLE, &json, b"}\n"].concat())
}

/// Names the first item of the input.
pub(super) fn first(identity: Identity) -> serde_json::Result<Vec<u8>> {
    line(serde_json::to_vec(&First { first: Names { id: identity.id, body: identity.body } }))
}

/// An answer.
pub(super) fn answer(
    id: &str,
    body: u128,
    response: &ChatCompletion,
    cost: Option<Cost>,
) -> serde_json::Result<Vec<u8>> {
    line(serde_json::to_vec(&Answered { id, body, picodollars: cost.map(Cost::picos), response }))
}

/// The JSON of a line with its end; `None` when it is not as it was written.
fn json(line: &[u8]) -> Option<&[u8]> {
    let (before, rest) = line.split_at_checked(AROUND)?;
    let json = rest.strip_suffix(b"}\n")?;
    let check = before.strip_prefix(OPENING)?.strip_suffix(MIDDLE)?;
    (check == format!("{:016x}", XxHash3_64::oneshot(json)).as_bytes()).then_some(json)
}

/// What a line with its end tells; `None` when it is damaged.
pub(super) fn told(line: &[u8]) -> Option<Told> {
    let json = json(line)?;
    // All lines but one are answers.
    if let Ok(Named { id, body }) = serde_json::from_slice(json) {
        return Some(Told::Answer(Identity { id: super::identity::hash(id.as_bytes()), body }));
    }
    let First { first: Names { id, body } } = serde_json::from_slice(json).ok()?;
    Some(Told::First(Identity { id, body }))
}

/// The answer on a line with its end.
pub(super) fn kept(line: &[u8]) -> Option<(ChatCompletion, Option<Cost>)> {
    let Kept { picodollars, response } = serde_json::from_slice(json(line)?).ok()?;
    Some((response, picodollars.map(Cost::from_picos)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::bulk::identity::hash;

    #[test]
    fn a_line_comes_back_as_it_was_and_no_byte_of_it_may_change() {
        let (completion, cost) = (ChatCompletion::text("m", "an \"answer\"\n"), Some(Cost::from_picos(17)));
        let line = answer("item-1", 7, &completion, cost).unwrap();
        assert_eq!(told(&line), Some(Told::Answer(Identity { id: hash(b"item-1"), body: 7 })));
        assert_eq!(kept(&line), Some((completion, cost)));
        for at in 0..line.len() {
            let mut damaged = line.clone();
            damaged[at] ^= 1;
            assert_eq!((told(&damaged), kept(&damaged)), (None, None), "{at}");
            assert_eq!(told(&line[..at]), None, "{at}");
        }
        let identity = Identity { id: 1, body: u128::MAX };
        assert_eq!(told(&first(identity).unwrap()), Some(Told::First(identity)));
    }
}
