//! The node's two stores: where they lie and how they are opened, alike in every process.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use registrar::AccountStore;
use state::clock::Clock;
use state::engine::embedded::{Durability, EmbeddedStore, LockWait, OnLockWait, Options};

use crate::failure::Failure;

pub(crate) mod accounts;

const STATE: &str = "state";

/// Bindings and set-up records: fast, and the last second may be lost with the machine's power, unless configured
/// otherwise. Who only reads may open it either way.
pub(crate) fn open_state(directory: &Path) -> anyhow::Result<EmbeddedStore> {
    open(directory, STATE, Options { durability: Durability::Relaxed, ..Options::default() })
}

/// The same for a process that writes, and has somebody to tell who holds the write lock for long.
pub(crate) fn open_state_reporting(
    directory: &Path,
    durability: config::Durability,
    clock: Arc<dyn Clock>,
    on_lock_wait: impl Fn(&LockWait) + Send + Sync + 'static,
) -> anyhow::Result<EmbeddedStore> {
    let durability = match durability {
        config::Durability::Normal => Durability::Relaxed,
        config::Durability::Power => Durability::EveryCommit,
    };
    let on_lock_wait: OnLockWait = Arc::new(on_lock_wait);
    let options =
        Options { durability, clock, on_lock_wait: Some(on_lock_wait), ..Options::default() };
    open(directory, STATE, options)
}

fn open(directory: &Path, name: &str, options: Options) -> anyhow::Result<EmbeddedStore> {
    let path = directory.join(name);
    EmbeddedStore::open(&path, options)
        .with_context(|| format!("the store {} cannot be opened", path.display()))
}

/// Where the state lies.
pub(crate) fn state(directory: &Path) -> std::path::PathBuf {
    directory.join(STATE)
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
