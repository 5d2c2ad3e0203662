//! The picture of a node's processes, and of those of its cluster, that the manager keeps and everybody else is shown.
//!
//! A view is a complete snapshot, never a difference: whoever gets version 7 needs no version 6.
//! `outlast status --json` prints these entries.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::format_level::FormatLevel;
use crate::node::{NodeEntry, NodeNumber, NodeState};

/// The name of a process, unique on its node: `edge1`, `container2`. In the views of other nodes: `container2@node1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProcessName(pub String);

impl ProcessName {
    /// Takes the name as it is.
    pub fn new(name: impl Into<String>) -> ProcessName {
        ProcessName(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in the views of other nodes.
    pub fn of_node(name: &ProcessName, node: &str) -> ProcessName {
        ProcessName(format!("{name}@{node}"))
    }

    /// The name on its own node, and the node's if it is another one's.
    pub fn parts(&self) -> (&str, Option<&str>) {
        match self.0.split_once('@') {
            Some((name, node)) => (name, Some(node)),
            None => (&self.0, None),
        }
    }
}

impl fmt::Display for ProcessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One life of a process: a restarted container is another incarnation.
///
/// Later lives of a node have greater numbers, across restarts of the manager too (the number is the microsecond of the
/// start, made strictly increasing, below the number of the node). Lives of two nodes are not compared. Zero
/// stands for "never lived".
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// A process that never lived, or a plain SIP peer, which has no lives we could tell apart.
    pub const NONE: Incarnation = Incarnation(0);
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// What a process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessType {
    /// Talks to phones and forwards statelessly to containers.
    Edge,
    /// Hosts applications, the registrar among them.
    Container,
    /// A server of the cluster's state, which is not ours (Redis); the manager runs and asks it.
    Store,
    /// A server of the cluster's repository, which is not ours (etcd); the manager runs and asks it.
    Repository,
}

impl ProcessType {
    /// The word used in configuration, commands and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            ProcessType::Edge => "edge",
            ProcessType::Container => "container",
            ProcessType::Store => "store",
            ProcessType::Repository => "repository",
        }
    }

    /// Whether the program is not ours: it connects to nobody, and says nothing unless it is asked.
    pub fn is_server(self) -> bool {
        match self {
            ProcessType::Edge | ProcessType::Container => false,
            ProcessType::Store | ProcessType::Repository => true,
        }
    }
}

impl fmt::Display for ProcessType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where a process stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// Spawned, has not said that it serves.
    Starting,
    /// Serves.
    Ready,
    /// Finishes what it has and takes nothing new.
    Draining,
    /// Lives but gives no sign of life.
    Hung,
    /// Died and waits for its next start.
    Backoff,
    /// Told to end, still there.
    Stopping,
    /// Not running, and nobody will start it unasked.
    Down,
}

impl ProcessState {
    /// The word used in commands and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            ProcessState::Starting => "starting",
            ProcessState::Ready => "ready",
            ProcessState::Draining => "draining",
            ProcessState::Hung => "hung",
            ProcessState::Backoff => "backoff",
            ProcessState::Stopping => "stopping",
            ProcessState::Down => "down",
        }
    }

    /// Whether a process in this state may still be sent what it owns.
    pub fn may_serve(self) -> bool {
        match self {
            ProcessState::Starting | ProcessState::Ready | ProcessState::Draining => true,
            ProcessState::Hung
            | ProcessState::Backoff
            | ProcessState::Stopping
            | ProcessState::Down => false,
        }
    }
}

impl fmt::Display for ProcessState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The transport of a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerTransport {
    /// SIP over UDP.
    Udp,
    /// SIP over TCP.
    Tcp,
}

impl ListenerTransport {
    /// `udp` or `tcp`.
    pub fn as_str(self) -> &'static str {
        match self {
            ListenerTransport::Udp => "udp",
            ListenerTransport::Tcp => "tcp",
        }
    }
}

impl fmt::Display for ListenerTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One address an edge serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeAddress {
    /// UDP or TCP.
    pub transport: ListenerTransport,
    /// The concrete local address (never a wildcard).
    pub own: SocketAddr,
    /// What phones are told: `host:port` or `host`, a virtual or load-balanced address perhaps.
    pub public: String,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEntry {
    /// Unique in its view.
    pub name: ProcessName,
    /// `type` in JSON, the operator's word.
    #[serde(rename = "type")]
    pub process_type: ProcessType,
    /// The present life, or the last one while none lives.
    pub incarnation: Incarnation,
    /// Of the present life.
    pub pid: Option<u32>,
    /// Where it stands in its life.
    pub state: ProcessState,
    /// Restarts after deaths since the node came up; restarts by hand are not counted.
    pub restarts: u32,
    /// Containers: the Unix socket on which edges reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<PathBuf>,
    /// In a cluster, where other nodes reach it by TLS: their edges and containers a container, whoever uses it a store or
    /// repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_address: Option<SocketAddr>,
    /// Edges: what they listen on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<EdgeAddress>,
    /// Containers: where it serves HTTP, or did in its last life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<SocketAddr>,
    /// Share of new work relative to the others of its type; 100 is the usual one, 0 takes none: a store that only votes.
    pub weight: u16,
    /// Containers: it lives, and says nothing for longer than it should
    /// ([`HeartbeatSettings::quiet_max`](crate::HeartbeatSettings::quiet_max)). It keeps all that it has, but what is due by
    /// the clock others may do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_silent: bool,
}

/// The weight of a container of which nothing else is said.
pub const WEIGHT_DEFAULT: u16 = 100;

/// All processes of a node, and of its cluster, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyView {
    /// Grows with each change; a reader ignores what is not newer than what it has.
    pub version: u64,
    /// The node's name.
    pub node: String,
    /// The node's own in the order of the configuration, then those of other nodes.
    pub processes: Vec<ProcessEntry>,
    /// The members of the cluster, by their numbers; none on a single node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeEntry>,
    /// How many node numbers the cluster has given so far: who has one below and is not among `nodes` was removed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub numbers_given: u16,
    /// What the cluster writes its records, tokens and frames in.
    #[serde(default, skip_serializing_if = "is_first")]
    pub format_level: FormatLevel,
}

fn is_first(level: &FormatLevel) -> bool {
    *level == FormatLevel::FIRST
}

fn is_zero(number: &u16) -> bool {
    *number == 0
}

impl TopologyView {
    /// The entry of that name.
    pub fn process(&self, name: &ProcessName) -> Option<&ProcessEntry> {
        self.processes.iter().find(|process| &process.name == name)
    }

    /// The containers, alive or not.
    pub fn containers(&self) -> impl Iterator<Item = &ProcessEntry> {
        self.processes.iter().filter(|process| process.process_type == ProcessType::Container)
    }

    /// The stores, alive or not.
    pub fn stores(&self) -> impl Iterator<Item = &ProcessEntry> {
        self.processes.iter().filter(|process| process.process_type == ProcessType::Store)
    }

    /// The edges, alive or not.
    pub fn edges(&self) -> impl Iterator<Item = &ProcessEntry> {
        self.processes.iter().filter(|process| process.process_type == ProcessType::Edge)
    }

    /// The member with that number.
    pub fn node_numbered(&self, number: NodeNumber) -> Option<&NodeEntry> {
        self.nodes.iter().find(|node| node.number == number)
    }

    /// The name by which every node of the cluster knows a process of this view: what is chosen by names must come
    /// out alike on all of them.
    pub fn cluster_name(&self, name: &ProcessName) -> ProcessName {
        match name.parts() {
            (_, None) if !self.nodes.is_empty() => ProcessName::of_node(name, &self.node),
            (_, Some(_) | None) => name.clone(),
        }
    }

    /// Whether that life is over: no process has it any more, or the one that had it has not begun
    /// another yet, or its node is lost or was removed. Whoever hangs, stops or drains still lives, for it may still write.
    ///
    /// Judged by what is known of its own node: a life later than all that this view knows of that one began after it and
    /// is not judged by it, nor is any of a node that the view has not heard of yet.
    pub fn is_dead(&self, incarnation: Incarnation) -> bool {
        let number = incarnation.node();
        let node = self.node_numbered(number);
        match node.map(|node| node.state) {
            Some(NodeState::Lost) => return true,
            Some(NodeState::Up) => {}
            // A greater number may be one that was given since.
            None if !self.nodes.is_empty() => return number.get() < self.numbers_known(),
            None => {}
        }
        let lives = self.processes.iter().map(|process| process.incarnation);
        let lives = lives.filter(|life| life.node() == number);
        let latest = lives.chain(node.map(|node| node.last_life)).max();
        latest.is_some_and(|latest| incarnation <= latest)
            && !self.lives().any(|life| life == incarnation)
    }

    /// All numbers below were given.
    fn numbers_known(&self) -> u16 {
        let highest = self.nodes.iter().map(|node| node.number.get() + 1).max();
        self.numbers_given.max(highest.unwrap_or(0))
    }

    /// The lives that are not over, those of edges too.
    pub fn lives(&self) -> impl Iterator<Item = Incarnation> {
        let living = self.processes.iter().filter(|process| match process.state {
            ProcessState::Starting
            | ProcessState::Ready
            | ProcessState::Draining
            | ProcessState::Hung
            | ProcessState::Stopping => process.incarnation != Incarnation::NONE,
            ProcessState::Backoff | ProcessState::Down => false,
        });
        living.map(|process| process.incarnation)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(name: &str, incarnation: u64, state: ProcessState) -> ProcessEntry {
        ProcessEntry {
            name: ProcessName::new(name),
            process_type: ProcessType::Container,
            incarnation: Incarnation(incarnation),
            pid: Some(41),
            state,
            restarts: 3,
            link: None,
            link_address: None,
            addresses: Vec::new(),
            weight: WEIGHT_DEFAULT,
            is_silent: false,
            http: None,
        }
    }

    #[test]
    fn a_life_is_over_when_its_process_has_gone_or_has_begun_another() {
        for (state, is_dead) in [
            (ProcessState::Starting, false),
            (ProcessState::Ready, false),
            (ProcessState::Draining, false),
            (ProcessState::Hung, false),
            (ProcessState::Stopping, false),
            (ProcessState::Backoff, true),
            (ProcessState::Down, true),
        ] {
            let processes = vec![entry("container1", 7, state), entry("container2", 9, state)];
            let view = TopologyView { processes, ..TopologyView::default() };
            assert_eq!(view.is_dead(Incarnation(7)), is_dead, "{state}");
            assert_eq!(view.lives().count(), if is_dead { 0 } else { 2 }, "{state}");
            // 6 was the life before, 8 was another process's; 10 began after this view.
            for (life, is_dead) in [(6, true), (8, true), (10, false)] {
                assert_eq!(view.is_dead(Incarnation(life)), is_dead, "{life} {state}");
            }
            assert!(view.is_dead(Incarnation::NONE), "nobody never lived");
        }
        assert!(!TopologyView::default().is_dead(Incarnation(7)), "an empty view knows nothing");
    }

    #[test]
    fn status_json_has_the_operators_words() {
        let entry = entry("container1", 7, ProcessState::Backoff);
        let json = serde_json::to_value(&entry).unwrap();
        assert_eq!(json["name"], "container1");
        assert_eq!(json["type"], "container");
        assert_eq!(json["pid"], 41);
        assert_eq!(json["state"], "backoff");
        assert_eq!(json["restarts"], 3);
        assert_eq!(serde_json::from_value::<ProcessEntry>(json).unwrap(), entry);
    }
}
