//! The configuration file: reading, checking, writing.
//!
//! `outlast.toml` in the node's directory becomes a [`NodeConfig`], whole and checked, before any
//! port is bound; or a [`ConfigError`] that lists everything wrong with it at once. The manager
//! sends the effective configuration to its children as JSON (`NodeConfig` is `Serialize` and
//! `Deserialize`), so that nobody else reads the file.
//!
//! The way through the crate: [`first_run()`] writes the file, `reader` (positions, unknown keys) and
//! `parse` (which keys there are) read it, [`settings`] holds what they mean. What all nodes of a cluster have in
//! common stands in a [`document`] of the same keys, which is laid over a node's own file ([`effective`](mod@effective)). [`manifest`]
//! does the same for `outlast-app.toml`, which describes an application. Deliberately absent: the repository that the
//! document lies in, reloading.

use std::fs;
use std::io::Read as _;
use std::path::Path;

pub mod cluster;
pub mod document;
pub mod edit;
pub mod effective;
pub mod first_run;
pub mod kept;
mod layers;
pub mod listen;
pub mod manifest;
mod nearest;
pub mod own_servers;
mod parse;
pub mod problem;
mod reader;
pub mod settings;
mod time_text;

pub use cluster::{
    BelowQuota, CLUSTER_PORT, ClusterAddressError, ClusterSettings, Discover, MemberAddress,
    MulticastAddress, PortRange, STORES_MAX, Stores, Vote, cluster_address,
};
pub use document::{DOCUMENT_BYTES_MAX, Document};
pub use effective::{Effective, Hidden, Origin, Setting, Written, effective, of_node};
pub use first_run::{FirstRun, first_run};
pub use kept::{Kept, keep_taken, taken};
pub use listen::{Listen, ListenTransports, PublicAddress, domain_name};
pub use nearest::nearest;
pub use own_servers::{EtcdEndpoint, EtcdEndpointError, ServerAccess};
pub use problem::{ConfigError, Problem};
pub use settings::{
    Application, ContainerSettings, DigestAlgorithm, Durability, EDGE_SOCKETS_MAX, EDGES_MAX,
    EdgeInstance, EdgeSettings, HeartbeatSettings, KeysSettings, LogLevel, LogSettings,
    NODE_SOCKETS_MAX, NodeConfig, NodeSettings, PeerSettings, PeerTransport, RegistrarSettings,
    RestartSettings, StateSettings, TcpSettings,
};

/// The file's name in the node's directory.
pub const FILE_NAME: &str = "outlast.toml";

/// Larger files are refused: somebody named the wrong file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads and checks the file.
///
/// # Errors
/// [`ConfigError::Unreadable`], or [`ConfigError::Refused`] with every problem of the file.
pub fn load(path: &Path) -> Result<NodeConfig, ConfigError> {
    let text = text_of(path, FILE_NAME)?;
    parse::parse(&text).map_err(|problems| ConfigError::Refused { path: path.to_owned(), problems })
}

/// The text of a file that problems call `name`.
fn text_of(path: &Path, name: &str) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    let refused = |line, message| ConfigError::Refused {
        path: path.to_owned(),
        problems: vec![Problem::of_file(name, line, message)],
    };
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(refused(1, format!("needs at most {FILE_BYTES_MAX} octets")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        refused(line, "needs text in UTF-8".to_owned())
    })
}

/// Checks the text of a file.
///
/// # Errors
/// Every problem of the text, in the order of its lines.
pub fn parse(text: &str) -> Result<NodeConfig, Vec<Problem>> {
    parse::parse(text)
}

/// A name that a node or process may have: 1 to 32 of a-z, 0-9 and `-`, the first a letter.
pub fn node_name(text: &str) -> Option<String> {
    parse::process_name(text)
}
