//! What the store answered instead of an answer, in our words.

use object_store::Error as Store;

use crate::error::{Error, ErrorKind};

pub(super) const ORIGIN: &str = "objects";

/// The store's own words quote names, which hold keys, and addresses, which may hold secrets: they are kept where neither
/// `Display` nor `Debug` shows them.
pub(super) fn from(error: &Store) -> Error {
    let (kind, words) = match error {
        Store::NotFound { .. } => (ErrorKind::NotFound, "no such object"),
        Store::PermissionDenied { .. } => (ErrorKind::Auth, "not permitted: check the rights, that to list included"),
        Store::Unauthenticated { .. } => (ErrorKind::Auth, "refused: check the credentials"),
        Store::NotSupported { .. } | Store::NotImplemented { .. } => {
            (ErrorKind::Unsupported, "the store cannot do this")
        }
        Store::Generic { .. } => (ErrorKind::Network, "the store or the way to it failed"),
        _ => (ErrorKind::Other, "the store failed"),
    };
    Error::new(kind, ORIGIN, words).with_provider_message(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_none_of_the_stores_words() {
        let source = || "https://secret.host/?signature=secret".into();
        for (store, kind) in [
            (Store::NotFound { path: "secret".into(), source: source() }, ErrorKind::NotFound),
            (Store::PermissionDenied { path: "secret".into(), source: source() }, ErrorKind::Auth),
            (Store::Generic { store: "S3", source: source() }, ErrorKind::Network),
            (Store::NotSupported { source: source() }, ErrorKind::Unsupported),
            (Store::Precondition { path: "secret".into(), source: source() }, ErrorKind::Other),
        ] {
            let error = from(&store);
            assert_eq!(error.kind(), kind);
            assert!(!format!("{error} {error:?}").contains("secret"), "{error} {error:?}");
        }
    }
}
