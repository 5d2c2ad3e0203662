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
use state::engine::cluster::servers::{self, Known, Pinger, Pulse, Report};
use topology::credentials::{
    ClusterDirectory, ClusterSecret, CredentialError, NodeCredentials, STORE_USER, write_private,
};
use topology::view::{ProcessName, ProcessType, WEIGHT_DEFAULT};
use tracing::warn;

use self::keeper::{KeeperHandle, Settings};
use super::servers::{Doing, Server, installed};
use crate::process_table::ProcessSpec;
use crate::stores::configuration::StoreConfiguration;
use crate::stores::failover::LastLife;

pub(crate) mod keeper;
mod own;

/// Its own file of the servers that it knows, in its directory.
const SERVERS_KNOWN: &str = "nodes.conf";

/// How long a replica may take to take over from one that ends.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);

/// In this order.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];

/// What an operator installs.
const PACKAGE: &str = "Debian's redis-server";

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
    /// It has a copy that another node should have.
    is_spare: bool,
    options: Options,
    pinger: Pinger,
    keeper: KeeperHandle,
}

/// How the cluster's stores are spoken with by the member whose files lie in that node's directory; no seeds. They are the
/// operator's own where `settings` say so.
///
/// # Errors
/// [`CredentialError`] when these are not in order.
pub fn options(
    directory: &Path,
    settings: Option<&ClusterSettings>,
) -> Result<Options, CredentialError> {
    let files = ClusterDirectory::of_node(directory);
    let credentials = NodeCredentials::load(files.path())?;
    if let Some(settings) = settings.filter(|settings| !settings.stores.own().is_empty()) {
        return own::options(&credentials, &settings.store_access);
    }
    let tls = credentials.store_client_config()?;
    let password = ClusterSecret::load(&files.secret())?.store_password();
    Ok(Options {
        tls: Some(tls),
        user: Some(STORE_USER.to_owned()),
        password: Some(password),
        ..Options::default()
    })
}

/// Whether this machine has a program that a store is.
///
/// # Errors
/// The message says what to install.
pub fn are_installed() -> io::Result<()> {
    installed(&PROGRAMS, PACKAGE).map(drop)
}

/// How this member reaches and keeps the cluster's stores.
///
/// # Errors
/// [`CredentialError`] when its files are not in order.
pub(crate) fn settings(
    directory: &Path,
    settings: &ClusterSettings,
    heartbeat: &HeartbeatSettings,
) -> Result<Settings, CredentialError> {
    Ok(Settings {
        options: options(directory, Some(settings))?,
        credentials: ClusterDirectory::of_node(directory),
        interval: heartbeat.interval,
        silence_max: silence_max(heartbeat),
        allow_colocation: settings.allow_colocation,
        regular: settings.stores.count(),
        copy_after: settings.copy_after,
        write_quota: settings.write_quota,
    })
}

/// The stores that this member runs, so many `spares` among them as its ports allow.
pub(crate) fn of_member(
    directory: &Path,
    settings: &ClusterSettings,
    heartbeat: &HeartbeatSettings,
    keeper: &KeeperHandle,
    (options, spares): (&Options, u8),
) -> Vec<StoreServer> {
    let weight = match settings.stores {
        Stores::Count(_) | Stores::Own(_) => WEIGHT_DEFAULT,
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
            is_spare: ordinal >= u16::from(settings.stores.count()),
            options: options.clone(),
            pinger: Pinger::new(address, options.clone()),
            keeper: keeper.clone(),
        }
    };
    let room = u16::try_from(settings.store_ports.count() / 2).unwrap_or(u16::MAX);
    let count = u16::from(settings.stores.count()) + u16::from(spares);
    (0..count.min(room)).map(store).collect()
}

/// Where other stores reach the store that clients reach there.
pub(crate) fn bus_port(address: SocketAddr) -> u16 {
    address.port().saturating_add(1)
}

/// Shorter than the silence that a node is lost by: one that is cut off has stopped serving when the others go on without
/// it. It looks twice in that time, so it is one and a half times as long until it has.
fn node_timeout(heartbeat: &HeartbeatSettings) -> Duration {
    (silence_max(heartbeat) * 2 / 3).max(Duration::from_millis(300))
}

fn silence_max(heartbeat: &HeartbeatSettings) -> Duration {
    heartbeat.interval * (heartbeat.allowed_miss_count + 1)
}

impl StoreServer {
    /// How it knew itself when it ran last, if it was a primary that served something.
    fn last_life(&self) -> Option<LastLife> {
        let written = fs::read_to_string(self.directory.join(SERVERS_KNOWN)).ok()?;
        let report = Report::of(&written, "", self.address);
        let is_replica = |known: &&Known| known.replica_of.as_ref() == Some(&report.id);
        let replicas = report.known.iter().filter(is_replica).filter_map(|known| known.address);
        let serves = report.replica_of.is_none() && !report.slots.is_empty();
        serves.then(|| LastLife { id: report.id.clone(), replicas: replicas.collect() })
    }

    fn configuration_file(&self) -> PathBuf {
        self.directory.join("redis.conf")
    }

    /// Before each life, on a thread of their own: the manager's loop does not wait for a disk.
    async fn write_files(&self) -> Result<(), String> {
        let configuration = StoreConfiguration {
            directory: &self.directory,
            address: self.address,
            bus_port: self.bus_port,
            credentials: &self.credentials,
            password: &self.password,
            node_timeout: self.node_timeout,
        };
        let (directory, text) = (self.directory.clone(), configuration.text());
        let file = self.configuration_file();
        let write = move || {
            create_private(&directory)?;
            write_private(&file, text.as_bytes())
        };
        let written = tokio::task::spawn_blocking(write).await.map_err(io::Error::other);
        written.flatten().map_err(|error| {
            format!("{} cannot be written: {error}", self.configuration_file().display())
        })
    }
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
        Box::pin(async {
            let last = self.last_life();
            if self.is_spare && last.is_none() {
                // What it was a copy of, and of whom, may be over.
                match fs::remove_dir_all(&self.directory) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        let path = self.directory.display();
                        return Err(format!("{path} cannot be removed: {error}"));
                    }
                    Ok(()) | Err(_) => {}
                }
            }
            self.keeper.may_start(last).await;
            self.write_files().await
        })
    }

    fn program(&self) -> io::Result<Program> {
        let mut program = Program::new(installed(&PROGRAMS, PACKAGE)?);
        program.arg(self.configuration_file());
        Ok(program)
    }

    fn ask(&self) -> Doing<'_, Pulse> {
        Box::pin(self.pinger.ask())
    }

    fn retire(&self) -> Doing<'_, ()> {
        Box::pin(async {
            let Ok(report) = servers::report(self.address, &self.options).await else { return };
            let is_elsewhere = |address: &SocketAddr| address.ip() != self.address.ip();
            let follower =
                report.followers.iter().find(|(at, is_online)| *is_online && is_elsewhere(at));
            if let (Some((to, _)), false) = (follower, report.slots.is_empty())
                && let Err(error) = servers::hand_over(*to, &self.options, HAND_OVER_MAX).await
            {
                warn!(name = %self.name, %to, %error, "ends without having handed over");
            }
        })
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
