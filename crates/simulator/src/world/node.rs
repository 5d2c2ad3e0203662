//! One node of the world: what is its own, beside the processes that live on it.

use std::net::SocketAddr;
use std::time::Instant;

use manager::RestartPolicy;
use manager::process_table::{Limits, ProcessSpec, ProcessTable, Recorded};
use topology::{EdgeAddress, KeyRing, ListenerTransport, ProcessName, ProcessType};

use super::members::{self, Membered};
use super::reigns::Reign;
use super::{HEARTBEAT, NUMBERS_FROM};
use crate::clock::NodeClock;
use crate::scenario::{Scenario, Victim};
use crate::schedule::Moment;
use crate::streams::LifeId;

/// Which node: its place among all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(pub(super) usize);

/// A process that a manager starts: of which node, and how that calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProcessId {
    pub(super) node: NodeId,
    pub(super) name: ProcessName,
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) clock: NodeClock,
    /// Where its edges listen, by UDP.
    pub(super) edges: Vec<SocketAddr>,
    containers: usize,
    /// None: the manager is dead.
    pub(super) table: Option<ProcessTable>,
    /// What the last one has left, and the greatest number that it gave.
    pub(super) record: (Vec<Recorded>, u64),
    pub(super) reign: Reign,
    /// When it has carried out so many effects more.
    pub(super) manager_dies_after: Option<u8>,
    pub(super) manager_armed: Option<Moment>,
    /// What the manager knows of other nodes; None: it is dead, or there are no others.
    pub(super) member: Option<Membered>,
    pub(super) keys: KeyRing,
    nodes: usize,
}

impl Node {
    /// A node on which nothing runs yet.
    pub(super) fn new(id: NodeId, scenario: &Scenario, now: Instant) -> Node {
        let edge = |place| SocketAddr::from(([10, 0, id.0 as u8, place as u8], 5060));
        let mut node = Node {
            id,
            clock: NodeClock::default(),
            edges: (1..=scenario.edges).map(edge).collect(),
            containers: scenario.containers,
            table: None,
            record: (Vec::new(), NUMBERS_FROM),
            reign: Reign::default(),
            manager_dies_after: None,
            manager_armed: None,
            member: None,
            keys: KeyRing::new([7; 32]),
            nodes: scenario.nodes,
        };
        node.table = Some(node.table_from(NUMBERS_FROM));
        node.member = node.member_from(now);
        node
    }

    /// What a new manager knows of the other nodes.
    pub(super) fn member_from(&self, now: Instant) -> Option<Membered> {
        (self.nodes > 1).then(|| Membered::new(self.id, self.name(), self.nodes, now))
    }

    /// How a process of this node is called among all nodes.
    pub(super) fn process_name(&self, name: &ProcessName) -> ProcessName {
        if self.nodes > 1 { ProcessName::of_node(name, &self.name()) } else { name.clone() }
    }

    /// Where the edges of other nodes reach a container.
    pub(super) fn link_address(&self, life: LifeId) -> SocketAddr {
        SocketAddr::from(([10, 0, self.id.0 as u8, 100], 10_000 + life.0 as u16))
    }

    /// How it is called.
    pub(super) fn name(&self) -> String {
        format!("node{}", self.id.0 + 1)
    }

    /// Its processes, all down; `floor` is below all numbers that are given.
    pub(super) fn table_from(&self, floor: u64) -> ProcessTable {
        let edge = |(place, own): (usize, &SocketAddr)| ProcessSpec {
            name: edge_name(place),
            process_type: ProcessType::Edge,
            link: None,
            link_address: None,
            weight: topology::view::WEIGHT_DEFAULT,
            addresses: vec![EdgeAddress {
                transport: ListenerTransport::Udp,
                own: *own,
                public: own.to_string(),
            }],
        };
        let container = |place| ProcessSpec {
            name: container_name(place),
            process_type: ProcessType::Container,
            link: Some(format!("/run/{}.link", container_name(place)).into()),
            link_address: None,
            weight: topology::view::WEIGHT_DEFAULT,
            addresses: Vec::new(),
        };
        let specs = self.edges.iter().enumerate().map(edge);
        let specs = specs.chain((0..self.containers).map(container)).collect();
        let limits = Limits {
            restart: RestartPolicy::default(),
            drain: std::time::Duration::from_secs(5),
            heartbeat: HEARTBEAT,
        };
        ProcessTable::new(self.name(), specs, limits, floor).of_member(members::number(self.id))
    }

    /// The place of that edge among those of the node; None: it is a container.
    pub(super) fn edge_place(&self, name: &ProcessName) -> Option<usize> {
        (0..self.edges.len()).find(|place| edge_name(*place) == *name)
    }
}

/// The process that a fault is for: places count through all nodes.
pub(super) fn process_of(victim: Victim, scenario: &Scenario) -> ProcessId {
    let (place, of_one, name): (usize, usize, fn(usize) -> ProcessName) = match victim {
        Victim::Edge(place) => (place, scenario.edges, edge_name),
        Victim::Container(place) => (place, scenario.containers, container_name),
    };
    ProcessId { node: NodeId(place / of_one), name: name(place % of_one) }
}

fn edge_name(place: usize) -> ProcessName {
    ProcessName::new(format!("edge{}", place + 1))
}

fn container_name(place: usize) -> ProcessName {
    ProcessName::new(format!("container{}", place + 1))
}
