//! Certificates for servers and their clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Certificates of one CA.
pub(super) struct Credentials {
    ca: rcgen::Certificate,
    certificate: rcgen::Certificate,
    key: rcgen::KeyPair,
}

impl Credentials {
    pub(super) fn new() -> Self {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("valid names");
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "a CA for tests");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().expect("a key");
        let ca = parameters.self_signed(&ca_key).expect("a certificate");
        let issuer = rcgen::Issuer::from_params(&parameters, &ca_key);
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let key = rcgen::KeyPair::generate().expect("a key");
        let parameters = rcgen::CertificateParams::new(names).expect("valid names");
        let certificate = parameters.signed_by(&key, &issuer).expect("a certificate");
        Self { ca, certificate, key }
    }

    /// Certificate, key and CA, as files.
    pub(super) fn write(&self, directory: &Path) -> [PathBuf; 3] {
        let texts = [self.certificate.pem(), self.key.serialize_pem(), self.ca.pem()];
        let names = ["node.pem", "node.key", "ca.pem"].map(|name| directory.join(name));
        for (name, text) in names.iter().zip(texts) {
            std::fs::write(name, text).expect("it is written");
        }
        names
    }

    pub(super) fn client(&self) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.der().clone()).expect("a certificate");
        let key = rustls::pki_types::PrivateKeyDer::try_from(self.key.serialize_der());
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![self.certificate.der().clone()], key.expect("a key"));
        Arc::new(config.expect("the key fits the certificate"))
    }
}
