//! The cluster's own certificate authority. It certifies members and nobody else, and nobody else's is believed.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _,
    date_time_ymd,
};

use super::node::server_name_text;
use super::{ClusterDirectory, CredentialError, private_file};

/// How long a node's certificate is good; its manager renews it long before.
pub(super) const NODE_VALIDITY: Duration = Duration::from_secs(365 * 86_400);

/// The authority lasts as long as the cluster does.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(30 * 365 * 86_400);

/// Certificates are good from a day before they are made: clocks of two hosts differ.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(86_400);

/// Can certify members.
pub struct Authority {
    certificate: String,
    key: KeyPair,
}

impl Authority {
    /// A new one; `now` since the Unix epoch.
    ///
    /// # Errors
    /// [`CredentialError::Unmade`].
    pub fn make(now: Duration) -> Result<Authority, CredentialError> {
        let key = KeyPair::generate()?;
        let mut parameters = parameters_of(&key);
        bound(&mut parameters, now, AUTHORITY_VALIDITY);
        let certificate = parameters.self_signed(&key)?.pem();
        Ok(Authority { certificate, key })
    }

    /// Reads it from a member's files.
    ///
    /// # Errors
    /// [`CredentialError`] when they are not there or damaged, or others can read the key.
    pub fn load(directory: &ClusterDirectory) -> Result<Authority, CredentialError> {
        let certificate = private_file::read(&directory.authority())?;
        let path = directory.authority_key();
        let key = private_file::read_private(&path)?;
        Authority::from_pem(certificate, &key)
            .map_err(|error| CredentialError::Damaged { path, reason: error.to_string() })
    }

    /// From what [`certificate_pem`](Self::certificate_pem) and [`key_pem`](Self::key_pem) said elsewhere.
    ///
    /// # Errors
    /// [`CredentialError::Unmade`] when the key is none.
    pub fn from_pem(certificate: String, key: &str) -> Result<Authority, CredentialError> {
        Ok(Authority { certificate, key: KeyPair::from_pem(key)? })
    }

    /// Writes certificate and key into a member's files.
    ///
    /// # Errors
    /// [`CredentialError::Io`].
    pub fn write(&self, directory: &ClusterDirectory) -> Result<(), CredentialError> {
        private_file::write(&directory.authority_key(), &self.key_pem())?;
        private_file::write(&directory.authority(), &self.certificate)
    }

    /// Its certificate, PEM; no secret.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// Its private key, PEM; for members only.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Makes a key and a certificate for a node and writes them into its files, the key first: a reader that finds an
    /// old certificate beside a new key tries again. Good as a client's and as a server's, under the names
    /// `NODE.outlast` and `localhost`, at 127.0.0.1 and at the node's address.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn issue(
        &self,
        directory: &ClusterDirectory,
        node: &str,
        address: IpAddr,
        now: Duration,
    ) -> Result<(), CredentialError> {
        let key = KeyPair::generate()?;
        let certificate = self.certify(&key, node, address, now)?;
        private_file::write(&directory.key(), &key.serialize_pem())?;
        private_file::write(&directory.certificate(), &certificate.pem())
    }

    fn certify(
        &self,
        key: &KeyPair,
        node: &str,
        address: IpAddr,
        now: Duration,
    ) -> Result<Certificate, CredentialError> {
        let name = server_name_text(node);
        let mut names =
            vec![name.clone(), "localhost".to_owned(), "127.0.0.1".to_owned(), address.to_string()];
        names.dedup();
        let mut parameters = CertificateParams::new(names)?;
        parameters.distinguished_name = common_name(&name);
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        parameters.use_authority_key_identifier_extension = true;
        bound(&mut parameters, now, NODE_VALIDITY);
        let issuer = Issuer::new(parameters_of(&self.key), &self.key);
        Ok(parameters.signed_by(key, &issuer)?)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// Its name follows from its key, so that the key alone says who signs.
fn parameters_of(key: &KeyPair) -> CertificateParams {
    let identity = blake3::hash(key.der_bytes()).to_hex();
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = common_name(&format!("Outlast cluster {}", &identity[..16]));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn bound(parameters: &mut CertificateParams, now: Duration, validity: Duration) {
    let epoch = date_time_ymd(1970, 1, 1);
    parameters.not_before = epoch + now.saturating_sub(CLOCK_TOLERANCE);
    parameters.not_after = epoch + now + validity;
}
