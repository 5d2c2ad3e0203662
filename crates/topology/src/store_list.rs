//! `DIR/cluster/stores.json`: that the state of a node lies in its cluster's stores, and where these were last seen.
//!
//! Whoever finds the file opens the stores, whoever does not finds the state in the node's own directory. `cluster create`
//! writes it when all records are there, `cluster join` when the cluster has them there; the manager keeps it up to date,
//! so that a container finds a store before it has met any other node.

use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::credentials::{CredentialError, read_json, write_json};
use crate::node::{NodeEntry, NodeNumber};
use crate::view::{Incarnation, ProcessEntry, ProcessName, TopologyView};

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
    /// Which members run which of them, as each was last heard: whoever keeps the stores in order knows of a member's, too, that
    /// was not heard since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<StoresOfNode>,
}

/// The stores of a member that was heard once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoresOfNode {
    /// Whose.
    pub node: NodeNumber,
    /// None: it runs none.
    pub stores: Vec<StorePlace>,
}

/// One store of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorePlace {
    /// Its plain name.
    pub name: ProcessName,
    /// Where clients reach it.
    pub address: SocketAddr,
    /// 0: it holds no data.
    pub weight: u16,
}

impl StoreList {
    /// Those that a view shows.
    pub fn of(view: &TopologyView) -> StoreList {
        let of_node = |name: &str| {
            let stores =
                view.stores().filter(|store| store.name.parts().1.unwrap_or(&view.node) == name);
            let place = |store: &ProcessEntry| {
                let (name, _) = store.name.parts();
                let (name, weight) = (ProcessName::new(name), store.weight);
                Some(StorePlace { name, address: store.link_address?, weight })
            };
            stores.filter_map(place).collect()
        };
        let is_own = |node: &&NodeEntry| node.name == view.node;
        let heard = view.nodes.iter().filter(|it| is_own(it) || it.last_life != Incarnation::NONE);
        StoreList {
            stores: view.stores().filter_map(|it| it.link_address).collect(),
            copies: 0,
            members: heard
                .map(|node| StoresOfNode { node: node.number, stores: of_node(&node.name) })
                .collect(),
        }
    }

    /// Without what is known of those that are no members any more.
    #[must_use]
    pub fn of_members(mut self, view: &TopologyView) -> StoreList {
        self.members.retain(|known| view.node_numbered(known.node).is_some());
        self
    }

    /// These first, and then what was known before, as many as are kept; copies as known before.
    pub fn and_then(mut self, known: &StoreList) -> StoreList {
        let others = known.stores.iter().filter(|at| !self.stores.contains(at)).copied();
        let others: Vec<SocketAddr> = others.collect();
        self.stores.extend(others);
        self.stores.truncate(STORES_MAX);
        self.copies = known.copies;
        let is_heard = |of: &StoresOfNode| self.members.iter().any(|it| it.node == of.node);
        let unheard: Vec<_> = known.members.iter().filter(|it| !is_heard(it)).cloned().collect();
        self.members.extend(unheard);
        self.members.sort_by_key(|of| of.node);
        self
    }

    /// Reads it; `None`: there is none.
    ///
    /// # Errors
    /// [`CredentialError`] when it cannot be read or is damaged.
    pub fn load(path: &Path) -> Result<Option<StoreList>, CredentialError> {
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

    fn list(ports: &[u16]) -> StoreList {
        let at = |port: &u16| SocketAddr::from(([192, 0, 2, 1], *port));
        StoreList { stores: ports.iter().map(at).collect(), ..StoreList::default() }
    }

    #[test]
    fn what_is_seen_stands_before_what_was_known_and_nothing_twice() {
        assert_eq!(list(&[3, 1]).and_then(&list(&[1, 2])), list(&[3, 1, 2]));
        assert_eq!(list(&[]).and_then(&list(&[1, 2])), list(&[1, 2]));
        let many: Vec<u16> = (1..=40).collect();
        assert_eq!(list(&[50]).and_then(&list(&many)).stores.len(), STORES_MAX);
    }

    #[test]
    fn stores_of_a_member_that_is_not_heard_are_known_until_it_is_removed() {
        let of = |node: u16, port: u16| StoresOfNode {
            node: NodeNumber::new(node).unwrap(),
            stores: vec![StorePlace {
                name: ProcessName::new("store1"),
                address: SocketAddr::from(([192, 0, 2, 1], port)),
                weight: 100,
            }],
        };
        let list = |members: &[StoresOfNode]| StoreList {
            members: members.to_vec(),
            ..StoreList::default()
        };
        let known = list(&[of(0, 1), of(2, 3)]);
        let both = list(&[of(1, 2), of(0, 9)]).and_then(&known);
        assert_eq!(both, list(&[of(0, 9), of(1, 2), of(2, 3)]));
        let entry = |number: u16| NodeEntry {
            name: format!("node{number}"),
            number: NodeNumber::new(number).unwrap(),
            state: crate::NodeState::Lost,
            address: SocketAddr::from(([192, 0, 2, 1], 6200)),
            last_life: Incarnation::NONE,
            runs_with: crate::RunsWith::default(),
        };
        let view = TopologyView { nodes: vec![entry(1), entry(2)], ..TopologyView::default() };
        assert_eq!(both.of_members(&view), list(&[of(1, 2), of(2, 3)]));
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
