//! What can be configured, and the default of each setting.
//!
//! Field names are the keys of `outlast.toml`. The same structures, as JSON, are what the manager
//! sends to its children.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cluster::ClusterSettings;
use crate::listen::{Listen, ListenTransports, PublicAddress};
use crate::time_text;

/// The effective configuration of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// `[node]`
    pub node: NodeSettings,
    /// `[cluster]`. None: a single node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterSettings>,
    /// `[registrar]`
    pub registrar: RegistrarSettings,
    /// `[heartbeat]`
    pub heartbeat: HeartbeatSettings,
    /// `[restart]`. A node that a release without it left behind is taken over with the defaults.
    #[serde(default)]
    pub restart: RestartSettings,
    /// `[container]`
    pub container: ContainerSettings,
    /// `[edge]`
    pub edge: EdgeSettings,
    /// `[[peer]]`: plain SIP servers in a container's place. None by default.
    pub peer: Vec<PeerSettings>,
    /// `[keys]`
    pub keys: KeysSettings,
    /// `[state]`
    pub state: StateSettings,
    /// `[log]`
    pub log: LogSettings,
    /// Version of the cluster's configuration that is in it; no key of a file. 0: of none.
    #[serde(default, skip_serializing_if = "is_none_of_the_cluster")]
    pub cluster_version: u64,
    /// Id of the cluster that this is the version of; no key of a file. Empty: of none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster_id: String,
}

fn is_none_of_the_cluster(version: &u64) -> bool {
    *version == 0
}

/// `[node]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSettings {
    /// Name of the node, a DNS label; it appears in the Via of containers. Default: `node1`.
    pub name: String,
}

/// `[registrar]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistrarSettings {
    /// Whether phones must prove who they are to register and to call. Default: `true`.
    pub authenticate: bool,
    /// The domains served, lower case. Default: `localhost`.
    pub domains: Vec<String>,
    /// The digest algorithms that are offered, in the order of the challenges. Default: MD5, SHA-256,
    /// SHA-512-256: phones that look at one challenge only look at the first, and know MD5 only.
    pub algorithms: Vec<DigestAlgorithm>,
    /// Shortest registration; a shorter wish gets 423. Default: one minute.
    #[serde(with = "time_text")]
    pub expires_min: Duration,
    /// Granted to a REGISTER that names no time. Default: one hour.
    #[serde(with = "time_text")]
    pub expires_default: Duration,
    /// Longest registration; a longer wish is cut to it. Default: one day.
    #[serde(with = "time_text")]
    pub expires_max: Duration,
}

/// An algorithm of Digest authentication. Source: RFC 8760 §2.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DigestAlgorithm {
    /// Weak; what old phones know.
    #[serde(rename = "MD5")]
    Md5,
    /// What every phone should know.
    #[serde(rename = "SHA-256")]
    Sha256,
    /// The strongest.
    #[serde(rename = "SHA-512-256")]
    Sha512_256,
}

impl DigestAlgorithm {
    /// Reads the name used in the file and on the wire.
    pub fn parse(name: &str) -> Option<DigestAlgorithm> {
        match name {
            "MD5" => Some(DigestAlgorithm::Md5),
            "SHA-256" => Some(DigestAlgorithm::Sha256),
            "SHA-512-256" => Some(DigestAlgorithm::Sha512_256),
            _ => None,
        }
    }
}

/// `[heartbeat]`: how edges and the manager notice that a process no longer serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatSettings {
    /// A container pings every edge this often. Default: 500 ms.
    #[serde(with = "time_text")]
    pub interval: Duration,
    /// So many pings may be missed; a container is removed after
    /// interval × (allowed_miss_count + 1) of silence. Default: 2.
    pub allowed_miss_count: u32,
}

/// `[restart]`: how long a process that died stays away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartSettings {
    /// After the first death; doubles with each further one. Default: 50 ms.
    #[serde(with = "time_text")]
    pub delay_min: Duration,
    /// It doubles no further. Default: 10 s.
    #[serde(with = "time_text")]
    pub delay_max: Duration,
    /// A process that served this long has its deaths forgotten. Default: 2 s.
    #[serde(with = "time_text")]
    pub stable_after: Duration,
}

/// `[container]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerSettings {
    /// How many containers the node runs, named `container1`, `container2`, … Default: 2.
    pub count: u16,
    /// How long a container that stops may finish what it has, and an edge keeps its connections. Default: 5 s.
    #[serde(with = "time_text")]
    pub drain_timeout: Duration,
    /// What every container runs; the registrar among it. Default: the registrar.
    pub applications: Vec<Application>,
    /// How long a version of a deployed application stays that no session begins with, and none lives of. Default: 10 min.
    #[serde(with = "time_text")]
    pub old_versions_kept: Duration,
    /// Where the first container serves HTTP, once an application does; the Nth has the port N − 1 further on, or any
    /// free one if this is 0. `None` (`"off"` in the file): HTTP is not served. Default: `127.0.0.1:8080`. A node that a
    /// release without it left behind is taken over with the default.
    #[serde(default = "http_default")]
    pub http: Option<SocketAddr>,
}

fn http_default() -> Option<SocketAddr> {
    Some(HTTP_DEFAULT)
}

/// Where HTTP is served unless told otherwise: on this machine only, for there is no TLS and nobody was asked.
pub const HTTP_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

impl ContainerSettings {
    /// Where the container of that name serves HTTP: a port of 0 is any free one.
    pub fn http_address(&self, name: &str) -> Option<SocketAddr> {
        let mut address = self.http?;
        let number: u16 = name.strip_prefix("container")?.parse().ok()?;
        if address.port() != 0 {
            address.set_port(address.port().checked_add(number.checked_sub(1)?)?);
        }
        Some(address)
    }
}

/// An application that comes with Outlast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Application {
    /// Registers phones and finds them.
    Registrar,
    /// Answers a call and makes another in its place: a back-to-back user agent.
    BackToBack,
}

impl Application {
    /// Reads the name used in the file.
    pub fn parse(name: &str) -> Option<Application> {
        match name {
            "registrar" => Some(Application::Registrar),
            "back-to-back" => Some(Application::BackToBack),
            _ => None,
        }
    }
}

/// `[keys]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysSettings {
    /// The keys of tokens and nonces are replaced this often; those before are accepted until the next
    /// time. Default: 7 days.
    #[serde(with = "time_text")]
    pub rotate_every: Duration,
}

/// `[state]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateSettings {
    /// What survives the loss of power. Default: `normal`.
    pub durability: Durability,
    /// Between two snapshots, which a damaged state goes back to. Default: 5 min.
    #[serde(with = "time_text")]
    pub snapshot_every: Duration,
}

/// What of the state survives the loss of power. Nothing is lost with processes either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// All but the last second; in the worst case, what was there at the last snapshot.
    #[default]
    Normal,
    /// All that was answered: every group of changes is on the disk first.
    Power,
}

/// `[edge]`: what all edges of the node have in common, and the edges themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeSettings {
    /// Whether phones behind NAT are reached over the flow they came by. Default: `true`.
    pub nat_traversal: bool,
    /// Threads of each edge; `None` (`"auto"` in the file) is one per core. Default: `"auto"`.
    pub workers: Option<u16>,
    /// What phones are told instead of the own addresses. Default: none, the own addresses.
    pub public: Option<PublicAddress>,
    /// `[edge.tcp]`
    pub tcp: TcpSettings,
    /// `[[edge.instances]]`. Default: `edge1` on `0.0.0.0:5060`.
    pub instances: Vec<EdgeInstance>,
}

/// `[edge.tcp]`: limits on connections, for each worker thread of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpSettings {
    /// Connections in all; more are closed at once. Default: 20,000.
    pub connections_max: u32,
    /// Inbound connections from one address; more are closed at once. Default: 1,000.
    pub connections_per_address_max: u32,
    /// A connection without traffic is closed after this. Default: 65 min, longer than a registration.
    #[serde(with = "time_text")]
    pub idle_timeout: Duration,
    /// A message that was begun must be complete after this, else its connection is closed. Default: 10 s.
    #[serde(with = "time_text")]
    pub message_timeout: Duration,
    /// A peer must read some of what waits for it within this, else its connection is closed. Default: 20 s.
    #[serde(with = "time_text")]
    pub write_timeout: Duration,
    /// A connection that an edge opens must stand after this. Default: 4 s.
    #[serde(with = "time_text")]
    pub connect_timeout: Duration,
    /// Octets that wait for one peer to read them; past it, its connection is closed. Default: 1,048,576.
    pub unwritten_bytes_max: u32,
}

/// Edges of a node. Each is a process, as each container is, and keeps a connection to the manager, which takes 256.
pub const EDGES_MAX: usize = 64;

/// Sockets of one edge, all its addresses, transports and workers together. More are refused.
pub const EDGE_SOCKETS_MAX: usize = 4_096;

/// Sockets of all edges. The guardian and the manager hold each of them, and hand all over at once. More are refused.
pub const NODE_SOCKETS_MAX: usize = 16_384;

/// One of `[[edge.instances]]`: an edge process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeInstance {
    /// Unique on the node.
    pub name: String,
    /// Where it listens; at least one.
    pub listen: Vec<Listen>,
    /// What phones are told of this edge; goes before `edge.public`.
    pub public: Option<PublicAddress>,
}

/// One of `[[peer]]`: a plain SIP server (any third party's) in a container's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerSettings {
    /// Unique on the node.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// How it is spoken to. Default: UDP.
    pub transport: PeerTransport,
    /// Its share relative to the containers, which have 100. Default: 100.
    pub weight: u16,
}

/// How a peer is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerTransport {
    /// SIP over UDP.
    Udp,
    /// SIP over TCP.
    Tcp,
}

/// `[log]`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// What is logged. Default: `info`.
    pub level: LogLevel,
}

/// Least severe level that is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Somebody must act.
    Error,
    /// Degraded but going on.
    Warn,
    /// Life cycle.
    #[default]
    Info,
    /// Single calls.
    Debug,
    /// Single messages.
    Trace,
}

impl LogLevel {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

impl Default for NodeSettings {
    fn default() -> NodeSettings {
        NodeSettings { name: "node1".to_owned() }
    }
}

impl Default for RegistrarSettings {
    fn default() -> RegistrarSettings {
        RegistrarSettings {
            authenticate: true,
            domains: vec!["localhost".to_owned()],
            algorithms: vec![
                DigestAlgorithm::Md5,
                DigestAlgorithm::Sha256,
                DigestAlgorithm::Sha512_256,
            ],
            expires_min: Duration::from_secs(60),
            expires_default: Duration::from_secs(3600),
            expires_max: Duration::from_secs(86_400),
        }
    }
}

impl Default for HeartbeatSettings {
    fn default() -> HeartbeatSettings {
        HeartbeatSettings { interval: Duration::from_millis(500), allowed_miss_count: 2 }
    }
}

impl Default for RestartSettings {
    fn default() -> RestartSettings {
        RestartSettings {
            delay_min: Duration::from_millis(50),
            delay_max: Duration::from_secs(10),
            stable_after: Duration::from_secs(2),
        }
    }
}

impl Default for ContainerSettings {
    fn default() -> ContainerSettings {
        ContainerSettings {
            count: 2,
            drain_timeout: Duration::from_secs(5),
            applications: vec![Application::Registrar],
            old_versions_kept: Duration::from_secs(600),
            http: http_default(),
        }
    }
}

impl Default for KeysSettings {
    fn default() -> KeysSettings {
        KeysSettings { rotate_every: Duration::from_secs(7 * 86_400) }
    }
}

impl Default for StateSettings {
    fn default() -> StateSettings {
        StateSettings { durability: Durability::Normal, snapshot_every: Duration::from_secs(300) }
    }
}

impl Default for EdgeSettings {
    fn default() -> EdgeSettings {
        EdgeSettings {
            nat_traversal: true,
            workers: None,
            public: None,
            tcp: TcpSettings::default(),
            instances: vec![EdgeInstance {
                name: "edge1".to_owned(),
                listen: vec![LISTEN_DEFAULT],
                public: None,
            }],
        }
    }
}

/// What a first run listens on unless told otherwise.
pub const LISTEN_DEFAULT: Listen = Listen {
    transports: ListenTransports::Both,
    address: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 5060),
};

impl Default for TcpSettings {
    fn default() -> TcpSettings {
        TcpSettings {
            connections_max: 20_000,
            connections_per_address_max: 1_000,
            idle_timeout: Duration::from_secs(65 * 60),
            message_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(4),
            unwritten_bytes_max: 1 << 20,
        }
    }
}

impl NodeConfig {
    /// The names of the containers: `container1`, `container2`, …
    pub fn container_names(&self) -> impl Iterator<Item = String> + use<> {
        (1..=self.container.count).map(|number| format!("container{number}"))
    }

    /// The public address of an edge, if any was configured: its own, else that of all edges.
    pub fn public_address<'a>(&'a self, edge: &'a EdgeInstance) -> Option<&'a PublicAddress> {
        edge.public.as_ref().or(self.edge.public.as_ref())
    }
}
