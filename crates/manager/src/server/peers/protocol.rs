//! What members say to each other, one JSON object a line; and a node that joins, and who answers it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use topology::protocol::{Admission, Answer, Request};
use topology::{FormatLevel, Incarnation, KeyRing, Membership, NodeSnapshot, ProcessName, RunBy};

use crate::cluster::Greeting;

/// Longest line between members: as on the manager's own socket.
pub(super) const LINE_BYTES_MAX: usize = topology::protocol::LINE_BYTES_MAX;

/// Longest line of somebody who is no member yet.
pub(super) const JOIN_LINE_BYTES_MAX: usize = 8 << 10;

/// From a member to another. The one that opened the connection greets first.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToPeer {
    /// Both say it once; nothing else is said before.
    Greeting(Box<Greeting>),
    /// Instead of a greeting: the other one does not come in.
    Refused {
        /// Why.
        reason: String,
        /// It may know an older list.
        membership: Membership,
    },
    /// All processes of the sender.
    Snapshot(NodeSnapshot),
    /// The list has changed.
    Membership(Membership),
    /// The keys have changed. Written like `FromManager::Keys`, whose lines are passed on.
    Keys(KeyRing),
    /// The sender is there, and asks for the time. At every heartbeat interval.
    Ping {
        /// Unix microseconds by its clock.
        asked_at: u64,
    },
    /// To a ping.
    Time {
        /// Of the ping.
        asked_at: u64,
        /// Unix microseconds by the clock of who answers.
        answered_at: u64,
    },
    /// An edge of the sender's node gets no answers to its probes from a container of the receiver's.
    Unresponsive(Witness),
    /// That edge gets answers again.
    Responsive(Witness),
    /// For the receiver to carry out.
    Request {
        /// Comes back with every answer.
        id: u64,
        /// What.
        request: Request,
    },
    /// To a request.
    Answer {
        /// Of the request.
        id: u64,
        /// What.
        answer: Answer,
    },
}

/// What an edge has seen of a container of another node; both by their names on their own nodes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Witness {
    pub(crate) edge: ProcessName,
    pub(crate) container: ProcessName,
    /// Which life of the container.
    pub(crate) incarnation: Incarnation,
}

/// What a node says that wants to be admitted.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JoinRequest {
    pub(super) token: String,
    /// `None`: any that is free.
    pub(super) name: Option<String>,
    pub(super) address: SocketAddr,
    /// Whom its file has run the repository.
    #[serde(default)]
    pub(super) repository: RunBy,
    /// The highest format level that its release can write.
    #[serde(default)]
    pub(super) newest_format: FormatLevel,
}

/// What it is answered.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum JoinAnswer {
    Admitted(Box<Admitted>),
    Refused { reason: String },
}

/// All that makes a member. Secret.
#[derive(Serialize, Deserialize)]
pub(super) struct Admitted {
    pub(super) admission: Admission,
    /// Hexadecimal.
    pub(super) secret: String,
    /// PEM.
    pub(super) authority: String,
    /// PEM.
    pub(super) authority_key: String,
}
