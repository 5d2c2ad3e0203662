//! The stores of this node as processes: their files, how they are started, asked and ended.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::time::Duration;

use config::{ClusterSettings, HeartbeatSettings, Stores};
use state::engine::cluster::Options;
use state::engine::cluster::servers::{Pinger, Pulse};
use topology::credentials::{
    ClusterDirectory, ClusterSecret, CredentialError, NodeCredentials, STORE_USER, write_private,
};
use topology::view::{ProcessName, ProcessType, WEIGHT_DEFAULT};

use super::servers::{Doing, Server, installed};
use crate::process_table::ProcessSpec;
use crate::stores::configuration::StoreConfiguration;

/// In this order.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];

/// One store of this node.
pub(crate) struct StoreServer {
    name: ProcessName,
    address: SocketAddr,
    bus_port: u16,
    weight: u16,
    directory: PathBuf,
    credentials: ClusterDirectory,
    password: String,
    node_timeout: Duration,
    pinger: Pinger,
}

/// How stores are reached by the member whose files lie in that node's directory.
///
/// # Errors
/// [`CredentialError`] when these are not in order.
pub(crate) fn options(directory: &Path) -> Result<Options, CredentialError> {
    let files = ClusterDirectory::of_node(directory);
    let tls = NodeCredentials::load(files.path())?.store_client_config()?;
    let password = ClusterSecret::load(&files.secret())?.store_password();
    Ok(Options {
        tls: Some(tls),
        user: Some(STORE_USER.to_owned()),
        password: Some(password),
        ..Options::default()
    })
}

/// The stores that this member runs.
///
/// # Errors
/// [`CredentialError`] when its files are not in order.
pub(crate) fn of_member(
    directory: &Path,
    settings: &ClusterSettings,
    heartbeat: &HeartbeatSettings,
) -> Result<Vec<StoreServer>, CredentialError> {
    let options = options(directory)?;
    let weight = match settings.stores {
        Stores::Count(_) => WEIGHT_DEFAULT,
        Stores::Vote(_) => 0,
    };
    let store = |ordinal: u16| {
        let name = format!("store{}", ordinal + 1);
        let client_port = settings.store_ports.first + 2 * ordinal;
        let address = SocketAddr::new(settings.address.ip(), client_port);
        StoreServer {
            directory: directory.join(&name),
            name: ProcessName(name),
            address,
            bus_port: bus_port(address),
            weight,
            credentials: ClusterDirectory::of_node(directory),
            password: options.password.clone().unwrap_or_default(),
            node_timeout: node_timeout(heartbeat),
            pinger: Pinger::new(address, options.clone()),
        }
    };
    Ok((0..u16::from(settings.stores.count())).map(store).collect())
}

/// Where other stores reach the store that clients reach there.
pub(crate) fn bus_port(address: SocketAddr) -> u16 {
    address.port().saturating_add(1)
}

/// Shorter than the silence that a node is lost by: one that is cut off has stopped serving when the others go on without
/// it. It looks twice in that time, so it is one and a half times as long until it has.
fn node_timeout(heartbeat: &HeartbeatSettings) -> Duration {
    let silence_max = heartbeat.interval * (heartbeat.allowed_miss_count + 1);
    (silence_max * 2 / 3).max(Duration::from_millis(300))
}

impl Server for StoreServer {
    fn spec(&self) -> ProcessSpec {
        ProcessSpec {
            name: self.name.clone(),
            process_type: ProcessType::Store,
            link: None,
            link_address: Some(self.address),
            weight: self.weight,
            addresses: Vec::new(),
        }
    }

    fn prepare(&self) -> Doing<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn program(&self) -> io::Result<Program> {
        let server = installed(&PROGRAMS, "Debian's redis-server")?;
        create_private(&self.directory)?;
        let configuration = StoreConfiguration {
            directory: &self.directory,
            address: self.address,
            bus_port: self.bus_port,
            credentials: &self.credentials,
            password: &self.password,
            node_timeout: self.node_timeout,
        };
        let file = self.directory.join("redis.conf");
        write_private(&file, configuration.text().as_bytes())?;
        let mut program = Program::new(server);
        program.arg(file);
        Ok(program)
    }

    fn ask(&self) -> Doing<'_, Pulse> {
        Box::pin(self.pinger.ask())
    }

    fn retire(&self) -> Doing<'_, ()> {
        Box::pin(async {})
    }
}

/// A directory that nobody else enters.
fn create_private(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        }
        created => created,
    }
}
