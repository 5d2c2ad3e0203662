//! An operator's own Redis or Valkey Cluster in the place of stores that managers run: how it is spoken with.
//!
//! Always by TLS. Records have the id of the Outlast cluster before their names, so that several may lie in one. Who serves what and who
//! takes whose place there is none of the managers' business.

use config::ServerAccess;
use state::engine::cluster::Options;
use topology::MemberFile;
use topology::credentials::{CredentialError, NodeCredentials};

use crate::server::own_servers::{Kind, password, tls};

/// No seeds.
pub(super) fn options(
    credentials: &NodeCredentials,
    access: &ServerAccess,
) -> Result<Options, CredentialError> {
    let cluster = MemberFile::load(&credentials.directory().members())?.cluster;
    let password = access.password_file.as_deref().map(|path| password(Kind::Store, path));
    Ok(Options {
        tls: Some(tls(Kind::Store, credentials, access)?),
        user: access.user.clone(),
        password: password.transpose()?,
        namespace: format!("{cluster}:"),
        ..Options::default()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::founding::found;

    #[test]
    fn what_is_named_is_used() {
        let directory = tempfile::tempdir().unwrap();
        found(directory.path(), "node1", "127.0.0.1:6200".parse().unwrap()).unwrap();
        let cluster = directory.path().join("cluster");
        let credentials = NodeCredentials::load(&cluster).unwrap();
        let file = directory.path().join("password");
        fs::write(&file, "secret\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let access = ServerAccess {
            user: Some("outlast".to_owned()),
            password_file: Some(file),
            authority: Some(cluster.join("ca.pem")),
            certificate: Some(cluster.join("node.pem")),
            key: Some(cluster.join("node.key")),
        };
        let found = options(&credentials, &access).unwrap();
        assert_eq!(found.password.as_deref(), Some("secret"));
        assert!(found.tls.is_some() && found.namespace.len() > 1);
    }
}
