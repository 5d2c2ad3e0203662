//! What manager, containers and commands say to each other of deployed applications.
//!
//! The manager tells each container which versions it shall have loaded, all of them at once, under a number that grows
//! with every change; the container answers with that number what came of it, and again whenever its counts have
//! changed. An application is named by words that `outlast-app.toml` allows: it is part of a path.

use serde::{Deserialize, Serialize};

use crate::view::ProcessName;

/// Applications of a node; one more is refused.
pub const APPLICATIONS_MAX: usize = 32;

/// Versions of one application that a node keeps; one more is refused until another is removed.
pub const VERSIONS_MAX: usize = 8;

/// The longest reason for a failure that goes to the manager, in octets; what is longer is cut.
pub const REASON_BYTES_MAX: usize = 1 << 10;

/// What a container shall have loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationTable {
    /// Grows with every change, across restarts of the manager too.
    pub generation: u64,
    /// By name, then by version.
    pub applications: Vec<ApplicationEntry>,
}

/// One version of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationEntry {
    /// Its name.
    pub name: String,
    /// Its version. Its files lie in `DIR/apps/NAME/VERSION/`.
    pub version: String,
    /// New sessions begin with this version; with the others of that name old ones go on.
    pub is_current: bool,
}

/// What became of a table in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationsReport {
    /// Of the table that it is about.
    pub generation: u64,
    /// Every version of that table, in its order.
    pub applications: Vec<ApplicationReport>,
}

/// What became of one version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationReport {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Why it could not be loaded, for a person; at most [`REASON_BYTES_MAX`] octets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Events that it handled since it was loaded.
    pub events: u64,
    /// Those of them whose handler failed.
    pub failures: u64,
    /// New sessions do not begin with it here, and since that is so the container has found none of it: neither at work in
    /// itself nor in the store.
    #[serde(default)]
    pub is_unused: bool,
    /// New sessions do not begin with it here any more, and some that began before are not stored yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_beginning: bool,
}

/// How a version comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutPace {
    /// All containers begin new sessions with it as soon as all have loaded it.
    AtOnce,
    /// One container after the other, each watched before the next one follows.
    OneByOne,
}

/// One step of a rollout that is done; others follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum RolloutProgress {
    /// Every container that serves has loaded the version.
    Loaded {
        /// How many.
        containers: usize,
    },
    /// A container begins new sessions with it, and is watched.
    Switched {
        /// Which.
        container: ProcessName,
        /// It is the how manieth, counted from 1.
        number: usize,
        /// Of how many.
        of: usize,
        /// For so long.
        watch_ms: u64,
    },
    /// Nothing was wrong while it was watched.
    Healthy {
        /// Which container.
        container: ProcessName,
        /// Events that the version handled meanwhile.
        events: u64,
        /// Those of them whose handler failed.
        failures: u64,
    },
    /// The next node of the cluster begins with it.
    Node {
        /// Which.
        node: String,
        /// It is the how manieth, counted from 1.
        number: usize,
        /// Of how many.
        of: usize,
    },
    /// A node of the cluster is away, and takes it when it is back.
    NodeAway {
        /// Which.
        node: String,
    },
}

impl RolloutProgress {
    /// As told of another node: its containers have that name behind theirs.
    #[must_use]
    pub fn of_node(self, node: &str) -> RolloutProgress {
        let named = |container: ProcessName| ProcessName::of_node(&container, node);
        match self {
            RolloutProgress::Switched { container, number, of, watch_ms } => {
                RolloutProgress::Switched { container: named(container), number, of, watch_ms }
            }
            RolloutProgress::Healthy { container, events, failures } => {
                RolloutProgress::Healthy { container: named(container), events, failures }
            }
            other @ (RolloutProgress::Loaded { .. }
            | RolloutProgress::Node { .. }
            | RolloutProgress::NodeAway { .. }) => other,
        }
    }
}

/// What a node has of applications.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeApplications {
    /// Its name.
    pub node: String,
    /// Why it cannot be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<String>,
    /// Those that it has.
    pub applications: Vec<ApplicationStatus>,
    /// Those of which it cannot have what the cluster has, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<(String, String)>,
}

/// A deployed application, as commands show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationStatus {
    /// Its name.
    pub name: String,
    /// The version that new sessions begin with; none while the first one is being deployed, and of one that is retired.
    pub current: Option<String>,
    /// The version that a rollout under way brings in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling_to: Option<String>,
    /// All that are kept, the oldest first.
    pub versions: Vec<VersionStatus>,
}

/// One version of a deployed application.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionStatus {
    /// Which.
    pub version: String,
    /// The containers that have it loaded.
    pub loaded_by: Vec<ProcessName>,
    /// The containers that could not load it, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_by: Vec<(ProcessName, String)>,
    /// Events that it handled in the containers that live.
    pub events: u64,
    /// Those of them whose handler failed.
    pub failures: u64,
}

impl ApplicationsReport {
    /// What it says of one version.
    pub fn of(&self, name: &str, version: &str) -> Option<&ApplicationReport> {
        let is_it = |report: &&ApplicationReport| report.name == name && report.version == version;
        self.applications.iter().find(is_it)
    }
}
