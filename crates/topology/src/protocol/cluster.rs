//! What is asked and answered about the cluster: by commands, and by managers that pass it on to each other.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::StoreList;
use crate::format_level::FormatLevel;
use crate::gossip::{ClockOffset, GossipCounters};
use crate::keys::KeyRing;
use crate::membership::{Member, Membership};
use crate::repository_list::RepositoryList;

/// What a node gets to know that was admitted to the cluster. Holds secrets: its `Debug` leaves them out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Which cluster.
    pub cluster: String,
    /// As whom it was admitted.
    pub member: Member,
    /// Everybody, the new one too.
    pub membership: Membership,
    /// The keys behind tokens and nonces, the same on all nodes.
    pub keys: KeyRing,
    /// Where the cluster's accounts and names are. None: in each node's own directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryList>,
    /// Where the cluster's state lies. None: every member has its own still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stores: Option<StoreList>,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("member", &self.member).finish_non_exhaustive()
    }
}

/// A member's place in its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Which cluster.
    pub cluster: String,
    /// Version of the list of members.
    pub members_version: u64,
    /// The living member with the lowest number, as this one sees it: it changes the list and rotates the keys.
    pub coordinator: String,
    /// Connections to the peer port that were refused since the manager began: plaintext, certificates of strangers,
    /// tokens that are none or have expired.
    pub refused: u64,
    /// How far the clocks of other nodes are from this one's, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clocks: BTreeMap<String, ClockOffset>,
    /// Why this node starts nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// Datagrams of gossip, and those that were dropped.
    #[serde(default)]
    pub gossip: GossipCounters,
    /// The versions of the cluster's configuration.
    #[serde(default)]
    pub configuration: ConfigurationStatus,
    /// What the cluster writes, and what this node's release can.
    #[serde(default)]
    pub formats: FormatsStatus,
    /// This node was removed from the cluster, and nobody of it speaks with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_removed: bool,
}

/// The versions of the cluster's configuration, as a node knows them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// What the node was started with.
    pub runs_with: u64,
    /// That is a version of another cluster's, which the node was a member of then: not to be compared with this one's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_of_another: bool,
    /// What holds in the cluster: a node takes it when it is stopped and started. None: the node does not know yet.
    #[serde(default)]
    pub current: Option<u64>,
}

/// Format levels, as a node knows them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormatsStatus {
    /// What the cluster writes.
    pub level: FormatLevel,
    /// The highest level that the node's release can write.
    pub newest: FormatLevel,
}

/// How the cluster's stores are, as a container sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoresReport {
    /// How many copies on other hosts a write must have at present.
    pub copies: usize,
    /// Writes go on below that; else they are refused.
    pub continues_below: bool,
    /// How many of a thousand records nobody serves.
    pub unserved_per_mille: usize,
    /// Primaries that do not answer.
    pub silent: Vec<SocketAddr>,
    /// Shards of which not so many copies can be had.
    pub below: Vec<ShardBelow>,
}

/// How the operator's own etcd is, as the node's manager sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryReport {
    /// Where it is: `https://host:port` of each member that is named.
    pub endpoints: Vec<String>,
    /// Why changes are refused; none: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amiss: Option<String>,
}

/// A shard that lacks copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardBelow {
    /// Who serves it.
    pub primary: SocketAddr,
    /// How many copies can be had.
    pub found: usize,
}
