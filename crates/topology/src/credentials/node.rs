//! A node's certificate and the TLS that is spoken with it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};

use super::authority::NODE_VALIDITY;
use super::{ClusterDirectory, CredentialError, Fingerprint, private_file};

/// Behind the node's name in its certificate.
const SUFFIX: &str = ".outlast";

/// How often, at most, a handshake looks whether the certificate was renewed.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What a node shows to others and checks others by.
#[derive(Debug, Clone)]
pub struct NodeCredentials {
    directory: ClusterDirectory,
    node: String,
    authority: CertificateDer<'static>,
    roots: Arc<RootCertStore>,
    shown: Arc<Shown>,
}

impl NodeCredentials {
    /// Reads `DIR/cluster/`. The TLS configurations made of it go on by themselves when the certificate is renewed.
    ///
    /// # Errors
    /// [`CredentialError`] when a file is missing or damaged, or others can read the key.
    pub fn load(directory: &Path) -> Result<NodeCredentials, CredentialError> {
        let directory = ClusterDirectory(directory.to_owned());
        let authority = certificates(&directory.authority())?.swap_remove(0);
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let shown = Shown::load(&directory, &authority)?;
        let node = peer_node(&shown.certified().cert).ok_or_else(|| CredentialError::Damaged {
            path: directory.certificate(),
            reason: "not a certificate of a node".to_owned(),
        })?;
        Ok(NodeCredentials {
            directory,
            node,
            authority,
            roots: Arc::new(roots),
            shown: Arc::new(shown),
        })
    }

    /// The node that they name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Where the PEM files lie.
    pub fn directory(&self) -> &ClusterDirectory {
        &self.directory
    }

    /// By which a node that joins knows the cluster's authority.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.authority)
    }

    /// For connections to other members, one `alpn`; the server's name is [`server_name`].
    ///
    /// # Errors
    /// [`CredentialError::Tls`].
    pub fn client_config(&self, alpn: &[u8]) -> Result<Arc<ClientConfig>, CredentialError> {
        self.client(vec![alpn.to_owned()])
    }

    /// For connections to the cluster's stores and repository, which speak one protocol each; the server's name is its
    /// address.
    ///
    /// # Errors
    /// [`CredentialError::Tls`].
    pub fn store_client_config(&self) -> Result<Arc<ClientConfig>, CredentialError> {
        self.client(Vec::new())
    }

    fn client(&self, alpns: Vec<Vec<u8>>) -> Result<Arc<ClientConfig>, CredentialError> {
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.roots), provider())
                .build()
                .map_err(unusable)?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_webpki_verifier(verifier)
            .with_client_cert_resolver(Arc::clone(&self.shown) as _);
        config.alpn_protocols = alpns;
        // Every connection shows its certificate anew: a session that is resumed would outlive it.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// For connections of other members, which must show a certificate of the cluster; any of `alpns`.
    ///
    /// # Errors
    /// [`CredentialError::Tls`].
    pub fn server_config(&self, alpns: &[&[u8]]) -> Result<Arc<ServerConfig>, CredentialError> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), provider())
                .build()
                .map_err(unusable)?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&self.shown) as _);
        Ok(served(config, alpns))
    }

    /// For nodes that are no members yet, and prove by a token that they may become one: only [`super::ALPN_JOIN`].
    ///
    /// # Errors
    /// [`CredentialError::Tls`].
    pub fn join_server_config(&self) -> Result<Arc<ServerConfig>, CredentialError> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.shown) as _);
        Ok(served(config, &[super::ALPN_JOIN]))
    }

    /// Reads the certificate again if it was renewed; whoever renewed it need not wait for the next handshake's look.
    pub fn look_again(&self) {
        self.shown.look(&mut self.shown.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    #[cfg(test)]
    pub(super) fn resolver(&self) -> Arc<dyn rustls::client::ResolvesClientCert> {
        Arc::clone(&self.shown) as _
    }

    /// Whether the certificate has less than a third of its time left at `now` (since the Unix epoch), or is not good
    /// at all.
    pub fn is_renewal_due(&self, now: Duration) -> bool {
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), provider());
        let Ok(verifier) = builder.build() else { return true };
        let shown = self.shown.certified();
        let then = UnixTime::since_unix_epoch(now + NODE_VALIDITY / 3);
        verifier.verify_client_cert(&shown.cert[0], &[], then).is_err()
    }
}

fn served(mut config: ServerConfig, alpns: &[&[u8]]) -> Arc<ServerConfig> {
    config.alpn_protocols = alpns.iter().map(|alpn| (*alpn).to_owned()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// As whom a member is asked for.
///
/// # Errors
/// [`rustls::Error`] when `node` is no DNS label.
pub fn server_name(node: &str) -> Result<ServerName<'static>, rustls::Error> {
    ServerName::try_from(server_name_text(node))
        .map_err(|_| rustls::Error::General(format!("\"{node}\" is no name of a node")))
}

pub(super) fn server_name_text(node: &str) -> String {
    format!("{node}{SUFFIX}")
}

/// The node that the other end's certificates name; they were verified by the handshake.
pub fn peer_node(certificates: &[CertificateDer<'_>]) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificates.first()?).ok()?;
    certificate.valid_dns_names().find_map(|name| name.strip_suffix(SUFFIX)).map(str::to_owned)
}

/// What this node shows: the certificate of the file, which may be renewed meanwhile.
#[derive(Debug)]
struct Shown {
    directory: ClusterDirectory,
    authority: CertificateDer<'static>,
    state: Mutex<ShownState>,
}

#[derive(Debug)]
struct ShownState {
    looked: Instant,
    written: Option<(SystemTime, u64)>,
    certified: Arc<CertifiedKey>,
}

impl Shown {
    fn load(
        directory: &ClusterDirectory,
        authority: &CertificateDer<'static>,
    ) -> Result<Shown, CredentialError> {
        let state = ShownState {
            looked: Instant::now(),
            written: written(directory),
            certified: certified(directory, authority)?,
        };
        Ok(Shown {
            directory: directory.clone(),
            authority: authority.clone(),
            state: Mutex::new(state),
        })
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.state.lock().unwrap_or_else(PoisonError::into_inner).certified)
    }

    /// The latest; the one before stays in use while the files are not in order.
    fn latest(&self) -> Arc<CertifiedKey> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK_AGAIN_AFTER {
            self.look(&mut state);
        }
        Arc::clone(&state.certified)
    }

    fn look(&self, state: &mut ShownState) {
        state.looked = Instant::now();
        let written = written(&self.directory);
        if written == state.written {
            return;
        }
        match certified(&self.directory, &self.authority) {
            Ok(certified) => {
                state.written = written;
                state.certified = certified;
            }
            Err(error) => {
                tracing::warn!(%error, "the renewed certificate cannot be used: going on with the old one");
            }
        }
    }
}

impl rustls::client::ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.latest())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl rustls::server::ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.latest())
    }
}

/// Which file is there: one that was written within the same tick of the clock has another number.
fn written(directory: &ClusterDirectory) -> Option<(SystemTime, u64)> {
    let metadata = fs::metadata(directory.certificate()).ok()?;
    Some((metadata.modified().ok()?, metadata.ino()))
}

/// The node's certificate, then the authority's, by which a node that joins pins the cluster.
fn certified(
    directory: &ClusterDirectory,
    authority: &CertificateDer<'static>,
) -> Result<Arc<CertifiedKey>, CredentialError> {
    let mut chain = certificates(&directory.certificate())?;
    chain.truncate(1);
    chain.push(authority.clone());
    let path = directory.key();
    let key = private_file::read_private(&path)?;
    let damaged = |reason: String| CredentialError::Damaged { path: path.clone(), reason };
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| damaged(error.to_string()))?;
    let certified = CertifiedKey::from_der(chain, key, &provider())
        .map_err(|error| damaged(error.to_string()))?;
    Ok(Arc::new(certified))
}

/// At least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let text = private_file::read(path)?;
    let damaged = |reason: String| CredentialError::Damaged { path: path.to_owned(), reason };
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| damaged(error.to_string()))?;
    if certificates.is_empty() {
        return Err(damaged("no certificate in it".to_owned()));
    }
    Ok(certificates)
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(super) fn unusable(error: impl std::fmt::Display) -> rustls::Error {
    rustls::Error::General(error.to_string())
}
