//! What a node of a cluster proves itself by, and knows others by: the cluster's secret, its certificate authority,
//! the node's certificate.
//!
//! All of it lies in `DIR/cluster/` (mode 0700), written by `outlast cluster create` or `join`; the manager renews
//! the certificate. Everything that nodes say to each other goes over mutual TLS 1.3 ([`NodeCredentials`]): a server is
//! asked for as `NODE.outlast`, a client is whom its certificate names ([`peer_node`]), and no other authority
//! than the cluster's own is believed. What cannot go over TLS (gossip's datagrams, join tokens) is keyed by the secret
//! ([`ClusterSecret`]). Redis and etcd read the same PEM files ([`ClusterDirectory`]).
//!
//! Every member has the authority's key, so that any of them can admit another: a cluster trusts its members alike.

use std::io;
use std::path::{Path, PathBuf};

mod authority;
mod join_token;
mod joining;
mod node;
mod private_file;
mod secret;

pub use authority::Authority;
pub use join_token::{JoinToken, JoinTokenError, TOKEN_ADDRESSES_MAX, TOKEN_VALIDITY_MAX};
pub use joining::{Fingerprint, joining_client_config};
pub use node::{NodeCredentials, peer_node, server_name};
pub use private_file::write_private;
pub(crate) use private_file::{read_json, write_json};
pub use secret::ClusterSecret;

/// Managers speak with each other.
pub const ALPN_PEER: &[u8] = b"outlast-peer/1";
/// A node without certificate asks to be admitted.
pub const ALPN_JOIN: &[u8] = b"outlast-join/1";
/// Edges of other nodes speak with a container.
pub const ALPN_LINK: &[u8] = b"outlast-link/1";
/// HTTP to a container of another node.
pub const ALPN_HTTP: &[u8] = b"outlast-http/1";

/// As whom the cluster's stores know their clients; the password is [`ClusterSecret::store_password`].
pub const STORE_USER: &str = "outlast";

/// The files of a member: `DIR/cluster/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDirectory(PathBuf);

impl ClusterDirectory {
    /// That of the node whose directory this is.
    pub fn of_node(directory: &Path) -> ClusterDirectory {
        ClusterDirectory(directory.join("cluster"))
    }

    /// That directory itself, wherever it lies.
    pub fn at(directory: &Path) -> ClusterDirectory {
        ClusterDirectory(directory.to_owned())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Who is a member, as last known.
    pub fn members(&self) -> PathBuf {
        self.0.join("cluster.json")
    }

    /// Where the cluster's repository is, as last known.
    pub fn repository(&self) -> PathBuf {
        self.0.join("repository.json")
    }

    /// That the node's state lies in the cluster's stores, and where these were last ([`crate::StoreList`]).
    pub fn stores(&self) -> PathBuf {
        self.0.join("stores.json")
    }

    /// The cluster's secret, 64 hexadecimal digits.
    pub fn secret(&self) -> PathBuf {
        self.0.join("secret")
    }

    /// The authority's certificate, PEM.
    pub fn authority(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    /// The authority's private key, PEM (PKCS #8).
    pub fn authority_key(&self) -> PathBuf {
        self.0.join("ca.key")
    }

    /// The node's certificate, PEM.
    pub fn certificate(&self) -> PathBuf {
        self.0.join("node.pem")
    }

    /// The node's private key, PEM (PKCS #8).
    pub fn key(&self) -> PathBuf {
        self.0.join("node.key")
    }
}

/// Why credentials could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file cannot be read or written.
    #[error("{path}: {source}; DIR/cluster and its files must be the user's that runs the node", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {reason}; restore DIR/cluster from a backup, or have the node removed and join again", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Others on the machine can read a secret.
    #[error("{path}: mode {mode:03o} lets others read it; run: chmod 600 {path}", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file of the operator's own is not what it should be.
    #[error("{path}: {reason}; cluster.{key} in outlast.toml names it", path = path.display())]
    Named {
        /// The file.
        path: PathBuf,
        /// By which key of `[cluster]` it is named.
        key: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// No certificate can be made.
    #[error("no certificate can be made: {0}")]
    Unmade(#[from] rcgen::Error),
    /// TLS cannot be set up with what is there.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The system gave no random octets.
    #[error("no random octets from the system: {0}")]
    Random(getrandom::Error),
}

#[cfg(test)]
mod tests;
