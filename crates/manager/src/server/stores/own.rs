//! An operator's own Redis or Valkey Cluster in the place of stores that managers run: how it is spoken with.
//!
//! Always by TLS. Records have the id of the Outlast cluster before their names, so that several may lie in one. Who serves what and who
//! takes whose place there is none of the managers' business.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use config::StoreAccess;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use state::engine::cluster::Options;
use topology::MemberFile;
use topology::credentials::{CredentialError, NodeCredentials};

/// No seeds.
pub(super) fn options(
    credentials: &NodeCredentials,
    access: &StoreAccess,
) -> Result<Options, CredentialError> {
    let cluster = MemberFile::load(&credentials.directory().members())?.cluster;
    Ok(Options {
        tls: Some(tls(credentials, access)?),
        user: access.user.clone(),
        password: access.password_file.as_deref().map(password).transpose()?,
        namespace: format!("{cluster}:"),
        ..Options::default()
    })
}

fn tls(
    credentials: &NodeCredentials,
    access: &StoreAccess,
) -> Result<Arc<ClientConfig>, CredentialError> {
    let shown = access.certificate.as_deref().zip(access.key.as_deref());
    if access.authority.is_none() && shown.is_none() {
        return credentials.store_client_config();
    }
    let mut roots = RootCertStore::empty();
    let own = credentials.directory().authority();
    for authority in certificates(access.authority.as_deref().unwrap_or(&own))? {
        roots.add(authority)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots);
    Ok(Arc::new(match shown {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let text = private(key)?;
            let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
                .map_err(|error| damaged(key, error))?;
            config.with_client_auth_cert(certificates(certificate)?, key)?
        }
    }))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let text = fs::read(path).map_err(|source| unreadable(path, source))?;
    let read = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let read = read.map_err(|error| damaged(path, error))?;
    if read.is_empty() { Err(damaged(path, "no certificate in it")) } else { Ok(read) }
}

fn password(path: &Path) -> Result<String, CredentialError> {
    let text = private(path)?;
    let line = text.lines().next().map(str::trim).filter(|line| !line.is_empty());
    line.map(str::to_owned).ok_or_else(|| damaged(path, "no password in its first line"))
}

/// What nobody else may know.
fn private(path: &Path) -> Result<String, CredentialError> {
    let mode = fs::metadata(path).map_err(|source| unreadable(path, source))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(damaged(path, "others can read it: chmod 600"));
    }
    fs::read_to_string(path).map_err(|source| unreadable(path, source))
}

fn unreadable(path: &Path, source: std::io::Error) -> CredentialError {
    CredentialError::Io { path: path.to_owned(), source }
}

fn damaged(path: &Path, reason: impl std::fmt::Display) -> CredentialError {
    CredentialError::Damaged { path: path.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::founding::found;

    #[test]
    fn what_is_named_is_used_and_what_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        found(directory.path(), "node1", "127.0.0.1:6200".parse().unwrap()).unwrap();
        let cluster = directory.path().join("cluster");
        let credentials = NodeCredentials::load(&cluster).unwrap();
        let file = directory.path().join("password");
        fs::write(&file, "secret\n").unwrap();
        let access = StoreAccess {
            user: Some("outlast".to_owned()),
            password_file: Some(file.clone()),
            authority: Some(cluster.join("ca.pem")),
            certificate: Some(cluster.join("node.pem")),
            key: Some(cluster.join("node.key")),
        };
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let told = options(&credentials, &access).unwrap_err().to_string();
        assert!(told.contains("chmod 600"), "{told}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let found = options(&credentials, &access).unwrap();
        assert_eq!(found.password.as_deref(), Some("secret"));
        assert!(found.tls.is_some() && found.namespace.len() > 1);
        let none = StoreAccess { authority: Some(file), ..StoreAccess::default() };
        let told = options(&credentials, &none).unwrap_err().to_string();
        assert!(told.contains("no certificate"), "{told}");
    }
}
