//! Why a node cannot come up, as its operator reads it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use topology::keys::file::KeyFileError;
use topology::view::{ListenerTransport, ProcessName};

/// Why a node cannot come up. All are the operator's to solve; a retry alone helps none of them.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// Another manager holds the node's lock.
    #[error(
        "{directory}: another node runs on this directory (pid {holder}); stop it with: kill {holder}, or choose another with --dir",
        directory = directory.display()
    )]
    Locked {
        /// The node's directory.
        directory: PathBuf,
        /// The process id of the other manager, or `unknown`.
        holder: String,
    },
    /// The node's directory cannot be used.
    #[error("{path}: {source}; the node's directory must be writable, choose another with --dir", path = path.display())]
    Directory {
        /// The path that failed.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The node cannot be the member that its files say it is.
    #[error(transparent)]
    Cluster(#[from] topology::credentials::CredentialError),
    /// The node cannot reach its cluster's repository.
    #[error(transparent)]
    Repository(#[from] super::repository::RepositoryAccessError),
    /// The table of applications is none.
    #[error(
        "{path}: {reason}; restore it from a backup, or remove it and deploy the applications again",
        path = path.display()
    )]
    Deployed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A Unix socket's name would be too long for the kernel.
    #[error(
        "{path} is {length} octets long, and a Unix socket's path takes at most {max}; choose a shorter --dir",
        path = path.display()
    )]
    PathTooLong {
        /// The socket.
        path: PathBuf,
        /// Its length.
        length: usize,
        /// What the kernel takes.
        max: usize,
    },
    /// Another program listens there.
    #[error(
        "edge {edge}: {transport} {address}: address in use; another program listens there: ss -lntup shows which, or configure another port"
    )]
    AddressInUse {
        /// The edge.
        edge: String,
        /// UDP or TCP.
        transport: ListenerTransport,
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be bound for another reason.
    #[error("edge {edge}: {transport} {address}: {source}{hint}", hint = bind_hint(source))]
    Bind {
        /// The edge.
        edge: String,
        /// UDP or TCP.
        transport: ListenerTransport,
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// No port is free for UDP and TCP both, on all addresses.
    #[error("edge {edge}: {address}: no port is free for both UDP and TCP; configure one")]
    NoFreePort {
        /// The edge.
        edge: String,
        /// The address.
        address: IpAddr,
    },
    /// A wildcard stands for no address.
    #[error(
        "edge {edge}: {address} stands for all addresses of the machine, and it has none of that family"
    )]
    NoAddress {
        /// The edge.
        edge: String,
        /// The wildcard.
        address: IpAddr,
    },
    /// More sockets than can be passed to a process.
    #[error(
        "edge {edge}: {sockets} sockets (addresses × transports × workers); at most {max}: lower edge.workers or listen on fewer addresses"
    )]
    TooManySockets {
        /// The edge.
        edge: String,
        /// How many it would be.
        sockets: usize,
        /// How many can be passed.
        max: usize,
    },
    /// More sockets of all edges than the guardian can be handed.
    #[error(
        "{sockets} sockets of all edges (addresses × transports × workers); at most {max}: lower edge.workers, run fewer edges or \
         listen on fewer addresses"
    )]
    TooManySocketsInAll {
        /// How many it would be.
        sockets: usize,
        /// How many can be handed over.
        max: usize,
    },
    /// The system gives the manager fewer descriptors than it needs.
    #[error(
        "{sockets} sockets need {needed} open files, and the limit is {limit}: raise it (ulimit -n, or LimitNOFILE= under systemd), \
         lower edge.workers or listen on fewer addresses"
    )]
    TooFewDescriptors {
        /// How many sockets there would be.
        sockets: usize,
        /// Descriptors for them and for everything else.
        needed: usize,
        /// What the system allows.
        limit: u64,
    },
    /// The key ring.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// What is done before the start or after the stop.
    #[error("{0}")]
    Hook(super::HookError),
    /// A child could not be started.
    #[error("{name}: {source}")]
    Spawn {
        /// The child.
        name: ProcessName,
        /// The system's reason.
        source: io::Error,
    },
    /// The configuration could not be turned into JSON: a bug of ours.
    #[error("the configuration cannot be passed on: {0}")]
    Settings(serde_json::Error),
    /// The manager could not bring the node up, and said why.
    #[error("{0}")]
    Manager(String),
    /// The manager found no guardian.
    #[error(transparent)]
    Guardian(#[from] super::GuardianError),
    /// The system failed the manager itself.
    #[error("the manager failed: {0}")]
    System(#[from] io::Error),
}

fn bind_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrNotAvailable => {
            "; this machine does not have that address: ip address shows those it has"
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 are root's: configure another port",
        _ => "",
    }
}
