//! The members of a cluster: their numbers, and what each says of itself.
//!
//! A number is given once in a cluster's life and stands in the upper bits of every [`Incarnation`] of that node, so that
//! a life says whose judgement counts: lives are compared within one node only, whose clock and manager gave them.
//! A single node has the number of a cluster's creator, 0, and is carried into a cluster with all that it remembers.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::format_level::FormatLevel;
use crate::view::{Incarnation, ProcessEntry};

/// The number of a node, 0 to 4094; never given twice in a cluster.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "u16", into = "u16")]
pub struct NodeNumber(u16);

impl NodeNumber {
    /// A single node's, and that of a cluster's creator.
    pub const FIRST: NodeNumber = NodeNumber(0);
    /// The greatest.
    pub const MAX: NodeNumber = NodeNumber(4094);

    /// `None` above [`MAX`](Self::MAX).
    pub fn new(number: u16) -> Option<NodeNumber> {
        (number <= NodeNumber::MAX.0).then_some(NodeNumber(number))
    }

    /// As a plain number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for NodeNumber {
    type Error = String;
    fn try_from(number: u16) -> Result<NodeNumber, String> {
        NodeNumber::new(number)
            .ok_or_else(|| format!("node number {number}: at most {}", NodeNumber::MAX))
    }
}

impl From<NodeNumber> for u16 {
    fn from(number: NodeNumber) -> u16 {
        number.0
    }
}

impl fmt::Display for NodeNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bits of an incarnation that hold microseconds since 1970; they last until 2112.
const MICROSECOND_BITS: u32 = 52;

impl Incarnation {
    /// The life that began on that node in that microsecond.
    pub fn of_node(node: NodeNumber, microseconds: u64) -> Incarnation {
        let microseconds = microseconds & ((1 << MICROSECOND_BITS) - 1);
        Incarnation(u64::from(node.0) << MICROSECOND_BITS | microseconds)
    }

    /// The number of the node that it is of; the first one's for [`Incarnation::NONE`].
    pub fn node(self) -> NodeNumber {
        NodeNumber((self.0 >> MICROSECOND_BITS) as u16)
    }

    /// The microsecond in which it began, made strictly increasing on its node.
    pub fn microseconds(self) -> u64 {
        self.0 & ((1 << MICROSECOND_BITS) - 1)
    }
}

/// Whether a member can be heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It can.
    Up,
    /// It has been silent for too long: all its lives count as over.
    Lost,
}

impl NodeState {
    /// The word used in commands and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            NodeState::Up => "up",
            NodeState::Lost => "lost",
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One member of the cluster, as a view shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Unique in the cluster.
    pub name: String,
    /// Unique among all members that there ever were.
    pub number: NodeNumber,
    /// Whether it can be heard.
    pub state: NodeState,
    /// Where it speaks with other members, by UDP and TCP.
    pub address: SocketAddr,
    /// See [`NodeSnapshot::last_life`].
    #[serde(default)]
    pub last_life: Incarnation,
    /// See [`RunsWith`].
    #[serde(default)]
    pub runs_with: RunsWith,
}

/// What a node runs with of what its cluster has in versions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunsWith {
    /// Version of the cluster's configuration that it was started with. 0: of the empty one that a cluster begins with.
    #[serde(default)]
    pub configuration: u64,
    /// The highest format level that its release can write.
    #[serde(default)]
    pub newest_format: FormatLevel,
}

/// What a member says of itself, to the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSnapshot {
    /// Its name, unique in the cluster.
    pub node: String,
    /// Its number.
    pub number: NodeNumber,
    /// Grows with each change, across restarts of its manager too; who has this one needs no earlier one.
    pub version: u64,
    /// Where it speaks with other members, by UDP and TCP.
    pub address: SocketAddr,
    /// The last life that it has given, or could have given to a process that it does not know any more: all
    /// earlier ones of the node which are not among `processes` are over.
    #[serde(default)]
    pub last_life: Incarnation,
    /// See [`RunsWith`].
    #[serde(default)]
    pub runs_with: RunsWith,
    /// Its processes under their plain names.
    pub processes: Vec<ProcessEntry>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_life_keeps_number_and_microseconds_and_the_first_nodes_lives_are_plain_microseconds() {
        let now = 1_795_361_000_000_000;
        assert_eq!(Incarnation::of_node(NodeNumber::FIRST, now), Incarnation(now));
        for number in [0, 1, 7, 4094] {
            let life = Incarnation::of_node(NodeNumber::new(number).unwrap(), now);
            assert_eq!((life.node().get(), life.microseconds()), (number, now));
        }
        assert_eq!(Incarnation::NONE.node(), NodeNumber::FIRST);
    }

    #[test]
    fn a_number_beyond_the_greatest_is_refused() {
        assert_eq!(NodeNumber::new(4094), Some(NodeNumber::MAX));
        assert_eq!(NodeNumber::new(4095), None);
        let error = serde_json::from_str::<NodeNumber>("4095").unwrap_err().to_string();
        assert!(error.contains("node number 4095: at most 4094"), "{error}");
    }
}
