//! What servers of the operator's own are shown, and believed by: his Redis or Valkey Cluster, his etcd.
//!
//! Always by TLS 1.3. The files are his, named in `outlast.toml`, so whatever is wrong with one is told with the key that names it.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use config::ServerAccess;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use topology::credentials::{CredentialError, NodeCredentials};

/// Passwords, keys and certificates are shorter.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Which servers: what their keys in `[cluster]` begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Store,
    Repository,
}

impl Kind {
    fn key(self, what: &str) -> String {
        let kind = match self {
            Kind::Store => "store",
            Kind::Repository => "repository",
        };
        format!("{kind}_{what}")
    }
}

/// How these servers are spoken with.
///
/// # Errors
/// [`CredentialError`]; [`CredentialError::Named`] of files that `access` names.
pub(super) fn tls(
    kind: Kind,
    credentials: &NodeCredentials,
    access: &ServerAccess,
) -> Result<Arc<ClientConfig>, CredentialError> {
    let shown = access.certificate.as_deref().zip(access.key.as_deref());
    if access.authority.is_none() && shown.is_none() {
        return credentials.store_client_config();
    }
    let mut roots = RootCertStore::empty();
    let own = credentials.directory().authority();
    let authority = access.authority.as_deref().unwrap_or(&own);
    for certificate in certificates(authority, &kind.key("authority"))? {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots);
    Ok(Arc::new(match shown {
        None => config.with_no_client_auth(),
        Some((certificate, path)) => {
            let name = kind.key("key");
            let text = private(path, &name)?;
            let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
                .map_err(|error| named(path, &name, format!("no private key in PEM: {error}")))?;
            let chain = certificates(certificate, &kind.key("certificate"))?;
            config.with_client_auth_cert(chain, key)?
        }
    }))
}

/// The first line of the file.
///
/// # Errors
/// [`CredentialError::Named`].
pub(super) fn password(kind: Kind, path: &Path) -> Result<String, CredentialError> {
    let key = kind.key("password_file");
    let text = private(path, &key)?;
    let line = text.lines().next().map(str::trim).filter(|line| !line.is_empty());
    let empty = || named(path, &key, "no password in its first line: write it there".to_owned());
    line.map(str::to_owned).ok_or_else(empty)
}

fn certificates(path: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let text = read(path, key)?;
    let read = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    let read = read.map_err(|error| named(path, key, format!("no certificate in PEM: {error}")))?;
    let none = || named(path, key, "no certificate in it: it needs some in PEM".to_owned());
    if read.is_empty() { Err(none()) } else { Ok(read) }
}

/// What nobody else may know.
fn private(path: &Path, key: &str) -> Result<String, CredentialError> {
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, key, &error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let reason =
            format!("mode {mode:03o} lets others read it: run chmod 600 {}", path.display());
        return Err(named(path, key, reason));
    }
    read(path, key)
}

fn read(path: &Path, key: &str) -> Result<String, CredentialError> {
    let mut text = String::new();
    let read =
        File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    read.map(|_| text).map_err(|error| unreadable(path, key, &error))
}

fn unreadable(path: &Path, key: &str, error: &std::io::Error) -> CredentialError {
    let reason = format!("{error}: it must be a text that the node's user may read");
    named(path, key, reason)
}

fn named(path: &Path, key: &str, reason: String) -> CredentialError {
    CredentialError::Named { path: path.to_owned(), key: key.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::founding::found;

    #[test]
    fn what_is_wrong_with_a_file_of_the_operators_is_told_with_the_key_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        found(directory.path(), "node1", "127.0.0.1:6200".parse().unwrap()).unwrap();
        let cluster = directory.path().join("cluster");
        let credentials = NodeCredentials::load(&cluster).unwrap();
        let file = directory.path().join("password");
        let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let told = || password(Kind::Repository, &file).unwrap_err().to_string();
        let key = "; cluster.repository_password_file in outlast.toml names it";
        assert!(told().contains("the node's user may read") && told().ends_with(key), "{}", told());
        fs::write(&file, "\n").unwrap();
        mode(0o640);
        let advice = format!("mode 640 lets others read it: run chmod 600 {}", file.display());
        assert!(told().contains(&advice) && told().ends_with(key), "{}", told());
        mode(0o600);
        assert!(told().contains("no password in its first line"), "{}", told());
        fs::write(&file, "secret\n").unwrap();
        assert_eq!(password(Kind::Repository, &file).unwrap(), "secret");

        let wrong =
            |access: ServerAccess| tls(Kind::Store, &credentials, &access).unwrap_err().to_string();
        let told = wrong(ServerAccess { authority: Some(file.clone()), ..ServerAccess::default() });
        assert!(told.ends_with("no certificate in it: it needs some in PEM; cluster.store_authority in outlast.toml names it"), "{told}");
        let shown = |key| ServerAccess {
            certificate: Some(cluster.join("node.pem")),
            key: Some(key),
            ..ServerAccess::default()
        };
        let told = wrong(shown(file.clone()));
        assert!(
            told.contains("no private key in PEM") && told.contains("cluster.store_key"),
            "{told}"
        );
        tls(Kind::Store, &credentials, &shown(cluster.join("node.key"))).unwrap();
        tls(Kind::Store, &credentials, &ServerAccess::default()).unwrap();
    }
}
