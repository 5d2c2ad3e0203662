//! The stores of a node: where they lie and how they are opened, alike in every process.
//!
//! The state of a single node is in its own directory, that of a cluster's member in the cluster's stores ([`cluster`]).

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use config::NodeConfig;
use registrar::AccountStore;
use state::Store;
use state::clock::Clock;
use state::engine::cluster::ClusterStore;
use state::engine::embedded::{Durability, EmbeddedStore, LockWait, OnLockWait, Options};
use topology::{StoreList, TopologyView};

use crate::failure::Failure;

pub(crate) mod accounts;
pub(crate) mod cluster;

const STATE: &str = "state";

/// The state, opened by whichever engine has it.
pub(crate) enum State {
    /// The node's own directory has it.
    OwnNode(EmbeddedStore),
    /// The stores of its cluster have it.
    Cluster(ClusterStore),
}

impl State {
    /// Whichever it is.
    pub(crate) fn store(self) -> Arc<dyn Store> {
        match self {
            State::OwnNode(store) => Arc::new(store),
            State::Cluster(store) => Arc::new(store),
        }
    }
}

/// Bindings, set-up records and sessions, for who only reads.
pub(crate) fn open_state(directory: &Path) -> anyhow::Result<Arc<dyn Store>> {
    let state = match cluster::list(directory)? {
        Some(list) => State::Cluster(cluster::open(directory, &list, None, cluster::clock())?),
        None => State::OwnNode(open_own_state(directory)?),
    };
    Ok(state.store())
}

/// The state that lies in the node's own directory: fast, and the last second may be lost with the machine's power, unless
/// configured otherwise. Who only reads may open it either way.
pub(crate) fn open_own_state(directory: &Path) -> anyhow::Result<EmbeddedStore> {
    open(directory, STATE, Options { durability: Durability::Relaxed, ..Options::default() })
}

/// The state for a process that writes, and has somebody to tell who holds the lock of the node's own for long.
pub(crate) fn open_state_reporting(
    directory: &Path,
    config: &NodeConfig,
    view: &TopologyView,
    clock: Arc<dyn Clock>,
    on_lock_wait: impl Fn(&LockWait) + Send + Sync + 'static,
) -> anyhow::Result<State> {
    if let Some(known) = cluster::list(directory)? {
        let list = StoreList::of(view).and_then(&known);
        let settings = config.cluster.as_ref();
        return Ok(State::Cluster(cluster::open(directory, &list, settings, clock)?));
    }
    let durability = match config.state.durability {
        config::Durability::Normal => Durability::Relaxed,
        config::Durability::Power => Durability::EveryCommit,
    };
    let on_lock_wait: OnLockWait = Arc::new(on_lock_wait);
    let options =
        Options { durability, clock, on_lock_wait: Some(on_lock_wait), ..Options::default() };
    Ok(State::OwnNode(open(directory, STATE, options)?))
}

fn open(directory: &Path, name: &str, options: Options) -> anyhow::Result<EmbeddedStore> {
    let path = directory.join(name);
    EmbeddedStore::open(&path, options)
        .with_context(|| format!("the store {} cannot be opened", path.display()))
}

/// Where the node's own state lies.
pub(crate) fn state(directory: &Path) -> std::path::PathBuf {
    directory.join(STATE)
}

/// Where the node's own state was left when it was carried along into a cluster.
pub(crate) fn state_before_cluster(directory: &Path) -> std::path::PathBuf {
    directory.join("state.before-cluster")
}

/// Where snapshots of the state lie.
pub(crate) fn snapshots(directory: &Path) -> std::path::PathBuf {
    directory.join("snapshots")
}

/// Runs a command on the accounts, whether the node is up or down.
pub(crate) fn with_accounts<T>(
    directory: &Path,
    command: impl AsyncFnOnce(AccountStore) -> Result<T, registrar::AccountError>,
) -> Result<T, Failure> {
    must_exist(directory)?;
    let done = runtime()?.block_on(async {
        let opened = accounts::open(directory).await?;
        command(AccountStore::new(opened.store())).await.map_err(anyhow::Error::from)
    });
    Ok(done?)
}

/// A misspelt directory is told, not created.
pub(crate) fn must_exist(directory: &Path) -> anyhow::Result<()> {
    if !directory.is_dir() {
        bail!(
            "there is no node at {dir}; create one with: outlast up --dir {dir}, or name another with --dir",
            dir = directory.display()
        );
    }
    Ok(())
}

/// The runtime of a command, a container or the manager: one thread.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")
}
