//! `DIR/cluster/repository.json`: that the cluster has a repository, who runs it, and where its members were last seen.
//!
//! Whoever finds that the accounts are there opens the repository, whoever does not finds accounts and names in the node's own
//! directory. `cluster create` begins the file, and has it say that the accounts are there when they were carried along;
//! `cluster join` brings it; the manager alone changes it, so that a process that starts finds a member before it has met
//! any other node.

use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::credentials::{CredentialError, read_json, write_json};

/// A file is no longer.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// A member of a cluster's repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RepositoryMember {
    /// The node that runs it, whose certificate it shows.
    pub node: String,
    /// Where its clients reach it.
    pub address: SocketAddr,
}

/// Who runs the etcd that a cluster's repository is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunBy {
    /// The nodes.
    #[default]
    Nodes,
    /// The operator: `[cluster] repository` in `outlast.toml` of every node says where it is.
    Operator,
}

impl RunBy {
    /// Whether it is the usual one.
    fn is_nodes(&self) -> bool {
        *self == RunBy::Nodes
    }
}

/// Where a cluster's repository is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryList {
    /// The cluster's accounts and names are there; before, they are where the single node had them that made it.
    #[serde(default)]
    pub has_accounts: bool,
    /// Who runs it; decided when the cluster is made.
    #[serde(default, skip_serializing_if = "RunBy::is_nodes")]
    pub run_by: RunBy,
    /// The members that nodes run, as last known; none: it has not begun yet, or nodes run none.
    #[serde(default)]
    pub members: Vec<RepositoryMember>,
}

impl RepositoryList {
    /// Reads it; `None`: the cluster has no repository, or the node is in none.
    ///
    /// # Errors
    /// [`CredentialError`] when it cannot be read or is damaged.
    pub fn load(path: &Path) -> Result<Option<RepositoryList>, CredentialError> {
        read_json(path, FILE_BYTES_MAX)
    }

    /// Replaces it.
    ///
    /// # Errors
    /// [`CredentialError::Io`]; the file is then as it was.
    pub fn write(&self, path: &Path) -> Result<(), CredentialError> {
        write_json(path, self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_file_reads_back_and_none_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("repository.json");
        assert_eq!(RepositoryList::load(&path).unwrap(), None);
        let address = SocketAddr::from(([192, 0, 2, 1], 6230));
        let members = vec![RepositoryMember { node: "node1".to_owned(), address }];
        let list = RepositoryList { has_accounts: true, run_by: RunBy::Operator, members };
        list.write(&path).unwrap();
        assert_eq!(RepositoryList::load(&path).unwrap(), Some(list));
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(RepositoryList::load(&path), Err(CredentialError::Damaged { .. })));
    }
}
