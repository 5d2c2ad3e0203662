//! What goes into a [`ProcessTable`](super::ProcessTable) and what comes out.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use topology::HeartbeatSettings;
use topology::protocol::{Answer, Command, Request};
use topology::view::{EdgeAddress, Incarnation, ProcessName, ProcessState, ProcessType};

use crate::restart::RestartPolicy;

/// One process to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSpec {
    /// Unique on the node.
    pub name: ProcessName,
    /// What it is for.
    pub process_type: ProcessType,
    /// Containers: where edges reach it.
    pub link: Option<PathBuf>,
    /// Servers that are not ours: where other nodes reach it.
    pub link_address: Option<SocketAddr>,
    /// Share of new work; [`WEIGHT_DEFAULT`](topology::view::WEIGHT_DEFAULT) where nothing else is said.
    pub weight: u16,
    /// Edges: what they listen on.
    pub addresses: Vec<EdgeAddress>,
}

/// The numbers of a node's life cycle.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Delays between restarts.
    pub restart: RestartPolicy,
    /// How long a process may drain before it is told to stop, where nobody says otherwise.
    pub drain: Duration,
    /// The silence after which a process counts as hung.
    pub heartbeat: HeartbeatSettings,
}

/// Who waits for the outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The node comes up: start everything.
    NodeStarts,
    /// A spawn succeeded.
    Spawned {
        /// Which.
        name: ProcessName,
        /// Its process id.
        pid: u32,
    },
    /// The servers that the node shall run: whoever is new among them is started, whoever is not among them any more is
    /// stopped and forgotten.
    Servers(Vec<ProcessSpec>),
    /// The node's stores are to be emptied, for it is about to leave its cluster; or no longer.
    StoresLeave(bool),
    /// What had to be done before the next life of a server is done.
    Prepared {
        /// Which.
        name: ProcessName,
    },
    /// A spawn, or what had to be done before it, failed.
    NotSpawned {
        /// Which.
        name: ProcessName,
        /// The life that did not begin.
        incarnation: Incarnation,
        /// Why, for whoever waits for it.
        reason: String,
    },
    /// The process ended.
    Exited {
        /// Which.
        name: ProcessName,
        /// Which life of it.
        incarnation: Incarnation,
    },
    /// The process says that it serves.
    Ready {
        /// Which.
        name: ProcessName,
        /// Which life of it.
        incarnation: Incarnation,
    },
    /// The process lost another manager, or its connection, and is there again.
    Returned {
        /// Which.
        name: ProcessName,
        /// Which life of it.
        incarnation: Incarnation,
        /// Where it stands: starting, ready or draining.
        state: ProcessState,
    },
    /// Every loop of the process went round since it said so last.
    Alive {
        /// Which.
        name: ProcessName,
        /// Which life of it.
        incarnation: Incarnation,
        /// What it would have to finish before it could end: calls of a container, streams of an edge.
        left: u64,
    },
    /// The container serves HTTP.
    ServesHttp {
        /// Which.
        name: ProcessName,
        /// Which life of it.
        incarnation: Incarnation,
        /// Where.
        address: SocketAddr,
    },
    /// Other nodes of the cluster reach the container there.
    ServesNodes {
        /// Which.
        name: ProcessName,
        /// Which life of it.
        incarnation: Incarnation,
        /// Where.
        address: SocketAddr,
    },
    /// A process waits for the store's write lock, which another one holds all the while.
    LockHeld {
        /// Who waits.
        reporter: ProcessName,
        /// The process id of who holds it.
        holder: u32,
        /// How long by now.
        waited: Duration,
    },
    /// The probes of an edge go unanswered by a container whose heartbeats may well go on.
    Unresponsive {
        /// Which edge says so.
        reporter: ProcessName,
        /// The container.
        name: ProcessName,
        /// Which life of it.
        incarnation: Incarnation,
    },
    /// That container answers the edge's probes again.
    Responsive {
        /// Which edge says so.
        reporter: ProcessName,
        /// The container.
        name: ProcessName,
        /// Which life of it.
        incarnation: Incarnation,
    },
    /// Somebody asks for something.
    Requested {
        /// Who.
        ticket: Ticket,
        /// What.
        request: Request,
    },
    /// SIGTERM: stop everything in order. A second one: at once.
    NodeStops,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Do what must be done before a server's next life; then [`Event::Prepared`] or [`Event::NotSpawned`]. Asked for again
    /// while it is being done, it is meant once.
    Prepare {
        /// Which.
        name: ProcessName,
    },
    /// Start the program; then [`Event::Spawned`] or [`Event::NotSpawned`].
    Spawn {
        /// Which.
        name: ProcessName,
        /// The life that begins.
        incarnation: Incarnation,
    },
    /// Send a command to the living process.
    Tell {
        /// Which.
        name: ProcessName,
        /// What.
        command: Command,
    },
    /// SIGKILL.
    Kill {
        /// Which.
        name: ProcessName,
        /// Its process id.
        pid: u32,
        /// For the log.
        reason: KillReason,
    },
    /// The view changed: push it to everybody.
    Publish,
    /// A request has its answer, or tells how far it is ([`Answer::Progress`]: others follow).
    Answer {
        /// Whose.
        ticket: Ticket,
        /// What.
        answer: Answer,
    },
    /// Every process is ready, for the first time.
    Serving,
    /// The node's stop is complete.
    Ended,
}

/// Why a process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillReason {
    /// It gave no sign of life.
    Silent {
        /// For how long.
        silence: Duration,
        /// For so much of it its threads waited for a processor.
        starved: Duration,
    },
    /// It keeps the others from writing to the store.
    HoldsLock {
        /// For how long the one that reports it has waited.
        waited: Duration,
    },
    /// It answers no probes of the edges, for as long as any silence may last.
    Unresponsive,
    /// It was not ready in time.
    NeverReady,
    /// It is to end and never served.
    Unneeded,
    /// It has not ended in time.
    NotEnded,
    /// The node shall end at once.
    AtOnce,
}

impl fmt::Display for KillReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KillReason::Silent { silence, starved } => {
                let (silence, starved) = (silence.as_millis(), starved.as_millis());
                write!(f, "hung: no sign of life for {silence} ms")?;
                match starved {
                    0 => Ok(()),
                    starved => write!(f, ", in {starved} ms of which it had no processor"),
                }
            }
            KillReason::HoldsLock { waited } => {
                let waited = waited.as_millis();
                write!(f, "hung: it has held the store's write lock for {waited} ms")
            }
            KillReason::Unresponsive => f.write_str("hung: the probes of the edges go unanswered"),
            KillReason::NeverReady => f.write_str("it was not ready in time"),
            KillReason::Unneeded => f.write_str("it is to end and has served nobody yet"),
            KillReason::NotEnded => f.write_str("it has not ended in time"),
            KillReason::AtOnce => f.write_str("the node ends at once"),
        }
    }
}
