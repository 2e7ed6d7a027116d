//! TLS against a real server, with an authority of one's own.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use sluicegate::ErrorKind;
use sluicegate::cache::CacheTier;
use sluicegate::cache::tier::Redis;

use super::server::Server;
use super::{joined, minute, patient, question, text, until};

struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate whose name is that of its issuer for one that signed itself.
        params.distinguished_name.push(DnType::CommonName, "authority of the tests");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let this = Self { folder: tempfile::tempdir().unwrap(), issuer };
        std::fs::write(this.ca(), this.issuer.pem()).unwrap();
        this
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for this name, and its key, as files.
    fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let files = (self.folder.path().join(format!("{name}.pem")), self.folder.path().join(format!("{name}.key")));
        std::fs::write(&files.0, certificate.pem()).unwrap();
        std::fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }

    /// A server of this name.
    async fn server(&self, name: &str, asks_clients: bool) -> Server {
        let (certificate, key) = self.issue(name);
        let (certificate, key, ca) = (shown(&certificate), shown(&key), shown(&self.ca()));
        let asks = if asks_clients { "yes" } else { "no" };
        let files = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
        Server::start(&[&files[..], &["--tls-auth-clients", asks]].concat()).await
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn secure(server: &Server) -> String {
    format!("rediss://127.0.0.1:{}", server.port)
}

async fn serves(tier: Redis) {
    joined(&tier).await;
    let probe = question("encrypted");
    tier.put(&probe, minute(&probe, "yes")).await.unwrap();
    assert_eq!(text(&tier, &probe).await.unwrap().as_deref(), Some("yes"));
}

async fn is_refused(tier: Redis) {
    until("the first attempt fails", || async { tier.get(&question("refused")).await.is_err() }).await;
    assert!(!tier.is_connected());
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_and_no_other() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = ours.server("127.0.0.1", false).await;
    serves(patient(secure(&server)).ca_file(ours.ca()).build().unwrap()).await;
    is_refused(patient(secure(&server)).ca_file(theirs.ca()).build().unwrap()).await;
    // The system does not know it.
    is_refused(patient(secure(&server)).build().unwrap()).await;
    // Without TLS, the server does not understand a word.
    is_refused(patient(server.url()).build().unwrap()).await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    let server = authority.server("elsewhere.example", false).await;
    is_refused(patient(secure(&server)).ca_file(authority.ca()).build().unwrap()).await;
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_is_shown_one() {
    let authority = Authority::new();
    let server = authority.server("127.0.0.1", true).await;
    let (certificate, key) = authority.issue("client");
    let tier = || patient(secure(&server)).ca_file(authority.ca());
    serves(tier().identity(certificate, key).build().unwrap()).await;
    is_refused(tier().build().unwrap()).await;
}

#[tokio::test]
async fn the_feed_and_a_restart_work_over_tls() {
    let authority = Authority::new();
    let mut server = authority.server("127.0.0.1", false).await;
    let tier = patient(secure(&server)).ca_file(authority.ca()).build().unwrap();
    let mut feed = tier.invalidations().unwrap();
    assert!(feed.recv().await.is_some());
    server.kill();
    server.run().await;
    assert!(feed.recv().await.is_some());
    serves(tier).await;
}

#[test]
fn files_that_cannot_be_used_are_refused_at_build() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue("client");
    let (_, other_key) = authority.issue("other");
    let nothing = authority.folder.path().join("nothing");
    let empty = authority.folder.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let tls = || Redis::builder("rediss://cache.internal:6379");
    for (setting, builder) in [
        ("ca_file", tls().ca_file(&nothing)),
        ("ca_file", tls().ca_file(&empty)),
        ("ca_file", tls().ca_file(&key)),
        ("identity", tls().ca_file(authority.ca()).identity(&certificate, &nothing)),
        ("identity", tls().ca_file(authority.ca()).identity(&empty, &key)),
        ("identity", tls().ca_file(authority.ca()).identity(&certificate, &other_key)),
        ("url", Redis::builder("redis://cache.internal:6379").ca_file(authority.ca())),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{setting}");
        assert!(error.message().starts_with(setting), "{setting}: {error}");
        assert!(!error.to_string().contains(&shown(authority.folder.path())), "{error}");
    }
    tls().ca_file(authority.ca()).identity(&certificate, &key).build().unwrap();
}
