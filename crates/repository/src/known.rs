//! What a node remembers of the repository's members: `DIR/cluster/repository.json`, written by the manager, read by whoever
//! speaks with them. A node that starts alone asks those of whom it knew last.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::member::replace;

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KnownMember {
    /// The node that runs it, whose certificate it shows.
    pub node: String,
    /// Where clients reach it.
    pub address: SocketAddr,
}

/// All that is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownMembers {
    /// The accounts and names of the cluster are there; before, they are where the single node had them that made it.
    #[serde(default)]
    pub has_accounts: bool,
    /// The members, as last known; none: it has not begun yet.
    #[serde(default)]
    pub members: Vec<KnownMember>,
}

impl KnownMembers {
    /// Where that stands, in the directory of a member's files.
    #[must_use]
    pub fn path(cluster_directory: &Path) -> PathBuf {
        cluster_directory.join("repository.json")
    }

    /// What stands there; `None`: the cluster has no repository.
    ///
    /// # Errors
    /// The system's, and a file that cannot be read.
    pub fn read(cluster_directory: &Path) -> io::Result<Option<KnownMembers>> {
        match fs::read(KnownMembers::path(cluster_directory)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces it, whole or not at all.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, cluster_directory: &Path) -> io::Result<()> {
        replace(&KnownMembers::path(cluster_directory), &serde_json::to_vec_pretty(self)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_remembered_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(KnownMembers::read(directory.path()).unwrap(), None);
        let address = "192.0.2.11:6230".parse().unwrap();
        let members = vec![KnownMember { node: "node1".to_owned(), address }];
        let known = KnownMembers { has_accounts: true, members };
        known.write(directory.path()).unwrap();
        assert_eq!(KnownMembers::read(directory.path()).unwrap(), Some(known));
        fs::write(KnownMembers::path(directory.path()), "{").unwrap();
        assert!(
            KnownMembers::read(directory.path()).is_err(),
            "a damaged file is not an empty one"
        );
    }
}
