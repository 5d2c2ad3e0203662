//! `DIR/cluster/stores.json`: that the state of a node lies in its cluster's stores, and where these were last seen.
//!
//! Whoever finds the file opens the stores, whoever does not finds the state in the node's own directory. `cluster create`
//! writes it when all records are there, `cluster join` when the cluster has them there; the manager keeps it up to date,
//! so that a container finds a store before it has met any other node.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::credentials::{CredentialError, write_private};
use crate::view::TopologyView;

/// More are not kept: a few that answer are enough to find all others.
const STORES_MAX: usize = 32;

/// A file is no longer.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Where a cluster's stores are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreList {
    /// Where their clients reach them, those seen last before others.
    pub stores: Vec<SocketAddr>,
    /// How many copies of a write there were: whoever opens the stores asks for no fewer.
    #[serde(default)]
    pub copies: usize,
}

impl StoreList {
    /// Those that a view shows.
    pub fn of(view: &TopologyView) -> StoreList {
        StoreList { stores: view.stores().filter_map(|it| it.link_address).collect(), copies: 0 }
    }

    /// These first, and then what was known before, as many as are kept; copies as known before.
    pub fn and_then(mut self, known: &StoreList) -> StoreList {
        let others = known.stores.iter().filter(|at| !self.stores.contains(at)).copied();
        let others: Vec<SocketAddr> = others.collect();
        self.stores.extend(others);
        self.stores.truncate(STORES_MAX);
        self.copies = known.copies;
        self
    }

    /// Reads it; `None`: there is none.
    ///
    /// # Errors
    /// [`CredentialError`] when it cannot be read or is damaged.
    pub fn load(path: &Path) -> Result<Option<StoreList>, CredentialError> {
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CredentialError::Io { path: path.to_owned(), source }),
        }
        serde_json::from_slice(&bytes).map(Some).map_err(|error| CredentialError::Damaged {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }

    /// Replaces it.
    ///
    /// # Errors
    /// [`CredentialError::Io`]; the file is then as it was.
    pub fn write(&self, path: &Path) -> Result<(), CredentialError> {
        let mut text = serde_json::to_vec(self).expect("a list of addresses has no keys");
        text.push(b'\n');
        write_private(path, &text)
            .map_err(|source| CredentialError::Io { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn list(ports: &[u16]) -> StoreList {
        let at = |port: &u16| SocketAddr::from(([192, 0, 2, 1], *port));
        StoreList { stores: ports.iter().map(at).collect(), copies: 0 }
    }

    #[test]
    fn what_is_seen_stands_before_what_was_known_and_nothing_twice() {
        assert_eq!(list(&[3, 1]).and_then(&list(&[1, 2])), list(&[3, 1, 2]));
        assert_eq!(list(&[]).and_then(&list(&[1, 2])), list(&[1, 2]));
        let many: Vec<u16> = (1..=40).collect();
        assert_eq!(list(&[50]).and_then(&list(&many)).stores.len(), STORES_MAX);
    }

    #[test]
    fn the_file_reads_back_and_none_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stores.json");
        assert_eq!(StoreList::load(&path).unwrap(), None);
        list(&[1]).write(&path).unwrap();
        assert_eq!(StoreList::load(&path).unwrap(), Some(list(&[1])));
        std::fs::write(&path, "[").unwrap();
        assert!(matches!(StoreList::load(&path), Err(CredentialError::Damaged { .. })));
    }
}
