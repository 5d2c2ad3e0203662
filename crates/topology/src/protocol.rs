//! What is said on the manager's Unix socket (`DIR/run/manager.sock`): one JSON object a line.
//!
//! A child says `hello`, gets `welcome` (with its listening sockets as passed descriptors), says
//! `ready` when it serves, and from then on is pushed views, keys and commands, and says `alive` at every
//! heartbeat interval. A child that lost its manager says `hello` again to the next one, with the life
//! that it has. `outlast status` and the other commands send one request and get one answer
//! (a drain: its progress before it). The socket's directory has mode 0700: who can
//! open it is the node's owner.
//!
//! Descriptors (SCM_RIGHTS) come with the octets of the welcome line; when they are more than
//! [`DESCRIPTORS_PER_MESSAGE_MAX`], empty lines after it carry the rest, in order. Pure: the
//! blocking client is [`crate::server`], the other end is the `manager` crate.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod applications;
mod cluster;

pub use applications::{
    APPLICATIONS_MAX, ApplicationEntry, ApplicationReport, ApplicationStatus, ApplicationTable,
    ApplicationsReport, NodeApplications, REASON_BYTES_MAX, RolloutPace, RolloutProgress,
    VERSIONS_MAX, VersionStatus,
};

pub use cluster::{
    Admission, ClusterStatus, ConfigurationStatus, FormatsStatus, RepositoryReport, ShardBelow,
    StoresReport,
};

use crate::format_level::FormatLevel;
use crate::keys::KeyRing;
use crate::repository_list::RunBy;
use crate::view::{
    Incarnation, ListenerTransport, ProcessName, ProcessState, ProcessType, TopologyView,
};

/// Longest line. A longer one ends the connection: one of the two ends has a bug.
pub const LINE_BYTES_MAX: usize = 4 << 20;

/// Descriptors in one message (the kernel's limit is 253).
pub const DESCRIPTORS_PER_MESSAGE_MAX: usize = 64;

/// Sockets of one edge: more than any sensible workers × addresses; refused with an error beyond.
pub const SOCKETS_MAX: usize = 4096;

/// From a child or a command to the manager.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToManager {
    /// A child's first line.
    Hello(Hello),
    /// The child serves.
    Ready,
    /// Every serving loop of the child went round since it said so last. At every heartbeat interval.
    Alive {
        /// What a drain waits for: a container's set-ups in progress and sessions with a living dialog, an
        /// edge's open streams.
        left: u64,
    },
    /// A process holds the store's lock for so long that others wait.
    LockHeld {
        /// Its process id.
        holder: u32,
        /// How long the sender has been waiting, in milliseconds.
        waited_ms: u64,
    },
    /// An edge: a container answers no probes, although its link stands. Said again at every heartbeat interval
    /// while it lasts.
    Unresponsive {
        /// Which.
        name: ProcessName,
        /// Which life of it.
        incarnation: Incarnation,
    },
    /// An edge: it answers probes again.
    Responsive {
        /// Which.
        name: ProcessName,
        /// Which life of it.
        incarnation: Incarnation,
    },
    /// A container: it serves HTTP there. Said again when a view does not know it.
    ServesHttp {
        /// Where.
        address: SocketAddr,
    },
    /// A container of a cluster's node: edges and containers of other nodes reach it there. Said again when a view does
    /// not know it.
    ServesNodes {
        /// Where.
        address: SocketAddr,
    },
    /// A container: the machine's clock was stepped, and no lifetime ends for a while.
    ClockStepped(ClockStatus),
    /// A container: how the cluster's stores are. Said again from time to time.
    Stores(StoresReport),
    /// A container: what became of the last [`FromManager::Applications`], or its counts have changed.
    Applications(ApplicationsReport),
    /// A command's only line.
    Request(Request),
}

/// From the manager.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromManager {
    /// The answer to [`Hello`].
    Welcome(Box<Welcome>),
    /// The topology changed.
    View(TopologyView),
    /// The node's secrets changed: use these from now on.
    Keys(KeyRing),
    /// Containers: the deployed applications changed.
    Applications(ApplicationTable),
    /// What the child shall do.
    Command(Command),
    /// The answer to a [`Request`], or the refusal of a [`Hello`].
    Answer(Answer),
}

/// Who a child is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The name it was started under.
    pub name: ProcessName,
    /// What it is.
    pub process_type: ProcessType,
    /// Its process id; the manager compares it with the one it spawned.
    pub pid: u32,
    /// The life that an earlier manager welcomed it to; `None` at its start. Duplicates of its sockets come
    /// along as descriptors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life: Option<Life>,
}

/// What a child that lost its manager tells the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// The incarnation that it was welcomed with.
    pub incarnation: Incarnation,
    /// [`ProcessState::Starting`], [`ProcessState::Ready`] or [`ProcessState::Draining`].
    pub state: ProcessState,
    /// Edges: what the descriptors are, in their order.
    pub sockets: Vec<PassedSocket>,
}

/// All that a child needs to serve. Holds secrets: never logged (its `Debug` leaves them out).
#[derive(Clone, Serialize, Deserialize)]
pub struct Welcome {
    /// The node's name.
    pub node: String,
    /// The node's directory, absolute.
    pub directory: PathBuf,
    /// This life of the child.
    pub incarnation: Incarnation,
    /// The effective `config::NodeConfig`.
    pub settings: serde_json::Value,
    /// The node's secrets.
    pub keys: KeyRing,
    /// Containers: the Unix socket to listen on for links (`DIR/run/NAME.link`).
    pub link: Option<PathBuf>,
    /// Edges: what the passed descriptors are, in their order.
    pub sockets: Vec<PassedSocket>,
    /// The topology at this moment.
    pub view: TopologyView,
    /// Containers: the applications to be loaded.
    #[serde(default)]
    pub applications: ApplicationTable,
}

impl fmt::Debug for Welcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Welcome")
            .field("node", &self.node)
            .field("incarnation", &self.incarnation)
            .field("link", &self.link)
            .field("sockets", &self.sockets)
            .finish_non_exhaustive()
    }
}

/// What one passed descriptor is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedSocket {
    /// Which of the edge's addresses: all sockets of one address have one number, counted from 0.
    pub listener: u16,
    /// Which worker of the edge polls it, counted from 0.
    pub worker: u16,
    /// A bound UDP socket or a listening TCP socket, non-blocking, SO_REUSEPORT.
    pub transport: ListenerTransport,
    /// The concrete address it is bound to.
    pub local: SocketAddr,
    /// What phones are told instead of `local`: `host:port` or `host`.
    pub public: String,
}

/// What the manager tells a child to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Take nothing new, keep what is owned, exit with 0 when nothing is left or after
    /// `deadline_ms`. A further one replaces the deadline. An edge that drains accepts no connections, goes on to
    /// serve those that are open, and its UDP sockets as long as it lives.
    Drain {
        /// Milliseconds from now.
        deadline_ms: u64,
    },
    /// End now in an orderly way (flush, sync, close) and exit with 0.
    Stop,
    /// Behave as if this were wrong with it.
    #[cfg(feature = "faults")]
    Fault(Fault),
}

/// What a test wants to be wrong with a process.
#[cfg(feature = "faults")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A container works off nothing that comes by links, while its heartbeats go on.
    WedgeSip,
}

impl Command {
    /// A drain command; the deadline is rounded to milliseconds.
    pub fn drain(deadline: Duration) -> Command {
        Command::Drain { deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// What a command asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The processes and their states.
    Status,
    /// Start a process that is down or waits in backoff; answered when it is ready.
    Start {
        /// Which.
        name: ProcessName,
    },
    /// Drain and stop a process, and leave it down; answered when it has ended.
    Stop {
        /// Which.
        name: ProcessName,
    },
    /// Stop (if it runs) and start; answered when it is ready again.
    Restart {
        /// Which.
        name: ProcessName,
    },
    /// Like [`Request::Stop`] with another deadline and [`Answer::Progress`] meanwhile.
    Drain {
        /// Which.
        name: ProcessName,
        /// Milliseconds until it is told to stop with whatever is left; `None` is the configured time.
        deadline_ms: Option<u64>,
    },
    /// How old the node's keys are.
    Keys,
    /// Rotate the node's keys now; answered when every process was told.
    RotateKeys,
    /// The deployed applications.
    Applications,
    /// Take an application from `DIR/apps/.staging/STAGED/`, where the command has put manifest, component and code, and
    /// bring it in; answered when it is, with [`Answer::Rollout`] meanwhile.
    AppDeploy {
        /// Name of the directory.
        staged: String,
        /// How.
        pace: RolloutPace,
    },
    /// Bring in a version that is kept: a later one after a roll-back, or an earlier one again. Answered like
    /// [`Request::AppDeploy`].
    AppSwitch {
        /// Which application.
        name: String,
        /// Which version.
        version: String,
        /// How.
        pace: RolloutPace,
    },
    /// Remove a version that is not current, or an application with all its versions.
    AppRemove {
        /// Which application.
        name: String,
        /// Which version; `None`: all of them.
        version: Option<String>,
    },
    /// Begin no session of an application any more; its versions go as their last sessions end.
    AppRetire {
        /// Which application.
        name: String,
    },
    /// Begin no session of an application for a moment, so that those that live can be counted; answered when none begins in any
    /// container, and all that began are stored. It ends with [`Request::AppRelease`] or [`Request::AppRemove`], by itself after ten
    /// seconds, and with the manager.
    AppHold {
        /// Which application.
        name: String,
    },
    /// Sessions of an application begin again as before [`Request::AppHold`].
    AppRelease {
        /// Which application.
        name: String,
    },
    /// From another node: take the version of an application that comes into the cluster, from its repository. Answered like
    /// [`Request::AppDeploy`].
    AppTake {
        /// Which application.
        name: String,
        /// Which version.
        version: String,
        /// How.
        pace: RolloutPace,
    },
    /// From another node: have of an application what the cluster has, now and not in a moment.
    AppFollow {
        /// Which.
        name: String,
    },
    /// What this node has of applications, and what it cannot have.
    NodeApplications,
    /// The same of every node of the cluster.
    ClusterApplications,
    /// Be a member of the cluster whose files were put into `DIR/cluster/`, from now on.
    ClusterOpen,
    /// Admit a node to the cluster.
    ClusterJoin {
        /// Under this name; `None`: any.
        name: Option<String>,
        /// Where others reach it.
        address: SocketAddr,
        /// Whom its own `outlast.toml` has run the repository.
        repository: RunBy,
        /// The highest format level that its release can write.
        #[serde(default)]
        newest_format: FormatLevel,
    },
    /// Find the other members as `[cluster]` of outlast.toml says now.
    ClusterDiscover,
    /// Have all nodes look for accounts and names in the cluster's repository from now on: they were carried there.
    RepositoryHasAccounts,
    /// Have another node take this one's place in the cluster's repository; answered when that is so, or need not be.
    RepositoryLeave,
    /// Have the stores of other nodes take over what those of this one have, for it is about to leave the cluster. Asked again and
    /// again until it is [`Answer::Done`]; who asks no more stays.
    StoresLeave,
    /// Take a member out of the cluster.
    ClusterRemove {
        /// Its name.
        node: String,
        /// It asks for that itself; else it must be lost.
        is_leaving: bool,
    },
    /// Make a process behave as if something were wrong with it; answered when it was told.
    #[cfg(feature = "faults")]
    Fault {
        /// Which; it must be ready.
        name: ProcessName,
        /// What.
        fault: Fault,
    },
}

/// What the manager answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(NodeStatus),
    /// To [`Request::Drain`], at every heartbeat; another answer follows.
    Progress {
        /// As in [`ToManager::Alive`].
        left: u64,
        /// Milliseconds until the process is told to stop.
        deadline_in_ms: u64,
    },
    /// To [`Request::Keys`] and [`Request::RotateKeys`].
    Keys(KeysStatus),
    /// To [`Request::Applications`].
    Applications(Vec<ApplicationStatus>),
    /// To [`Request::NodeApplications`].
    NodeApplications(NodeApplications),
    /// To [`Request::ClusterApplications`], this node first; of a single node it alone.
    ClusterApplications(Vec<NodeApplications>),
    /// To [`Request::AppDeploy`] and [`Request::AppSwitch`], at every step; another answer follows.
    Rollout(RolloutProgress),
    /// To the same: what went wrong was undone, new sessions begin as before.
    RolledBack {
        /// What was wrong, for a person.
        reason: String,
    },
    /// To [`Request::ClusterJoin`].
    Admitted(Box<Admission>),
    /// To [`Request::StoresLeave`]: not yet; what is still to be done, for a person.
    StoresHold(String),
    /// Carried out.
    Done,
    /// Not carried out.
    Refused {
        /// What is wrong and what to do next, for a person.
        reason: String,
    },
}

impl Answer {
    /// Whether another one follows.
    pub fn is_progress(&self) -> bool {
        matches!(self, Answer::Progress { .. } | Answer::Rollout(_))
    }
}

/// What `outlast status --json` prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// While one lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guardian: Option<GuardianStatus>,
    /// Who answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<ManagerStatus>,
    /// Once the machine's clock was stepped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<ClockStatus>,
    /// How the cluster's stores are, as a container of the node sees them; none while none is ready, and of a single node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stores: Option<Box<StoresReport>>,
    /// How the repository is, where the operator runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Box<RepositoryReport>>,
    /// The deployed applications.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub applications: Vec<ApplicationStatus>,
    /// Of a member of a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Box<ClusterStatus>>,
    /// The processes, in a cluster those of all its nodes.
    #[serde(flatten)]
    pub view: TopologyView,
}

/// The last step of the machine's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStatus {
    /// Milliseconds by which it was set forward; negative: back.
    pub stepped_by_ms: i64,
    /// No lifetime ends before this time of the stepped clock, in Unix milliseconds.
    pub frozen_until_ms: u64,
}

/// The age of the node's keys; no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysStatus {
    /// Unix milliseconds at which the current keys began to sign.
    pub since_ms: u64,
    /// Milliseconds until they are rotated.
    pub rotation_in_ms: u64,
    /// Whether those before them are accepted.
    pub has_previous: bool,
}

/// The guardian, as the manager sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardianStatus {
    /// Its process id.
    pub pid: u32,
}

/// The manager itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerStatus {
    /// Its process id.
    pub pid: u32,
    /// How often the node's managers were replaced after a death since the node came up.
    pub restarts: u32,
}

/// One line, its end included.
pub fn encode_line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message)
        .expect("our messages have string keys only and serialise without I/O");
    line.push(b'\n');
    line
}

/// Cuts the next line (without its end) off the front of `buffer`; `Ok(None)` when none is whole.
///
/// # Errors
/// [`LineTooLong`] when [`LINE_BYTES_MAX`] octets hold no line end: close the connection.
pub fn next_line(buffer: &mut Vec<u8>) -> Result<Option<Vec<u8>>, LineTooLong> {
    match buffer.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let mut line: Vec<u8> = buffer.drain(..=end).collect();
            line.pop();
            Ok(Some(line))
        }
        None if buffer.len() > LINE_BYTES_MAX => Err(LineTooLong),
        None => Ok(None),
    }
}

/// A line on the manager's socket passed [`LINE_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line of more than {LINE_BYTES_MAX} octets on the manager's socket")]
pub struct LineTooLong;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_are_cut_one_by_one_and_halves_are_kept() {
        let mut buffer = b"one\n\nthr".to_vec();
        assert_eq!(next_line(&mut buffer).unwrap().unwrap(), b"one");
        assert_eq!(next_line(&mut buffer).unwrap().unwrap(), b"");
        assert_eq!(next_line(&mut buffer).unwrap(), None);
        buffer.extend_from_slice(b"ee\n");
        assert_eq!(next_line(&mut buffer).unwrap().unwrap(), b"three");
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut buffer = vec![b'x'; LINE_BYTES_MAX + 1];
        assert_eq!(next_line(&mut buffer), Err(LineTooLong));
    }

    #[test]
    fn a_welcome_shows_no_secret_when_printed() {
        let ring = KeyRing::new([3; 32]);
        let secret = serde_json::to_value(&ring).unwrap()["current"].as_str().unwrap().to_owned();
        let welcome = Welcome {
            node: String::new(),
            directory: PathBuf::new(),
            incarnation: Incarnation(1),
            settings: serde_json::Value::Null,
            keys: ring,
            link: None,
            sockets: Vec::new(),
            view: TopologyView::default(),
            applications: ApplicationTable::default(),
        };
        assert!(!format!("{welcome:?}").contains(&secret));
        let line = encode_line(&FromManager::Welcome(Box::new(welcome)));
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    }
}
