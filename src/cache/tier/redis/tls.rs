//! TLS through rustls, with the root certificates of the system.

use std::sync::Arc;

use fred::rustls::crypto::aws_lc_rs::default_provider;
use fred::rustls::{ClientConfig, RootCertStore};
use fred::rustls_native_certs::load_native_certs;
use fred::types::config::{TlsConfig, TlsConnector};

use super::fault::ORIGIN;
use crate::error::{Error, ErrorKind, Result};

/// The provider is named, not looked up: a program may link several, and then rustls refuses to choose.
pub(super) fn system_roots() -> Result<TlsConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(load_native_certs().certs);
    if roots.is_empty() {
        let words = "no root certificates found: install them, or name a file in SSL_CERT_FILE";
        return Err(Error::new(ErrorKind::Config, ORIGIN, words));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|_| Error::new(ErrorKind::Config, ORIGIN, "TLS could not be set up"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(config).into())
}
