//! TLS through rustls: whom it trusts, and as whom it shows itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fred::rustls::crypto::aws_lc_rs::default_provider;
use fred::rustls::pki_types::pem::PemObject;
use fred::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use fred::rustls::{ClientConfig, RootCertStore};
use fred::rustls_native_certs::load_native_certs;
use fred::types::config::{TlsConfig, TlsConnector};

use super::fault::ORIGIN;
use crate::error::{Error, ErrorKind, Result};

/// Files that were named instead of what the system has.
#[derive(Clone, Default)]
pub(super) struct Files {
    pub(super) ca: Option<PathBuf>,
    /// Certificate and private key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

impl Files {
    pub(super) fn are_named(&self) -> bool {
        self.ca.is_some() || self.identity.is_some()
    }

    /// The provider is named, not looked up: a program may link several, and then rustls refuses to choose.
    pub(super) fn connector(&self) -> Result<TlsConfig> {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|_| refused("TLS could not be set up"))?
            .with_root_certificates(self.roots()?);
        let config = match &self.identity {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let wrong = || unread("identity", "name a PEM file with a private key that is not encrypted");
                let key = PrivateKeyDer::from_pem_file(key).map_err(|_| wrong())?;
                let advice = "name a certificate and the private key that belongs to it";
                let chain = certificates("identity", certificate)?;
                config.with_client_auth_cert(chain, key).map_err(|_| unread("identity", advice))?
            }
        };
        Ok(TlsConnector::from(config).into())
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        let Some(file) = &self.ca else {
            roots.add_parsable_certificates(load_native_certs().certs);
            let words = "no root certificates found: install them, or name a file with ca_file or in SSL_CERT_FILE";
            return if roots.is_empty() { Err(refused(words)) } else { Ok(roots) };
        };
        for certificate in certificates("ca_file", file)? {
            roots.add(certificate).map_err(|_| unread("ca_file", "name a PEM file of valid X.509 certificates"))?;
        }
        Ok(roots)
    }
}

fn certificates(setting: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = || unread(setting, "name a PEM file with at least one certificate that can be read");
    let read: std::result::Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).map_err(|_| wrong())?.collect();
    read.ok().filter(|certificates| !certificates.is_empty()).ok_or_else(wrong)
}

fn unread(setting: &str, advice: &str) -> Error {
    Error::config(ORIGIN, setting, "(not shown)", advice)
}

fn refused(words: &'static str) -> Error {
    Error::new(ErrorKind::Config, ORIGIN, words)
}
