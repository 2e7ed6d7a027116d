//! What Redis or the way to it answered instead of an answer, in our words.

use fred::error::ErrorKind as Fred;

use crate::error::{Error, ErrorKind};

pub(crate) const ORIGIN: &str = "redis";

/// Neither fred's words nor the server's are passed on: they may quote an address, a user or a key. The server's code is
/// (`LOADING`, `READONLY`, `OOM`, `NOAUTH`, …).
pub(crate) fn from(error: &fred::error::Error) -> Error {
    let code = error.details().split_whitespace().next().filter(|word| is_code(word));
    let (kind, words) = match (error.kind(), code) {
        (Fred::Timeout, _) => (ErrorKind::Timeout, "no reply in time"),
        (Fred::Backpressure, _) => (ErrorKind::Overloaded, "too many commands wait"),
        (Fred::Auth, _) => (ErrorKind::Auth, "refused: check user and password"),
        (Fred::IO | Fred::Canceled | Fred::Routing | Fred::Cluster | Fred::Sentinel | Fred::Tls, _) => {
            (ErrorKind::Network, "the connection failed")
        }
        (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM")) => (ErrorKind::Auth, "refused: check user and password"),
        (_, Some(_)) => (ErrorKind::Server, "the server refused"),
        (Fred::Parse | Fred::Protocol | Fred::NotFound, None) => (ErrorKind::Decode, "a reply of an unexpected form"),
        _ => (ErrorKind::Other, "the command failed"),
    };
    let error = Error::new(kind, ORIGIN, words);
    match code {
        Some(code) => error.with_code(code),
        None => error,
    }
}

fn is_code(word: &str) -> bool {
    (3..=16).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_code_and_none_of_the_words() {
        for (details, kind, shown) in [
            ("OOM command not allowed when used memory > 'maxmemory'", ErrorKind::Server, "OOM"),
            ("NOAUTH Authentication required by secret.host", ErrorKind::Auth, "NOAUTH"),
            ("Failed at secret.host:6379", ErrorKind::Other, "failed"),
        ] {
            let error = from(&fred::error::Error::new(Fred::Unknown, details));
            assert_eq!(error.kind(), kind, "{details}");
            assert!(error.to_string().contains(shown) && !format!("{error} {error:?}").contains("secret"));
        }
    }
}
