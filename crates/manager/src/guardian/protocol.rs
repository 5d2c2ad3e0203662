//! What guardian and manager say to each other on `DIR/run/guardian.sock`: one JSON object a line, descriptors
//! beside it as on the manager's socket.
//!
//! A manager says `hello`, with its listening sockets if it has lost another guardian, and gets `welcome`, with
//! those that the guardian keeps if another manager was before it. From then on it hands over every change of
//! its listening sockets, beats, and passes on what the operator shall read. Pure.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use topology::view::{ListenerTransport, ProcessName};

/// From the manager to the guardian.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToGuardian {
    /// A manager's first line.
    Hello(ManagerHello),
    /// The listening sockets of the node from now on, all of them; the descriptors come along.
    Keep {
        /// What the descriptors are, in their order.
        edges: Vec<EdgeSockets>,
    },
    /// The manager's loop went round; every [`super::BEAT_INTERVAL`].
    Beat,
    /// A line for the operator's eyes.
    Line(String),
    /// Every process is ready.
    Serving(Serving),
    /// The processes have ended; what remains to be done may keep the loop from beating.
    Ending,
    /// The node's stop is complete, in order.
    Ended,
    /// The node cannot come up.
    Failed {
        /// What is wrong and what to do next, for a person.
        reason: String,
    },
}

/// From the guardian to the manager.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromGuardian {
    /// The answer to [`ToGuardian::Hello`].
    Welcome(GuardianWelcome),
    /// Stop the node: everybody in order.
    Stop,
    /// Stop the node: everybody at once.
    StopNow,
}

/// Who a manager is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ManagerHello {
    /// What it runs, if another guardian welcomed it before; the descriptors come along.
    pub running: Option<Running>,
}

/// What a manager that has lost its guardian tells the next one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    /// The effective configuration that the node runs with.
    pub settings: serde_json::Value,
    /// What the descriptors are, in their order.
    pub edges: Vec<EdgeSockets>,
}

/// All that a manager needs to run the node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GuardianWelcome {
    /// The guardian's process id.
    pub guardian: u32,
    /// The effective `config::NodeConfig`.
    pub settings: serde_json::Value,
    /// The operator wants the node to end: bring up nothing, stop in order what is found.
    pub stopping: bool,
    /// What the descriptors are, in their order. Empty for the node's first manager, and for one that brought
    /// its own.
    pub edges: Vec<EdgeSockets>,
}

/// The listening sockets of one edge. The descriptors beside it: for each group one per worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeSockets {
    /// The edge.
    pub name: ProcessName,
    /// Sockets of each group while they are open.
    pub workers: u16,
    /// What was configured, wildcards included, with real ports: `udp:0.0.0.0:5060`.
    pub as_configured: Vec<String>,
    /// One for each address and transport.
    pub groups: Vec<SocketGroup>,
}

/// The sockets of one address and transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketGroup {
    /// UDP or TCP.
    pub transport: ListenerTransport,
    /// The concrete address that they are bound to.
    pub local: SocketAddr,
    /// What phones are told instead.
    pub public: String,
    /// How many descriptors are its own: one per worker, or none while the edge is down.
    pub sockets: u16,
}

/// What the operator is told once everything serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// The node's name.
    pub node: String,
    /// Each edge with its addresses as configured, the real ports filled in: `udp:ADDR:PORT`, `tcp:ADDR:PORT`.
    pub edges: Vec<(String, Vec<String>)>,
}

impl ToGuardian {
    /// Descriptors that come along with this message.
    pub fn descriptor_count(&self) -> usize {
        match self {
            ToGuardian::Hello(hello) => {
                hello.running.as_ref().map_or(0, |running| descriptor_count(&running.edges))
            }
            ToGuardian::Keep { edges } => descriptor_count(edges),
            ToGuardian::Beat
            | ToGuardian::Line(_)
            | ToGuardian::Serving(_)
            | ToGuardian::Ending
            | ToGuardian::Ended
            | ToGuardian::Failed { .. } => 0,
        }
    }
}

/// Descriptors that belong to these edges.
pub fn descriptor_count(edges: &[EdgeSockets]) -> usize {
    edges.iter().flat_map(|edge| &edge.groups).map(|group| usize::from(group.sockets)).sum()
}
